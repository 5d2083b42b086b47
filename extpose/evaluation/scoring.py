"""One clip under one protocol: every metric, frame by frame and joint by joint.

    scores = score_clip(protocol, found, truth, key=clip.key, sequence=..., fps=clip.meta.fps)

A `ClipScores` keeps a few numbers a frame, so only one clip's vertices are ever in memory.
`posed.py` and `truth.py` make the two sides, `summary.py` the tables.

Axes    t frames   k joints of the protocol   v vertices   n frames, or windows of them   c columns
Units   metres and pixels in; printed units (`METRICS`) out
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from extpose.errors import ExtPoseError
from extpose.evaluation.metrics import aligned_errors, auc_shares, mpjae, pck_hits, rooted_errors
from extpose.evaluation.posed import Posed
from extpose.evaluation.protocol import Protocol
from extpose.evaluation.surface import f_scores
from extpose.evaluation.temporal import CONTACT_SPEED, acceleration_errors, foot_sliding, jerks
from extpose.geometry import Similarity, find_similarity

MM = 1000.0
MAX_EXTENT = {"smpl": 5.0, "mano": 1.0}
"""Nothing of a body or hand is so far from its root, metres: other units are refused."""


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The numbers of one clip under one protocol."""

    key: str
    sequence: str
    num_frames: int
    """Frames of the clip, counted or not."""
    num_scored: int
    left_out: Mapping[str, int]
    stand_in: tuple[str, ...]
    values: Mapping[str, Float64[Tensor, "n c"]]
    """By metric (`pck@0.05` for PCK): a row a frame (a triple for acceleration, a quadruple for
    jitter, a pair for foot sliding), a column a joint where it is known per joint; printed units;
    not a number where it does not count."""


def score_clip(
    protocol: Protocol, found: Posed, truth: Posed, *, key: str, sequence: str, fps: float
) -> ClipScores:
    """All metrics of the protocol for one clip of consecutive frames.

    Raises ExtPoseError, naming the clip, the field and both values, for other numbers of frames or
    points, for a prediction that is not finite, and for lengths that cannot be metres.
    """
    if fps <= 0:
        raise ExtPoseError(f"{key}: fps is {fps}, must be positive")
    valid = found.valid & truth.valid if len(found.valid) == len(truth.valid) else found.valid
    _check(protocol, found, truth, valid, key=key)
    clip = _Clip(protocol, found, truth, valid, fps)
    values: dict[str, Tensor] = {}
    for metric in protocol.metrics:
        if metric == "pck":
            for threshold in protocol.pck_thresholds:
                values[f"pck@{threshold:g}"] = clip.pck(threshold)
        else:
            values[metric] = _SCORERS[metric](clip)
    missing = int((truth.valid & ~found.valid).sum())
    return ClipScores(
        key=key,
        sequence=sequence,
        num_frames=len(valid),
        num_scored=int(valid.sum()),
        left_out={**truth.left_out, **({"not predicted": missing} if missing else {})},
        stand_in=tuple(dict.fromkeys((*found.stand_in, *truth.stand_in))),
        values=values,
    )


class _Clip:
    """Both sides of a clip; each method is one metric."""

    def __init__(
        self, protocol: Protocol, found: Posed, truth: Posed, valid: Tensor, fps: float
    ) -> None:
        self.protocol, self.found, self.truth, self.fps = protocol, found, truth, fps
        self.valid = valid
        self.is_rooted = valid if truth.has_root is None else valid & truth.has_root
        self.reflection = protocol.alignment == "reflection"
        self._vertices: tuple[Tensor, Tensor] | None = None
        self._aligned_joints: Tensor | None = None

    def mpjpe(self) -> Tensor:
        found, truth = self._joints()
        roots = self._roots()
        return MM * rooted_errors(
            found, truth, found_root=roots[0], target_root=roots[1],
            valid=self.is_rooted, has_point=self.truth.has_joint,
        )  # fmt: skip

    def pa_mpjpe(self) -> Tensor:
        if self._aligned_joints is None:
            self._aligned_joints = aligned_errors(
                *self._joints(),
                valid=self.valid,
                has_point=self.truth.has_joint,
                reflection=self.reflection,
            )
        return MM * self._aligned_joints

    def mpvpe(self) -> Tensor:
        found, truth = self._meshes()
        roots = self._roots()
        errors = rooted_errors(
            found, truth, found_root=roots[0], target_root=roots[1], valid=self.is_rooted
        )
        return MM * errors.mean(1, keepdim=True)

    def pa_mpvpe(self) -> Tensor:
        found, truth = self._aligned_meshes()
        return MM * self._hide((found - truth).norm(dim=-1).mean(1, keepdim=True))

    def auc_j(self) -> Tensor:
        return auc_shares(self.pa_mpjpe() / MM)

    def auc_v(self) -> Tensor:
        found, truth = self._aligned_meshes()
        return self._hide(auc_shares((found - truth).norm(dim=-1)).mean(1, keepdim=True))

    def f_score(self, threshold: float) -> Tensor:
        out = torch.full((len(self.valid), 1), torch.nan, dtype=torch.float64)
        found, truth = self._aligned_meshes()
        out[self.valid] = f_scores(found[self.valid], truth[self.valid], thresholds=(threshold,))
        return out

    def mpjae(self) -> Tensor:
        if self.found.rotations is None or self.truth.rotations is None:
            raise ValueError(f"protocol {self.protocol.name} scores rotations, there are none")
        return mpjae(self.found.rotations, self.truth.rotations, valid=self.valid)

    def pck(self, threshold: float) -> Tensor:
        truth = self.truth
        if self.found.keypoints_2d is None or truth.keypoints_2d is None:
            raise ValueError(f"protocol {self.protocol.name} scores 2D points, there are none")
        assert truth.has_2d is not None
        assert truth.scale_2d is not None
        return 100 * pck_hits(
            self.found.keypoints_2d,
            truth.keypoints_2d,
            scale=truth.scale_2d,
            threshold=threshold,
            has_point=truth.has_2d & self.valid[:, None],
        )

    def acceleration(self, unit: float) -> Tensor:
        errors = acceleration_errors(
            *self._rooted_joints(), valid=self.is_rooted, has_point=self.truth.has_joint
        )
        return unit * errors

    def jitter(self, side: int) -> Tensor:
        points = self._rooted_joints()[side]
        size = jerks(points, valid=self.is_rooted, has_point=self.truth.has_joint)
        return size * self.fps**3 / 10

    def sliding(self, *, of_truth: bool) -> Tensor:
        found, truth = self.found.feet, self.truth.feet
        if found is None or truth is None:
            return torch.full((max(len(self.valid) - 1, 0), 1), torch.nan, dtype=torch.float64)
        moved = foot_sliding(
            truth if of_truth else found,
            truth,
            threshold=CONTACT_SPEED / self.fps,
            valid=self.valid,
            has_point=self.truth.has_feet,
        )
        return MM * moved

    def _joints(self) -> tuple[Tensor, Tensor]:
        if self.found.joints is None or self.truth.joints is None:
            raise ValueError(f"protocol {self.protocol.name} scores 3D joints, there are none")
        return self.found.joints.double(), self.truth.joints.double()

    def _roots(self) -> tuple[Tensor, Tensor]:
        if self.found.root is None or self.truth.root is None:
            raise ValueError(f"protocol {self.protocol.name} has no root")
        return self.found.root.double(), self.truth.root.double()

    def _rooted_joints(self) -> tuple[Tensor, Tensor]:
        pairs = zip(self._joints(), self._roots(), strict=True)
        found, truth = (joints - root[:, None] for joints, root in pairs)
        return found, truth

    def _meshes(self) -> tuple[Tensor, Tensor]:
        if self.found.vertices is None or self.truth.vertices is None:
            raise ValueError(f"protocol {self.protocol.name} scores vertices, there are none")
        return self.found.vertices.double(), self.truth.vertices.double()

    def _aligned_meshes(self) -> tuple[Tensor, Tensor]:
        """Frames that do not count are zeros."""
        if self._vertices is None:
            keep = self.valid[:, None, None]
            found, truth = (torch.where(keep, mesh, 0) for mesh in self._meshes())
            move: Similarity = find_similarity(found, truth, reflection=self.reflection)
            if self.protocol.pa_vertices == "joints":
                joints = [torch.where(keep, points, 0) for points in self._joints()]
                move = find_similarity(*joints, reflection=self.reflection)
            self._vertices = move(found), truth
        return self._vertices

    def _hide(self, values: Tensor) -> Tensor:
        return torch.where(self.valid[:, None], values, torch.nan)


_SCORERS: dict[str, Callable[[_Clip], Tensor]] = {
    "mpjpe": _Clip.mpjpe,
    "pa_mpjpe": _Clip.pa_mpjpe,
    "mpvpe": _Clip.mpvpe,
    "pa_mpvpe": _Clip.pa_mpvpe,
    "mpjae": _Clip.mpjae,
    "auc_j": _Clip.auc_j,
    "auc_v": _Clip.auc_v,
    "f_5": lambda clip: clip.f_score(0.005),
    "f_15": lambda clip: clip.f_score(0.015),
    "accel": lambda clip: clip.acceleration(clip.fps**2),
    "accel_per_frame": lambda clip: clip.acceleration(MM),
    "jitter": lambda clip: clip.jitter(0),
    "target_jitter": lambda clip: clip.jitter(1),
    "foot_sliding": lambda clip: clip.sliding(of_truth=False),
    "target_foot_sliding": lambda clip: clip.sliding(of_truth=True),
}


def _check(protocol: Protocol, found: Posed, truth: Posed, valid: Tensor, *, key: str) -> None:
    """What would give a wrong number in silence."""
    for name in ("valid", "joints", "vertices", "keypoints_2d"):
        a, b = getattr(found, name), getattr(truth, name)
        if a is not None and b is not None and a.shape != b.shape:
            raise ExtPoseError(
                f"{key}: the prediction's {name} are {tuple(a.shape)}, the truth's "
                f"{tuple(b.shape)} (protocol {protocol.name})"
            )
        if name != "valid" and a is not None and not torch.isfinite(a[valid]).all():
            raise ExtPoseError(f"{key}: the prediction's {name} are not finite numbers")
    limit = MAX_EXTENT[protocol.body]
    for side, posed in (("prediction", found), ("truth", truth)):
        if posed.joints is None or posed.root is None:
            continue
        kept = valid if posed.has_root is None else valid & posed.has_root
        distance = (posed.joints - posed.root[:, None]).norm(dim=-1)
        if posed.has_joint is not None:
            distance = torch.where(posed.has_joint, distance, 0)
        farthest = float(distance[kept].max()) if kept.any() else 0.0
        if farthest > limit:
            raise ExtPoseError(
                f"{key}: a joint of the {side} is {farthest:.4g} m from the root, at most "
                f"{limit:g} m can be: are these millimetres?"
            )
