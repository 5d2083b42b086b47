"""Which clips a step sees, and how they come out of shards."""

import errno
import tarfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose import storage
from extpose.batch import Batch, map_tensors
from extpose.config import DataConfig
from extpose.data import shard_index
from extpose.data.augment import draw_rng
from extpose.data.loader import (
    ClipDataset,
    find_shards,
    open_folders,
    stream_clips,
    training_batches,
)
from extpose.data.sampler import Draw, Mixture, StepSampler, micro_batch_size
from extpose.data.shards import ShardIndex, write_shard
from extpose.errors import BodyError, ShardError, StoreError
from extpose.storage import S3Path
from tests.plain_clips import synthetic_clip
from tests.s3_server import ANY, S3Server

CONFIG = DataConfig(num_frames=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of clips of 1 to 7 frames."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        clips = [synthetic_clip(f"clip-{i}", num_frames=i, seed=i) for i in range(1 + shard, 8, 2)]
        write_shard(folder / f"{shard}.tar", clips)
    return folder


def open_dataset(folder: Path, config: DataConfig = CONFIG, **options: object) -> ClipDataset:
    return ClipDataset(
        ShardIndex(find_shards(folder)), config, **{"body": "smpl", "size": 64} | options
    )


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.keys == b.keys
    tensors: list[torch.Tensor] = []
    map_tensors(a, lambda t: (tensors.append(t), t)[1])
    map_tensors(b, lambda t: (np.testing.assert_array_equal(t, tensors.pop(0)), t)[1])
    assert not tensors


@settings(max_examples=30)
@given(
    world=st.sampled_from([1, 2, 3, 4, 6]), micro=st.integers(1, 5), num=st.integers(1, 30),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_steps_do_not_depend_on_workers_or_restarts(
    world: int, micro: int, num: int, seed: int
) -> None:
    def draws(rank: int, world_size: int, start: int) -> list[list[Draw]]:
        sampler = StepSampler(
            num, batch=12, micro_batch=micro, seed=seed, steps=7, start_step=start,
            rank=rank, world_size=world_size,
        )  # fmt: skip
        parts = list(sampler)
        assert len(parts) == len(sampler)
        assert all(len(part) == sampler.micro_batch for part in parts)
        flat = [draw for part in parts for draw in part]
        share = 12 // world_size
        return [flat[i : i + share] for i in range(0, len(flat), share)]

    alone = draws(0, 1, 0)
    ranks = [draws(rank, world, 3) for rank in range(world)]
    steps = [[draw for part in parts for draw in part] for parts in zip(*ranks, strict=True)]
    assert steps == alone[3:]
    order = [draw for step in alone for draw in step]
    for epoch in range(84 // num):
        part = order[epoch * num : (epoch + 1) * num]
        assert {d.epoch for d in part} == {epoch}
        assert sorted(d.index for d in part) == list(range(num))


def test_epochs_have_different_orders() -> None:
    sampler = StepSampler(50, batch=50, micro_batch=50, seed=0, steps=2)
    first, second = ([d.index for d in part] for part in sampler)
    assert first != second


def test_micro_batches_fill_the_share_evenly() -> None:
    assert micro_batch_size(32, 4, world_size=8) == 4
    assert micro_batch_size(12, 5, world_size=2) == 3
    assert micro_batch_size(2, 8, world_size=1) == 2
    with pytest.raises(ValueError, match="batch=10 cannot be shared out evenly to 4"):
        micro_batch_size(10, 4, world_size=4)


def test_batches_do_not_depend_on_loader_processes(folder: Path) -> None:
    def batches(workers: int) -> list[Batch]:
        sampler = StepSampler(7, batch=4, micro_batch=2, seed=1, steps=3)
        dataset = open_dataset(folder, seed=1)
        return list(training_batches(dataset, sampler, workers=workers))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert_equal(a, b)


def test_a_draw_is_the_same_in_any_company(folder: Path) -> None:
    dataset = open_dataset(folder)
    together = dataset.__getitems__([Draw(4, 0), Draw(4, 3), Draw(5, 3)])
    alone = dataset.__getitems__([Draw(4, 3)])
    assert torch.equal(alone.rgb[0], together.rgb[1])
    assert torch.equal(alone.skeleton[0], together.skeleton[1])
    assert not torch.equal(alone.crop_box_img[0], together.crop_box_img[2])


def test_windows_respect_stride_and_lie_anywhere(folder: Path) -> None:
    dataset = open_dataset(folder, replace(CONFIG, num_frames=2, stride=3))
    i = dataset.index.keys.index("clip-7")
    clips = [dataset.draw_view(Draw(epoch, i))[0] for epoch in range(40)]
    assert {clip.meta.first_frame for clip in clips} == {0, 1, 2, 3}
    whole = dataset.index.read_clip(i)
    for clip in clips:
        start = clip.meta.first_frame
        assert clip.rgb == (whole.rgb[start], whole.rgb[start + 3])
    short, _ = dataset.draw_view(Draw(0, dataset.index.keys.index("clip-3")))
    assert short.num_frames == 1


def test_streaming_gives_every_rank_its_shards_and_all_clips(folder: Path) -> None:
    urls = [str(path) for path in find_shards(folder)]

    def keys(rank: int, count: int) -> list[str]:
        stream = iter(stream_clips(urls, seed=0, rank=rank, world_size=2))
        return [next(stream).key for _ in range(count)]

    first, second = keys(0, 30), keys(1, 30)
    assert first == keys(0, 30)
    # Over the epochs a rank sees all shards, not one subset for ever.
    assert set(first) == set(second) == {f"clip-{i}" for i in range(1, 8)}


def test_wrong_body_and_empty_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="body is 'smpl', the network's is 'mano'"):
        open_dataset(folder, body="mano").__getitems__([Draw(0, 0)])
    with pytest.raises(ShardError, match="no shards"):
        find_shards(tmp_path)


def write_folder(folder: Path, name: str, num_clips: int) -> Path:
    """A data set of short clips with keys of its own."""
    (folder / name).mkdir()
    clips = [synthetic_clip(f"{name}-{i}", num_frames=1, seed=i) for i in range(num_clips)]
    write_shard(folder / name / "0.tar", clips)
    return folder / name


def damage(folder: Path, key: str, member: str, content: bytes) -> None:
    """Overwrite the beginning of one member in place."""
    path = folder / "0.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember(f"{key}.{member}").offset_data
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize(
    ("member", "reason"), [("000.jpg", "no image"), ("meta.json", "not JSON"), ("arrays.npz", "")]
)
def test_a_damaged_clip_is_replaced_by_the_next_of_its_set(
    tmp_path: Path, member: str, reason: str
) -> None:
    folders = [write_folder(tmp_path, "a", 3), write_folder(tmp_path, "b", 4)]
    damage(folders[0], "a-2", member, bytes(60))
    damage(folders[0], "a-0", member, bytes(60))
    index, sizes = open_folders(folders)
    assert sizes == (3, 4)
    # A masked picture is not read, so its damage is not met.
    config = replace(CONFIG, mask_rgb=0.0)
    dataset = ClipDataset(index, config, body="smpl", size=64, sizes=sizes)
    whole = dataset.__getitems__([Draw(0, 1), Draw(0, 4)])
    assert whole.skipped == ()
    found = dataset.__getitems__([Draw(5, 2), Draw(5, 4)])
    assert found.keys == ("a-1", "b-1")
    assert len(found.skipped) == 2
    for text, key in zip(found.skipped, ("a-2", "a-0"), strict=True):
        assert text.startswith(f"{folders[0] / '0.tar'}: {key}")
        assert reason in text
    # What takes its place is what it would be if drawn itself.
    same = dataset.__getitems__([Draw(5, 1), Draw(5, 4)])
    assert_equal(replace(found, skipped=()), same)
    assert dataset.has_labels()


def test_a_shard_that_shrinks_while_it_is_read_is_damage(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path, "a", 2), write_folder(tmp_path, "b", 2)]
    index, sizes = open_folders(folders)
    dataset = ClipDataset(index, CONFIG, body="smpl", size=64, sizes=sizes)
    (folders[0] / "0.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"none of the 2 clips .*a/0\.tar: a-1: shorter than"):
        dataset.__getitems__([Draw(0, 1)])
    assert dataset.__getitems__([Draw(0, 2)]).keys == ("b-0",)


def test_folders_without_clips_and_shared_keys_are_refused(tmp_path: Path) -> None:
    first = write_folder(tmp_path, "a", 2)
    empty = tmp_path / "empty"
    empty.mkdir()
    write_shard(empty / "0.tar", [])
    with pytest.raises(ShardError, match="empty: no clips"):
        open_folders([first, empty])
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "0.tar").write_bytes((first / "0.tar").read_bytes())
    with pytest.raises(ShardError, match=r"copy/0\.tar: a-0: key is also in"):
        open_folders([first, copy])


weights = st.lists(st.floats(0.01, 10), min_size=2, max_size=6)


@settings(max_examples=40)
@given(mix=weights, batch=st.integers(1, 24), seed=st.integers(0, 99), steps=st.integers(1, 200))
def test_each_data_set_fills_its_share_of_every_step(
    mix: list[float], batch: int, seed: int, steps: int
) -> None:
    mixture = Mixture(mix, batch=batch, seed=seed)
    counts = mixture.counts(np.arange(steps))
    share = np.array(mix) / sum(mix)
    assert (counts >= 0).all()
    assert (counts.sum(1) == batch).all()
    assert (np.abs(counts - batch * share) < 1 + 1e-6).all()
    # Draws one by one would be off by about the root of the number of places.
    assert (np.abs(counts.sum(0) - steps * batch * share) < 6).all()


def test_the_mean_over_seeds_is_the_mix() -> None:
    mix = np.array([0.13, 0.55, 0.32])
    counts = [Mixture(mix.tolist(), batch=7, seed=s).counts(np.array([11]))[0] for s in range(2000)]
    np.testing.assert_allclose(np.mean(counts, 0) / 7, mix, atol=0.005)


@settings(max_examples=25)
@given(
    mix=weights, world=st.sampled_from([1, 2, 3, 6]), micro=st.integers(1, 5),
    start=st.integers(0, 9), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_mix_does_not_depend_on_workers_or_restarts(
    mix: list[float], world: int, micro: int, start: int, seed: int
) -> None:
    sizes = [5 * (i + 1) for i in range(len(mix))]

    def steps(rank: int, world_size: int, first: int) -> list[list[Draw]]:
        sampler = StepSampler(
            sizes, batch=6, micro_batch=micro, seed=seed, steps=10, start_step=first,
            rank=rank, world_size=world_size, mix=mix,
        )  # fmt: skip
        flat = [draw for part in sampler for draw in part]
        share = 6 // world_size
        return [flat[i : i + share] for i in range(0, len(flat), share)]

    alone = steps(0, 1, 0)
    ranks = [steps(rank, world, start) for rank in range(world)]
    together = [[d for part in parts for d in part] for parts in zip(*ranks, strict=True)]
    assert together == alone[start:]
    stream = [draw for step in alone for draw in step]
    for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        own = [draw for draw in stream if first <= draw.index < first + size]
        # Each epoch has every clip once; the last one is cut off.
        for epoch in range(len(own) // size):
            part = [d for d in own if d.epoch == epoch]
            assert sorted(d.index - first for d in part) == list(range(size))


def test_one_data_set_is_what_it_was() -> None:
    """The order that runs before there were mixes had, so that they go on as they began."""
    sampler = StepSampler(7, batch=4, micro_batch=4, seed=3, steps=2)
    order = [np.asarray(draw_rng(3, e, "", purpose="order").permutation(7)) for e in range(2)]
    expected = [Draw(e, int(i)) for e in range(2) for i in order[e]]
    assert [d for part in sampler for d in part] == expected[:8]
    joined = StepSampler([3, 4], batch=4, micro_batch=4, seed=3, steps=2)
    alone = StepSampler([7], batch=4, micro_batch=4, seed=3, steps=2, mix=[2.0])
    assert list(joined) == list(alone) == list(sampler)


def test_bad_mixes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 weights for 2 data sets"):
        StepSampler([3, 4], batch=4, micro_batch=4, seed=0, steps=1, mix=[1.0, 1.0, 1.0])
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a number above 0"):
            StepSampler([3, 4], batch=4, micro_batch=4, seed=0, steps=1, mix=[1.0, bad])


class _Failing:
    """A reader of a disk that fails."""

    num_bytes = 0

    def read_at(self, _offset: int, _size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    def close(self) -> None:
        pass


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another clip in its place would be another sequence; every clip would be tried."""
    index, sizes = open_folders([write_folder(tmp_path, "a", 3)])
    dataset = ClipDataset(index, CONFIG, body="smpl", size=64, sizes=sizes)
    monkeypatch.setattr(shard_index, "open_reader", lambda _path: _Failing())
    sampler = StepSampler(3, batch=3, micro_batch=3, seed=0, steps=1)
    with pytest.raises(StoreError, match=r"a/0\.tar: cannot be read \(.*Input/output error"):
        next(training_batches(dataset, sampler, workers=0))
    index.close()
    too_many = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(shard_index, "open_reader", Mock(side_effect=too_many))
    with pytest.raises(StoreError, match="Too many open files"):
        dataset.has_labels()


def test_a_store_that_is_lost_in_the_middle_is_no_damage(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTPOSE_S3_TRIES", "2")
    shard = S3Path(f"s3://bucket/{tmp_path.name}/0.tar")
    storage.write_bytes(shard, (write_folder(tmp_path, "a", 3) / "0.tar").read_bytes())
    dataset = open_dataset(shard.parent)
    sampler = StepSampler(3, batch=1, micro_batch=1, seed=0, steps=3)
    batches = training_batches(dataset, sampler, workers=0)
    assert not next(batches).skipped
    s3.fail(ANY, tmp_path.name, 1000)
    with pytest.raises(StoreError, match=rf"{shard}: .* \(try 2 of 2\)"):
        next(batches)


def test_errors_and_deaths_of_loader_processes_arrive(folder: Path) -> None:
    sampler = StepSampler(7, batch=1, micro_batch=1, seed=0, steps=100)
    with pytest.raises(BodyError) as told:
        next(training_batches(open_dataset(folder, body="mano"), sampler, workers=1))
    assert "Traceback" not in str(told.value)
    before = set(psutil.Process().children(recursive=True))
    batches = training_batches(open_dataset(folder), sampler, workers=1)
    next(batches)
    started = set(psutil.Process().children(recursive=True)) - before
    [loader] = [one for one in started if not one.children()]
    loader.kill()
    # Which of them it is depends on whether a batch was under way; what counts is an end.
    with pytest.raises((RuntimeError, OSError)):
        list(batches)


def test_memory_is_used_again_only_when_nobody_holds_it(folder: Path) -> None:
    dataset = open_dataset(folder)
    first = dataset.__getitems__([Draw(0, 0)])
    kept = first.rgb.clone()
    second = dataset.__getitems__([Draw(0, 3)])
    assert torch.equal(first.rgb, kept)
    part = first.rgb[0, 0]
    del first
    dataset.__getitems__([Draw(1, 3)])
    assert torch.equal(part, kept[0, 0])
    del part, second
    places = [dataset.__getitems__([Draw(i, 3)]).rgb.data_ptr() for i in range(6)]
    assert len(set(places)) < 6
