"""Content hash, size and length of every source video; many at once, and known ones not again.

What was found is kept in the output folder (`probes.json`) by path, size and time of change in
nanoseconds. It saves time and decides nothing: a file with another size or time is read again, one
that was changed just before it was read is not kept, and `--rehash` reads all.

FFmpeg reads what strangers wrote: with `watched_scan` it does so in processes of their own, and a
video that crashes or hangs it is a video that cannot be used.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from extpose import __version__, storage
from extpose.errors import ExtPoseError, VideoError
from extpose.storage import Location, S3Path
from extpose.video_index import VideoIndex, scan
from pipelines.committed import read_json, write_text
from pipelines.watched import Beat, Watched, WorkDied

PROBES = "probes.json"
FORMAT = f"{__version__} with indices"
"""Of that file; another one is not read."""
STORE_READERS = 16
"""Threads where the videos are in a store; for a disk there are as many as cores."""
SETTLED = 2.0
"""Seconds: a file that was changed more recently may change again within the clock's tick."""
SILENCE = 300.0
"""Seconds without a packet, after which reading a video hangs."""
SCAN_TRIES = 2
"""Deaths of the process that reads, after which it is the video's fault."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A video as it was found."""

    sha256: str
    num_frames: int
    fps: float
    height: int
    width: int
    index: str
    """`VideoIndex.to_text`."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a video cannot be used."""

    reason: str
    message: str


Known = dict[str, dict[str, Any]]
"""By path: size, time of change, and the fields of `Probed`."""


Scan = Callable[[Location], VideoIndex]
"""Reads a whole video. Called by several threads at a time. Raises VideoError."""


def probe_videos(
    paths: Sequence[Location], known: Known, scan: Scan = scan
) -> Iterator[Probed | Failed]:
    """In the order of the paths. `known` is used, and what is new is added to it."""
    is_remote = any(isinstance(path, S3Path) for path in paths)
    workers = STORE_READERS if is_remote else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda path: _probe_one(path, known.get(str(path)), scan), paths)
        pairs = zip(paths, found, strict=True)
        for path, (result, entry) in tqdm(pairs, desc="plan", unit="video", total=len(paths)):
            if entry is None:
                known.pop(str(path), None)
            else:
                known[str(path)] = entry
            yield result


def _probe_one(
    path: Location, entry: dict[str, Any] | None, scan: Scan
) -> tuple[Probed | Failed, dict[str, Any] | None]:
    """What is there, and what to remember of it. Nothing that is wrong with a video is raised."""
    if readable(path) != str(path):
        # It could be in no row, marker or manifest.
        message = f"{readable(path)}: bad_name (not UTF-8; give the file another name)"
        return Failed(reason="bad_name", message=message), None
    try:
        seen = _stamp(path)
        if entry is not None and seen == {name: entry.get(name) for name in seen}:
            return Probed(**{name: entry[name] for name in Probed.__dataclass_fields__}), entry
        index = scan(path)
        found = Probed(
            sha256=storage.hash_file(path),
            num_frames=index.info.num_frames,
            fps=index.info.fps,
            height=index.info.height,
            width=index.info.width,
            index=index.to_text(),
        )
        if time.time() - seen["changed_ns"] / 1e9 < SETTLED or _stamp(path) != seen:
            return found, None
        return found, {**seen, **asdict(found)}
    except VideoError as error:
        return Failed(reason=error.reason, message=str(error)), None
    except OSError as error:
        return Failed(reason="unreadable", message=f"{path}: unreadable ({error})"), None
    except ExtPoseError:
        raise
    except Exception as error:
        # FFmpeg and PyAV meet files that nobody foresaw; the other videos must be planned.
        unforeseen = VideoError(path, type(error).__name__, str(error))
        return Failed(reason=unforeseen.reason, message=str(unforeseen)), None


@contextmanager
def watched_scan(limit: float = SILENCE) -> Iterator[Scan]:
    """`scan` in processes of their own, one for each thread that calls it at the same time."""
    idle: list[Watched] = []

    def run(path: Location) -> VideoIndex:
        try:
            child = idle.pop()
        except IndexError:
            child = Watched(_build_scan, limit=limit, tries=SCAN_TRIES)
        try:
            found = child(path)
        except WorkDied as error:
            raise VideoError(path, f"reader_{error.reason}", str(error)) from error
        finally:
            idle.append(child)
        if isinstance(found, Exception):
            raise found
        return VideoIndex.from_text(found, path)

    try:
        yield run
    finally:
        for child in idle:
            child.close()


def _build_scan() -> Callable[[Location, Beat], str | Exception]:
    return _scan_to_text


def _scan_to_text(path: Location, beat: Beat) -> str | Exception:
    """In the child: the index or the error, as a value."""
    said = time.monotonic()

    def on_packet() -> None:
        nonlocal said
        if time.monotonic() > said + 1:
            said = time.monotonic()
            beat("reading")

    beat("reading")
    try:
        return scan(path, on_packet).to_text()
    except (ExtPoseError, OSError) as error:
        return error
    except Exception as error:
        return VideoError(path, type(error).__name__, str(error))


def readable(path: Location) -> str:
    """The path as text; bytes of it that are not UTF-8 as `\\xe9`."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _stamp(path: Location) -> dict[str, int]:
    """Size and time of change; those of a file that is not there are -1."""
    if isinstance(path, S3Path):
        entry = storage.find_file(path)
        if entry is None:
            return {"bytes": -1, "changed_ns": -1}
        return {"bytes": entry.num_bytes, "changed_ns": round(entry.modified * 1e9)}
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {"bytes": -1, "changed_ns": -1}
    return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}


def read_probes(out: Location) -> Known:
    """What an earlier run found; empty where there is nothing of this version."""
    try:
        kept = read_json(out / PROBES)
    except (ExtPoseError, OSError):
        return {}
    is_ours = isinstance(kept, dict) and kept.get("code") == FORMAT
    return dict(kept["videos"]) if is_ours else {}


def write_probes(out: Location, known: Known, paths: Iterable[Location]) -> None:
    """Keep what is known of these videos. Raises WriteError."""
    names = {str(path) for path in paths}
    videos = {name: entry for name, entry in sorted(known.items()) if name in names}
    write_text(out / PROBES, json.dumps({"code": FORMAT, "videos": videos}, indent=0) + "\n")
