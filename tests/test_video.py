import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from extpose.errors import VideoError
from extpose.video import VideoWriter, probe, read_frames

SIZE = (48, 64)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The index as eight black or white columns, and a red corner at the top left."""
    rgb = np.zeros((*size, 3), np.uint8)
    for bit in range(8):
        rgb[:, size[1] * bit // 8 : size[1] * (bit + 1) // 8] = 255 * (index >> bit & 1)
    rgb[: size[0] // 2, : size[1] // 8] = (255, 0, 0)
    return rgb


def number(rgb: np.ndarray) -> int:
    """The index back from the picture (without bit 0, that the corner hides in the upper half)."""
    row = rgb[-8]
    return sum(int(row[row.shape[0] * (2 * bit + 1) // 16].mean() > 128) << bit for bit in range(8))


def write_video(path: Path, num_frames: int, size: tuple[int, int] = SIZE, *, times=None) -> Path:
    """H.264 with B-frames and a keyframe every 12 frames; `times` in 1/600 seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "2"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, 25) if times is None else Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 40)


def reason(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        list(read_frames(path))
    assert str(path) in str(caught.value)
    return caught.value.reason


def test_probe_and_read(video):
    info = probe(video)
    assert (info.height, info.width, info.fps, info.num_frames) == (*SIZE, 25.0, 40)
    frames = list(read_frames(video))
    assert [frame.index for frame in frames] == list(range(40))
    assert [number(frame.rgb) for frame in frames] == list(range(40))
    np.testing.assert_allclose([f.timestamp for f in frames], np.arange(40) / 25, atol=1e-6)
    assert frames[0].rgb[4, 2, 0] > 150 > frames[0].rgb[4, 2, 1]


@pytest.mark.parametrize("start", [1, 11, 12, 13, 25, 39])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_seeking_equals_skipping(tmp_path, start, suffix):
    path = write_video(tmp_path / f"b{suffix}", 40)
    skipped = list(read_frames(path))[start : start + 6]
    sought = list(read_frames(path, start, min(start + 6, 40)))
    assert [number(frame.rgb) for frame in sought] == list(range(start, min(start + 6, 40)))
    for a, b in zip(skipped, sought, strict=True):
        assert (a.index, a.timestamp) == (b.index, b.timestamp)
        np.testing.assert_array_equal(a.rgb, b.rgb)


def test_nothing_between_equal_ends_and_no_start_behind_the_end(video):
    assert list(read_frames(video, 40)) == []
    assert list(read_frames(video, 5, 5)) == []
    with pytest.raises(ValueError, match="start 41 of 40"):
        list(read_frames(video, 41))


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = np.cumsum([24, 48, 12, 36] * 5)
    path = write_video(tmp_path / "v.mp4", 20, times=[int(t) for t in times])
    for start in (0, 7, 13):
        frames = list(read_frames(path, start))
        found = np.array([frame.timestamp for frame in frames])
        np.testing.assert_allclose(np.diff(found), np.diff(times[start:]) / 600, atol=1e-3)
        assert [number(frame.rgb) for frame in frames] == list(range(start, 20))


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), "top right"),
        ((0, -1, 1, 0), "bottom left"),
        ((-1, 0, 0, -1), "bottom right"),
    ],
)
def test_rotation_flag_is_honoured(video, tmp_path, matrix, corner):
    """A phone's display matrix in the track header, written by hand."""
    data = bytearray(video.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    info = probe(path)
    is_turned = matrix[0] == 0
    assert (info.height, info.width) == (SIZE[::-1] if is_turned else SIZE)
    rgb = next(read_frames(path)).rgb
    assert rgb.shape[:2] == (info.height, info.width)
    quarter = {
        "top right": rgb[2, -3],
        "bottom left": rgb[-3, 2],
        "bottom right": rgb[-3, -3],
    }[corner]
    assert quarter[0] > 150 > quarter[1]


def test_reasons(tmp_path, video):
    assert reason(tmp_path / "none.mp4") == "missing"
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert reason(empty) == "empty"
    text = tmp_path / "text.mp4"
    text.write_text("hello " * 100)
    assert reason(text) == "not_a_video"
    for suffix in (".png", ".jpg"):
        image = tmp_path / f"image{suffix}"
        cv2.imwrite(str(image), picture(3))
        assert reason(image.rename(tmp_path / f"{suffix[1:]}.mp4")) == "not_a_video"
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-400])  # the index at the end is lost
    assert reason(cut) == "truncated"


def test_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason(path) == "no_video_stream"


def test_truncated_data_gives_what_is_there_and_then_says_so(tmp_path):
    whole = tmp_path / "whole.mp4"
    with VideoWriter(whole, 25.0, SIZE) as writer:
        rng = np.random.default_rng(0)
        for _ in range(40):
            writer.write(rng.integers(0, 256, (*SIZE, 3), np.uint8))
    data = whole.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    assert probe(path).num_frames == 40
    assert len(list(read_frames(path, 0, 5))) == 5
    frames = []
    with pytest.raises(VideoError, match="truncated"):
        frames.extend(read_frames(path))
    assert len(frames) >= 5
    with pytest.raises(VideoError, match="truncated"):
        list(read_frames(path, 30))


def test_a_container_without_frames(tmp_path):
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    assert reason(path) == "no_video_stream"  # a track without a frame is not written


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
def test_written_videos_read_back(tmp_path, size):
    path = tmp_path / "w.mp4"
    with VideoWriter(path, 29.97, size) as writer:
        for index in range(10):
            writer.write(picture(index, size))
        with pytest.raises(ValueError, match="expected"):
            writer.write(np.zeros((10, 10, 3), np.uint8))
    frames = list(read_frames(path))
    assert [number(frame.rgb[: size[0], : size[1]]) for frame in frames] == list(range(10))
    info = probe(path)
    assert abs(info.fps - 30000 / 1001) < 1e-3
    assert (info.height, info.width) == (48 if size[0] == 48 else 50, 64)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
