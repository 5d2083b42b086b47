"""What a prediction is: the parameters of one clip, and one person's motion in the full camera.

Axes    t frames   j joint rotations without the root   v vertices
Units   metres, radians, pixels, seconds; `_cam` is the full image's camera (OpenCV axes)
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64

from extpose.body_model import BodyModel, BodyOutput
from extpose.geometry import (
    crop_cam_to_full,
    default_focal_length,
    matrix_to_axis_angle,
    mirror_points,
    mirror_rotations,
)
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip


@dataclass(frozen=True, kw_only=True)
class FramePrediction:
    """What the network says of the t frames of a clip. Rotations are matrices.

    Of a left hand it is about what the network is shown: the mirror image, a right hand. Metrics
    compare there, with mirrored labels; `unmirror` turns it back.
    """

    global_orient: Float[torch.Tensor, "t 3 3"]
    pose: Float[torch.Tensor, "t j 3 3"]
    betas: Float[torch.Tensor, "t 10"]
    """Of the window that the frame was taken from."""
    crop_cam: Float[torch.Tensor, "t 3"]
    crop_box_img: Float[torch.Tensor, "t 3"]


def unmirror(prediction: FramePrediction) -> FramePrediction:
    """The left hand whose mirror image the prediction is about, in its own un-mirrored crop.

    Mirroring the crop about its middle is mirroring the camera's x: rotations are conjugated, the
    camera's tx changes its sign; scale, box and shape stay.
    """
    return replace(
        prediction,
        global_orient=mirror_rotations(prediction.global_orient),
        pose=mirror_rotations(prediction.pose),
        crop_cam=prediction.crop_cam * torch.tensor([1.0, -1.0, 1.0]),
    )


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One person (or hand) over t frames, in the camera of the full image.

    `vertices_cam = body(global_orient, pose, betas) + transl` projects with `focal_length` and the
    principal point at the image's centre. A left hand's rotations are those of a left hand: of the
    mirror image of the right-hand model, which is what `posed` gives.
    """

    track_id: int
    """Of the person; of a hand twice the person's, plus 1 for a right hand."""
    is_right: bool | None
    """Hands only."""
    frame: Int64[np.ndarray, " t"]
    """Index in the video; with gaps where the person or hand was away for long."""
    timestamps: Float64[np.ndarray, " t"]
    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t j 3"]
    betas: Float32[np.ndarray, " 10"]
    """One shape: the mean over the frames."""
    transl: Float32[np.ndarray, "t 3"]
    focal_length: float
    image_size: tuple[int, int]
    """Height, width."""
    bbox_xyxy: Float32[np.ndarray, "t 4"]
    keypoints_2d: Float32[np.ndarray, "t k 3"]
    """What the detector saw: x y in source pixels, confidence."""
    is_detected: Bool[np.ndarray, " t"]

    @property
    def intrinsics(self) -> Float32[np.ndarray, "3 3"]:
        """Camera matrix of the full image."""
        height, width = self.image_size
        f = self.focal_length
        return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], np.float32)

    def posed(self, body: BodyModel, start: int = 0, stop: int | None = None) -> BodyOutput:
        """Mesh, joints and keypoints of the frames [start, stop) in the camera frame, metres.

        `body` is the right-hand model for left hands too. Their triangles are those of `faces`.
        """
        part = slice(start, stop)
        arrays = (self.global_orient[part], self.pose[part], self.transl[part])
        orient, pose, transl = (torch.from_numpy(a) for a in arrays)
        betas = torch.from_numpy(self.betas).expand(len(orient), 10)
        rotations = axis_angle_to_matrix(orient), axis_angle_to_matrix(pose)
        return pose_body(body, *rotations, betas, transl, is_right=self.is_right)

    def faces(self, body: BodyModel) -> Int64[np.ndarray, "f 3"]:
        """Triangles of the meshes of `posed`; a mirrored mesh's run the other way around."""
        faces = body.faces.cpu().numpy()
        return np.ascontiguousarray(faces[:, ::-1]) if self.is_right is False else faces


def pose_body(
    body: BodyModel,
    global_orient: Float[torch.Tensor, "t 3 3"],
    pose: Float[torch.Tensor, "t j 3 3"],
    betas: Float[torch.Tensor, "t 10"],
    transl: Float[torch.Tensor, "t 3"],
    *,
    is_right: bool | None,
) -> BodyOutput:
    """`body(...)` without gradients; a left hand by the mirrored right-hand model.

    A left hand's parameters go in as a left hand's and its mesh comes out as it is.
    """
    with torch.inference_mode():
        if is_right is not False:
            return body(global_orient, pose, betas, transl)
        rotations = map(mirror_rotations, (global_orient, pose))
        return mirror_output(body(*rotations, betas, mirror_points(transl)))


def mirror_output(output: BodyOutput) -> BodyOutput:
    """The mesh and its points with the sign of x changed."""
    return BodyOutput(
        vertices=mirror_points(output.vertices),
        joints=mirror_points(output.joints),
        keypoints=mirror_points(output.keypoints),
    )


def join_motion(parts: list[tuple[Clip, FramePrediction]], focal_length: float) -> Motion:
    """One person's (or hand's) clips, in order, to one motion in the full image's camera.

    Predictions are `predict_clip`'s; those of a left hand are turned back.
    `focal_length` in pixels; 0 stands for HMR2.0's assumption.
    """
    clips, is_right = [clip for clip, _ in parts], parts[0][0].meta.is_right
    predictions = [unmirror(p) if is_right is False else p for _, p in parts]
    image_size = torch.tensor(clips[0].meta.image_size, dtype=torch.float32)
    focal = focal_length or float(default_focal_length(image_size))
    joined = {
        name: torch.cat([getattr(prediction, name) for prediction in predictions])
        for name in FramePrediction.__dataclass_fields__
    }
    transl = crop_cam_to_full(
        joined["crop_cam"],
        joined["crop_box_img"],
        image_size.expand(len(joined["crop_cam"]), 2),
        focal,
    )
    return Motion(
        track_id=clips[0].meta.track_id,
        is_right=is_right,
        frame=np.concatenate([c.meta.first_frame + np.arange(c.num_frames) for c in clips]),
        timestamps=np.concatenate([c.timestamps for c in clips]),
        global_orient=matrix_to_axis_angle(joined["global_orient"]).numpy(),
        pose=matrix_to_axis_angle(joined["pose"]).numpy(),
        betas=joined["betas"].mean(0).numpy(),
        transl=transl.numpy(),
        focal_length=focal,
        image_size=clips[0].meta.image_size,
        bbox_xyxy=np.concatenate([c.bbox_xyxy for c in clips]),
        keypoints_2d=np.concatenate([c.keypoints_2d for c in clips]),
        is_detected=np.concatenate([c.is_detected for c in clips]),
    )


def save_motion(path: Path, motion: Motion) -> None:
    """Write one person's motion as `.npz` (no pickle); `docs/output.md` lists the arrays."""
    arrays = {name: getattr(motion, name) for name in Motion.__dataclass_fields__}
    if motion.is_right is None:
        del arrays["is_right"]
    np.savez(path, **arrays, intrinsics=motion.intrinsics)
