"""Videos as they come: each is read right (pictures, number, times), or refused by name."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from extpose import video
from extpose.errors import VideoError
from extpose.video import VideoWriter, probe, read_frames
from tests.test_video import SIZE, number, picture

NUM = 30
ENCODERS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    # what: file, encoder, pixel format, options
    "HEVC": ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "HEVC in Matroska": ("a.mkv", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "HEVC 10 bit": ("a.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    "H.264 10 bit": ("a.mp4", "libx264", "yuv420p10le", {}),
    "H.264 4:4:4": ("a.mp4", "libx264", "yuv444p", {}),
    "grey": ("a.mp4", "libx264", "gray", {}),
    "grey lossless": ("a.mkv", "ffv1", "gray", {}),
    "VP9": ("a.webm", "libvpx-vp9", "yuv420p", {}),
    "Motion JPEG": ("a.avi", "mjpeg", "yuvj420p", {}),
    "MPEG-2": ("a.mpg", "mpeg2video", "yuv420p", {}),
    "transport stream": ("a.ts", "libx264", "yuv420p", {}),
    "ProRes": ("a.mov", "prores", "yuv422p10le", {}),
}


def encode(
    path: Path,
    encoder: str = "libx264",
    pixels: str = "yuv420p",
    *,
    num: int = NUM,
    size: tuple[int, int] = SIZE,
    **options: str,
) -> Path:
    """Pictures that hold their number. Skips the test where PyAV lacks the encoder."""
    if encoder not in av.codecs_available:
        pytest.skip(f"PyAV without {encoder}")
    av.logging.set_level(av.logging.PANIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options={"g": "12"} | options)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        for index in range(num):
            rgb = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            container.mux(stream.encode(rgb))
        container.mux(stream.encode())
    return path


def check(path: Path, numbers: range, size: tuple[int, int] = SIZE) -> None:
    """The pictures with these numbers, 25 a second, upright, also when read from the middle."""
    frames = list(read_frames(path))
    assert [number(frame.rgb) for frame in frames] == list(numbers)
    assert [frame.index for frame in frames] == list(range(len(numbers)))
    info = probe(path)
    assert (info.image_size, info.num_frames, info.fps) == (size, len(numbers), 25.0)
    times = np.array([frame.timestamp for frame in frames])
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=2e-3)
    corner, red = frames[0].rgb[4, 2].astype(int), picture(0, size)[4, 2]
    assert red[0] == 255
    assert corner[0] > corner[2] + 100 or len(set(corner)) == 1  # red, or grey
    middle = list(read_frames(path, 7, 10))
    assert [frame.timestamp for frame in middle] == times[7:10].tolist()
    np.testing.assert_array_equal(middle[0].rgb, frames[7].rgb)


def reason_of(path: Path) -> tuple[str, str]:
    with pytest.raises(VideoError, match=str(path)) as caught:
        list(read_frames(path))
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("what", ENCODERS)
def test_codecs_and_pixel_formats(tmp_path: Path, what: str) -> None:
    name, encoder, pixels, options = ENCODERS[what]
    check(encode(tmp_path / name, encoder, pixels, **options), range(NUM))


@pytest.mark.parametrize(("name", "encoder", "pixels"), [
    ("a.mp4", "libx264", "yuv444p"), ("a.mkv", "ffv1", "bgr0"),
])  # fmt: skip
def test_odd_sizes(tmp_path: Path, name: str, encoder: str, pixels: str) -> None:
    size = (49, 63)
    check(encode(tmp_path / name, encoder, pixels, size=size), range(NUM), size)


def test_a_giant_group_of_pictures(tmp_path: Path) -> None:
    """One keyframe at the start: what is in the middle is the same as in a whole reading."""
    path = encode(tmp_path / "a.mp4", num=150, g="1000", sc_threshold="0", bf="3")
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        assert sum(packet.is_keyframe for packet in packets if packet.size) == 1
    check(path, range(150))
    assert [number(frame.rgb) for frame in read_frames(path, 120, 124)] == [120, 121, 122, 123]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".txt"])
def test_a_wrong_suffix_does_not_matter(tmp_path: Path, name: str, suffix: str) -> None:
    path = encode(tmp_path / name)
    check(path.rename(tmp_path / f"b{suffix}"), range(NUM))


def test_an_edit_list_hides_what_a_player_hides(tmp_path: Path) -> None:
    """The first five pictures are in the file, because others need them, and before time zero."""
    source, path = encode(tmp_path / "a.mp4", bf="0"), tmp_path / "cut.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                shift = int(Fraction(5, 25) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                new.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == NUM  # the file has all of them
    check(path, range(5, NUM))
    assert next(read_frames(path)).timestamp == 0


def test_variable_rate_in_matroska(tmp_path: Path) -> None:
    times, path = np.cumsum([40, 80, 20, 60] * 5), tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for start in (0, 9):
        frames = list(read_frames(path, start))
        assert [number(frame.rgb) for frame in frames] == list(range(start, 20))
        found = [frame.timestamp for frame in frames]
        np.testing.assert_allclose(np.diff(found), np.diff(times[start:]) / 1000, atol=1.1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".webm", ".ts"])
def test_a_header_without_pictures_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9" if suffix == ".webm" else "libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    assert reason_of(path)[0] in ("no_frames", "no_video_stream", "not_a_video", "empty")


def test_sound_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason_of(path)[0] == "no_video_stream"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_truncated_not_shorter(tmp_path: Path, name: str, share: float) -> None:
    whole = encode(tmp_path / name, num=60, movflags="faststart")
    data = whole.read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: int(len(data) * share)])
    assert reason_of(cut)[0] == "truncated"


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """Sixty pictures that do not compress, so that bytes in the middle are pictures."""
    path, rng = tmp_path_factory.mktemp("noisy") / "a.mp4", np.random.default_rng(0)
    with VideoWriter(path, 25.0, SIZE) as writer:
        for _ in range(60):
            writer.write(rng.integers(0, 256, (*SIZE, 3), np.uint8))
    return path


def spoil(source: Path, path: Path, change: Callable[[bytearray, int], None]) -> Path:
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat")
    change(data, start + (len(data) - start) // 2)
    path.write_bytes(data)
    return path


def test_damage_in_the_middle_is_named_with_its_frame(noisy: Path, tmp_path: Path) -> None:
    def junk(data: bytearray, at: int) -> None:
        data[at : at + 9000] = np.random.default_rng(1).bytes(9000)

    path = spoil(noisy, tmp_path / "junk.mp4", junk)
    reason, message = reason_of(path)
    assert reason == "damaged"
    frame = int(message.split("frame ")[1].split(":")[0].split()[0])
    assert 15 < frame < 45
    assert len(list(read_frames(path, 0, 10))) == 10  # the others can be used


def test_a_lost_frame_does_not_shift_the_others(tmp_path: Path, monkeypatch) -> None:
    """A decoder that swallows one picture: what follows must not take its place."""
    path = encode(tmp_path / "a.mp4")
    decode = video._decode

    def swallow(path: Path, start: int, *rest):
        frames = (frame for index, frame in decode(path, start, *rest) if index != 11)
        return enumerate(frames, start)

    monkeypatch.setattr(video, "_decode", swallow)
    reason, message = reason_of(path)
    assert reason == "damaged"
    assert "frame 11 is lost" in message


def test_a_picture_of_another_size_in_the_middle(tmp_path: Path) -> None:
    """Two streams, one after the other, as cameras write them when they are turned."""
    first, second = encode(tmp_path / "a.ts"), encode(tmp_path / "b.ts", size=(64, 48))
    path = tmp_path / "c.ts"
    with path.open("wb") as file:
        for part in (first, second):
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
    assert reason_of(path)[0] == "size_changed"
