"""Frames a CPU second of the decoders of the field, and whether their times are the container's.

python tests/benchmarks/bench_decode.py [VIDEO [FRAMES]]

Without a video: the sample video (`extpose doctor --fetch`). One thread each; RGB pictures in
memory. torchcodec is measured where it is installed and can be loaded.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from extpose.assets import fetch
from extpose.video import probe, read_frames

MAX_FRAMES = 200
Reader = Callable[[Path, int, int], Iterator[tuple[float, np.ndarray]]]


def by_this_project(path: Path, start: int, stop: int) -> Iterator[tuple[float, np.ndarray]]:
    for frame in read_frames(path, start, stop):
        yield frame.timestamp, frame.rgb


def by_plain_pyav(path: Path, start: int, stop: int) -> Iterator[tuple[float, np.ndarray]]:
    """What tutorials show: no seeking, no rotation, no check."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index >= stop:
                return
            if index >= start:
                yield float(frame.time or 0), frame.to_ndarray(format="rgb24")


def by_opencv(path: Path, start: int, stop: int) -> Iterator[tuple[float, np.ndarray]]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, start)
    for _ in range(start, stop):
        is_there, bgr = capture.read()
        if not is_there:
            break
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        yield time_s, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    capture.release()


def by_torchcodec(path: Path, start: int, stop: int) -> Iterator[tuple[float, np.ndarray]]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
    for index in range(start, stop):
        frame = decoder.get_frame_at(index)
        yield frame.pts_seconds, frame.data.numpy()


READERS: dict[str, Reader] = {
    "read_frames": by_this_project,
    "plain PyAV": by_plain_pyav,
    "OpenCV": by_opencv,
    "torchcodec": by_torchcodec,
}


def write_variable(path: Path) -> list[float]:
    """Small pictures at uneven times; returns them, in seconds."""
    ticks = np.cumsum(np.random.default_rng(0).integers(10, 90, 60))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, tick in enumerate(ticks):
            rgb = np.full((48, 64, 3), 4 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = int(tick), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return (ticks / 1000).tolist()


def measure(read: Reader, path: Path, num: int, variable: Path, times: list[float]) -> str:
    """A row of the table."""
    start = time.process_time()
    count = sum(1 for _ in read(path, 0, num))
    whole = time.process_time() - start
    start = time.process_time()
    middle = [rgb for _, rgb in read(path, num // 2, num // 2 + 8)]
    sought = time.process_time() - start
    exact = [f.rgb for f in read_frames(path, num // 2, num // 2 + 8)]
    is_same = len(middle) == len(exact) and all(
        np.abs(a.astype(int) - b).mean() < 3 for a, b in zip(middle, exact, strict=True)
    )
    found = np.array([at for at, _ in read(variable, 0, len(times))])
    error = np.abs((found - found[0]) - (np.array(times) - times[0])).max()
    return (
        f"{count / whole:9.0f}  {sought * 1000:12.0f} ms  {'yes' if is_same else 'NO':>11}  "
        f"{error * 1000:11.1f} ms"
    )


def main() -> None:
    cv2.setNumThreads(1)
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    else:
        found = fetch("video-walkers")
        path = found if found.is_file() else next(found.glob("*.mp4"))
    info = probe(path)
    num = min(info.num_frames, int(sys.argv[2]) if len(sys.argv) > 2 else MAX_FRAMES)
    print(f"{path.name}: {info.width} x {info.height}, {info.codec}, first {num} frames")
    print("reader       frames/CPU s  8 frames at 1/2  right pictures  worst time error (VFR)")
    with tempfile.TemporaryDirectory() as folder:
        variable = Path(folder) / "variable.mp4"
        times = write_variable(variable)
        for name, read in READERS.items():
            try:
                print(f"{name:12}{measure(read, path, num, variable, times)}")
            except (ImportError, OSError, RuntimeError) as error:
                print(f"{name:12} cannot be used: {str(error).strip().splitlines()[0][:100]}")


if __name__ == "__main__":
    main()
