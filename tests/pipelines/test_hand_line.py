"""Hands in the line of preprocessing: accounts, explanations, a sample made again, replays, Ray."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ray.data import DataContext

from extpose.config import PreprocessConfig
from extpose.data.shards import ShardIndex
from extpose.errors import ExtPoseError
from pipelines.accounts import account_faults
from pipelines.explain import explain
from pipelines.ledger import open_output
from pipelines.plan import plan_videos
from pipelines.preprocess import decide, make_unit, preprocess
from pipelines.rebuild import rebuild
from pipelines.replay import replay, save_golden
from pipelines.stages import hands
from pipelines.stages.hands import WatchedHands
from pipelines.stages.track import track
from tests.pipelines.fake_hands import Hands, build_deadly
from tests.pipelines.fakes import box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone

NUM_FRAMES = 60


@pytest.fixture(autouse=True)
def _fake_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "_open", lambda *_: Hands())


def make_folder(folder: Path, unit_frames: int = NUM_FRAMES) -> PreprocessConfig:
    """As `preprocess` makes it, in this process."""
    video = write_people(folder / "walk.mp4", NUM_FRAMES)
    config = config_of(video, folder / "data", body="mano", unit_frames=unit_frames)
    config, spec, settings = decide(config, box_detector())
    with open_output(config.out):
        for unit in plan_videos([video], config, settings)[0].units:
            make_unit(unit, config, spec)
    assert preprocess(config, detector=spec) == 0  # all is there: manifest only
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PreprocessConfig:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hands, "_open", lambda *_: Hands())
        return make_folder(tmp_path_factory.mktemp("hands"))


def facts_of(text: str) -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: value.strip() for name, value in pairs}


def key_of(config: PreprocessConfig, *, is_right: bool, first_frame: int) -> str:
    index = ShardIndex(sorted(Path(str(config.out)).glob("*.tar")))
    clips = [index.read_clip(i) for i in range(len(index))]
    [key] = [
        clip.key
        for clip in clips
        if clip.meta.is_right == is_right and clip.meta.first_frame == first_frame
    ]
    return key


def test_people_and_hands_are_counted_apart(made: PreprocessConfig) -> None:
    manifest = json.loads((made.out / "manifest.json").read_bytes())
    counts = manifest["frame_counts"]
    assert (counts["num_tracks"], counts["written_tracks"], counts["filtered_tracks"]) == (1, 1, {})
    assert (counts["num_hands"], counts["written_hands"]) == (4, 3)
    assert counts["filtered_hands"] == {"unsure": 1}
    assert manifest["track_counts"]["tracks"] == 1, "of the people, whose hands they are"
    assert manifest["track_counts"]["detected"] == 1.0
    assert list(account_faults(made.out)) == []


def test_people_go_on_in_the_next_unit(tmp_path: Path) -> None:
    config = make_folder(tmp_path, unit_frames=30)
    [video] = json.loads((config.out / "manifest.json").read_bytes())["videos"]
    [link] = video["continued_tracks"]
    assert (link["from"][1], link["to"][1]) == (0, 0)


def test_a_hand_is_explained_by_its_own_filters_and_stretch(made: PreprocessConfig) -> None:
    left = facts_of(explain(key_of(made, is_right=False, first_frame=0), made.out))
    assert left["person"].endswith("mano, left hand")
    assert left["passed min_track_frames"] == "22 of at least 8", "not the 44 of both stretches"
    assert left["passed min_hand_pixels"].endswith("of at least 24.0")
    assert left["passed other_side"] == (
        "4 of 44 frames of this hand in the unit, at most 50% of a stretch"
    )
    assert "passed min_box_height" not in left, "a filter of people"
    right = facts_of(explain(key_of(made, is_right=True, first_frame=15), made.out))
    assert right["passed min_track_frames"] == "60 of at least 8"
    frame = facts_of(explain("walk.mp4:30", made.out))
    assert frame["hand 0 in frames 22 to 37"] == "filtered: unsure"


def test_a_hand_is_made_again_and_replayed(made: PreprocessConfig, tmp_path: Path) -> None:
    key = key_of(made, is_right=False, first_frame=38)
    assert rebuild(key, made.out, detector=box_detector()).differing == ()
    golden = tmp_path / "golden"
    lines = save_golden(golden, Path(str(made.out)), "", box_detector())
    assert [line.split()[0] for line in lines[1:]] == ["detect", "track", "hands", "pack"]
    lines, is_equal = replay(golden, ("hands", "pack"), box_detector())
    assert is_equal, lines
    with pytest.raises(ExtPoseError, match=r"made by boxes 1 .*, this is boxes 2"):
        replay(golden, ("hands",), replace(box_detector(), identity="2"))


def test_settings_of_hands_detect_nobody_again(made: PreprocessConfig) -> None:
    def identities(config: PreprocessConfig) -> tuple[str, str]:
        _, _, settings = decide(config, box_detector())
        [unit] = plan_videos(list(config.source.path), config, settings)[0].units
        return unit.identity, unit.detection_identity

    unit, detections = identities(made)
    for other in (
        replace(made, body="smpl"),
        replace(made, detect=replace(made.detect, min_hand_pixels=9.0)),
        replace(made, detect=replace(made.detect, hands="wholebody")),
    ):
        assert identities(other)[0] != unit
        assert identities(other)[1] == detections
    surer = replace(made, detect=replace(made.detect, box_threshold=0.5))
    assert identities(surer)[1] != detections


def test_hands_that_die_cost_their_unit(made: PreprocessConfig) -> None:
    _, spec, settings = decide(made, box_detector())
    [unit] = plan_videos(list(made.source.path), made, settings)[0].units
    row = track(detect_alone(spec.build(made.detect))(vars(unit)), config=made.detect)
    stage = WatchedHands(build_deadly, limit=20, tries=1)
    failure = json.loads(stage(row)["error"])
    stage.close()
    assert failure["reason"] == "hands_crashed"
    assert failure["message"] == "frame 5: hands: the process died (exit code 7)"
    assert stage({"error": "before"}) == {"error": "before"}


@pytest.mark.ray
def test_hands_on_ray(tmp_path: Path, ray_local: None, asset: Callable[[str], Path]) -> None:
    """With the real networks, which see no hands there; detectors that become more."""
    asset("palm-detection")
    asset("hand-landmarks")
    video = write_people(tmp_path / "walk.mp4", 40)
    config = config_of(video, tmp_path / "data", body="mano", max_detectors=2)
    assert preprocess(config, detector=box_detector()) == 0
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    counts = manifest["frame_counts"]
    assert (counts["num_tracks"], counts["written_tracks"]) == (2, 2)
    assert counts["num_hands"] == sum(counts["filtered_hands"].values()) == 4
    threshold = DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold
    assert threshold <= 1.0, "with one task an actor in flight, Ray would never start a second one"
    timing = json.loads((tmp_path / "data/timing.json").read_text())
    assert timing["stages"]["hands"] > 0
