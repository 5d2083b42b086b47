"""How a training config is said to DeepSpeed; nothing of it is imported here."""

from typing import Any

from extpose.config import EngineConfig
from extpose.errors import TrainingError
from extpose.training.plain import AUTOCAST

BUCKET_ELEMENTS = 50_000_000
"""Of ZeRO's communication buffers; its default of 500 million asks for 2 GB at once."""


def check_offload(config: EngineConfig) -> None:
    """Raises TrainingError where there is nothing that could be kept in main memory."""
    least = {"nothing": 0, "optimizer": 1, "parameters": 3}[config.offload]
    if config.offload == "nothing":
        return
    if config.backend == "plain":
        raise TrainingError(f"offload is {config.offload!r}, but backend is 'plain': it is ZeRO's")
    if config.zero_stage < least:
        raise TrainingError(
            f"offload is {config.offload!r}, which needs zero_stage {least} or more; "
            f"it is {config.zero_stage}"
        )


def deepspeed_settings(
    config: EngineConfig, *, accumulation: int, micro_batch: int
) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    offload = {"device": "cpu"}
    offloaded: dict[str, dict[str, Any]] = {
        "nothing": {},
        "optimizer": {"offload_optimizer": offload},
        "parameters": {"offload_optimizer": offload, "offload_param": offload},
    }
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip_grad_norm,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        # Its own optimiser for offloaded state would have to be compiled at start-up.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            **offloaded[config.offload],
        },
    }
    if config.precision in AUTOCAST:
        dtype = str(AUTOCAST[config.precision]).removeprefix("torch.")
        settings["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return settings
