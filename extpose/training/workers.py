"""The processes of a training run, whoever started them (Ray Train, or nobody: then it is one)."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from extpose.errors import ExtPoseError, TrainingError

logger = logging.getLogger(__name__)


class Workers:
    """The processes of a run. All methods but the first two properties are collective."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.is_joined else 0
        self.size = dist.get_world_size() if self.is_joined else 1

    def mean(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Average over the workers."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
            values = values / self.size
        return values.cpu()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average over the workers, in place; a parameter without a gradient gets zeros."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.size
        for parameter, part in zip(
            parameters, flat.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)

    def gather(self, value: Any) -> list[Any]:
        """The value of every worker, in the order of ranks."""
        gathered: list[Any] = [value]
        if self.size > 1:
            gathered = [None] * self.size
            dist.all_gather_object(gathered, value)
        return gathered

    def from_first(self, value: Any) -> Any:
        """The value of rank 0."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def first_does(self, act: Callable[[], object]) -> None:
        """Let rank 0 do what is done once. Raises TrainingError, on every worker, if it cannot:
        what is wrong with its input, or with a disk.
        """
        error = ""
        if self.rank == 0:
            try:
                act()
            except ExtPoseError as failure:
                error = str(failure)
            except OSError as failure:
                error = f"{type(failure).__name__}: {failure}"
        if error := self.from_first(error):
            raise TrainingError(error)

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None)


def join_alone(device: torch.device) -> None:
    """A process group of one where no launcher made a larger one; DeepSpeed needs it.

    It stays until the process ends: DeepSpeed keeps groups made from it.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def useful_workers(batch: int, workers: int) -> int:
    """The most of these workers that `batch` clips can be shared out to evenly."""
    return max(count for count in range(1, workers + 1) if batch % count == 0)


def leave_surplus(batch: int, device: torch.device) -> bool:
    """Make the process group one of the workers that the batch can be shared out to.

    Collective over the group that the launcher made. False: this process is not one of them, and
    is in no group any more.
    """
    if not dist.is_initialized():
        return True
    rank, size = dist.get_rank(), dist.get_world_size()
    useful = useful_workers(batch, size)
    if useful == size:
        return True
    backend = dist.get_backend()
    store = _open_store(os.environ["MASTER_ADDR"], rank, device)
    dist.destroy_process_group()
    if rank >= useful:
        logger.info("worker %d of %d has no share of a batch of %d", rank, size, batch)
        return False
    dist.init_process_group(backend, store=store, rank=rank, world_size=useful)
    return True


def _open_store(host: str, rank: int, device: torch.device) -> Any:
    """Where the workers of a new group find each other: rank 0 picks a free port."""
    open_one = torch.distributed.TCPStore  # type: ignore[attr-defined]
    own = open_one(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
    port = [own.port if own else 0]
    dist.broadcast_object_list(port, src=0, device=device)
    return own or open_one(host, port[0], is_master=False)
