from dataclasses import replace

import pytest

from extpose.errors import ExtPoseError
from pipelines.ledger import Unit
from pipelines.resources import (
    BASE,
    GIB,
    OBJECT_STORE,
    PER_UNIT,
    check_cluster,
    hand_gpus,
    size_of_work,
)
from tests.pipelines.fakes import config_of


def units_of(number: int, *, height: int = 480, width: int = 640) -> list[Unit]:
    return [
        Unit(
            name=str(i), path="a.mp4", video_id="a", start=i, stop=i + 1, fps=25.0, height=height,
            width=width, identity="",
        )
        for i in range(number)
    ]  # fmt: skip


def test_without_a_limit_all_that_was_asked_for(tmp_path):
    config = config_of(tmp_path, tmp_path, num_detectors=4)
    size = size_of_work(units_of(9), config)
    assert (size.detectors, size.most_detectors, size.object_store) == (4, 4, None)
    assert size_of_work(units_of(2), config).detectors == 2  # no more than there is work for
    more = size_of_work(units_of(9), replace(config, max_detectors=6))
    assert (more.detectors, more.most_detectors) == (4, 6)


def test_a_limit_lets_fewer_units_be_under_way(tmp_path):
    config = config_of(tmp_path, tmp_path, num_detectors=4, max_detectors=8)
    enough = replace(config, max_memory=BASE + OBJECT_STORE + 2.5 * PER_UNIT)
    size = size_of_work(units_of(9), enough)
    assert (size.detectors, size.most_detectors) == (2, 2)
    assert size.object_store == int(OBJECT_STORE * GIB)
    large = size_of_work(units_of(9, height=2160, width=3840), enough)
    assert large.detectors == 1


def test_what_cannot_fit_is_refused(tmp_path):
    config = config_of(tmp_path, tmp_path)
    with pytest.raises(ExtPoseError, match=r"max_memory is 0\.5 GiB, one detector on these vid"):
        size_of_work(units_of(1), replace(config, max_memory=0.5))
    with pytest.raises(ExtPoseError, match=r"max_memory is 1e\+06 GiB, this machine has"):
        size_of_work(units_of(1), replace(config, max_memory=1e6))


def test_hands_have_a_size_and_memory_of_their_own(tmp_path):
    config = config_of(tmp_path, tmp_path, num_detectors=2)
    assert size_of_work(units_of(9), config).hands == 0
    hands = replace(config, body="mano", max_detectors=3)
    size = size_of_work(units_of(9), hands)
    assert (size.hands, size.most_hands) == (2, 3)
    more = size_of_work(units_of(9), replace(hands, num_hand_finders=5))
    assert (more.detectors, more.hands, more.most_hands) == (2, 5, 5)
    for_two = BASE + OBJECT_STORE + 2.5 * PER_UNIT
    assert size_of_work(units_of(9), replace(config, max_memory=for_two)).detectors == 2
    assert size_of_work(units_of(9), replace(hands, max_memory=for_two)).detectors == 1


def test_hands_need_a_gpu_only_where_the_detector_finds_them(tmp_path):
    config = config_of(tmp_path, tmp_path, body="mano", gpus_per_detector=0.5)
    assert hand_gpus(config) == 0.0
    whole = replace(config, detect=replace(config.detect, hands="wholebody"))
    assert hand_gpus(whole) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_detectors": 6}, ""),
        ({"num_detectors": 7}, "7 detectors need 4.5 CPUs, the cluster has 4; a smaller --num-det"),
        ({"num_detectors": 3, "body": "mano"}, ""),
        ({"num_detectors": 4, "body": "mano"}, "4 detectors and 4 hand finders need 5 CPUs"),
        ({"num_detectors": 4, "body": "mano", "num_hand_finders": 2}, ""),
        ({"gpus_per_detector": 1.0, "body": "mano"}, ""),
        ({"num_detectors": 2, "gpus_per_detector": 1.0}, "2 detectors need 2 GPUs, the cluster ha"),
    ],
)
def test_what_could_never_run_is_refused(tmp_path, monkeypatch, caplog, changes, message):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = config_of(tmp_path, tmp_path, **changes)
    size = size_of_work(units_of(9), config)
    if not message:
        check_cluster(size, config)
        return
    with pytest.raises(ExtPoseError, match=message):
        check_cluster(size, config)
    # A cluster that was joined may grow.
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_cluster(size, config)
    assert message in caplog.text
