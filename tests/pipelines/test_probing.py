"""Videos that nobody can foresee are planned or refused by name, and never stop the others."""

import os
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest

from extpose.errors import VideoError
from extpose.video_index import VideoIndex, scan
from pipelines import probing
from pipelines.plan import plan_videos
from pipelines.probing import Failed, Probed, probe_videos, watched_scan
from tests.pipelines.fakes import config_of
from tests.test_video import SIZE, picture, write_video


def change(source: Path, name: str, old: bytes, new: bytes) -> Path:
    data = source.read_bytes()
    assert old in data
    path = source.with_name(name)
    path.write_bytes(data.replace(old, new))
    return path


def write_titled(path: Path, title: str) -> Path:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_odd_headers(tmp_path):
    whole = write_titled(tmp_path / "a.mp4", "cafe")
    avi, mkv = write_video(tmp_path / "a.avi", 12), write_video(tmp_path / "a.mkv", 12)
    sample = whole.read_bytes().index(b"stsz") + 12
    promise = bytearray(whole.read_bytes())
    promise[sample] = 0x40
    (tmp_path / "promise.mp4").write_bytes(promise)
    good = [
        change(whole, "latin-1.mp4", b"cafe", b"caf\xe9"),
        change(mkv, "duration.mkv", b"00:00:00.480", b"zz:00:00.480"),
    ]
    bad = {
        change(avi, "fourcc.avi", b"H264", b"ZZZZ"): "unknown_codec",
        change(mkv, "codec.mkv", b"V_MPEG4/ISO/AVC", b"V_SECRE/ISO/AVC"): "unknown_codec",
        tmp_path / "promise.mp4": "truncated",
    }
    paths = [good[0], *bad, good[1]]
    planned = plan_videos(paths, config_of(tmp_path, tmp_path), {})
    assert [video.quarantined for video in planned] == ["", *bad.values(), ""]
    assert [video.num_frames for video in (planned[0], planned[-1])] == [12, 12]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".flv"])
def test_flipped_bytes_never_stop_a_plan(tmp_path, suffix):
    data, rng = write_video(tmp_path / f"a{suffix}", 12).read_bytes(), np.random.default_rng(0)
    paths = [tmp_path / f"{i}{suffix}" for i in range(40)]
    for path in paths:
        changed = np.frombuffer(data, np.uint8).copy()
        at = np.append(rng.integers(0, 600, 3), rng.integers(len(data) - 900, len(data), 2))
        changed[at] = rng.integers(0, 256, 5)
        path.write_bytes(changed.tobytes())
    found = list(probe_videos(paths, {}))
    assert {type(result) for result in found} <= {Probed, Failed}
    assert all(result.num_frames < 2000 for result in found if isinstance(result, Probed))


def test_what_nobody_foresaw_is_the_video_s_fault(tmp_path):
    paths = [write_video(tmp_path / f"{i}.mp4", 3 + i) for i in range(3)]

    def broken(path: Path) -> VideoIndex:
        if path == paths[1]:
            raise IndexError("of something")
        return scan(path)

    results = list(probe_videos(paths, {}, broken))
    assert [type(result) for result in results] == [Probed, Failed, Probed]
    assert results[1].reason == "IndexError"
    assert results[1].message.startswith(f"{paths[1]}: IndexError")


def build_fragile():
    return fragile


def fragile(path, beat):
    """Dies or hangs at some names."""
    beat("reading")
    if path.stem == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem == "hang":
        time.sleep(60)
    return probing._scan_to_text(path, beat)


def test_a_video_that_kills_its_reader(tmp_path, monkeypatch):
    names = ("a", "crash", "hang", "b")
    paths = [write_video(tmp_path / f"{name}.mp4", 3 + i) for i, name in enumerate(names)]
    paths.append(tmp_path / "missing.mp4")
    monkeypatch.setattr(probing, "_build_scan", build_fragile)
    monkeypatch.setattr(probing, "SCAN_TRIES", 1)
    monkeypatch.setattr("pipelines.watched.GRACE", 0.5)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with watched_scan(limit=2) as watched:
        found = list(probe_videos(paths, {}, watched))
    reasons = [result.reason if isinstance(result, Failed) else "" for result in found]
    assert reasons == ["", "reader_crashed", "reader_hung", "", "missing"]
    assert "reading: the process died (SIGSEGV)" in found[1].message
    assert found[3].index == scan(paths[3]).to_text()


def test_a_video_error_survives_the_way_from_the_child(tmp_path):
    with pytest.raises(VideoError) as caught:
        raise probing._scan_to_text(tmp_path / "none.mp4", lambda _: None)
    assert caught.value.reason == "missing"
