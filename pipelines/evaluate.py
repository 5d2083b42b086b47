"""`extpose evaluate`: how well a checkpoint does on labelled shards.

    extpose evaluate --checkpoint runs/tiny/model.safetensors --data data/held-out

Protocol `smpl-24` (`mano-16` for hands): all joints of the kinematic chain, root = joint 0, PA by
similarity with determinant +1, every labelled frame, the shard's boxes and 2D keypoints, no flip
test. Below `out`: `metrics.json` and `report.html`.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from extpose.body_model import BodyModel, BodyOutput, load_body_model
from extpose.config import EvaluateConfig
from extpose.data.augment import augment_targets
from extpose.data.loader import find_shards
from extpose.data.shards import ShardIndex
from extpose.data.window import plain_view
from extpose.errors import ExtPoseError
from extpose.inference import FramePrediction, Network, predict_clip
from extpose.metrics import Metrics, SequenceErrors, aggregate, evaluate_sequence
from extpose.model.weights import load_model
from extpose.report import Report
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip

log = logging.getLogger(__name__)
PROTOCOLS = {"smpl": "smpl-24", "mano": "mano-16"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The numbers of one checkpoint on one set of shards, and how they were taken."""

    protocol: str
    checkpoint: str
    data: str
    modalities: str
    metrics: Metrics
    without_labels: int
    """Clips that were left out because no frame of them is labelled."""

    def rows(self) -> list[tuple[str, str]]:
        """Names with units, and values."""
        m = self.metrics
        return [
            ("MPJPE, mm", f"{m.mpjpe_mm:.1f}"),
            ("PA-MPJPE, mm", f"{m.pa_mpjpe_mm:.1f}"),
            ("MPVPE, mm", f"{m.mpvpe_mm:.1f}"),
            ("PA-MPVPE, mm", f"{m.pa_mpvpe_mm:.1f}"),
            ("acceleration error, mm/frame^2", f"{m.accel_mm_frame2:.2f}"),
            ("acceleration error, m/s^2", f"{m.accel_m_s2:.2f}"),
            ("jitter, 10 m/s^3", f"{m.jitter_10m_s3:.2f}"),
            ("jitter of the truth, 10 m/s^3", f"{m.target_jitter_10m_s3:.2f}"),
        ]

    def table(self) -> str:
        """The numbers as text, with their protocol."""
        width = max(len(name) for name, _ in self.rows())
        lines = [f"{name:<{width}}  {value:>9}" for name, value in self.rows()]
        head = (
            f"protocol {self.protocol}, modalities {self.modalities}, {self.metrics.num_clips} "
            f"clips, {self.metrics.num_frames} frames of {self.data}"
        )
        return "\n".join([head, *lines])


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Run the checkpoint over every labelled clip. Raises ExtPoseError when there is none."""
    model = load_model(config.checkpoint).to(config.device).eval()
    body = load_body_model(config.body_model, model.config.body)
    network = Network(
        model=model,
        body=body,
        device=config.device,
        modalities=config.modalities,
        batch=config.batch,
    )
    index = ShardIndex(find_shards(config.data))
    count = min(config.max_clips, len(index)) if config.max_clips else len(index)
    errors: list[SequenceErrors] = []
    for clip in tqdm(_clips(index, count), total=count, desc="evaluate", unit="clip", leave=False):
        if clip.targets is None or not clip.targets.has_pose.any():
            continue
        if clip.meta.body != model.config.body:
            raise ExtPoseError(
                f"{config.data}: {clip.key}: body is {clip.meta.body!r}, the checkpoint's is "
                f"{model.config.body!r}"
            )
        errors.append(clip_errors(clip, predict_clip(clip, network), body))
    if not errors:
        raise ExtPoseError(f"{config.data}: none of {count} clips has labelled frames")
    evaluation = Evaluation(
        protocol=PROTOCOLS[model.config.body],
        checkpoint=str(config.checkpoint),
        data=str(config.data),
        modalities=config.modalities,
        metrics=aggregate(errors),
        without_labels=count - len(errors),
    )
    write_report(evaluation, config.out)
    return evaluation


def _clips(index: ShardIndex, count: int) -> Iterator[Clip]:
    return (index.read_clip(i) for i in range(count))


def clip_errors(clip: Clip, prediction: FramePrediction, body: BodyModel) -> SequenceErrors:
    """Errors of the labelled frames of one clip, in the camera frame."""
    assert clip.targets is not None
    # A left hand is shown mirrored, as in training: its truth must be mirrored too.
    targets = augment_targets(
        clip.targets,
        plain_view(clip).augmentation,
        body=clip.meta.body,
    )
    betas = prediction.betas.mean(0, keepdim=True).expand(clip.num_frames, 10)
    with torch.inference_mode():
        found: BodyOutput = body(prediction.global_orient, prediction.pose, betas)
        truth: BodyOutput = body(
            axis_angle_to_matrix(torch.from_numpy(targets.global_orient)),
            axis_angle_to_matrix(torch.from_numpy(targets.pose)),
            torch.from_numpy(targets.betas).expand(clip.num_frames, 10),
        )
    return evaluate_sequence(
        found.joints,
        truth.joints,
        found_vertices=found.vertices,
        target_vertices=truth.vertices,
        root=(0,),
        fps=clip.meta.fps,
        valid=torch.from_numpy(targets.has_pose),
    )


def write_report(evaluation: Evaluation, out: Path) -> None:
    """`metrics.json` and `report.html`."""
    out.mkdir(parents=True, exist_ok=True)
    content = asdict(evaluation)
    # JSON has no NaN: what clips are too short for is null.
    content["metrics"] = {n: None if v != v else v for n, v in content["metrics"].items()}
    (out / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    report = Report("ExtPose: evaluation", out)
    report.text(
        f"Protocol {evaluation.protocol}: {evaluation.metrics.num_clips} clips, "
        f"{evaluation.metrics.num_frames} frames of {evaluation.data}; checkpoint "
        f"{evaluation.checkpoint}; modalities {evaluation.modalities}; "
        f"{evaluation.without_labels} clips without labels left out."
    )
    report.table(("metric", "value"), evaluation.rows())
    log.info("report: %s", report.write())
