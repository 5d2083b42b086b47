"""Samples of WebDataset tars of others: members by key, found by one pass over the headers.

A key is a member's path up to the first dot of its file name. Nothing is read but headers, so tars
of any size can be listed; what a damaged tar still holds is found, and the damage is told.
"""

import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.records import SourceError
from pipelines.source_files import note_file


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of one key."""

    path: Path
    """The tar."""
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Offset and size in bytes, by what follows the key: `jpg`, `data.pyd`."""
    repeated: list[str] = field(default_factory=list)
    """Members that are there more than once."""

    def find(self, *names: str) -> tuple[int, int] | None:
        """Where the first of these members is, that there is."""
        return next((self.members[name] for name in names if name in self.members), None)

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises SourceError where the file is shorter by now."""
        offset, size = self.members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise SourceError(f"{self.path}: {self.key}.{name}: {len(data)} of {size} bytes")
        return data


def list_samples(path: Path) -> tuple[list[TarSample], str]:
    """All samples in the order of their first members, and what is wrong with the tar, or ""."""
    samples: dict[str, TarSample] = {}
    size = note_file(path).stat().st_size
    if size == 0:
        return [], f"{path}: 0 bytes, not a tar"
    count = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                end = entry.offset_data + entry.size
                if end > size:
                    return list(samples.values()), (
                        f"{path}: truncated in {entry.name}, {size} of {end} bytes; "
                        f"{count} members before it"
                    )
                if not entry.isreg():
                    continue
                count += 1
                key, name = _split(entry.name)
                sample = samples.setdefault(key, TarSample(path=path, key=key))
                if name in sample.members:
                    sample.repeated.append(name)
                sample.members[name] = (entry.offset_data, entry.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        return list(samples.values()), f"{path}: not a whole tar ({error}); {count} members read"
    return list(samples.values()), ""


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, rest = base.partition(".")
    return folder + slash + stem, rest.lower()
