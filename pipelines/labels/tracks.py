"""What sources make of points: boxes, evidence and tracks.

Axes    t frames   k keypoints of the evidence   m points of a data set
Units   pixels (centre of the top left pixel is 0, 0), seconds
"""

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from extpose.detect.people import Track
from extpose.keypoints import COCO17_OF_BODY44, EXTRA19, reorder_keypoints
from pipelines.records import box_around

OPENPOSE18 = (
    "nose", None, "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""OpenPose's older set (its COCO model) among `coco17`, which has no neck."""


def with_ones(points: Shaped[np.ndarray, "*t m c"]) -> Float32[np.ndarray, "*t m c1"]:
    """Points and a last channel of 1: they are labelled."""
    ones = np.ones((*points.shape[:-1], 1))
    return np.concatenate([points, ones], -1).astype(np.float32)


_MOVABLE = {
    f"lsp_{side}_{joint}": f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
"""LSP's joints that a COCO skeleton has too."""


def to_evidence(points: Float32[np.ndarray, "*t 44 3"]) -> Float32[np.ndarray, "*t 17 3"]:
    """COCO's keypoints from labelled `body44` ones, for data sets without 2D detections.

    Where OpenPose's joint is not labelled, LSP's of the same name stands in: other millimetres,
    the same limb.
    """
    evidence = points[..., list(COCO17_OF_BODY44), :].copy()
    stand_ins = reorder_keypoints(
        points[..., -len(EXTRA19) :, :], [_MOVABLE.get(name) for name in EXTRA19], "coco17"
    )
    missing = evidence[..., 2:] == 0
    return np.where(missing, stand_ins, evidence)


def find_boxes(
    points: Float32[np.ndarray, "t m 3"], fallback: Float32[np.ndarray, "t m2 3"] | None = None
) -> Float32[np.ndarray, "t 4"]:
    """Boxes (x0 y0 x1 y1) around the points with confidence; around `fallback` where none has.

    Raises SourceError for a frame without any.
    """
    labelled = points[..., 2] > 0
    if fallback is not None:
        stand_in = (fallback[..., 2] > 0) & ~np.any(labelled, 1, keepdims=True)
        points, labelled = (
            np.concatenate(pair, 1) for pair in ((points, fallback), (labelled, stand_in))
        )
    return box_around(points[..., :2], labelled)


def make_track(
    boxes: Float32[np.ndarray, "t 4"],
    evidence: Float32[np.ndarray, "t k 3"],
    *,
    first_frame: int = 0,
    fps: float = 1.0,
    track_id: int = 0,
    is_detected: Bool[np.ndarray, " t"] | None = None,
) -> Track:
    """A track of annotated boxes; frame numbers count at `fps`."""
    num = len(boxes)
    return Track(
        track_id=track_id,
        first_frame=first_frame,
        bbox_xyxy=boxes,
        keypoints_2d=evidence,
        timestamps=(first_frame + np.arange(num)) / fps,
        is_detected=np.ones(num, bool) if is_detected is None else is_detected,
    )
