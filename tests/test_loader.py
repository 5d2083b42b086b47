"""Which clips a step sees, and how they come out of shards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.batch import Batch, map_tensors
from extpose.config import DataConfig
from extpose.data.augment import NO_MASKING
from extpose.data.loader import (
    ClipDataset,
    evaluation_batches,
    evaluation_windows,
    find_shards,
    stream_clips,
    training_batches,
)
from extpose.data.sampler import Draw, StepSampler, micro_batch_size
from extpose.data.shards import ShardIndex, write_shard
from extpose.errors import ShardError
from tests.plain_clips import synthetic_clip

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


@settings(max_examples=30, deadline=None)
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


def test_evaluation_covers_every_frame_once(folder: Path) -> None:
    dataset = open_dataset(folder)
    windows = evaluation_windows(dataset.index, 3)
    frames = sorted((w.index, w.start + i) for w in windows for i in range(w.count))
    lengths = [dataset.index.num_frames(i) for i in range(len(dataset))]
    assert frames == [(i, f) for i, n in enumerate(lengths) for f in range(n)]
    seen = 0
    for part, batch in evaluation_batches(dataset, windows, batch=4, masking=NO_MASKING):
        assert batch.keys == tuple(dataset.index.keys[w.index] for w in part)
        assert batch.valid.sum(1).tolist() == [w.count for w in part]
        seen += int(batch.valid.sum())
    assert seen == sum(lengths)
    assert len(evaluation_windows(dataset.index, 3, max_clips=2)) == sum(
        -(-n // 3) for n in lengths[:2]
    )


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
