"""Good folders have no fault; each seeded fault is found, by its own name, and no other with it."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.data.clip import decode_image, encode_jpeg, encode_png
from extpose.data.shards import write_shard
from extpose.keypoints import FLIP_PAIRS
from pipelines.inspect import inspect_shards
from pipelines.validate import find_faults, validate
from tests.clips import random_clip
from tests.pipelines.labelled import labelled_clip, list_shards, write_folder

Members = list[tuple[str, bytes]]
KEY = "smpl-1_0_000000"
"""Of the clip that is spoiled: the second of two in the first of two shards."""
NUM_FRAMES = 3


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_folder(
        tmp_path_factory.mktemp("good") / "a",
        [labelled_clip(0, NUM_FRAMES), labelled_clip(1, NUM_FRAMES)],
        [labelled_clip(2, NUM_FRAMES, body="mano")],
    )


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_good_folders_have_no_faults(good: Path) -> None:
    assert list(find_faults(good)) == []
    assert validate(good, strict=True) == 0


def read_members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def write_members(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def arrays(**changes: Callable[[np.ndarray], Any]) -> Callable[[Members], Members]:
    """Changes arrays of the clip; `__` in a name stands for a dot."""

    def change(members: Members) -> Members:
        out = []
        for name, data in members:
            if name == f"{KEY}.arrays.npz":
                content = dict(np.load(io.BytesIO(data)))
                for key, function in changes.items():
                    place = key.replace("__", ".")
                    content[place] = np.asarray(function(content[place].copy()))
                buffer = io.BytesIO()
                np.savez(buffer, **content)
                data = buffer.getvalue()
            out.append((name, data))
        return out

    return change


def meta(**changes: Any) -> Callable[[Members], Members]:
    def change(data: bytes) -> bytes:
        return json.dumps(json.loads(data) | changes).encode()

    return member("meta.json", change)


def member(name: str, function: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda members: [
        (n, function(data) if n == f"{KEY}.{name}" else data) for n, data in members
    ]


def swap(points: np.ndarray) -> np.ndarray:
    pairs = FLIP_PAIRS["coco17" if points.shape[1] == 17 else "body44"]
    order = np.arange(points.shape[1])
    for left, right in pairs:
        order[left], order[right] = right, left
    return points[:, order]


def shuffle(points: np.ndarray) -> np.ndarray:
    return points[:, np.random.default_rng(1).permutation(points.shape[1])]


def put(values: np.ndarray, place: Any, value: float) -> np.ndarray:
    values[place] = value
    return values


def to_crop(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    from extpose.data.crop import apply_affine, invert_affine

    for frame in range(len(points)):
        points[frame, :, :2] = apply_affine(points[frame, :, :2], invert_affine(affine[frame]))
    return points


def crop_keypoints(name: str) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        data = dict(members)[f"{KEY}.arrays.npz"]
        affine = np.load(io.BytesIO(data))["crop_to_img"]
        return arrays(**{name: lambda p: to_crop(p, affine)})(members)

    return change


def interleave(members: Members) -> Members:
    """The two clips in turn."""
    half = len(members) // 2
    return [m for pair in zip(members[:half], members[half:], strict=True) for m in pair]


def insert(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda members: [*members, (f"{KEY}.{name}", data)]


def without(*names: str) -> Callable[[Members], Members]:
    return lambda members: [m for m in members if m[0] not in {f"{KEY}.{n}" for n in names}]


def twice(members: Members) -> Members:
    return [*members, *members[: len(members) // 2]]


def extra_frame(members: Members) -> Members:
    last = dict(members)
    for kind in ("jpg", "skeleton.png"):
        data = last[f"{KEY}.002.{kind}"]
        members = [*members, (f"{KEY}.003.{kind}", data)]
    return members


def rename(members: Members) -> Members:
    return [(name.replace(KEY, "smpl.1_0_000000"), data) for name, data in members]


def invert_png(data: bytes) -> bytes:
    return encode_png(255 - decode_image(data))


def pickled_npz(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, bbox_xyxy=np.array([{}] * NUM_FRAMES, object))
    return buffer.getvalue()


FAULTS: dict[str, tuple[str, str, Callable[[Members], Members]]] = {
    # name: kind, what the message says, and how the shard is spoiled
    "interleaved members": ("interleaved", "interleaved with those of other keys", interleave),
    "duplicate key": ("duplicate_key", "key is used 2 times", twice),
    "missing member": ("missing_member", "001.jpg: missing", without("001.jpg")),
    "missing drawing": ("missing_member", "002.skeleton.png", without("002.skeleton.png")),
    "missing arrays": ("missing_member", "arrays.npz: missing", without("arrays.npz")),
    "extra frame": ("extra_frame", "frame 3 is too many, the arrays have 3", extra_frame),
    "unknown member": ("unknown_member", "notes.txt", insert("notes.txt", b"hello")),
    "NaN": (
        "not_finite", "target.transl has values that are not finite: 1, nan at (1, 2)",
        arrays(target__transl=lambda a: put(a, (1, 2), np.nan)),
    ),
    "infinity": ("not_finite", "timestamps", arrays(timestamps=lambda a: put(a, 2, np.inf))),
    "wrong dtype": (
        "dtype_or_shape", "keypoints_2d is float64 (3, 17, 3), expected float32 (3, 17, 3)",
        arrays(keypoints_2d=np.float64),
    ),
    "wrong shape": (
        "dtype_or_shape", "target.pose is float32 (3, 23, 3, 3), expected float32 (3, 23, 3)",
        arrays(target__pose=lambda a: np.tile(np.eye(3, dtype="f4"), (3, 23, 1, 1))),
    ),
    "swapped evidence": (
        "sides_swapped", "drawing of keypoints_2d with left and right swapped",
        arrays(keypoints_2d=swap),
    ),
    "swapped 3D labels": (
        "sides_swapped", "target.keypoints_3d against target.keypoints_2d",
        arrays(target__keypoints_3d=swap),
    ),
    "swapped labels": (
        "sides_swapped", "(truth) against target.keypoints_2d",
        arrays(target__keypoints_2d=swap, target__keypoints_3d=swap),
    ),
    "order of the 3D labels": (
        "joint_order", "another joint order", arrays(target__keypoints_3d=shuffle)
    ),
    "order of the evidence": (
        "joint_order", "in another joint order", arrays(keypoints_2d=shuffle)
    ),
    "order of 2D and 3D labels (bone lengths)": (
        "joint_order", "bones of no person",
        arrays(target__keypoints_2d=lambda a: a * np.float32([1, 1, 0]),
               target__keypoints_3d=shuffle),
    ),
    "non-orthonormal rotation": (
        "rotation", "crop_to_img: frame 1: axes of lengths",
        arrays(crop_to_img=lambda a: put(a, (1, 0, 1), 0.8)),
    ),
    "rotation in degrees": (
        "rotation", "no rotation in radians", arrays(target__pose=lambda a: np.rad2deg(a + 0.3))
    ),
    "box off image": (
        "box_off_image", "is outside the image of 240 x 320",
        arrays(bbox_xyxy=lambda a: a + np.float32(900)),
    ),
    "box without area": (
        "box", "needs x1 < x2 and y1 < y2", arrays(bbox_xyxy=lambda a: a[:, [2, 1, 0, 3]])
    ),
    "keypoints in crop coordinates": (
        "keypoints_in_crop", "keypoints_2d: ", crop_keypoints("keypoints_2d")
    ),
    "labels in crop coordinates": (
        "keypoints_in_crop", "target.keypoints_2d: ", crop_keypoints("target__keypoints_2d")
    ),
    "moved affine": (
        "affine", "px from the box's",
        arrays(crop_to_img=lambda a: a + np.float32([[0, 0, 9], [0, 0, 0]])),
    ),
    "scaled affine": ("affine", "crop_to_img: frame 0 and 2 more", arrays(
        crop_to_img=lambda a: np.concatenate(
            [a[..., :2] * np.float32(1.1),
             a[..., 2:] - np.float32(4.8) * (a[..., :2] @ np.ones((2, 1), "f4"))], -1))),
    "unknown schema version": (
        "schema_version", "schema_version is 99, this code reads 2", meta(schema_version=99)
    ),
    "JPEG that does not decode": (
        "undecodable", "001.jpg: 3 bytes that are no", member("001.jpg", lambda _: b"abc")
    ),
    "JPEG that was cut": (
        "undecodable", "001.jpg: ", member("001.jpg", lambda data: data[: len(data) // 2])
    ),
    "picture of another size": (
        "picture_size", "000.jpg: shape (64, 64, 3), expected (96, 96, 3)",
        member("000.jpg", lambda _: encode_jpeg(np.zeros((64, 64, 3), np.uint8), 90)),
    ),
    "another drawing": (
        "not_the_drawing", "001.skeleton.png: is not the drawing of keypoints_2d",
        member("001.skeleton.png", invert_png),
    ),
    "times that fall": (
        "timestamps", "timestamps: frame 1", arrays(timestamps=lambda a: a[::-1])
    ),
    "fps 0": ("fps", "fps is 0.0, must be positive", meta(fps=0.0)),
    "confidence": (
        "confidence", "keypoints_2d has confidences", arrays(keypoints_2d=lambda a: a + 1)
    ),
    "betas": ("betas", "target.betas: reach 30", arrays(target__betas=lambda a: put(a, 3, 30))),
    "pickle member": (
        "pickle_member", "data.pyd: a pickle", insert("data.pyd", pickle.dumps([1]))
    ),
    "hidden pickle": ("pickle_member", "x.bin: a pickle", insert("x.bin", pickle.dumps([1]))),
    "pickled arrays": ("pickle_member", "arrays.npz", member("arrays.npz", pickled_npz)),
    "key with dots": ("dotted_key", "key has dots", rename),
    "camera": (
        "intrinsics", "needs positive focal lengths", arrays(intrinsics=lambda a: a * -1)
    ),
    "evidence of nobody": (
        "bridged", "frames that are not detected", arrays(is_detected=lambda a: put(a, 0, False))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_seeded_fault_is_found_and_no_other(folder: Path, name: str) -> None:
    kind, message, change = FAULTS[name]
    path = folder / "0.tar"
    write_members(path, change(read_members(path)))
    list_shards(folder, [[2, 6], [1, 3]])
    findings = list(find_faults(folder))
    assert {finding.fault.kind for finding in findings} == {kind}, list(map(str, findings))
    key = KEY.replace("smpl-1", "smpl.1") if kind == "dotted_key" else KEY
    if name == "duplicate key":
        key = "smpl-0_0_000000"
    found = [str(finding) for finding in findings if finding.key == key]
    assert any(text.startswith(f"{path}: {key}: ") and message in text for text in found), found
    assert all(finding.fault.is_certain for finding in findings)
    assert validate(folder) == 1


def cut(folder: Path) -> None:
    data = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(data[: len(data) * 2 // 3])


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        content["shards"][0] |= changes
        path.write_text(json.dumps(content))

    return change


def flip_header_time(folder: Path) -> None:
    write_members(folder / "0.tar", read_members(folder / "0.tar"))
    data = bytearray((folder / "0.tar").read_bytes())
    (folder / "0.tar").write_bytes(data + bytes(512))


FOLDER_FAULTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "truncated": ("truncated", "0.tar: truncated in", cut),
    "end of archive": (
        "truncated", "no end of archive",
        lambda f: (f / "0.tar").write_bytes((f / "0.tar").read_bytes().rstrip(b"\0") + bytes(700)),
    ),
    "not a tar": ("bad_tar", "0.tar: not a tar", lambda f: (f / "0.tar").write_bytes(b"hi" * 999)),
    "empty": ("truncated", "0.tar: truncated", lambda f: (f / "0.tar").write_bytes(b"")),
    "not in manifest": (
        "not_in_manifest", "9.tar: not in manifest.json",
        lambda f: write_shard(f / "9.tar", [labelled_clip(9, 2)]),
    ),
    "missing shard": (
        "missing_shard", "1.tar: in manifest.json, but not there",
        lambda f: (f / "1.tar").unlink(),
    ),
    "hash": ("hash_mismatch", "sha256 is", flip_header_time),
    "hash in the manifest": ("hash_mismatch", "says abc", edit_manifest(sha256="abc")),
    "count": ("count_mismatch", "frames is 6, manifest.json says 7", edit_manifest(frames=7)),
    "no manifest": (
        "bad_manifest", "not a readable manifest", lambda f: (f / "manifest.json").write_text("{")
    ),
    "no shards": (
        "no_shards", "no shards", lambda f: [path.unlink() for path in f.glob("*.tar")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDER_FAULTS)
def test_each_fault_of_a_folder_is_found_and_no_other(folder: Path, name: str) -> None:
    kind, message, spoil = FOLDER_FAULTS[name]
    spoil(folder)
    findings = list(find_faults(folder))
    assert {finding.fault.kind for finding in findings} == {kind}, list(map(str, findings))
    assert any(message in str(finding) for finding in findings), list(map(str, findings))
    assert validate(folder) == 1


def test_a_key_in_two_shards_is_found(folder: Path) -> None:
    write_shard(folder / "2.tar", [labelled_clip(0, NUM_FRAMES)])
    list_shards(folder, [[2, 6], [1, 3], [1, 3]])
    [finding] = find_faults(folder)
    assert finding.fault.kind == "duplicate_key"
    assert f"2.tar: smpl-0_0_000000: key is also in {folder / '0.tar'}" in str(finding)


def test_doubts_are_warnings_unless_strict(folder: Path, caplog) -> None:
    """Evidence of a detector whose sides are the other ones of the labels: it may have erred."""
    clip = labelled_clip(5, NUM_FRAMES)
    path = folder / "3.tar"
    targets = replace(
        clip.targets,
        keypoints_2d=swap(clip.targets.keypoints_2d),
        keypoints_3d=clip.targets.keypoints_3d * np.float32([1, 1, 1, 0]),
    )
    doubtful = replace(clip, targets=targets, meta=replace(clip.meta, detector="movenet-thunder"))
    write_shard(path, [doubtful])
    list_shards(folder, [[2, 6], [1, 3], [1, 3]])
    [finding] = find_faults(folder)
    assert (finding.fault.kind, finding.fault.is_certain) == ("sides_swapped", False)
    assert validate(folder) == 0
    assert "warning: " in caplog.text
    assert validate(folder, strict=True) == 1


def test_workers_find_the_same_in_the_same_order(folder: Path) -> None:
    path = folder / "0.tar"
    write_members(path, arrays(keypoints_2d=swap)(read_members(path)))
    list_shards(folder, [[2, 6], [1, 3]])
    alone = list(map(str, find_faults(folder)))
    assert len(alone) == 2
    assert list(map(str, find_faults(folder, workers=2))) == alone


def test_random_clips_without_labels_are_good(tmp_path: Path) -> None:
    clips = [replace(random_clip(i, 3), is_detected=np.ones(3, bool)) for i in range(3)]
    found = [f for f in find_faults(write_folder(tmp_path / "a", clips)) if f.fault.is_certain]
    assert found == []


def test_inspect_draws_spread_clips(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    write_shard(shard, [random_clip(seed, 3) for seed in range(5)])
    pictures = inspect_shards([shard], tmp_path / "sheets", max_clips=3)
    assert [path.name for path in pictures] == [f"noise-{i}_3_000010.png" for i in (0, 2, 4)]
    assert decode_image(pictures[0].read_bytes()).max() > 0
