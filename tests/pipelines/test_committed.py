"""Folders of committed units, on a disk and in a store: what is redone, kept, refused, deleted."""

import json
import resource
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose import storage
from extpose.config import CropConfig, SourceConfig
from extpose.errors import ExtPoseError
from extpose.storage import S3Path
from pipelines import committed
from pipelines.detections import KeptDetect
from pipelines.dry_run import dry_run
from pipelines.ledger import Outcome, WriteError, imbalance, open_output, read_outcome
from pipelines.locking import Beat
from pipelines.plan import (
    clear_output,
    missing_units,
    plan_videos,
    settings_of,
    survey_units,
)
from pipelines.preprocess import preprocess
from pipelines.probing import read_probes, write_probes
from pipelines.sources.folder import find_sources
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.validate import find_faults
from tests.pipelines.fakes import BoxDetector, box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone

QUICK = Beat(renewal=0.2, expiry=1.0)
PATIENT = Beat(renewal=0.2, expiry=30.0)
"""On a busy machine a living run may renew its lease seconds late."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_people(folder / "one.mp4", 40)
    write_people(folder / "two.mp4", 22, people=2)
    return folder


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path) -> storage.Location:
    if request.param == "disk":
        return tmp_path / "out"
    request.getfixturevalue("s3")
    return S3Path(f"s3://bucket/{tmp_path.name}")


def run(config, *, stop_after: int = 1000) -> list[str]:
    """What `preprocess` does, in this process; returns what the detector saw. No summary."""
    spec = box_detector()
    decisive = settings_of(config, f"{spec.name} {spec.identity}")
    with open_output(config.out):
        planned = plan_videos(find_sources(config.source.path).videos, config, decisive)
        units = [unit for video in planned for unit in video.units]
        found = survey_units(units, config, decisive)
        clear_output(found, planned, config, decisive)
        detected: list[str] = []

        alone = detect_alone(spec.build(config.detect))

        def detect(row: dict[str, Any]) -> dict[str, Any]:
            detected.append(row["name"])
            return alone(row)

        stage = KeptDetect(lambda: detect, config.out)
        for unit in missing_units(units, found)[:stop_after]:
            row = track(stage(vars(unit)), config=config.detect)
            result = pack(row, config=config, detector=spec.name)
            if result["write_error"]:
                raise WriteError(result["write_error"])
    return detected


def shards(out: storage.Location) -> dict[str, bytes]:
    return {
        e.location.name: storage.read_bytes(e.location) for e in storage.list_files(out, ".tar")
    }


def times(out: storage.Location) -> dict[str, bytes]:
    """Markers: they hold times, so a unit that was made again has another one."""
    entries = storage.list_files(out / "done", ".json")
    return {e.location.stem: storage.read_bytes(e.location) for e in entries}


def test_a_store_holds_the_same_bytes_as_a_disk(videos, out, tmp_path):
    run(config_of(videos, out))
    run(config_of(videos, tmp_path / "here"))
    assert shards(out) == shards(tmp_path / "here")
    assert len(shards(out)) == 4


def test_a_run_that_ends_between_shard_and_marker_does_the_unit_again(videos, out):
    config = config_of(videos, out)
    run(config)
    before, markers = shards(out), times(out)
    name = sorted(markers)[1]
    storage.delete(committed.marker_of(out, name))
    assert run(config) == []  # the detections are still there
    assert shards(out) == before
    assert {n for n, data in times(out).items() if data == markers[n]} == set(markers) - {name}


def test_other_settings_are_named_and_redo_makes_only_what_they_decide(videos, out):
    config = config_of(videos, out)
    assert len(run(config)) == 4
    other = replace(config, crop=CropConfig(size=32))
    before = shards(out)
    with pytest.raises(ExtPoseError, match=r"crop\.size: 64, now 32; choose .*, or --redo"):
        run(other)
    assert shards(out) == before
    assert run(replace(other, redo=True), stop_after=1) == []  # no second detection
    assert len({name for name, data in shards(out).items() if data == before[name]}) == 3
    assert run(other) == []  # goes on without being told again
    assert not set(shards(out).values()) & set(before.values())
    threshold = replace(other, detect=replace(config.detect, box_threshold=0.4), redo=True)
    assert len(run(threshold)) == 4
    with pytest.raises(ExtPoseError, match=r"detect\.box_threshold: 0\.4, now 0\.3"):
        run(other)
    cut = replace(threshold, unit_frames=40)
    with pytest.raises(ExtPoseError, match="unit_frames: 20, now 40"):
        run(replace(cut, redo=False))
    run(cut)
    assert len(shards(out)) == 2


def test_added_videos_are_done_and_removed_ones_need_prune(videos, out):
    one = config_of(videos / "one.mp4", out)
    run(one)
    before, markers = shards(out), times(out)
    both = replace(one, source=SourceConfig(path=(videos,)))
    assert all(name.startswith("two") for name in run(both))
    assert {n: d for n, d in times(out).items() if n in markers} == markers
    with pytest.raises(ExtPoseError, match=r"two-.*\.tar: not a shard .*\(2 such\); .* --prune"):
        run(one)
    run(replace(one, prune=True))
    assert shards(out) == before
    assert times(out) == markers
    kept = [e.location.stem for e in storage.list_files(out / "detections", ".npz")]
    assert sorted(kept) == sorted(markers)


def test_two_runs_at_once(out):
    with open_output(out, PATIENT):
        second = open_output(out, PATIENT)
        with pytest.raises(ExtPoseError, match="another run is writing"):
            second.__enter__()
    with open_output(out, PATIENT):
        pass
    assert storage.list_files(out, deep=True) == storage.list_files(out)


def test_runs_that_begin_together_never_both_go_on(s3, tmp_path):
    out = S3Path(f"s3://bucket/{tmp_path.name}")
    inside, together, refused = set(), [], []
    ready = threading.Barrier(3)

    def start():
        ready.wait()
        try:
            with open_output(out, PATIENT):
                inside.add(threading.get_ident())
                together.append(len(inside))
                time.sleep(1.0)
                inside.remove(threading.get_ident())
        except ExtPoseError:
            refused.append(1)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) <= {1}
    assert len(together) + len(refused) == 3


def test_a_dead_run_s_lease_ends(s3, tmp_path):
    out = S3Path(f"s3://bucket/{tmp_path.name}")
    storage.write_bytes(out / "leases" / "dead.json", b'{"owner": "nobody", "token": "1"}')
    with open_output(out, QUICK):
        leases = storage.list_files(out / "leases", ".json")
        assert "dead.json" not in {entry.location.name for entry in leases}


def tmpfs(folder: Path, num_bytes: int) -> Iterator[None]:
    """A small disk of its own, where that is allowed."""
    folder.mkdir()
    options = f"size={num_bytes}"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
                          capture_output=True)  # fmt: skip
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


def limited_files(_: Path, num_bytes: int) -> Iterator[None]:
    """No file may be larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", [tmpfs, limited_files])
def test_a_full_disk_leaves_nothing_half_written_and_a_second_run_ends(videos, tmp_path, kind):
    run(config_of(videos, tmp_path / "whole"))
    whole = shards(tmp_path / "whole")
    small = tmp_path / "small"
    config = config_of(videos, small, keep_detections=False)
    # Room for the small shards of the first video, not for those of the second.
    room = {tmpfs: 2 * 65536, limited_files: 45000}[kind]
    space = contextmanager(kind)(small, room)
    with space:
        message = r"small/.*: cannot be written \(.*(No space left|File too large)"
        with pytest.raises(WriteError, match=message):
            run(config)
        assert not list(small.rglob("*.tmp"))
        made = shards(small)
        assert {name: whole[name] for name in made} == made
        assert len(made) < len(whole)
        kept = tmp_path / "kept"
        shutil.copytree(small, kept)
    run(replace(config, out=kept))
    assert shards(kept) == whole


def test_a_store_that_fails_stops_the_run_which_then_goes_on(videos, tmp_path, s3):
    out = S3Path(f"s3://bucket/{tmp_path.name}")
    config = config_of(videos, out)
    fault = s3.fail("PUT", "000020.tar", 50)
    with pytest.raises(WriteError, match=r"one-.*-000020\.tar: cannot be written .*try 4 of 4"):
        run(config)
    assert len(shards(out)) == len(times(out)) == 1
    fault.times = 0
    s3.fail("PUT", ".tar", 2)  # these are overcome
    run(config)
    run(config_of(videos, tmp_path / "here"))
    assert shards(out) == shards(tmp_path / "here")


def test_videos_in_a_store_give_the_shards_of_those_on_a_disk(videos, tmp_path, s3):
    source = S3Path(f"s3://bucket/{tmp_path.name}/videos")
    for path in videos.iterdir():
        storage.write_bytes(source / path.name, path.read_bytes())
    run(config_of(source, tmp_path / "a"))
    run(config_of(videos, tmp_path / "b"))
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert [path.name for path in find_sources([source]).videos] == ["one.mp4", "two.mp4"]


def test_a_damaged_cache_of_detections_is_made_again(videos, tmp_path):
    config = config_of(videos, tmp_path)
    run(config)
    before = shards(tmp_path)
    path = next((tmp_path / "detections").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    for marker in (tmp_path / "done").iterdir():
        marker.unlink()
    assert run(config) == [path.stem]
    assert shards(tmp_path) == before


def test_dry_run_tells_and_writes_nothing(videos, out):
    config = replace(config_of(videos, out), dry_run=True)
    spec = box_detector()
    text = dry_run(config, detector=spec)
    assert "missing      4 units, 62 frames" in text
    assert "(assumed)" in text
    assert storage.list_files(out, deep=True) == []
    run(config, stop_after=3)
    before = storage.list_files(out, deep=True)
    text = dry_run(config, detector=spec)
    assert "done         3" in text
    assert "missing      1 units, 11 frames" in text
    assert "(measured on the finished units)" in text
    text = dry_run(replace(config, crop=CropConfig(size=32)), detector=spec)
    assert "made anew    3 units" in text
    assert "other setting: crop.size: 64, now 32" in text
    assert "would refuse" in text
    assert storage.list_files(out, deep=True) == before
    with pytest.raises(ValueError, match="dry_run"):
        preprocess(config, detector=spec)


def test_known_videos_are_not_read_again_unless_they_changed(videos, tmp_path, monkeypatch):
    config = config_of(videos, tmp_path)
    paths = find_sources([videos]).videos
    known = {}
    monkeypatch.setattr("pipelines.probing.SETTLED", 0.0)
    first = plan_videos(paths, config, {}, known)
    assert len(known) == 2
    write_probes(tmp_path, known, paths)
    reads = []
    assert plan_videos(paths, config, {}, read_probes(tmp_path), scan=reads.append) == first
    assert reads == []
    monkeypatch.undo()
    stale = {name: {**entry, "changed_ns": 1} for name, entry in known.items()}
    assert plan_videos(paths, config, {}, stale) == first
    copy = write_people(tmp_path / "fresh.mp4", 10)
    fresh = {}
    plan_videos([copy], config, {}, fresh)
    assert fresh == {}  # changed a moment ago


@settings(max_examples=10, deadline=None)
@given(
    people=st.lists(
        st.tuples(st.integers(0, 25), st.integers(1, 26), st.floats(6, 60), st.floats(0.05, 1)),
        max_size=5,
    ),
    clip_frames=st.integers(1, 20),
)
def test_everything_is_accounted_for(videos, tmp_path_factory, people, clip_frames):
    """Whatever the detector finds, frames, tracks and clips add up, in marker and shard."""
    out = tmp_path_factory.mktemp("out")
    config = config_of(videos / "one.mp4", out, unit_frames=40, clip_frames=clip_frames)
    [unit] = plan_videos([videos / "one.mp4"], config, settings_of(config, "x"))[0].units
    storage.make_folder(out / "done")
    detect = detect_alone(Crowd(people))
    pack(track(detect(vars(unit)), config=config.detect), config=config, detector="boxes")
    outcome = read_outcome(out, unit)
    assert outcome is not None
    assert outcome.status != "quarantined", outcome.message
    assert imbalance(outcome) == ""
    assert outcome.frames == 40
    spans = Counter()
    for start, stop, fate in outcome.frame_spans:
        spans[fate] += stop - start
    assert spans.pop("written", 0) == outcome.written
    assert dict(spans) == outcome.filtered
    findings = list(find_faults(out)) if outcome.sha256 else []
    certain = [str(finding) for finding in findings if finding.fault.is_certain]
    assert all("manifest" in told for told in certain), certain


class Crowd(BoxDetector):
    """People at given times: first frame, number of frames, height, confidence."""

    def __init__(self, people) -> None:
        self.people, self.frame = people, -1

    def __call__(self, rgb):
        self.frame += 1
        there = [
            (i, h, c) for i, (first, n, h, c) in enumerate(self.people)
            if first <= self.frame < first + n
        ]  # fmt: skip
        boxes = [[5 + 30 * i, 20, 25 + 30 * i, 20 + height] for i, height, _ in there]
        found = detections_of(np.array(boxes, np.float32).reshape(-1, 4))
        sure = np.array([c for _, _, c in there], np.float32)
        found.keypoints_2d[..., 2] = sure[:, None]
        return found


def detections_of(boxes: np.ndarray):
    from extpose.detect.people import Detections

    points = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, 17, axis=1)
    return Detections(
        bbox_xyxy=boxes,
        scores=np.full(len(boxes), 0.9, np.float32),
        keypoints_2d=np.concatenate([points, np.ones((len(boxes), 17, 1))], -1).astype(np.float32),
    )


def test_sums_that_do_not_add_up_are_told():
    good = Outcome(name="a", identity="", status="filtered", frames=3, filtered={"no_people": 3},
                   frame_spans=[(0, 3, "no_people")])  # fmt: skip
    assert imbalance(good) == ""
    assert "frames is 4, written, filtered and quarantined are 3" in imbalance(
        replace(good, frames=4)
    )
    assert "num_tracks is 1" in imbalance(replace(good, num_tracks=1))
    assert "frame_spans cover 2" in imbalance(replace(good, frame_spans=[(0, 2, "no_people")]))


@pytest.mark.ray
@pytest.mark.slow
def test_preprocess_to_a_store_on_ray(videos, tmp_path, s3, ray_local):
    there, here = S3Path(f"s3://bucket/{tmp_path.name}"), tmp_path / "here"
    for out in (there, here):
        assert preprocess(config_of(videos, out), detector=box_detector()) == 0
    assert shards(there) == shards(here)
    for name in ("manifest.json", "quarantine.jsonl"):
        assert storage.read_bytes(there / name) == storage.read_bytes(here / name)
    manifest = json.loads(storage.read_bytes(there / "manifest.json"))
    counts = manifest["frame_counts"]
    assert counts["frames"] == counts["written"] == 62
    assert counts["num_tracks"] == counts["written_tracks"]
