"""Video files and folders of them."""

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".ts", ".webm"})
"""What is taken for a video inside a folder. A file that is named outright is always taken."""


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """The videos of files and folders (searched to the bottom), each once, sorted by path.

    A path that does not exist is kept: it is quarantined as `missing`, not lost.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            found.update(p for p in inside if not p.name.startswith("."))
        else:
            found.add(path)
    return sorted(found)
