import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from extpose.data.shards import ShardIndex, read_shard
from extpose.errors import ExtPoseError
from pipelines.dry_run import dry_run
from pipelines.ledger import Unit, WriteError, open_output, read_outcome
from pipelines.plan import plan_videos, quarantine_rows, settings_of
from pipelines.preprocess import preprocess
from pipelines.rows import unit_of
from pipelines.sources.folder import find_sources
from pipelines.stages.detect import prefetch
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from tests.pipelines.fakes import POISON, box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone, run_stages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two people, nobody, a poisoned second half, and files that are no videos."""
    folder = tmp_path_factory.mktemp("videos")
    write_people(folder / "two people.mp4", 50, people=2)
    write_people(folder / "nobody.mp4", 12, people=0)
    write_people(folder / "poison.mp4", 30, background=POISON)
    (folder / "empty.mp4").touch()
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "image.png"), np.zeros((9, 9, 3), np.uint8))
    (folder / "image.png").rename(folder / "deep" / "picture.mov")
    shutil.copy(folder / "two people.mp4", folder / "zz-copy.mp4")
    (folder / "notes.txt").write_text("not an input")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """Everything but what holds times: markers, timing and its page, what is known of videos."""
    timed = ("timing.json", "probes.json", "report.html")
    files = [p for p in sorted(out.iterdir()) if p.is_file() and p.name not in timed]
    return {p.name: p.read_bytes() for p in files}


def test_find_videos(videos):
    names = [path.name for path in find_sources([videos, videos / "gone.mp4"]).videos]
    assert sorted(names) == sorted(
        ["picture.mov", "empty.mp4", "gone.mp4", "nobody.mp4", "poison.mp4", "two people.mp4",
         "zz-copy.mp4"]
    )  # fmt: skip


def test_what_is_left_out_is_counted_and_odd_names_are_refused(tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "videos/out"
    out.mkdir(parents=True)
    write_people(folder / "a.WMV", 3)
    for name in ("b.txt", "c.TXT", "noise", ".hidden.mp4", "out/a-0.tar"):
        (folder / name).write_text("x")
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4"))
    shutil.copy(folder / "a.WMV", odd)
    config = config_of(folder, out)
    sources = find_sources([folder], out)
    assert [path.name for path in sources.videos] == ["a.WMV", odd.name]
    assert sources.others == {"": 1, ".txt": 2, "hidden": 1}
    text = dry_run(config, detector=box_detector())
    assert "left out     4 files, not videos by their names: 1 without suffix, 2 .txt" in text
    assert "caf\\xe9.mp4: bad_name" in text
    planned = plan_videos(sources.videos, config, {})
    assert [video.quarantined for video in planned] == ["", "bad_name"]
    rows = quarantine_rows(planned[1:], lambda _: None)
    json.dumps([*rows, planned[1].path], ensure_ascii=False).encode()
    for path in sources.videos:
        path.unlink()
    with pytest.raises(ExtPoseError, match=r"no videos, only other files: 1 without suffix, 2 \.t"):
        find_sources([folder], out)


def test_stages_alone(videos, tmp_path):
    config = config_of(videos, tmp_path)
    results = run_stages(config)
    markers = [json.loads((tmp_path / f"done/{row['name']}.json").read_text()) for row in results]
    status = {marker["name"].rsplit("-", 2)[0]: marker["status"] for marker in markers}
    assert status == {"two-people": "written", "nobody": "filtered", "poison": "quarantined"}
    index = ShardIndex(sorted(tmp_path.glob("*.tar")))
    clips = [index.read_clip(i) for i in range(len(index))]
    assert {clip.meta.track_id for clip in clips} == {0, 1}
    assert sum(clip.num_frames for clip in clips) == 100
    for clip in clips:
        box = clip.bbox_xyxy[0]
        assert abs(float(box[3] - box[1]) - 80) < 3
        assert clip.meta.image_size == (120, 160)
        np.testing.assert_allclose(clip.timestamps[0], clip.meta.first_frame / 25, atol=1e-6)


def test_plan_covers_every_frame_and_knows_duplicates(videos, tmp_path):
    config = config_of(videos, tmp_path)
    planned = plan_videos(find_sources([videos]).videos, config, settings_of(config, "x"))
    by_name = {Path(video.path).name: video for video in planned}
    units = by_name["two people.mp4"].units
    assert [(unit.start, unit.stop) for unit in units] == [(0, 16), (16, 33), (33, 50)]
    assert by_name["zz-copy.mp4"].filtered == "duplicate"
    assert by_name["empty.mp4"].quarantined == "empty"
    assert by_name["picture.mov"].quarantined == "not_a_video"
    again = plan_videos(find_sources([videos]).videos, config, settings_of(config, "x"))
    other = plan_videos(find_sources([videos]).videos, config, settings_of(config, "y"))
    assert planned == again
    ids = [{unit.identity for video in plan for unit in video.units} for plan in (planned, other)]
    assert not ids[0] & ids[1]
    with pytest.raises(ValueError, match="unit_frames is 0"):
        plan_videos([], config_of(videos, tmp_path, unit_frames=0), {})


def check_sums(manifest: dict) -> None:
    counts = manifest["frame_counts"]
    filtered = sum(counts["filtered"].values())
    assert counts["frames"] == counts["written"] + filtered + counts["quarantined"]
    videos = manifest["video_counts"]
    assert videos["videos"] == sum(videos[k] for k in ("written", "filtered", "quarantined"))
    assert manifest["frames"] == sum(shard["frames"] for shard in manifest["shards"])


@pytest.mark.ray
@pytest.mark.slow
def test_preprocess_on_ray(videos, tmp_path, ray_local):
    out = tmp_path / "a"
    assert preprocess(config_of(videos, out), detector=box_detector()) == 3
    manifest = json.loads((out / "manifest.json").read_text())
    check_sums(manifest)
    assert manifest["video_counts"] == {
        "videos": 6, "written": 1, "filtered": 2, "quarantined": 3,
    }  # fmt: skip
    assert manifest["frame_counts"]["filtered"] == {"no_people": 12, "duplicate": 50}
    assert manifest["frame_counts"]["quarantined"] == 30
    assert manifest["clips"] == 10
    assert manifest["frames"] == 100
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    reasons = {(Path(row["path"]).name, row["reason"], row["start"]) for row in rows}
    assert reasons == {
        ("empty.mp4", "empty", 0), ("picture.mov", "not_a_video", 0),
        ("poison.mp4", "ArithmeticError", 0), ("poison.mp4", "ArithmeticError", 15),
    }  # fmt: skip
    marker = json.loads(next((out / "done").glob("poison-*.json")).read_text())
    assert 'raise ArithmeticError("poison")' in marker["traceback"]

    two = config_of(videos, tmp_path / "b", num_detectors=2)
    assert preprocess(two, detector=box_detector()) == 3
    assert contents(out) == contents(two.out)

    (out / "done" / next(out.glob("*.tar")).with_suffix(".json").name).unlink()
    before = contents(out)
    assert preprocess(config_of(videos, out), detector=box_detector()) == 3
    assert contents(out) == before


@pytest.mark.ray
def test_an_output_that_cannot_be_written_stops_the_run(videos, tmp_path, ray_local):
    source = videos / "two people.mp4"
    config = config_of(source, tmp_path)
    units = plan_videos([source], config, settings_of(config, "x"))[0].units
    (tmp_path / f"{units[1].name}.tar").mkdir()  # nothing can be renamed onto a folder
    with pytest.raises(WriteError, match=rf"{units[1].name}\.tar: cannot be written") as caught:
        preprocess(config, detector=box_detector())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "manifest.json").exists()


def test_other_settings_and_strangers_are_refused(videos, tmp_path):
    config = config_of(videos / "nobody.mp4", tmp_path)
    [unit] = plan_videos(find_sources(config.source.path).videos, config, {})[0].units
    run_stages(config)
    assert read_outcome(tmp_path, unit) is None
    with pytest.raises(ExtPoseError, match="made with other settings"):
        preprocess(config, detector=replace(box_detector(), identity="2"))
    (tmp_path / "stranger.tar").touch()
    with pytest.raises(ExtPoseError, match=r"stranger\.tar: not a shard of what was given"):
        preprocess(config, detector=box_detector())
    with pytest.raises(ExtPoseError, match="no videos"):
        preprocess(config_of(tmp_path / "done", tmp_path / "x"))


def test_a_marker_without_its_shard_does_not_count(videos, tmp_path):
    config = config_of(videos / "two people.mp4", tmp_path)
    run_stages(config)
    settings = settings_of(config, "boxes 1")
    units = plan_videos(find_sources(config.source.path).videos, config, settings)[0].units
    assert all(read_outcome(tmp_path, unit) for unit in units)
    shard = tmp_path / f"{units[1].name}.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    assert read_outcome(tmp_path, units[1]) is None
    shard.unlink()
    assert read_outcome(tmp_path, units[1]) is None
    run_stages(config)
    assert shard.read_bytes() == data


def test_a_full_disk_stops_the_run_and_names_the_path(videos, tmp_path):
    config = config_of(videos / "two people.mp4", tmp_path)
    rows = []

    def keep(row, **_):
        rows.append(row)

    settings = settings_of(config, "boxes 1")
    units = plan_videos(find_sources(config.source.path).videos, config, settings)[0].units
    detect = detect_alone(box_detector().build(config.detect))
    keep(track(detect(vars(units[0])), config=config.detect))
    assert isinstance(unit_of(rows[0]), Unit)
    result = pack(rows[0], config=config_of(videos, tmp_path / "gone"), detector="boxes")
    assert re.search(r"gone/two-people-.*\.tar: cannot be written", result["write_error"])


def test_one_run_a_folder(tmp_path):
    with open_output(tmp_path):
        (tmp_path / ".half.tar.1.tmp").touch()
        with pytest.raises(ExtPoseError, match="another run"), open_output(tmp_path):
            pass
    with open_output(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"), open_output(tmp_path / "file"):
        pass


def test_prefetch_keeps_order_and_hands_errors_on():
    assert list(prefetch(iter(range(50)), 3)) == list(range(50))

    def broken():
        yield 1
        raise KeyError("two")

    items = prefetch(broken(), 2)
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)
    endless = prefetch(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()  # must not wait for ever


KILLED_RUN = """
import sys
from pathlib import Path
from pipelines.preprocess import preprocess
from tests.pipelines.fakes import box_detector, config_of
if __name__ == "__main__":
    sys.exit(preprocess(config_of(Path(sys.argv[1]), Path(sys.argv[2])), detector=box_detector()))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_kill_9_and_again_gives_the_same_bytes(videos, tmp_path, ray_local):
    source, out = videos / "two people.mp4", tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_DETECTOR_SECONDS": "0.1"}
    environment.pop("RAY_ADDRESS", None)
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, str(source), str(out)],
        env=environment, cwd=ROOT, stdout=log, stderr=log,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(out.glob("done/*.json")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    log.close()
    assert len(list(out.glob("done/*.json"))) < 3
    assert not (out / "manifest.json").exists()
    assert preprocess(config_of(source, out), detector=box_detector()) == 0
    whole = tmp_path / "whole"
    assert preprocess(config_of(source, whole), detector=box_detector()) == 0
    assert {**contents(out), ".lock": b""} == contents(whole)
    assert sum(1 for path in out.glob("*.tar") for _ in read_shard(path)) == 10
