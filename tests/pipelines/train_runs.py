"""A tiny training set and config; as a script, training runs with DeepSpeed.

python tests/pipelines/train_runs.py FOLDER OUT STEPS[@STAGE] [OUT STEPS[@STAGE] ...]
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from extpose.config import (
    AugmentConfig,
    DataConfig,
    EngineConfig,
    LossConfig,
    TrainConfig,
)
from extpose.data.shards import write_shard
from extpose.recipes import TINY
from extpose.training import throughput
from tests.plain_clips import synthetic_clip

MODEL = replace(
    TINY, image_size=32, width=24, depth=2, num_heads=2, max_frames=2, drop_path=0.3,
    head_width=24, head_depth=1, head_num_heads=2, head_dim=12, head_mlp_width=24,
)  # fmt: skip
LOSS = LossConfig(
    keypoints_3d=1.0, keypoints_2d=1.0, global_orient=1.0, pose=1.0, betas=0.05, reduction="mean"
)


def write_data(folder: Path, *, clips: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = [synthetic_clip(f"clip-{i}", num_frames=3, seed=i) for i in range(clips)]
    write_shard(folder / "0.tar", made)
    return folder


def write_poses(path: Path, *, seed: int = 0) -> Path:
    """Real poses for an adversary."""
    rng = np.random.default_rng(seed)
    np.savez(path, body_pose=rng.normal(0, 0.3, (30, 69)), betas=rng.normal(size=(30, 10)))
    return path


def config_for(data: Path, out: Path, **changes: object) -> TrainConfig:
    """Plain torch in this process."""
    config = TrainConfig(
        data=(data,),
        out=out,
        steps=6,
        batch=4,
        checkpoint_every=2,
        log_every=2,
        launcher="local",
        model=MODEL,
        loader=DataConfig(num_frames=2, workers=0, augment=AugmentConfig()),
        loss=LOSS,
        engine=EngineConfig(
            backend="plain", lr=1e-3, micro_batch=2, clip_grad_norm=1.0, threads=1, warmup_steps=3
        ),
    )
    return replace(config, **changes)


def read_log(out: Path) -> dict[str, list[str]]:
    """The columns of the log that do not depend on time."""
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    skipped = {"seconds", *throughput.COLUMNS}
    return {name: [row[name] for row in rows] for name in rows[0] if name not in skipped}


if __name__ == "__main__":
    from pipelines.train import train

    folder, *rest = sys.argv[1:]
    poses = write_poses(Path(folder) / "mocap.npz")
    for out, words in zip(rest[::2], rest[1::2], strict=True):
        steps, _, stage = words.partition("@")
        plain = config_for(Path(folder), Path(out), steps=int(steps), mocap=poses)
        engine = replace(plain.engine, backend="deepspeed", zero_stage=int(stage or 2))
        train(replace(plain, engine=engine))
