"""`synthesize`: shards, markers, manifest; the same bytes however it is run."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

import pipelines.synth
from extpose.config import CropConfig, SynthConfig
from extpose.data.shards import read_shard
from extpose.errors import ExtPoseError
from pipelines.committed import WriteError
from pipelines.synth import plan_units, synthesize
from tests.synth.figure import write_motions


@pytest.fixture(autouse=True)
def _motions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_motions(tmp_path / "motion")
    monkeypatch.setattr(pipelines.synth, "fetch", lambda name: folder)


def config_for(out: Path, **changes: object) -> SynthConfig:
    config = SynthConfig(
        out=out,
        num_clips=5,
        num_frames=2,
        image_size=(96, 128),
        clips_per_shard=2,
        workers=0,
        crop=CropConfig(size=64),
        photographs=False,
    )
    return replace(config, **changes)


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_shards_and_manifest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert synthesize(config_for(out)) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["clips"], manifest["frames"]) == (5, 10)
    assert [shard["clips"] for shard in manifest["shards"]] == [2, 2, 1]
    keys = []
    for shard in manifest["shards"]:
        path = out / shard["name"]
        assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        keys += [clip.key for clip in read_shard(path)]
    assert len(set(keys)) == 5
    assert not list(out.rglob("*.tmp"))


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    synthesize(config_for(whole))
    make = pipelines.synth.make_synthetic_clip

    def fail_at_clip_3(studio: object, config: SynthConfig, index: int) -> object:
        if index == 3:
            raise KeyboardInterrupt
        return make(studio, config, index)

    with monkeypatch.context() as patch:
        patch.setattr(pipelines.synth, "make_synthetic_clip", fail_at_clip_3)
        with pytest.raises(KeyboardInterrupt):
            synthesize(config_for(broken))
    finished = [path.name for path in broken.glob("*.tar")]
    assert finished == ["synth-train-000000.tar"]
    before = (broken / finished[0]).stat().st_mtime_ns
    synthesize(config_for(broken))
    assert (broken / finished[0]).stat().st_mtime_ns == before
    assert digests(broken) == digests(whole)


def test_a_clip_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    synthesize(config_for(tmp_path / "a", num_clips=3, clips_per_shard=3))
    synthesize(config_for(tmp_path / "b", num_clips=3, clips_per_shard=1))
    one, many = (
        [clip for path in sorted((tmp_path / name).glob("*.tar")) for clip in read_shard(path)]
        for name in "ab"
    )
    assert [clip.key for clip in one] == [clip.key for clip in many]
    assert [clip.rgb for clip in one] == [clip.rgb for clip in many]


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path / "out", num_clips=2)
    synthesize(config)
    with pytest.raises(ExtPoseError, match="seed: 0, now 1"):
        synthesize(replace(config, seed=1))
    with pytest.raises(ExtPoseError, match="split: train, now val"):
        synthesize(replace(config, split="val"))
    assert synthesize(replace(config, workers=5)) == 0  # nothing is missing: no Ray is started


def test_the_plan_names_every_clip_once_and_refuses_none(tmp_path: Path) -> None:
    units = plan_units(config_for(tmp_path, num_clips=7, clips_per_shard=3))
    assert [(unit.start, unit.stop) for unit in units] == [(0, 3), (3, 6), (6, 7)]
    assert len({unit.identity for unit in units}) == 3
    noisy, found = (
        plan_units(config_for(tmp_path, keypoints=keypoints, body="hand"))[0].identity
        for keypoints in ("noise", "detector")
    )
    assert noisy != found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clips": 0}, "--num-clips is 0"),
        ({"num_frames": 0}, "--num-frames is 0"),
        ({"num_frames": 65}, "--num-frames is 65"),
        ({"clips_per_shard": 0}, "--clips-per-shard is 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"seed": -1}, "--seed is -1"),
        ({"fps": 0.0}, "--fps is 0"),
        ({"fps": float("nan")}, "--fps is nan"),
        ({"image_size": (0, 128)}, "--image-size is 0"),
        ({"crop": CropConfig(size=0)}, "--crop.size is 0"),
    ],
)
def test_impossible_options_are_named_before_any_work(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ExtPoseError, match=message):
        synthesize(config_for(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/out"):
        synthesize(config_for(tmp_path / "file" / "out"))

    def no_space(path: Path, clips: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipelines.synth, "write_shard", no_space)
    with pytest.raises(WriteError, match=r"synth-train-000000.tar: cannot be written .*No space"):
        synthesize(config_for(tmp_path / "out"))


def test_hands(tmp_path: Path) -> None:
    synthesize(config_for(tmp_path / "out", body="hand", num_clips=2))
    clips = [clip for path in (tmp_path / "out").glob("*.tar") for clip in read_shard(path)]
    assert {clip.meta.body for clip in clips} == {"mano"}


@pytest.mark.ray
def test_ray_gives_the_same_bytes(tmp_path: Path, ray_local: None) -> None:
    synthesize(config_for(tmp_path / "here"))
    synthesize(config_for(tmp_path / "ray", workers=2))
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")
