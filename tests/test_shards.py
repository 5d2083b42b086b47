import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from extpose.data import shard_index
from extpose.data.clip import decode_image
from extpose.data.shards import (
    ShardIndex,
    decode_clip,
    encode_clip,
    read_shard,
    write_shard,
)
from extpose.errors import ShardError
from extpose.schema import Clip
from tests.clips import random_clip

DOCS = Path(__file__).parents[1] / "docs/data.md"


def assert_same(a: Clip, b: Clip) -> None:
    assert (a.key, a.meta, a.rgb, a.skeleton) == (b.key, b.meta, b.rgb, b.skeleton)
    for name in ("bbox_xyxy", "crop_to_img", "keypoints_2d", "timestamps", "is_detected"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("intrinsics", "targets"):
        assert (getattr(a, name) is None) == (getattr(b, name) is None)
    if a.targets is not None and b.targets is not None:
        for name, value in vars(a.targets).items():
            np.testing.assert_array_equal(value, getattr(b.targets, name))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "a-000000.tar"
    write_shard(path, [random_clip(0, 5, labelled=True), random_clip(1, 3)])
    return path


def rewrite(path: Path, change, target: str = "") -> Path:
    """The shard again, each member (name, bytes) run through `change` -> list of members."""
    new = path.with_name("changed.tar")
    with tarfile.open(path) as old, tarfile.open(new, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in old:
            data = old.extractfile(member).read()
            for name, content in change(member.name, data):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return new


def edit_arrays(data: bytes, **changes) -> bytes:
    arrays = dict(np.load(io.BytesIO(data))) | changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: a for name, a in arrays.items() if a is not None})
    return buffer.getvalue()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("body", ["smpl", "mano"])
def test_round_trip(tmp_path, labelled, body):
    clips = [random_clip(seed, 4, labelled=labelled, body=body) for seed in range(2)]
    info = write_shard(tmp_path / "x.tar", clips)
    assert (info.num_clips, info.num_frames) == (2, 8)
    assert info.num_bytes == (tmp_path / "x.tar").stat().st_size
    for a, b in zip(clips, read_shard(tmp_path / "x.tar"), strict=True):
        assert_same(a, b)


def test_stock_webdataset_reads_it(shard):
    samples = list(wds.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["noise-0_3_000010", "noise-1_3_000010"]
    assert "000.skeleton.png" in samples[0]
    members = {name: data for name, data in samples[0].items() if not name.startswith("__")}
    assert_same(decode_clip(members, samples[0]["__key__"]), random_clip(0, 5, labelled=True))


def test_the_same_clips_give_the_same_bytes(shard, tmp_path):
    again = tmp_path / "again.tar"
    info = write_shard(again, [random_clip(0, 5, labelled=True), random_clip(1, 3)])
    assert again.read_bytes() == shard.read_bytes()
    assert info.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()
    with tarfile.open(shard) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_a_failed_write_leaves_nothing(tmp_path):
    def clips():
        yield random_clip(0, 2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "x.tar", clips())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ShardError, match="used twice"):
        write_shard(tmp_path / "x.tar", [random_clip(0, 2), random_clip(0, 2)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="missing"):
        write_shard(tmp_path / "missing" / "x.tar", [])


def test_window_reads_only_its_frames(shard, monkeypatch):
    index = ShardIndex([shard])
    whole = index.read_clip(0)
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *a: reads.append(a[1]) or pread(*a))
    window = index.read_window(0, 1, 2, 2)
    assert len(reads) == 1 + 2  # the head, and each frame
    assert sum(reads) < shard.stat().st_size / 2
    assert window.rgb == whole.rgb[1:4:2]
    assert window.skeleton == whole.skeleton[1:4:2]
    np.testing.assert_array_equal(window.keypoints_2d, whole.keypoints_2d[1:4:2])
    np.testing.assert_array_equal(window.targets.pose, whole.targets.pose[1:4:2])
    np.testing.assert_array_equal(window.targets.betas, whole.targets.betas)
    assert window.key == whole.key
    assert (window.meta.first_frame, window.meta.fps) == (11, 12.5)
    for bad in ((0, 6, 1), (-1, 2, 1), (0, 3, 3), (0, 0, 1), (0, 1, 0)):
        with pytest.raises(ValueError, match="not inside 5 frames"):
            index.read_window(0, *bad)


def read_keys(index: ShardIndex, queue) -> None:
    queue.put([index.read_clip(i).key for i in range(len(index))])


def test_index_travels_to_other_processes(shard):
    index = ShardIndex([shard])
    first = index.read_clip(1)  # opens the file in the parent
    assert_same(pickle.loads(pickle.dumps(index)).read_clip(1), first)
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=read_keys, args=(index, queue))
        process.start()
        assert queue.get(timeout=60) == index.keys
        process.join()
    assert_same(index.read_clip(1), first)
    index.close()


def test_index_refuses_a_key_in_two_shards(shard, tmp_path):
    other = tmp_path / "b.tar"
    write_shard(other, [random_clip(1, 3)])
    with pytest.raises(ShardError, match=r"b.tar: noise-1_3_000010: key is also in .*a-000000.tar"):
        ShardIndex([shard, other])


def test_truncation_is_seen_at_every_length(shard, tmp_path):
    data = shard.read_bytes()
    cut = tmp_path / "cut.tar"
    with tarfile.open(shard) as tar:
        members = list(tar)
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    borders = [member.offset for member in members]
    for length in [0, 100, *borders, *[b + 700 for b in borders], end - 10, end, end + 512]:
        cut.write_bytes(data[:length])
        with pytest.raises(ShardError, match=r"cut\.tar"):
            ShardIndex([cut])
    cut.write_bytes(data[: end + 1024])
    assert len(ShardIndex([cut])) == 2


META_FAULTS = {
    "schema_version is 1, this code reads 2": {"schema_version": 1},
    "unknown ['colour']": {"colour": 1},
    "missing ['fps']": {"fps": None},
    "track_id is 'x'": {"track_id": "x"},
    "track_id is True": {"track_id": True},
    "split is 'dev'": {"split": "dev"},
    "image_size is [1, 2, 3]": {"image_size": [1, 2, 3]},
    "expected crop >= skeleton": {"crop_size": 10},
}


@pytest.mark.parametrize("message", META_FAULTS)
def test_bad_meta_names_file_key_and_values(shard, message):
    def change(name, data):
        if name.startswith("noise-1") and name.endswith("meta.json"):
            meta = json.loads(data) | META_FAULTS[message]
            data = json.dumps({k: v for k, v in meta.items() if v is not None or k != "fps"})
            data = data.encode()
        return [(name, data)]

    pattern = r"changed.tar: noise-1_3_000010: .*" + re.escape(message)
    with pytest.raises(ShardError, match=pattern):
        list(read_shard(rewrite(shard, change)))


ARRAY_FAULTS = {
    r"keypoints_2d is float64 \(3, 17, 3\), expected float32": {
        "keypoints_2d": np.zeros((3, 17, 3))
    },
    r"keypoints_2d is float32 \(3, 21, 3\), expected float32 \(3, 17, 3\)": {
        "keypoints_2d": np.zeros((3, 21, 3), np.float32)
    },
    r"keypoints_2d has confidences .* to 2.0, allowed 0 to 1": {
        "keypoints_2d": np.full((3, 17, 3), 2, np.float32)
    },
    r"bbox_xyxy is float32 \(2, 4\)": {"bbox_xyxy": np.zeros((2, 4), np.float32)},
    "bbox_xyxy has values that are not finite": {"bbox_xyxy": np.full((3, 4), np.nan, np.float32)},
    r"missing \['timestamps'\]": {"timestamps": None},
    r"unknown \['extra'\]": {"extra": np.zeros(3)},
    r"missing \['target.betas'": {"target.pose": np.zeros((3, 23, 3), np.float32)},
    "arrays.npz: not readable": {"timestamps": np.array([object()] * 3)},
}


@pytest.mark.parametrize("message", ARRAY_FAULTS)
def test_bad_arrays_name_the_field(shard, message):
    def change(name, data):
        if name.startswith("noise-1") and name.endswith("arrays.npz"):
            data = edit_arrays(data, **ARRAY_FAULTS[message])
        return [(name, data)]

    with pytest.raises(ShardError, match=r"changed.tar: noise-1_3_000010: .*" + message):
        list(read_shard(rewrite(shard, change)))


MEMBER_FAULTS = {
    "missing ['000.jpg']": lambda name, data: [] if name.endswith("000.jpg") else [(name, data)],
    "missing ['meta.json']": lambda name, data: [] if "meta" in name else [(name, data)],
    "unknown ['notes.txt']": lambda name, data: [
        (name, data),
        *([(name.split(".")[0] + ".notes.txt", b"")] if "npz" in name else []),
    ],
    "repeated ['meta.json']": lambda name, data: [(name, data)] * (2 if "meta" in name else 1),
    "not JSON": lambda name, data: [(name, b"{" if "meta" in name else data)],
    "arrays.npz: not readable": lambda name, data: [(name, b"PK" if "npz" in name else data)],
}


@pytest.mark.parametrize("message", MEMBER_FAULTS)
def test_bad_members_are_listed(shard, message):
    with pytest.raises(ShardError, match=re.escape(message)):
        list(read_shard(rewrite(shard, MEMBER_FAULTS[message])))


def test_interleaved_and_swapped_members_are_refused(shard, tmp_path):
    with tarfile.open(shard) as old:
        members = [(m, old.extractfile(m).read()) for m in old]
    order = [*members[:3], members[4], members[3], *members[5:]]
    for name, chosen in (("swapped", order), ("mixed", sorted(members, key=lambda m: m[0].size))):
        path = tmp_path / f"{name}.tar"
        with tarfile.open(path, "w") as tar:
            for member, data in chosen:
                tar.addfile(member, io.BytesIO(data))
        with pytest.raises(ShardError, match="members: "):
            ShardIndex([path])


def test_not_a_tar_and_no_file(tmp_path):
    path = tmp_path / "x.tar"
    with pytest.raises(ShardError, match=r"x\.tar"):
        ShardIndex([path])
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(ShardError, match=r"x\.tar: not a readable tar"):
        ShardIndex([path])


def test_encode_refuses_what_decode_would(shard):
    clip = random_clip(0, 2)
    clip.keypoints_2d[0, 0, 2] = 1.5
    with pytest.raises(ShardError, match="keypoints_2d has confidences"):
        encode_clip(clip)


def test_the_example_of_the_docs_runs(shard, capsys):
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.S)
    namespace = {}
    exec(code.replace("shards/example.tar", str(shard)), namespace)
    assert namespace["rgb"].shape == (96, 96, 3)
    assert namespace["meta"]["video_id"] == "noise-0"
    np.testing.assert_array_equal(
        namespace["skeleton"], decode_image(random_clip(0, 5, labelled=True).skeleton[0])
    )
    assert "noise-0_3_000010" in capsys.readouterr().out


def test_an_index_is_kept_in_a_file(shard: Path, tmp_path: Path) -> None:
    index = ShardIndex([shard])
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1].offset_data
    os.truncate(shard, last + 10)
    with pytest.raises(ShardError, match="truncated"):
        ShardIndex([shard])
    kept = ShardIndex.from_bytes(index.to_bytes())
    assert (kept.paths, kept.keys) == (index.paths, index.keys)
    assert_same(kept.read_clip(0), index.read_clip(0))
    with pytest.raises(ShardError, match="shorter than when it was opened"):
        kept.read_clip(1)
    index.close()
    kept.close()


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "MAX_OPEN", 3)
    paths = [tmp_path / f"{i}.tar" for i in range(5)]
    for i, path in enumerate(paths):
        write_shard(path, [random_clip(i, 1)])
    index, before = ShardIndex(paths), len(os.listdir("/proc/self/fd"))
    for i in (0, 1, 2, 0, 3, 4, 0):
        assert_same(index.read_clip(i), random_clip(i, 1))
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    index.close()
