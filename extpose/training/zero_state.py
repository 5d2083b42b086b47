"""The state of ZeRO's partitions, gathered to names and scattered from them.

Each worker of ZeRO holds parts of flat buffers: of the optimiser state (stages 1 and 2), and of the
weights too (stage 3). The parts depend on the number of workers, `extpose.training.state` does not.
DeepSpeed's own way to another number of workers (its universal checkpoint) goes by files, takes
two more copies on disk, and in version 0.19.8 restores ZeRO-3 wrongly where it has several groups.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from extpose.training.state import MOMENTS, STEP, WEIGHTS, check_state, section, to_cpu, trained
from extpose.training.trainable import find_part, join_parts, own_tensors


def gather_zero_state(deepspeed: Any, engine: Any, *, keep: bool) -> dict[str, Tensor]:
    """Names to tensors on the CPU, where `keep`; nothing elsewhere. Every worker calls it.

    One parameter at a time, so no GPU needs memory for more than the largest.
    """
    weights = {}
    for name, value in own_tensors(engine.module).items():
        with _whole(deepspeed, value):
            if keep:
                weights[name] = to_cpu(value)
    state = {WEIGHTS + name: value for name, value in join_parts(weights).items()}
    steps = [float(own["step"]) for own in engine.optimizer.optimizer.state.values()]
    if not steps:
        return state
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            whole = deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
            if keep:
                state[f"{key}/{name}"] = to_cpu(whole.view(_shape(parameter)))
        if keep:
            state[STEP + name] = torch.tensor(steps[0])
    return state


def load_zero_state(deepspeed: Any, engine: Any, state: Mapping[str, Tensor]) -> None:
    """Give each worker its part. Every worker calls it, with the same state.

    ZeRO counts the updates of all parameters together: the largest count is taken. Raises
    CheckpointError for another network.
    """
    check_state(engine.module, state)
    weights = section(state, WEIGHTS)
    for name, value in own_tensors(engine.module).items():
        with _whole(deepspeed, value, is_changed=True):
            value.data.copy_(find_part(weights, name).view(value.shape))
    has_moments = any(name.startswith(STEP) for name in state)
    if has_moments:
        steps = [float(value) for name, value in state.items() if name.startswith(STEP)]
        _create_moments(engine.optimizer, max(steps))
    for name, parameter in trained(engine.module):
        _scatter(deepspeed, parameter, None, find_part(weights, name))
        for key in MOMENTS if has_moments else ():
            # A parameter that never had a gradient has no moments under plain torch.
            if (moment := state.get(f"{key}/{name}")) is not None:
                _scatter(deepspeed, parameter, key, moment)


def _create_moments(optimizer: Any, step: float) -> None:
    """AdamW makes its state in the first step; here it is needed before."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        parts = optimizer.fp32_partitioned_groups_flat
    else:
        parts = optimizer.single_partition_of_fp32_groups
    for part in parts:
        # A count of its own for each part: AdamW counts in place.
        optimizer.optimizer.state[part] = {
            "step": torch.tensor(step),
            **{key: torch.zeros_like(part, requires_grad=False) for key in MOMENTS},
        }
    if not hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer._lazy_init_hp_params_optimizer_state()


def _scatter(deepspeed: Any, parameter: Any, key: str | None, value: Tensor) -> None:
    """This worker's part of a whole tensor, into the fp32 weights or into one moment."""
    utils = deepspeed.utils
    if not hasattr(parameter, "ds_id"):
        value = value.to(parameter.device).view(parameter.shape)
        if key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    # DeepSpeed's setter of whole tensors fails where the last part is padded.
    size, rank = parameter.ds_tensor.numel(), deepspeed.comm.get_rank(parameter.ds_process_group)
    part = value.flatten()[rank * size : (rank + 1) * size]
    part = functional.pad(part, (0, size - part.numel())).to(parameter.ds_tensor.device)
    if key is None:
        utils.safe_set_local_fp32_param(parameter, part)
    else:
        utils.safe_set_local_optimizer_state(parameter, part, key)


def _whole(
    deepspeed: Any, value: Any, *, is_changed: bool = False
) -> AbstractContextManager[object]:
    """Inside it a parameter that ZeRO-3 has partitioned is all there; rank 0's change counts."""
    if not hasattr(value, "ds_id"):
        return nullcontext()
    return deepspeed.zero.GatheredParameters([value], modifier_rank=0 if is_changed else None)


def _shape(parameter: Any) -> torch.Size:
    return parameter.ds_shape if hasattr(parameter, "ds_id") else parameter.shape
