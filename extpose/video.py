"""Videos to frames and back, by PyAV. Nothing here guesses: what cannot be used says why.

Axes     h w pixels, upright: a rotation flag of the container is applied
Units    seconds, as the container says (a variable frame rate stays one)
Frames   index 0 is the first frame that a player shows

Reasons of `VideoError`:

missing          no such file
empty            0 bytes
not_a_video      no container that can be opened, or a picture under a video's name
no_video_stream  sound only (a cover picture is no video)
unknown_codec    pictures in a coding that FFmpeg does not know
no_frame_rate    the container does not say how fast
no_frames        a video stream without frames
truncated        fewer frames than promised
damaged          a frame in the middle that cannot be decoded as it was written, or is lost
size_changed     frames of another size in the middle
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from extpose.errors import VideoError
from extpose.storage import Location
from extpose.video_index import TOLERANCE, VideoIndex, open_container, scan, to_rgb
from extpose.video_index import VideoInfo as VideoInfo


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded picture."""

    index: int
    timestamp: float
    """Presentation time, seconds."""
    rgb: UInt8[np.ndarray, "h w 3"]


def probe(path: Location) -> VideoInfo:
    """Size, rate and length of a video, from its packets and its first frame."""
    return scan(path).info


def read_frames(
    path: Location,
    start: int = 0,
    stop: int | None = None,
    *,
    index: VideoIndex | None = None,
    on_skip: Callable[[int], None] | None = None,
) -> Iterator[Frame]:
    """The frames [start, stop), the same ones whether or not the decoder could seek.

    `index` is what `scan` said of the file, or its part for these frames; without it the whole file
    is read first. `on_skip` is called with the number of each frame that is decoded on the way to
    `start`; a number is not exact where that is not known.

    Raises VideoError: `truncated` when more than `TOLERANCE` of the asked frames that the container
    promises are not there, `damaged` when one of a whole file cannot be decoded or is left out by
    the decoder. No frame is given another one's index.
    """
    index = index or scan(path)
    info = index.info
    broken = "truncated" if index.is_cut else "damaged"
    expected = info.num_frames if stop is None else min(stop, info.num_frames)
    if not 0 <= start <= expected:
        raise ValueError(f"{path}: start {start} of {expected} frames")
    following = start
    try:
        decoded = _decode(path, start, index.time_of(start), on_skip or (lambda _: None))
        for number, frame in islice(decoded, expected - start):
            if frame.is_corrupt:
                raise VideoError(path, broken, f"frame {number} is damaged")
            time = index.time_of(number)
            if time is not None and frame.pts != time:
                detail = f"frame {number} is lost: pts {frame.pts} where {time} should be"
                raise VideoError(path, broken, detail)
            rgb = to_rgb(frame)
            if rgb.shape[:2] != info.image_size:
                detail = f"frame {number}: {rgb.shape[:2]}, was {info.image_size}"
                raise VideoError(path, "size_changed", detail)
            seconds = number / info.fps if frame.time is None else frame.time
            yield Frame(index=number, timestamp=float(seconds), rgb=rgb)
            following = number + 1
    except av.FFmpegError as error:
        raise VideoError(path, broken, f"frame {following}: {error}") from error
    if following < expected - TOLERANCE or (following == start < expected):
        raise VideoError(path, "truncated", f"frame {following} of {expected} is not there")


def _decode(
    path: Location, start: int, time: int | None, on_skip: Callable[[int], None]
) -> Iterator[tuple[int, VideoFrame]]:
    """Number and frame from `start` on: by seeking to its time where that is known, or counting."""
    if start > 0 and time is not None:
        with open_container(path) as (container, stream):
            container.seek(time, stream=stream)
            frames = container.decode(stream)
            for first in frames:
                if first.pts is None or first.pts < time:
                    on_skip(start)
                    continue
                if first.pts == time:
                    yield start, first
                    yield from enumerate(frames, start + 1)
                    return
                break
    with open_container(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number < start:
                on_skip(number)
            else:
                yield number, frame


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
