"""Content hash, size and length of every source video; many at once, and known ones not again.

What was found is kept in the output folder (`probes.json`) by path, size and time of change in
nanoseconds. It saves time and decides nothing: a file with another size or time is read again, one
that was changed just before it was read is not kept, and `--rehash` reads all.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from extpose import __version__, storage
from extpose.errors import ExtPoseError, VideoError
from extpose.storage import Location, S3Path
from extpose.video import probe
from pipelines.committed import read_json, write_text

PROBES = "probes.json"
STORE_READERS = 16
"""Threads where the videos are in a store; for a disk there are as many as cores."""
SETTLED = 2.0
"""Seconds: a file that was changed more recently may change again within the clock's tick."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A video as it was found."""

    sha256: str
    num_frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a video cannot be used."""

    reason: str
    message: str


Known = dict[str, dict[str, Any]]
"""By path: size, time of change, and the fields of `Probed`."""


def probe_videos(paths: Sequence[Location], known: Known) -> Iterator[Probed | Failed]:
    """In the order of the paths. `known` is used, and what is new is added to it."""
    is_remote = any(isinstance(path, S3Path) for path in paths)
    workers = STORE_READERS if is_remote else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda path: _probe_one(path, known.get(str(path))), paths)
        pairs = zip(paths, found, strict=True)
        for path, (result, entry) in tqdm(pairs, desc="plan", unit="video", total=len(paths)):
            if entry is None:
                known.pop(str(path), None)
            else:
                known[str(path)] = entry
            yield result


def _probe_one(
    path: Location, entry: dict[str, Any] | None
) -> tuple[Probed | Failed, dict[str, Any] | None]:
    """What is there, and what to remember of it."""
    try:
        seen = _stamp(path)
        if entry is not None and seen == {name: entry.get(name) for name in seen}:
            return Probed(**{name: entry[name] for name in Probed.__dataclass_fields__}), entry
        info = probe(path)
        found = Probed(
            sha256=storage.hash_file(path),
            num_frames=info.num_frames,
            fps=info.fps,
            height=info.height,
            width=info.width,
        )
        if time.time() - seen["changed_ns"] / 1e9 < SETTLED or _stamp(path) != seen:
            return found, None
        return found, {**seen, **asdict(found)}
    except VideoError as error:
        return Failed(reason=error.reason, message=str(error)), None
    except OSError as error:
        return Failed(reason="unreadable", message=f"{path}: unreadable ({error})"), None


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
    is_ours = isinstance(kept, dict) and kept.get("code") == __version__
    return dict(kept["videos"]) if is_ours else {}


def write_probes(out: Location, known: Known, paths: Iterable[Location]) -> None:
    """Keep what is known of these videos. Raises WriteError."""
    names = {str(path) for path in paths}
    videos = {name: entry for name, entry in sorted(known.items()) if name in names}
    write_text(out / PROBES, json.dumps({"code": __version__, "videos": videos}, indent=0) + "\n")
