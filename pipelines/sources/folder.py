"""Video files and folders of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from extpose.errors import ExtPoseError
from extpose.storage import Location, S3Path, find_file, list_files

SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm",
    ".wmv",
})  # fmt: skip
"""What is taken for a video inside a folder. A file that is named outright is always taken."""
HIDDEN = "hidden"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What files and folders hold."""

    videos: list[Location]
    """Each once, sorted by path."""
    others: dict[str, int]
    """Files of the folders that are left out for their names: how many, by suffix, or `hidden`."""


def find_sources(paths: Iterable[Location], out: Location | None = None) -> Sources:
    """The files of folders (searched to the bottom) and what is named outright.

    A path that does not exist is kept: it is quarantined as `missing`, not lost. What lies below
    `out` is this run's own, and is no file that was left out. Raises ExtPoseError for no video.
    """
    paths = tuple(paths)
    videos, others = set[Location](), set[Location]()
    for path in paths:
        if _is_folder(path):
            for entry in list_files(path, deep=True):
                (videos if is_video_name(entry.location) else others).add(entry.location)
        else:
            videos.add(path)
    left = [path for path in others - videos if out is None or not _is_below(out, path)]
    counts = Counter(HIDDEN if path.name.startswith(".") else path.suffix.lower() for path in left)
    kinds = dict(sorted(counts.items()))
    if not videos:
        detail = f", only other files: {say_others(kinds)}" if kinds else ""
        raise ExtPoseError(
            f"{', '.join(map(str, paths))}: no videos{detail} (pictures: `extpose ingest pictures`)"
        )
    return Sources(videos=sorted(videos, key=lambda path: path.parts), others=kinds)


def say_others(others: Mapping[str, int]) -> str:
    """`2 .txt, 1 hidden`; for people."""
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.items())


def is_video_name(path: Location) -> bool:
    """Whether a file of a folder is taken for a video."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_below(folder: Location, path: Location) -> bool:
    if isinstance(folder, Path) and isinstance(path, Path):
        return path.absolute().is_relative_to(folder.absolute())
    return path.is_relative_to(folder)


def _is_folder(path: Location) -> bool:
    if isinstance(path, S3Path):
        return path.suffix.lower() not in SUFFIXES and find_file(path) is None
    return path.is_dir()
