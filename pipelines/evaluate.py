"""`extpose evaluate`: how well a checkpoint does on labelled shards.

    extpose evaluate --checkpoint runs/tiny/model.safetensors --data data/held-out

Protocol `smpl-24` (`mano-16` for hands): all joints of the kinematic chain, root = joint 0, PA by
similarity with determinant +1, every labelled frame, the shard's boxes and 2D keypoints, no flip
test. Below `out`: `metrics.json` and `report.html`.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from tqdm import tqdm

from extpose.body_model import BodyModel, BodyOutput, load_body_model
from extpose.config import EvaluateConfig
from extpose.data.augment import augment_targets
from extpose.data.loader import find_shards
from extpose.data.shards import ShardIndex
from extpose.data.window import plain_view
from extpose.errors import ExtPoseError
from extpose.geometry import axis_angle_to_matrix
from extpose.inference import FramePrediction, Network, predict_clip
from extpose.metrics import mpjpe, mpvpe, pa_mpjpe, pa_mpvpe
from extpose.model.weights import load_model
from extpose.report import Report
from extpose.schema import Clip
from extpose.temporal import acceleration_error, jitter

log = logging.getLogger(__name__)
PROTOCOLS = {"smpl": "smpl-24", "mano": "mano-16"}


@dataclass(frozen=True, kw_only=True)
class SequenceErrors:
    """One clip: metres a frame; temporal ones in seconds, or in frames where the name says it."""

    mpjpe: Float64[Tensor, " t"]
    pa_mpjpe: Float64[Tensor, " t"]
    mpvpe: Float64[Tensor, " t"]
    pa_mpvpe: Float64[Tensor, " t"]
    accel: Float64[Tensor, " t_minus_2"]
    accel_per_frame: Float64[Tensor, " t_minus_2"]
    jitter: Float64[Tensor, " t_minus_3"]
    target_jitter: Float64[Tensor, " t_minus_3"]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Means over all frames of all clips; not a number where there was nothing to average."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    pa_mpvpe_mm: float
    accel_m_s2: float
    """Acceleration error of root-relative keypoints."""
    accel_mm_frame2: float
    jitter_10m_s3: float
    """Jitter of the prediction's root-relative keypoints, in units of 10 m/s^3."""
    target_jitter_10m_s3: float
    """Jitter of the truth: what a perfect prediction has."""
    num_clips: int
    num_frames: int
    """Valid frames."""


def evaluate_sequence(
    found_keypoints: Float[Tensor, "t k 3"],
    target_keypoints: Float[Tensor, "t k 3"],
    *,
    found_vertices: Float[Tensor, "t v 3"],
    target_vertices: Float[Tensor, "t v 3"],
    root: tuple[int, ...],
    fps: float,
    valid: Bool[Tensor, " t"] | None = None,
) -> SequenceErrors:
    """All errors of one clip of consecutive frames; `root` keypoints centre points and vertices."""
    if fps <= 0:
        raise ValueError(f"fps is {fps}, must be positive")
    roots = [
        points[..., list(root), :].double().mean(-2)
        for points in (found_keypoints, target_keypoints)
    ]
    found, target = (
        points.double() - centre.double()[:, None]
        for points, centre in zip((found_keypoints, target_keypoints), roots, strict=True)
    )
    per_frame = acceleration_error(found, target, valid=valid)
    return SequenceErrors(
        mpjpe=mpjpe(found, target, root=root, valid=valid),
        pa_mpjpe=pa_mpjpe(found, target, valid=valid),
        mpvpe=mpvpe(
            found_vertices,
            target_vertices,
            found_root=roots[0],
            target_root=roots[1],
            valid=valid,
        ),
        pa_mpvpe=pa_mpvpe(found_vertices, target_vertices, valid=valid),
        accel=per_frame * fps**2,
        accel_per_frame=per_frame,
        jitter=jitter(found, valid=valid) * fps**3,
        target_jitter=jitter(target, valid=valid) * fps**3,
    )


def aggregate(errors: Iterable[SequenceErrors]) -> Metrics:
    """Pool the frames of all clips: a long clip counts more than a short one (WHAM's rule)."""
    clips = list(errors)
    means = {
        field.name: float(torch.cat([getattr(clip, field.name) for clip in clips]).nanmean())
        if clips
        else float("nan")
        for field in fields(SequenceErrors)
    }
    return Metrics(
        mpjpe_mm=1000 * means["mpjpe"],
        pa_mpjpe_mm=1000 * means["pa_mpjpe"],
        mpvpe_mm=1000 * means["mpvpe"],
        pa_mpvpe_mm=1000 * means["pa_mpvpe"],
        accel_m_s2=means["accel"],
        accel_mm_frame2=1000 * means["accel_per_frame"],
        jitter_10m_s3=means["jitter"] / 10,
        target_jitter_10m_s3=means["target_jitter"] / 10,
        num_clips=len(clips),
        num_frames=sum(int((~clip.mpjpe.isnan()).sum()) for clip in clips),
    )


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
