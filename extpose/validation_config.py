"""How held-out clips are scored in training. Standard library only."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """By what rule held-out clips are scored, with which files; and which weights are the best."""

    protocol: str = ""
    """Name of a protocol, such as `3dpw-14-wham`; none: the free body's or hand's."""
    best_by: str = "pa_mpjpe"
    """Metric of the protocol that says which weights `best.safetensors` keeps."""
    body_male: Path | None = None
    """SMPL file of labels of male bodies; `body_model` is the neutral one."""
    body_female: Path | None = None
