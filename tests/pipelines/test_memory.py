from dataclasses import replace

import pytest

from extpose.errors import ExtPoseError
from pipelines.ledger import Unit
from pipelines.memory import BASE, GIB, OBJECT_STORE, PER_UNIT, size_of_work
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
