"""Reading the annotation files of data sets: errors that name the file, the key and both values.

Shared by the sources, which do not know each other. Nothing here knows a data set.

Axes    t frames
"""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped

from extpose.errors import AssetError
from extpose.npz import read_npz
from extpose.pickles import read_pickle
from extpose.schema import Gender
from pipelines.records import SourceError
from pipelines.source_files import note_file

BLOCK = 500
"""Pictures of a unit where a data set has pictures only."""
GENDERS: dict[str, Gender] = {
    "m": "male", "male": "male", "f": "female", "female": "female", "neutral": "neutral",
}  # fmt: skip


def need_folder(path: Path) -> Path:
    """`path`; SourceError where there is no such folder."""
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder")
    return path


def need_file(path: Path) -> Path:
    """`path`; SourceError where there is no such file."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    return note_file(path)


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """A pickled dict of arrays, lists, numbers and text, through the restricted reader."""
    try:
        content = read_pickle(need_file(path))
    except AssetError as error:
        raise SourceError(str(error)) from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, expected a dict")
    return content


def read_json(path: Path, keep: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Any:
    """The content of a JSON file; of each object what `keep` returns."""
    try:
        return json.loads(need_file(path).read_bytes(), object_hook=keep)
    except ValueError as error:
        raise SourceError(f"{path}: not a readable JSON file ({error})") from error


def get_value(path: Path, content: Mapping[str, Any], key: str, kind: type | tuple) -> Any:
    """`content[key]` of a type; a dotted key goes down. SourceError where it is not there."""
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            have = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise SourceError(f"{path}: no key {key!r}, has {have}")
        value = value[part]
    if not isinstance(value, kind):
        raise SourceError(f"{path}: {key} is a {type(value).__name__}, expected {kind}")
    return value


def get_text(path: Path, content: Mapping[str, Any], key: str) -> str:
    """`content[key]` as text, whether it is stored as text, bytes or an array of one."""
    value = get_value(path, content, key, (str, bytes, np.ndarray))
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if not isinstance(value, str | bytes):
        raise SourceError(f"{path}: {key} is {value!r}, expected text")
    return value.decode() if isinstance(value, bytes) else value


def to_gender(path: Path, key: str, value: str) -> Gender:
    """How the data sets write it, to the project's names."""
    if value.lower() not in GENDERS:
        raise SourceError(f"{path}: {key} is {value!r}, expected one of {sorted(GENDERS)}")
    return GENDERS[value.lower()]


def to_floats(
    path: Path,
    key: str,
    value: object,
    shape: tuple[int | None, ...],
    *,
    used: Bool[np.ndarray, " t"] | None = None,
) -> Float64[np.ndarray, "..."]:
    """Finite numbers of a shape (None: any size). SourceError names the file, key and both.

    Frames that are not `used` may hold anything and are set to 0.
    """
    array = np.asarray(value)
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiub":
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise SourceError(
            f"{path}: {key} is {array.dtype} of shape {array.shape}, expected numbers ({wanted})"
        )
    floats = array.astype(np.float64)
    if used is not None:
        floats[~used] = 0
    if not np.isfinite(floats).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(floats))[0])
        raise SourceError(f"{path}: {key}{list(place)} is {floats[place]}, expected finite numbers")
    return floats


def get_floats(
    path: Path,
    content: Mapping[str, Any],
    key: str,
    shape: tuple[int | None, ...],
    *,
    used: Bool[np.ndarray, " t"] | None = None,
) -> Float64[np.ndarray, "..."]:
    """`to_floats` of `content[key]`."""
    return to_floats(path, key, get_value(path, content, key, object), shape, used=used)


def get_people(
    path: Path, content: Mapping[str, Any], key: str, num: int | None = None
) -> list[Any]:
    """`content[key]`, a list with one item a person. SourceError unless it has `num`."""
    people = list(get_value(path, content, key, (list, tuple, np.ndarray)))
    if num is not None and len(people) != num:
        raise SourceError(f"{path}: {key} has {len(people)} people, expected {num}")
    return people


def read_image_size(path: Path) -> tuple[int, int]:
    """Height, width of an image file as stored."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imread(str(need_file(path)), flags)
    if image is None:
        raise SourceError(f"{path}: not a readable image")
    return int(image.shape[0]), int(image.shape[1])


def find_runs(wanted: Bool[np.ndarray, " t"]) -> list[tuple[int, int]]:
    """The stretches [start, stop) of consecutive frames that are wanted."""
    steps = np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def name_blocks(count: int, size: int = BLOCK) -> list[str]:
    """Units of a list of pictures: `00000-00499`, ..."""
    return [f"{a:05d}-{min(a + size, count) - 1:05d}" for a in range(0, count, size)]


def cut_block(items: Sequence[Any], unit: str) -> Sequence[Any]:
    """The items of a unit that `name_blocks` named."""
    first, last = (int(part) for part in unit.split("-"))
    return items[first : last + 1]


def to_key(text: str) -> str:
    """Text in the characters of a key."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)


def need_arrays(path: Path, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Arrays of an npz archive; arrays of pickled objects are refused.

    Raises SourceError naming the file and the key that is not there or not readable.
    """
    try:
        return read_npz(need_file(path), keys)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not a readable npz of plain arrays ({error})") from error


def read_h5(path: Path, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Arrays of a Matlab file of version 7.3, which is HDF5: the axes are reversed.

    Raises SourceError naming the file and what is not there; h5py is an optional dependency.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError:
        raise SourceError(
            f"{path}: reading Matlab 7.3 files needs the package h5py: "
            "pip install 'extpose[datasets]'"
        ) from None
    try:
        with h5py.File(need_file(path), "r") as file:
            return {key: np.asarray(file[key]) for key in keys}
    except (OSError, KeyError) as error:
        raise SourceError(f"{path}: not a readable Matlab 7.3 file ({error})") from error
