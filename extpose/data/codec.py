"""A clip as the members of one tar sample: names, bytes, and every check of the contract.

The only file that knows member names and encodings. The format in prose: `docs/data.md`.

Axes    t frames   k keypoints of the evidence   p keypoints of the labels   v vertices
        j joint rotations without the root
"""

import functools
import io
import json
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from extpose.data.faults import Fault, FaultKind
from extpose.errors import ShardError
from extpose.keypoints import NUM_KEYPOINTS
from extpose.npz import PickledArrayError, read_npz
from extpose.schema import (
    MAX_CLIP_FRAMES,
    NUM_ROTATIONS,
    SCHEMA_VERSION,
    TARGET_SET,
    Clip,
    ClipMeta,
    ClipTargets,
)

META, ARRAYS = "meta.json", "arrays.npz"
MAX_KEY = 80
"""Characters of a key: a USTAR header has 100 for key and member name."""

_INPUTS: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "bbox_xyxy": (np.float32, ("t", 4)),
    "crop_to_img": (np.float32, ("t", 2, 3)),
    "keypoints_2d": (np.float32, ("t", "k", 3)),
    "timestamps": (np.float64, ("t",)),
    "is_detected": (np.bool_, ("t",)),
}
_OPTIONAL: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "intrinsics": (np.float32, ("t", 3, 3)),
}
_OPTIONAL_TARGETS: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "target.is_visible": (np.bool_, ("t", "p")),
    "target.vertices": (np.float32, ("t", "v", 3)),
}
_TARGETS: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "target.global_orient": (np.float32, ("t", 3)),
    "target.pose": (np.float32, ("t", "j", 3)),
    "target.betas": (np.float32, (10,)),
    "target.transl": (np.float32, ("t", 3)),
    "target.keypoints_2d": (np.float32, ("t", "p", 3)),
    "target.keypoints_3d": (np.float32, ("t", "p", 4)),
    "target.has_pose": (np.bool_, ("t",)),
    "target.has_betas": (np.bool_, ()),
}

_ALL_TARGETS = _TARGETS | _OPTIONAL_TARGETS


def member_names(num_frames: int) -> list[str]:
    """The members of a clip in their fixed order, without the key."""
    images = [f"{i:03d}.{kind}" for i in range(num_frames) for kind in ("jpg", "skeleton.png")]
    return [META, ARRAYS, *images]


def encode_clip(clip: Clip) -> dict[str, bytes]:
    """Member name (without the key) to bytes, in the fixed order. Refuses a bad clip."""
    arrays: dict[str, np.ndarray] = {name: getattr(clip, name) for name in _INPUTS}
    if clip.intrinsics is not None:
        arrays["intrinsics"] = clip.intrinsics
    if clip.targets is not None:
        named = {name: getattr(clip.targets, name.split(".")[1]) for name in _ALL_TARGETS}
        arrays |= {name: value for name, value in named.items() if value is not None}
    meta = json.loads(json.dumps(asdict(clip.meta)))
    if len(clip.key) > MAX_KEY:
        raise ShardError(f"{clip.key}: key of {len(clip.key)} characters, at most {MAX_KEY}")
    _raise_first(_find_meta_faults(meta), clip.key)
    _raise_first(find_array_faults(arrays, clip.meta, clip.num_frames), clip.key)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in arrays.items()})  # type: ignore[arg-type]
    images = [image for pair in zip(clip.rgb, clip.skeleton, strict=True) for image in pair]
    values = [json.dumps(meta, sort_keys=True).encode(), buffer.getvalue(), *images]
    return dict(zip(member_names(clip.num_frames), values, strict=True))


def decode_clip(members: Mapping[str, bytes], key: str, *, path: object = "clip") -> Clip:
    """Inverse of `encode_clip`; `path` is for the messages.

    Raises ShardError for another schema version, unknown, missing or misplaced members, wrong
    types, shapes or values. Never unpickles.
    """
    where = f"{path}: {key}"
    num_frames = count_frames(list(members), where)
    meta, arrays = decode_head(members[META], members[ARRAYS], num_frames, where)
    images = list(members.values())[2:]
    return assemble(key, meta, arrays, rgb=images[0::2], skeleton=images[1::2], where=where)


def count_frames(names: Sequence[str], where: str) -> int:
    """Frames of a clip with these members; refuses any other list than that of the contract.

    `where` (file and key) begins the message of the ShardError.
    """
    num_frames = sum(name.endswith(".jpg") for name in names)
    expected = member_names(num_frames)
    if sorted(names) != sorted(expected):
        missing = sorted(set(expected) - set(names))
        unknown = sorted(set(names) - set(expected))
        repeated = sorted({name for name in names if list(names).count(name) > 1})
        raise ShardError(
            f"{where}: members: missing {missing}, unknown {unknown}, repeated {repeated}"
        )
    for name, wanted in zip(names, expected, strict=True):
        if name != wanted:
            raise ShardError(f"{where}: members: {name} where {wanted} should be")
    if not 1 <= num_frames <= MAX_CLIP_FRAMES:
        raise ShardError(f"{where}: {num_frames} frames, allowed 1 to {MAX_CLIP_FRAMES}")
    return num_frames


def decode_head(
    meta_bytes: bytes, npz_bytes: bytes, num_frames: int, where: str
) -> tuple[ClipMeta, dict[str, np.ndarray]]:
    """What a clip has besides pictures, checked: its meta data, and its arrays by stored name."""
    meta, faults = read_meta(meta_bytes)
    _raise_first(faults, where)
    arrays, faults = read_arrays(npz_bytes)
    _raise_first(faults, where)
    assert meta is not None, "there is meta data, or a fault"
    _raise_first(find_array_faults(arrays, meta, num_frames), where)
    return meta, arrays


def _raise_first(faults: Iterable[Fault], where: str) -> None:
    for fault in faults:
        raise ShardError(f"{where}: {fault}")


def read_meta(data: bytes) -> tuple[ClipMeta | None, list[Fault]]:
    """Meta data of its member's bytes; None and the faults where it breaks the contract."""
    try:
        value = json.loads(data)
    except ValueError as error:
        return None, [Fault(kind="bad_meta", message=f"{META}: not JSON ({error})")]
    faults = list(_find_meta_faults(value))
    if faults:
        return None, faults
    return ClipMeta(**value | {"image_size": tuple(value["image_size"])}), []


def read_arrays(data: bytes) -> tuple[dict[str, np.ndarray], list[Fault]]:
    """Arrays of their member's bytes, or the fault. Never unpickles."""
    try:
        return read_npz(data), []
    except ValueError as error:
        kind: FaultKind = "pickle_member" if isinstance(error, PickledArrayError) else "bad_arrays"
        return {}, [Fault(kind=kind, message=f"{ARRAYS}: not readable ({error})")]


def _find_meta_faults(value: Any) -> Iterator[Fault]:
    """Another version first, and alone; then other fields; then other types and values."""
    if not isinstance(value, dict):
        message = f"{META}: a JSON object is expected, got {type(value).__name__}"
        yield Fault(kind="bad_meta", message=message)
        return
    version = value.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        message = f"schema_version is {version!r}, this code reads {SCHEMA_VERSION}"
        yield Fault(kind="schema_version", message=message)
        return
    hints = _meta_types()
    if value.keys() != hints.keys():
        missing, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
        yield Fault(kind="bad_meta", message=f"{META}: missing {missing}, unknown {unknown}")
        return
    wrong = [name for name, hint in hints.items() if not _matches(value[name], hint)]
    for name in wrong:
        message = f"{META}: {name} is {value[name]!r}, expected {hints[name]}"
        yield Fault(kind="bad_meta", message=message)
    if wrong:
        return
    if not (value["fps"] > 0 and math.isfinite(value["fps"])):
        yield Fault(kind="fps", message=f"{META}: fps is {value['fps']}, must be positive")
    if not value["crop_size"] >= value["skeleton_size"] > 0:
        sizes = {name: value[name] for name in ("crop_size", "skeleton_size")}
        yield Fault(kind="bad_meta", message=f"{META}: {sizes}, expected crop >= skeleton > 0")
    if min(value["image_size"]) < 1:
        message = f"{META}: image_size is {value['image_size']}, must be positive"
        yield Fault(kind="bad_meta", message=message)


@functools.cache
def _meta_types() -> dict[str, Any]:
    return get_type_hints(ClipMeta)


def _matches(value: object, hint: Any) -> bool:
    """Whether a JSON value fits a field's type; an int is a float, a bool is no int."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(args)
            and all(_matches(v, a) for v, a in zip(value, args, strict=True))
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def find_array_faults(
    arrays: Mapping[str, np.ndarray], meta: ClipMeta, num_frames: int
) -> Iterator[Fault]:
    """Other arrays, dtypes and shapes than the contract's, and values that mean nothing."""
    expected = dict(_INPUTS)
    if any(name.startswith("target.") for name in arrays):
        expected |= _TARGETS
    optional = _OPTIONAL | _OPTIONAL_TARGETS
    expected |= {name: optional[name] for name in optional if name in arrays}
    if arrays.keys() != expected.keys():
        missing = sorted(expected.keys() - arrays.keys())
        unknown = sorted(arrays.keys() - expected.keys())
        yield Fault(kind="bad_arrays", message=f"{ARRAYS}: missing {missing}, unknown {unknown}")
        return
    axes = {
        "t": num_frames,
        "k": NUM_KEYPOINTS[meta.keypoint_set],
        "p": NUM_KEYPOINTS[TARGET_SET[meta.body]],
        "j": NUM_ROTATIONS[meta.body],
        "v": next(iter(arrays.get("target.vertices", np.empty(0)).shape[1:2]), 0),
    }
    for name, (dtype, symbols) in expected.items():
        shape = tuple(axes[s] if isinstance(s, str) else s for s in symbols)
        yield from _find_value_faults(name, np.asarray(arrays[name]), dtype, shape)


_WITH_CONFIDENCE = ("keypoints_2d", "target.keypoints_2d", "target.keypoints_3d")


def _find_value_faults(
    name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]
) -> Iterator[Fault]:
    if array.dtype != dtype or array.shape != shape:
        message = f"{name} is {array.dtype} {array.shape}, expected {dtype.__name__} {shape}"
        yield Fault(kind="dtype_or_shape", message=message)
    elif not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        place = tuple(bad[0].tolist())
        message = f"{name} has values that are not finite: {len(bad)}, {array[place]} at {place}"
        yield Fault(kind="not_finite", message=message)
    elif name in _WITH_CONFIDENCE:
        low, high = array[..., -1].min(), array[..., -1].max()
        if low < 0 or high > 1:
            message = f"{name} has confidences {low} to {high}, allowed 0 to 1"
            yield Fault(kind="confidence", message=message)


def assemble(
    key: str,
    meta: ClipMeta,
    arrays: dict[str, np.ndarray],
    *,
    rgb: Sequence[bytes],
    skeleton: Sequence[bytes],
    where: str,
) -> Clip:
    """A clip of what `decode_head` gave and of the pictures."""
    targets = {f.name: arrays.pop(f"target.{f.name}", None) for f in fields(ClipTargets)}
    try:
        return Clip(
            key=key,
            meta=meta,
            rgb=tuple(rgb),
            skeleton=tuple(skeleton),
            intrinsics=arrays.pop("intrinsics", None),
            targets=ClipTargets(**targets) if targets["betas"] is not None else None,  # type: ignore[arg-type]
            **arrays,
        )
    except ValueError as error:
        raise ShardError(f"{where}: {error}") from error
