"""Videos to frames and back, by PyAV. Nothing here guesses: what cannot be used says why.

Axes     h w pixels, upright: a rotation flag of the container is applied
Units    seconds, as the container says (a variable frame rate stays one)
Frames   index 0 is the first frame that a player shows

Reasons of `VideoError`:

missing          no such file
empty            0 bytes
not_a_video      no container that can be opened, or a picture under a video's name
no_video_stream  sound only (a cover picture is no video)
no_frame_rate    the container does not say how fast
no_frames        a video stream without frames
truncated        fewer frames than promised
damaged          a frame in the middle that cannot be decoded as it was written, or is lost
size_changed     frames of another size in the middle
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from extpose.errors import VideoError
from extpose.storage import Location, find_file, open_stream

TOLERANCE = 2
"""Frames that may be missing at the end: edit lists and B-frames make containers promise more."""

SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers that store presentation times; others (avi) guess them, wrongly after a seek."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says about its first video stream."""

    path: str
    height: int
    width: int
    """Upright size."""
    fps: float
    num_frames: int
    """Frames that a player shows; of a truncated file, those that were promised."""
    codec: str

    @property
    def image_size(self) -> tuple[int, int]:
        """Upright height, width."""
        return self.height, self.width


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded picture."""

    index: int
    timestamp: float
    """Presentation time, seconds."""
    rgb: UInt8[np.ndarray, "h w 3"]


def probe(path: Location) -> VideoInfo:
    """Size, rate and length of a video, from its packets and its first frame."""
    return _scan(path)[0]


def read_frames(path: Location, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """The frames [start, stop), the same ones whether or not the decoder could seek.

    Raises VideoError: `truncated` when more than `TOLERANCE` of the asked frames that the container
    promises are not there, `damaged` when one of a whole file cannot be decoded or is left out by
    the decoder. No frame is given another one's index.
    """
    info, times, is_cut = _scan(path)
    broken = "truncated" if is_cut else "damaged"
    expected = info.num_frames if stop is None else min(stop, info.num_frames)
    if not 0 <= start <= expected:
        raise ValueError(f"{path}: start {start} of {expected} frames")
    following = start
    try:
        for index, frame in islice(_decode(path, start, times), expected - start):
            if frame.is_corrupt:
                raise VideoError(path, broken, f"frame {index} is damaged")
            if times is not None and index < len(times) and frame.pts != times[index]:
                detail = f"frame {index} is lost: pts {frame.pts} where {times[index]} should be"
                raise VideoError(path, broken, detail)
            rgb = _to_rgb(frame)
            if rgb.shape[:2] != (info.height, info.width):
                detail = f"frame {index}: {rgb.shape[:2]}, was {(info.height, info.width)}"
                raise VideoError(path, "size_changed", detail)
            time = index / info.fps if frame.time is None else frame.time
            yield Frame(index=index, timestamp=float(time), rgb=rgb)
            following = index + 1
    except av.FFmpegError as error:
        raise VideoError(path, broken, f"frame {following}: {error}") from error
    if following < expected - TOLERANCE or (following == start < expected):
        raise VideoError(path, "truncated", f"frame {following} of {expected} is not there")


def _decode(
    path: Location, start: int, times: list[int] | None
) -> Iterator[tuple[int, VideoFrame]]:
    """Index and frame from `start` on: by seeking where the times allow it, else by counting."""
    if start > 0 and times is not None and start < len(times):
        with _open(path) as (container, stream):
            container.seek(times[start], stream=stream)
            frames = container.decode(stream)
            wanted = (f for f in frames if f.pts is not None and f.pts >= times[start])
            first = next(wanted, None)
            if first is not None and first.pts == times[start]:
                yield start, first
                yield from enumerate(frames, start + 1)
                return
    with _open(path) as (container, stream):
        yield from islice(enumerate(container.decode(stream)), start, None)


def _scan(path: Location) -> tuple[VideoInfo, list[int] | None, bool]:
    """The info, the time of each frame in rising order where seeking can trust them, and whether
    the file ends before what it promises."""
    with _open(path) as (container, stream):
        can_seek = container.format.name in SEEKABLE
        rate = stream.average_rate or stream.guessed_rate
        codec = stream.codec_context.name
        packets = _read_packets(container, stream)
        missing = _count_missing(stream, packets, float(rate or 0))
    times = packets.shown
    if not rate:
        raise VideoError(path, "no_frame_rate")
    if not times:
        raise VideoError(path, "truncated" if missing else "no_frames", f"0 of {missing}")
    with _open(path) as (container, stream):
        try:
            first = next(iter(container.decode(stream)), None)
        except av.FFmpegError as error:
            reason = "truncated" if missing else "damaged"
            raise VideoError(path, reason, f"first frame: {error}") from error
        if first is None:
            raise VideoError(path, "no_frames")
        height, width = _to_rgb(first).shape[:2]
    info = VideoInfo(
        path=str(path),
        height=height,
        width=width,
        fps=float(rate),
        num_frames=len(times) + missing,
        codec=codec,
    )
    known = sorted(time for time in times if time is not None)
    return info, known if can_seek and len(set(known)) == len(times) else None, missing > 0


@dataclass(frozen=True, kw_only=True)
class _Packets:
    """What the container holds of a stream. Times are in ticks."""

    shown: list[int | None]
    """Presentation times of the packets that a player shows."""
    count: int
    """With those that an edit list hides."""
    end: int
    """When the last one ends."""


def _read_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    """Decodes nothing."""
    shown, count, end = list[int | None](), 0, 0
    with suppress(av.FFmpegError):  # of a cut file: the count is too small, `read_frames` says so
        for packet in container.demux(stream):
            if packet.size > 0:
                count += 1
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
                if not packet.is_discard:
                    shown.append(packet.pts)
    return _Packets(shown=shown, count=count, end=end)


def _count_missing(stream: VideoStream, packets: _Packets, rate: float) -> int:
    """Frames that are promised and not there; a few may be, see `TOLERANCE`.

    MP4 promises a number of frames, Matroska the stream's duration. Others promise nothing.
    """
    missing = stream.frames - packets.count
    said = stream.metadata.get("DURATION", "")
    if not stream.frames and said.count(":") == 2 and stream.time_base:
        hours, minutes, seconds = said.split(":")
        promised = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        missing = round((promised - float(packets.end * stream.time_base)) * rate)
    return missing if missing > TOLERANCE else 0


def _to_rgb(frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """Upright RGB; FFmpeg counts the rotation counter-clockwise, as `rot90` does."""
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


@contextmanager
def _open(path: Location) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first real video stream, decoded by one thread."""
    entry = find_file(path)
    if entry is None:
        raise VideoError(path, "missing")
    if entry.num_bytes == 0:
        raise VideoError(path, "empty")
    with ExitStack() as stack:
        # A video in a store is read by ranges, as FFmpeg asks for them.
        source = str(path) if isinstance(path, Path) else stack.enter_context(open_stream(path))
        try:
            container = stack.enter_context(av.open(source, "r"))
        except av.FFmpegError as error:
            with open_stream(path) as file:
                is_mp4 = file.read(12)[4:8] == b"ftyp"
            raise VideoError(path, "truncated" if is_mp4 else "not_a_video", str(error)) from error
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise VideoError(path, "not_a_video", f"a picture ({container.format.name})")
        streams = [
            s for s in container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise VideoError(path, "no_video_stream")
        stream = streams[0]
        stream.codec_context.thread_count = 1
        # Otherwise a decoder paints over what it could not read, and says nothing.
        stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


class VideoWriter:
    """RGB frames to an mp4 that browsers play: H.264, yuv420p, the index in front.

    Falls back to MPEG-4 where PyAV has no x264. An odd size is padded by its last row or column,
    because yuv420p has none.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        """`size` is height, width."""
        self.path, self.size = path, size
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = cast(VideoStream, self._container.add_stream(codec, rate=rate))
        height, width = size
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            self._stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            self._stream.bit_rate = max(width * height * 4, 400_000)

    def write(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append one frame. Raises ValueError for another size."""
        if rgb.shape[:2] != self.size:
            raise ValueError(f"{self.path}: frame of {rgb.shape[:2]}, expected {self.size}")
        height, width = self.size
        padded = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        for packet in self._stream.encode(VideoFrame.from_ndarray(padded, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._container.close()
