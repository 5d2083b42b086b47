"""What one reading of a whole video finds: its size and rate, and where each of its frames is.

Times are ticks of the container's stream. The reading decodes the first frame only.
`extpose.video` says what the reasons of `VideoError` mean.
"""

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Int64, UInt8

from extpose.errors import VideoError
from extpose.storage import Location, find_file, open_stream

TOLERANCE = 2
"""Frames that may be missing at the end: edit lists and B-frames make containers promise more."""
MOST_MISSING = 100
"""For each frame that is there: a file that promises more is not one that somebody can use."""
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers that store presentation times; others (avi) guess them, wrongly after a seek."""
DURATION = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")
"""Of a Matroska stream's tag. What is not written like this promises nothing."""


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
class VideoIndex:
    """Where the frames from `first` on are, so that nobody needs to read the whole file again."""

    info: VideoInfo
    is_cut: bool
    """The file ends before what it promises."""
    first: int
    times: Int64[np.ndarray, " n"] | None
    """Of presentation, rising; None: no seeking by them, frames are counted from the first one."""
    keyframes: Int64[np.ndarray, " k"]
    """Numbers of the frames at which decoding can begin."""

    def time_of(self, frame: int) -> int | None:
        """Presentation time of a frame; None: not known."""
        place = frame - self.first
        if self.times is None or not 0 <= place < len(self.times):
            return None
        return int(self.times[place])

    def skip_before(self, frame: int) -> int:
        """How many frames are decoded and dropped before this one is there."""
        place = int(np.searchsorted(self.keyframes, frame, side="right"))
        return frame - int(self.keyframes[place - 1]) if place else frame

    def part(self, start: int, stop: int) -> "VideoIndex":
        """What is needed for the frames [start, stop)."""
        times, at = self.times, start - self.first
        return VideoIndex(
            info=self.info,
            is_cut=self.is_cut,
            first=start,
            times=None if times is None else times[at : at + stop - start],
            keyframes=self.keyframes[:0],
        )

    def to_text(self) -> str:
        """One line; some hundred characters where the frame rate is constant."""
        return json.dumps(
            {
                "info": {n: v for n, v in asdict(self.info).items() if n != "path"},
                "is_cut": self.is_cut,
                "first": self.first,
                "times": None if self.times is None else _pack(self.times),
                "keyframes": _pack(self.keyframes),
            }
        )

    @classmethod
    def from_text(cls, text: str, path: Location) -> "VideoIndex":
        """Inverse of `to_text`, for the file at `path`."""
        values = json.loads(text)
        return cls(
            info=VideoInfo(path=str(path), **values["info"]),
            is_cut=values["is_cut"],
            first=values["first"],
            times=None if values["times"] is None else _unpack(values["times"]),
            keyframes=_unpack(values["keyframes"]),
        )


def _pack(values: Int64[np.ndarray, " n"]) -> str:
    """Second differences compress to almost nothing where times are regular."""
    twice = np.diff(values, n=2, prepend=np.zeros(2, np.int64))
    return base64.b64encode(zlib.compress(twice.tobytes())).decode()


def _unpack(text: str) -> Int64[np.ndarray, " n"]:
    twice = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int64)
    return np.cumsum(np.cumsum(twice))


def scan(path: Location, on_packet: Callable[[], None] | None = None) -> VideoIndex:
    """Read a whole video; `on_packet` is called as it goes on. Raises VideoError."""
    with open_container(path) as (container, stream):
        can_seek = container.format.name in SEEKABLE
        rate = stream.average_rate or stream.guessed_rate
        codec = stream.codec_context.name
        packets = _read_packets(container, stream, on_packet)
        missing = _count_missing(stream, packets, float(rate or 0))
    times = packets.shown
    if not rate or rate < 0:
        raise VideoError(path, "no_frame_rate")
    if not times and not missing:
        raise VideoError(path, "no_frames")
    if missing > MOST_MISSING * len(times):
        detail = f"{len(times)} of {len(times) + missing} frames are there"
        raise VideoError(path, "truncated", detail)
    height, width = _first_size(path, is_cut=missing > 0)
    info = VideoInfo(
        path=str(path),
        height=height,
        width=width,
        fps=float(rate),
        num_frames=len(times) + missing,
        codec=codec,
    )
    known = np.array(sorted({time for time in times if time is not None}), np.int64)
    is_known = can_seek and len(known) == len(times)
    begins = np.searchsorted(known, np.array(packets.keys, np.int64)) if is_known else [0]
    return VideoIndex(
        info=info,
        is_cut=missing > 0,
        first=0,
        times=known if is_known else None,
        keyframes=np.unique(begins).astype(np.int64),
    )


def _first_size(path: Location, *, is_cut: bool) -> tuple[int, int]:
    """Upright height and width of the first frame."""
    with open_container(path) as (container, stream):
        try:
            first = next(iter(container.decode(stream)), None)
        except av.FFmpegError as error:
            reason = "truncated" if is_cut else "damaged"
            raise VideoError(path, reason, f"first frame: {error}") from error
        if first is None:
            raise VideoError(path, "no_frames")
        height, width = to_rgb(first).shape[:2]
        return height, width


@dataclass(frozen=True, kw_only=True)
class _Packets:
    """What the container holds of a stream. Times are in ticks."""

    shown: list[int | None]
    """Presentation times of the packets that a player shows."""
    keys: list[int]
    """Of those at which decoding can begin."""
    count: int
    """With those that an edit list hides."""
    end: int
    """When the last one ends."""


def _read_packets(
    container: InputContainer, stream: VideoStream, on_packet: Callable[[], None] | None
) -> _Packets:
    """Decodes nothing."""
    shown, keys, count, end = list[int | None](), list[int](), 0, 0
    with suppress(av.FFmpegError):  # of a cut file: the count is too small, `read_frames` says so
        for packet in container.demux(stream):
            if on_packet is not None:
                on_packet()
            if packet.size > 0:
                count += 1
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
                if not packet.is_discard:
                    shown.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
    return _Packets(shown=shown, keys=keys, count=count, end=end)


def _count_missing(stream: VideoStream, packets: _Packets, rate: float) -> int:
    """Frames that are promised and not there; a few may be, see `TOLERANCE`.

    MP4 promises a number of frames, Matroska the stream's duration. Others promise nothing.
    """
    missing = stream.frames - packets.count
    said = DURATION.match(stream.metadata.get("DURATION", ""))
    if not stream.frames and said and stream.time_base:
        hours, minutes, seconds = map(float, said.groups())
        promised = hours * 3600 + minutes * 60 + seconds
        missing = round((promised - float(packets.end * stream.time_base)) * rate)
    return missing if missing > TOLERANCE else 0


def to_rgb(frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """Upright RGB; FFmpeg counts the rotation counter-clockwise, as `rot90` does."""
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


@contextmanager
def open_container(path: Location) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first real video stream, decoded by one thread. Raises VideoError."""
    entry = find_file(path)
    if entry is None:
        raise VideoError(path, "missing")
    if entry.num_bytes == 0:
        raise VideoError(path, "empty")
    with ExitStack() as stack:
        # A video in a store is read by ranges, as FFmpeg asks for them.
        source = str(path) if isinstance(path, Path) else stack.enter_context(open_stream(path))
        try:
            # Titles are in any encoding, and nobody needs them.
            container = stack.enter_context(av.open(source, "r", metadata_errors="replace"))
        except av.FFmpegError as error:
            with open_stream(path) as file:
                is_mp4 = file.read(12)[4:8] == b"ftyp"
            raise VideoError(path, "truncated" if is_mp4 else "not_a_video", str(error)) from error
        yield container, _choose_stream(path, container)


def _choose_stream(path: Location, container: InputContainer) -> VideoStream:
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(path, "not_a_video", f"a picture ({container.format.name})")
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(path, "no_video_stream")
    stream = streams[0]
    # PyAV has no context where FFmpeg has no decoder; its types do not say so.
    if (context := getattr(stream, "codec_context", None)) is None:
        raise VideoError(path, "unknown_codec")
    context.thread_count = 1
    # Otherwise a decoder paints over what it could not read, and says nothing.
    context.options = {"err_detect": "explode"}
    return stream
