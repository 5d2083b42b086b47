"""What is told of samples, frames and videos; samples made again."""

import functools
import json
import operator
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from extpose import storage
from extpose.data.shards import ShardIndex, write_shard
from extpose.errors import ExtPoseError
from extpose.storage import S3Path
from pipelines import validate
from pipelines.accounts import account_faults
from pipelines.detections import KeptDetect
from pipelines.environment import find_environment, note_environment, read_environments
from pipelines.explain import explain
from pipelines.ledger import Outcome, open_output
from pipelines.plan import (
    make_manifest,
    plan_videos,
    quarantine_rows,
    settings_of,
    survey_units,
)
from pipelines.preprocess_page import write_page
from pipelines.rebuild import read_members, rebuild
from pipelines.sources.folder import find_sources
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.validate import find_faults
from tests.pipelines.fakes import POISON, box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_people(folder / "walk.mp4", 44)
    write_people(folder / "nobody.mp4", 12, people=0)
    write_people(folder / "poison.mp4", 10, background=POISON)
    (folder / "zz.mp4").write_bytes((folder / "walk.mp4").read_bytes())
    (folder / "empty.mp4").touch()
    return folder


def make_folder(videos: Path, out: storage.Location) -> None:
    """As `preprocess` leaves it, without Ray."""
    config, spec = config_of(videos, out), box_detector()
    decisive = settings_of(config, f"{spec.name} {spec.identity}")
    with open_output(out):
        planned = plan_videos(find_sources([videos]).videos, config, decisive)
        units = [unit for video in planned for unit in video.units]
        environment = note_environment(out)
        stage = KeptDetect(lambda: detect_alone(spec.build(config.detect)), out)
        for unit in units:
            row = track(stage(vars(unit)), config=config.detect)
            pack(row, config=config, detector=spec.name, environment=environment)
        done: dict[str, Outcome] = survey_units(units, config, decisive).done
        manifest = make_manifest(planned, lambda unit: done[unit.name], decisive, config.split)
        storage.write_bytes(out / "manifest.json", json.dumps(manifest).encode())
        rows = quarantine_rows(planned, lambda unit: done[unit.name])
        write_page(out, manifest, done.values(), rows)


@pytest.fixture(scope="module")
def data(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data")
    make_folder(videos, out)
    return out


def keys_of(data: Path) -> list[str]:
    return ShardIndex(sorted(data.glob("walk*.tar"))).keys


def facts_of(text: str) -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: value.strip() for name, value in pairs}


def test_a_clip_is_explained(data, videos):
    key = keys_of(data)[1]
    facts = facts_of(explain(key, data))
    assert facts["key"] == key
    assert facts["source"] == f"video {videos / 'walk.mp4'}"
    assert facts["source sha256"] == storage.hash_file(videos / "walk.mp4")
    assert facts["frames"] == "14 to 28 (15)"
    assert facts["time stamps"] == "0.5600 to 1.1200 s, 25 fps"
    assert facts["shard sha256"].endswith("(as in the manifest)")
    assert facts["detected"] == "15 of 15 frames; bridged: none"
    assert facts["detector"] == "boxes; boxes 1"
    assert facts["passed min_track_frames"] == "15 of at least 8"
    assert facts["setting crop.size"] == "64"
    assert facts["made with"].endswith("of versions.json; here are the same")
    assert "setting versions.code" in facts


@pytest.mark.parametrize(
    ("what", "name", "value"),
    [
        ("walk.mp4:20", "fate", "written (frames 14 to 28)"),
        ("walk.mp4:400", "fate", "not in the video as it was decoded"),
        ("nobody.mp4:3", "fate", "filtered: no_people (frames 0 to 11)"),
        ("nobody.mp4", "frames 0 to 11", "filtered: no_people"),
        ("poison.mp4:4", "fate", "quarantined (frames 0 to 9)"),
        ("empty.mp4", "status", "quarantined: empty"),
        ("zz.mp4", "status", "filtered: duplicate"),
    ],
)
def test_what_is_in_no_shard_is_explained(data, what, name, value):
    facts = facts_of(explain(what, data))
    assert facts[name] == value
    if what.startswith("poison"):
        [error] = [text for name, text in facts.items() if name.startswith("error of")]
        assert error == "ArithmeticError: frame 0: poison"


def test_what_was_never_there_is_refused(data, tmp_path):
    with pytest.raises(ExtPoseError, match="no clip, video or frame 'other'"):
        explain("other", data)
    with pytest.raises(ExtPoseError, match=r"manifest\.json: not there"):
        explain("other", tmp_path)


def test_a_sample_is_made_again(data, videos, tmp_path):
    key = keys_of(data)[2]
    made = rebuild(key, data, detector=box_detector())
    assert (made.members, made.differing) == (2 + 2 * 15, ())
    moved = tmp_path / "renamed.mp4"
    moved.write_bytes((videos / "walk.mp4").read_bytes())
    assert rebuild(key, data, source=moved, detector=box_detector()).differing == ()
    with pytest.raises(ExtPoseError, match=r"nobody\.mp4: sha256 is .*, the folder's is"):
        rebuild(key, data, source=videos / "nobody.mp4", detector=box_detector())
    with pytest.raises(ExtPoseError, match="detector_identity: boxes 1, now boxes 2"):
        rebuild(key, data, detector=replace(box_detector(), identity="2"))


def test_other_libraries_are_named(videos, tmp_path, monkeypatch):
    make_folder(videos, tmp_path)
    key = keys_of(tmp_path)[0]
    here = find_environment()
    monkeypatch.setattr("pipelines.environment.find_environment", lambda: here | {"av": "0.1"})
    made = rebuild(key, tmp_path, detector=box_detector())
    assert made.differing == (), "recorded, and no part of what a unit is"
    assert made.libraries == (f"av: {here['av']}, now 0.1",)
    told = facts_of(explain(key, tmp_path))["made with"]
    assert told.endswith(f"here are others: av: {here['av']}, now 0.1")
    note_environment(tmp_path)
    assert len(read_environments(tmp_path)) == 2
    assert "libavcodec" in here["ffmpeg"]


def test_a_folder_has_a_page(data):
    page = (data / "report.html").read_text()
    assert "<td>frames</td><td>110</td><td>44</td><td>56</td><td>10</td>" in page
    assert "<td>no_people</td><td>12</td>" in page
    assert "frame 0: poison" in page
    assert "No run has done anything yet" in page
    assert "libavcodec" in page


def test_a_changed_sample_is_told_by_member(videos, tmp_path):
    make_folder(videos, tmp_path)
    [first, *_] = sorted(tmp_path.glob("walk*.tar"))
    [clip] = [ShardIndex([first]).read_clip(0)]
    write_shard(first, [replace(clip, rgb=(clip.rgb[1], *clip.rgb[1:]))])
    made = rebuild(clip.key, tmp_path, detector=box_detector())
    assert made.differing == ("000.jpg",)
    assert "the manifest says" in explain(clip.key, tmp_path)
    assert set(read_members(first, clip.key)) > {"000.jpg", "meta.json"}


def test_a_folder_in_a_store_is_explained_and_rebuilt(videos, data, tmp_path, s3):
    out = S3Path(f"s3://bucket/{tmp_path.name}")
    make_folder(videos / "walk.mp4", out)
    key = keys_of(data)[0]
    assert facts_of(explain(key, out))["shard"].startswith(f"s3://bucket/{tmp_path.name}/walk-")
    assert rebuild(key, out, detector=box_detector()).differing == ()


def test_balanced_accounts_have_no_fault_and_each_fault_is_named(videos, tmp_path):
    make_folder(videos, tmp_path)
    assert list(find_faults(tmp_path)) == []
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    marker = next((tmp_path / "done").glob("walk*.json"))
    outcome = json.loads(marker.read_text())

    def faults_with(path: Path, value: dict) -> str:
        before = path.read_text()
        path.write_text(json.dumps(value))
        faults = list(account_faults(tmp_path))
        path.write_text(before)
        return "\n".join(faults)

    counts = manifest["frame_counts"]
    lost = manifest | {"frame_counts": counts | {"written": counts["written"] - 1}}
    told = faults_with(tmp_path / "manifest.json", lost)
    assert "frames is 110, written, filtered and quarantined are 109" in told
    assert "written is 43, the markers' 44" in told
    people = manifest | {"frame_counts": counts | {"num_tracks": 9}}
    assert "num_tracks is 9, written and filtered are 3" in faults_with(
        tmp_path / "manifest.json", people
    )
    fewer = manifest | {"videos": manifest["videos"][1:]}
    assert "video_counts: videos is 5" in faults_with(tmp_path / "manifest.json", fewer)
    wrong = outcome | {"filtered": {"too_short": 2}}
    told = faults_with(marker, wrong)
    assert f"{marker}: frames is {outcome['frames']}, written, filtered and" in told
    other = outcome | {"sha256": "0"}
    assert "its marker says 0" in faults_with(marker, other)
    assert list(account_faults(tmp_path)) == []


def test_a_manifest_with_a_damaged_field_is_told_and_stops_nothing(data, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(data, folder)
    reports = {path: validate._check(path, None, None) for path in validate.list_shards(folder)}
    monkeypatch.setattr(validate, "_check", lambda path, *_: reports[path])
    path = folder / "manifest.json"
    text = path.read_text()
    manifest = json.loads(text)
    places = [(), ("frame_counts",), ("video_counts",), ("settings",), ("shards", 0), ("videos", 0)]
    for place in places:
        for name in functools.reduce(operator.getitem, place, manifest):
            for changes in ({}, {name: [None]}, {name: {"x": "y"}}):
                damaged = json.loads(text)
                values = functools.reduce(operator.getitem, place, damaged)
                del values[name]
                values |= changes
                path.write_text(json.dumps(damaged))
                kinds = {finding.fault.kind for finding in find_faults(folder)}
                if name in ("left_out_files", "empty_detections"):
                    continue  # older folders lack them
                if place != ("settings",) and (place != ("videos", 0) or name == "video_id"):
                    assert kinds & {"bad_manifest", "count_mismatch"}, (place, name, changes)
    for name, value in (("shards", [1]), ("videos", [1]), ("frame_counts", {})):
        path.write_text(json.dumps(manifest | {name: value}))
        told = [f for f in find_faults(folder) if f.fault.kind == "bad_manifest"]
        assert told
        assert all(f.path == str(path) for f in told)
    assert "frame_counts: filtered: is missing" in "\n".join(map(str, told))
