"""Files on a disk and in a store are the same to those who read and write them."""

import copy
import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tyro

from extpose import storage
from extpose.config import DataConfig
from extpose.data.loader import ClipDataset, open_folders, training_batches
from extpose.data.sampler import StepSampler
from extpose.data.shards import ShardIndex, read_shard, write_shard
from extpose.errors import ShardError, StoreError
from extpose.storage import S3Path
from tests.plain_clips import synthetic_clip
from tests.s3_server import ANY


def test_a_path_of_a_store_keeps_its_name():
    path = S3Path("s3://bucket/a/b.tar")
    assert str(path) == "s3://bucket/a/b.tar"
    assert (path.parent / "c" / "d.tar").key == "bucket/a/c/d.tar"
    assert (path.name, path.stem, path.suffix) == ("b.tar", "b", ".tar")
    for other in (copy.deepcopy(path), pickle.loads(pickle.dumps(path)), S3Path(path)):
        assert other == path
        assert hash(other) == hash(path)
        assert str(other) == str(path)
    assert storage.name_in(S3Path("s3://bucket"), path) == "a/b.tar"
    assert storage.absolute(path) == path
    for bad in ("/a/b", "s3:", "s3://", "s3://bucket/../other", "b"):
        with pytest.raises(ValueError, match="not s3://bucket/prefix"):
            S3Path(bad)
    with pytest.raises(TypeError, match="not on a disk"):
        os.stat(path)


@dataclasses.dataclass(frozen=True)
class Options:
    out: storage.Location
    data: tuple[storage.Location, ...] = ()


def test_the_command_line_tells_stores_from_folders():
    options = tyro.cli(Options, args=["--out", "s3://b/x", "--data", "/d", "s3://b/y", "rel"])
    assert options == Options(S3Path("s3://b/x"), (Path("/d"), S3Path("s3://b/y"), Path("rel")))
    with pytest.raises(ValueError, match="use S3Path"):
        storage.list_files(Path("s3://bucket/prefix"))


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path):
    """An empty folder of either kind."""
    if request.param == "disk":
        return tmp_path
    request.getfixturevalue("s3")
    return S3Path(f"s3://bucket/{tmp_path.name}")


def test_a_file_is_written_whole_read_listed_and_deleted(folder):
    rng = np.random.default_rng(0)
    contents = {"empty": b"", "a.tar": b"abc", "large.tar": rng.bytes(11_000_000)}
    for name, data in contents.items():
        storage.write_bytes(folder / name, data)
    storage.make_folder(folder / "in")
    storage.write_bytes(folder / "in" / "b.tar", b"b")
    for name, data in contents.items():
        assert storage.read_bytes(folder / name) == data
        found = storage.find_file(folder / name)
        assert found is not None
        assert found.num_bytes == len(data)
    flat = [entry.location.name for entry in storage.list_files(folder, ".tar")]
    deep = [entry.location for entry in storage.list_files(folder, ".tar", deep=True)]
    assert flat == ["a.tar", "large.tar"]
    assert [storage.name_in(folder, path) for path in deep] == ["a.tar", "in/b.tar", "large.tar"]
    reader = storage.open_reader(folder / "large.tar")
    assert reader.read_at(7_000_000, 10) == contents["large.tar"][7_000_000:7_000_010]
    assert reader.read_at(10_999_999, 10) == contents["large.tar"][-1:]
    reader.close()
    with storage.open_stream(folder / "large.tar") as file:
        file.seek(-5, 2)
        assert file.read() == contents["large.tar"][-5:]
    storage.delete(folder / "a.tar")
    storage.delete(folder / "a.tar")
    assert storage.find_file(folder / "a.tar") is None
    assert storage.list_files(folder / "nothing") == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(folder / "a.tar")


def test_what_is_not_committed_does_not_appear(folder):
    file = storage.WholeFile(folder / "a")
    file.write(b"half")
    file.abort()

    def fail():
        yield synthetic_clip("c")
        raise KeyError

    with pytest.raises(KeyError):
        write_shard(folder / "b.tar", fail())
    assert storage.list_files(folder) == []


def test_shards_have_the_same_bytes_and_windows_as_on_a_disk(folder, tmp_path):
    clips = [synthetic_clip(f"clip-{i}", num_frames=4 + i, seed=i) for i in range(3)]
    here = tmp_path / "here.tar"
    infos = [write_shard(path, clips) for path in (folder / "s.tar", here)]
    assert infos[0].sha256 == infos[1].sha256 == storage.hash_file(folder / "s.tar")
    one, other = ShardIndex([folder / "s.tar"]), ShardIndex([here])
    for window in ((0, 4, 1), (1, 2, 2), (3, 1, 1)):
        a, b = one.read_window(2, *window), other.read_window(2, *window)
        assert a.rgb == b.rgb
        assert a.skeleton == b.skeleton
        assert a.meta == b.meta
        np.testing.assert_array_equal(a.keypoints_2d, b.keypoints_2d)
    assert [clip.key for clip in read_shard(folder / "s.tar")] == [c.key for c in clips]
    storage.write_bytes(folder / "t.tar", storage.read_bytes(here)[:30_000])
    with pytest.raises(ShardError, match=r"t\.tar: .*truncated"):
        ShardIndex([folder / "t.tar"])
    with pytest.raises(ShardError, match=r"gone\.tar: not a readable tar"):
        ShardIndex([folder / "gone.tar"])


def test_a_window_is_two_requests(s3, tmp_path):
    path = S3Path(f"s3://bucket/{tmp_path.name}/s.tar")
    write_shard(path, [synthetic_clip(f"clip-{i}", num_frames=8, seed=i) for i in range(4)])
    index = ShardIndex([path])
    index.read_window(0, 0, 1)
    s3.requests.clear()
    index.read_window(3, 2, 4)
    assert [method for method, _ in s3.requests] == ["GET", "GET"]


def test_training_sees_the_same_batches(s3, tmp_path):
    """Through loader processes too: each has a connection of its own."""
    folder = S3Path(f"s3://bucket/{tmp_path.name}")
    for shard in range(2):
        clips = [synthetic_clip(f"clip-{shard}-{i}", num_frames=5, seed=i) for i in range(3)]
        for place in (folder, tmp_path):
            write_shard(place / f"{shard}.tar", clips)

    def batches(place, workers):
        index, _ = open_folders([place])
        dataset = ClipDataset(index, DataConfig(num_frames=3), body="smpl", size=64)
        sampler = StepSampler(6, batch=4, micro_batch=2, seed=1, steps=2)
        return list(training_batches(dataset, sampler, workers=workers))

    expected = batches(tmp_path, 0)
    for workers in (0, 1):
        for ours, theirs in zip(batches(folder, workers), expected, strict=True):
            assert ours.keys == theirs.keys
            np.testing.assert_array_equal(ours.rgb, theirs.rgb)
            np.testing.assert_array_equal(ours.skeleton, theirs.skeleton)


@pytest.mark.parametrize(
    ("method", "size"), [("PUT", 10), ("PUT", 6_000_000), ("POST", 11_000_000)]
)
def test_an_upload_is_tried_again(s3, tmp_path, method, size):
    path = S3Path(f"s3://bucket/{tmp_path.name}/{method}{size}")
    fault = s3.fail(method, path.name, 2)
    storage.write_bytes(path, bytes(size))
    assert fault.times == 0
    assert storage.read_bytes(path) == bytes(size)


def test_a_store_that_is_silent_is_asked_again(s3, tmp_path):
    path = S3Path(f"s3://bucket/{tmp_path.name}/silent")
    put = s3.fail("PUT", "silent", 1, seconds=3.0)
    storage.write_bytes(path, b"said")
    get = s3.fail("GET", "silent", 1, seconds=3.0)
    assert storage.read_bytes(path) == b"said"
    assert put.times == get.times == 0


def test_a_store_that_errs_now_and_then_is_asked_again(s3, tmp_path):
    folder = S3Path(f"s3://bucket/{tmp_path.name}")
    fault = s3.fail(ANY, f"{tmp_path.name}/", 100, every=3)
    for i in range(3):
        storage.write_bytes(folder / str(i), bytes([i]))
        assert storage.read_bytes(folder / str(i)) == bytes([i])
    assert fault.times < 99


@pytest.mark.parametrize("size", [1000, 25_000_000])
def test_uploads_go_through_where_each_fifth_request_is_refused(s3, tmp_path, size):
    folder = S3Path(f"s3://bucket/{tmp_path.name}")
    fault = s3.fail(ANY, f"{tmp_path.name}/", 100, every=5)
    data = np.random.default_rng(0).bytes(size)
    for i in range(5 if size < 1e6 else 1):
        storage.write_bytes(folder / str(i), data)
    assert fault.times < 100
    s3.faults.clear()
    assert storage.read_bytes(folder / "0") == data


def test_a_store_that_fails_for_ever_is_named_and_holds_nothing(s3, tmp_path):
    path = S3Path(f"s3://bucket/{tmp_path.name}/never.tar")
    fault = s3.fail("PUT", "never", 100)
    with pytest.raises(OSError, match=r"s3://bucket/.*never\.tar: .*\(try 4 of 4\)"):
        write_shard(path, [synthetic_clip("c")])
    fault.times = 0
    assert storage.find_file(path) is None
    before = len(s3.requests)
    with pytest.raises(StoreError, match=r"nobucket/x: .*\(try 1 of 4\)"):
        storage.write_bytes(S3Path("s3://nobucket/x"), b"x")
    assert len(s3.requests) - before <= 3
