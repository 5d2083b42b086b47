"""Shards to batches.

`ClipDataset` reads windows at random places of the shards through an offset index; which ones a
step sees is `StepSampler`'s. `stream_clips` reads remote shards from beginning to end through
WebDataset instead, in an order that is shuffled anew each epoch.

Axes    b clips   t frames
"""

import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from extpose.batch import Batch
from extpose.config import DataConfig
from extpose.data.augment import draw_augmentation, draw_masking, draw_rng
from extpose.data.labels import points_to_crop
from extpose.data.memory import Memory
from extpose.data.partial import hide_parts
from extpose.data.sampler import Draw, StepSampler
from extpose.data.shards import ShardIndex, decode_clip
from extpose.data.window import View, make_batch
from extpose.errors import BodyError, ExtPoseError, ShardError
from extpose.schema import BodyName, Clip
from extpose.storage import Location, list_files

PREFETCH = 4
"""Micro-batches that each loader process keeps ready."""
logger = logging.getLogger(__name__)


def find_shards(folder: Location) -> list[Location]:
    """The shards of a data folder, sorted. Raises ShardError when there are none."""
    paths = [entry.location for entry in list_files(folder, ".tar", deep=True)]
    if not paths:
        raise ShardError(f"{folder}: no shards (*.tar) in this folder")
    return paths


def open_folders(folders: Sequence[Location]) -> tuple[ShardIndex, tuple[int, ...]]:
    """The clips of several data sets, one after the other, and how many each has.

    Raises ShardError for a folder without clips, and for a key that is used twice.
    """
    shards = [find_shards(folder) for folder in folders]
    index = ShardIndex([path for paths in shards for path in paths])
    clips_of = Counter(index.path_of(i) for i in range(len(index)))
    sizes = tuple(sum(clips_of[path] for path in paths) for paths in shards)
    for folder, size in zip(folders, sizes, strict=True):
        if not size:
            raise ShardError(f"{folder}: no clips in the shards of this folder")
    return index, sizes


class ClipDataset(Dataset[Batch]):
    """Batches of windows. Items are asked for by lists of draws, so a batch is filled in place.

    `sizes` are those of the data sets that follow each other in `index`; None: it is one.
    """

    def __init__(
        self,
        index: ShardIndex,
        config: DataConfig,
        *,
        body: BodyName,
        size: int,
        seed: int = 0,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.index, self.config, self.body, self.size, self.seed = index, config, body, size, seed
        self.sizes = (len(index),) if sizes is None else tuple(sizes)
        self.memory = Memory()

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """The training batch of these draws: augmented, masked.

        A clip that cannot be read is replaced by the next one of its data set that can, and told
        in `skipped`. Raises BodyError for one of another body, ShardError when no clip of the data
        set is left, and StoreError where the disk or store fails: then no clip is damaged, and
        another in its place would be another sequence.
        """
        try:
            return self._make_batch(draws)
        except BodyError:
            raise
        except ShardError:
            found = [self._find_readable(draw) for draw in draws]
        batch = self._make_batch([draw for draw, _ in found])
        return replace(batch, skipped=tuple(reason for _, reasons in found for reason in reasons))

    def _make_batch(self, draws: list[Draw]) -> Batch:
        pairs = [self.draw_view(draw) for draw in draws]
        return self.collate([clip for clip, _ in pairs], [view for _, view in pairs], True)

    def _find_readable(self, draw: Draw) -> tuple[Draw, list[str]]:
        """The draw, or the next one of the same data set; and what was wrong with those between."""
        ends = np.cumsum(self.sizes)
        number = int(np.searchsorted(ends, draw.index, side="right"))
        size, first = self.sizes[number], int(ends[number]) - self.sizes[number]
        reasons: list[str] = []
        for i in range(size):
            candidate = Draw(draw.epoch, first + (draw.index - first + i) % size)
            where = f"{self.index.path_of(candidate.index)}: {self.index.keys[candidate.index]}"
            try:
                self._make_batch([candidate])
            except BodyError:
                raise
            except ShardError as error:
                # Errors of the reader name the shard, those of the decoder the clip alone.
                text = str(error)
                reasons.append(text if text.startswith(where) else f"{where}: {text}")
            else:
                return candidate, reasons
        raise ShardError(f"none of the {size} clips of a data set can be read: {reasons[0]}")

    def draw_view(self, draw: Draw) -> tuple[Clip, View]:
        """Window, augmentation and masking of one draw: a function of (seed, epoch, key)."""
        key, config = self.index.keys[draw.index], self.config

        def rng(purpose: str) -> Any:
            return draw_rng(self.seed, draw.epoch, key, purpose=purpose)

        count = min(config.num_frames, -(-self.index.num_frames(draw.index) // config.stride))
        room = self.index.num_frames(draw.index) - ((count - 1) * config.stride + 1)
        start = int(rng("window").integers(room + 1)) if count == config.num_frames else 0
        clip = self.read(draw.index, start, count, stride=config.stride)
        augmentation = draw_augmentation(
            rng("augmentation"), config.augment, is_right=clip.meta.is_right
        )
        if config.augment.enabled:
            augmentation = hide_parts(
                rng("parts"),
                augmentation,
                config.augment,
                keypoints_crop=points_to_crop(clip.keypoints_2d, clip, np.eye(2, 3)),
                side=clip.meta.skeleton_size,
            )
        view = View(
            augmentation=augmentation,
            masking=draw_masking(
                rng("masking"), rgb=config.mask_rgb, skeleton=config.mask_skeleton
            ),
            noise_rng=rng("noise"),
        )
        return clip, view

    def collate(self, clips: list[Clip], views: list[View], with_targets: bool) -> Batch:
        """`make_batch` with this data set's sizes."""
        return make_batch(
            clips,
            views,
            num_frames=self.config.num_frames,
            size=self.size,
            skeleton=self.config.skeleton,
            with_targets=with_targets,
            memory=self.memory,
        )

    def read(self, index: int, start: int, count: int, *, stride: int = 1) -> Clip:
        """A window as a clip. Raises ShardError, and BodyError when it is of another body."""
        clip = self.index.read_window(index, start, count, stride)
        if clip.meta.body != self.body:
            raise BodyError(
                f"{self.index.path_of(index)}: {clip.key}: body is {clip.meta.body!r}, "
                f"the network's is {self.body!r}"
            )
        return clip

    def has_labels(self) -> bool:
        """Whether any clip has targets; reads until it finds one, past those that are damaged."""
        return any(self._has_labels(i) for i in range(len(self)))

    def _has_labels(self, index: int) -> bool:
        try:
            return self.read(index, 0, 1).targets is not None
        except BodyError:
            raise
        except ShardError as error:
            logger.warning("damaged: %s", error)
            return False


def training_batches(
    dataset: ClipDataset, sampler: StepSampler, *, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Micro-batches of this rank in the sampler's order, whatever the number of `workers`.

    Raises what the data set raises, and RuntimeError or OSError when a loader process dies:
    another try may go well.

    Loader processes are forked from a server that has imported this module and done nothing else.
    To the first batch: 9 s, against 16 s with `spawn`. A plain fork takes 2 s, but hangs for ever
    when this process has used OpenCV's threads before.
    """
    context = multiprocessing.get_context("forkserver") if workers else None
    if context is not None:
        context.set_forkserver_preload([__name__])
    loader = DataLoader(
        _Telling(dataset),
        batch_sampler=sampler,
        collate_fn=_same,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context=context,
        worker_init_fn=_use_one_thread if workers else None,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, ExtPoseError):
            raise batch
        yield batch


@dataclass(frozen=True)
class _Telling(Dataset[Batch | ExtPoseError]):
    """Errors come out as values: torch would put the loader process's trace into their message."""

    dataset: ClipDataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: list[Draw]) -> Batch | ExtPoseError:
        try:
            return self.dataset.__getitems__(draws)
        except ExtPoseError as error:
            return error


def stream_clips(urls: Sequence[str], *, seed: int, rank: int = 0, world_size: int = 1) -> Any:
    """An endless WebDataset pipeline of clips, for shards that cannot be read at random.

    Each epoch shuffles the list of shards by (seed, epoch) before ranks and loader processes take
    their share, so no rank keeps the same shards; the stream has no end, so all ranks can take
    equally many batches. Any URL that WebDataset opens (`pipe:`, `https:`, a path). Raises
    ShardError for a clip that breaks the contract.
    """
    import webdataset

    return webdataset.DataPipeline(
        _ShardOrder(tuple(urls), seed, rank, world_size),
        webdataset.tarfile_to_samples(handler=webdataset.reraise_exception),
        webdataset.map(_decode_sample),
    )


@dataclass(frozen=True)
class _ShardOrder:
    urls: tuple[str, ...]
    seed: int
    rank: int
    world_size: int

    def __call__(self) -> Iterator[dict[str, str]]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        position = self.rank * workers + worker
        while True:
            epoch, offset = divmod(position, len(self.urls))
            order = draw_rng(self.seed, epoch, "", purpose="shards").permutation(len(self.urls))
            yield {"url": self.urls[order[offset]]}
            position += self.world_size * workers


def _decode_sample(sample: dict[str, Any]) -> Clip:
    members = {name: data for name, data in sample.items() if not name.startswith("__")}
    return decode_clip(members, sample["__key__"], path=sample["__url__"])


def _same(batch: Batch | ExtPoseError) -> Batch | ExtPoseError:
    return batch


def _use_one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
