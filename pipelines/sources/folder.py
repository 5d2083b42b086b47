"""Video files and folders of them."""

from collections.abc import Iterable

from extpose.storage import Location, S3Path, find_file, list_files

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".ts", ".webm"})
"""What is taken for a video inside a folder. A file that is named outright is always taken."""


def find_videos(paths: Iterable[Location]) -> list[Location]:
    """The videos of files and folders (searched to the bottom), each once, sorted by path.

    A path that does not exist is kept: it is quarantined as `missing`, not lost.
    """
    found: set[Location] = set()
    for path in paths:
        if _is_folder(path):
            inside = (entry.location for entry in list_files(path, deep=True))
            found.update(
                p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
            )
        else:
            found.add(path)
    return sorted(found, key=lambda path: path.parts)


def _is_folder(path: Location) -> bool:
    if isinstance(path, S3Path):
        return path.suffix.lower() not in SUFFIXES and find_file(path) is None
    return path.is_dir()
