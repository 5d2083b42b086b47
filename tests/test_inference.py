"""Windows over clips, and the way from crop cameras to a motion in the full image."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extpose.body_model import load_body_model
from extpose.config import ModelConfig, PredictConfig
from extpose.data.augment import Masking
from extpose.data.window import make_batch, network_boxes, plain_view
from extpose.detect.people import Detections
from extpose.geometry import project_to_crop
from extpose.inference import (
    Network,
    detect_tracks,
    predict_clip,
    predict_video,
    slice_clip,
    sliding_windows,
)
from extpose.model.extpose import ExtPose
from extpose.motion import FramePrediction, Motion, join_motion, save_motion
from extpose.schema import Clip
from tests.pipelines.fakes import write_people

MakeClip = Callable[..., Clip]
NAMES = tuple(FramePrediction.__dataclass_fields__)


@pytest.fixture(scope="module")
def network(tiny_model_config: ModelConfig) -> Network:
    """Random weights, also where the initial ones are zero: every frame's output is its own."""
    torch.manual_seed(0)
    model = ExtPose(tiny_model_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return Network(model=model, body=load_body_model(), batch=2)


@given(st.integers(1, 200), st.integers(1, 20))
def test_windows_keep_every_frame_once(num_frames: int, size: int) -> None:
    windows = sliding_windows(num_frames, size)
    kept = [frame for _, first, stop in windows for frame in range(first, stop)]
    assert kept == list(range(num_frames))
    for start, first, stop in windows:
        assert start <= first < stop <= start + size
        assert start == 0 or start + size <= num_frames
    steps = [b[0] - a[0] for a, b in itertools.pairwise(windows)]
    assert all(1 <= step <= max(size // 2, 1) for step in steps)
    assert all(step == max(size // 2, 1) for step in steps[:-1])


@given(st.integers(3, 200), st.integers(2, 20))
def test_windows_keep_their_middle(num_frames: int, size: int) -> None:
    """No other window holds a kept frame more than half a frame further from its ends."""
    windows = sliding_windows(num_frames, size)

    def distance(start: int, frame: int) -> float:
        return abs(frame - (start + (min(size, num_frames) - 1) / 2))

    for start, first, stop in windows:
        for frame in range(first, stop):
            best = min(distance(other, frame) for other, _, _ in windows)
            assert distance(start, frame) <= best + 1


def by_hand(clip: Clip, network: Network, start: int, masking: Masking) -> FramePrediction:
    """One window, straight through the network."""
    config = network.model.config
    part = slice_clip(clip, start, min(start + config.max_frames, clip.num_frames))
    batch = make_batch(
        [part],
        [plain_view(part, masking)],
        num_frames=config.max_frames,
        size=config.image_size,
        skeleton=network.skeleton,
    )
    with torch.inference_mode():
        found = network.model(batch.rgb, batch.skeleton, batch.valid)
    t = part.num_frames
    return FramePrediction(
        global_orient=found.params.global_orient[0, :t],
        pose=found.params.pose[0, :t],
        betas=found.params.betas.expand(t, 10),
        crop_cam=found.crop_cam[0, :t],
        crop_box_img=batch.crop_box_img[0, :t],
    )


@pytest.mark.parametrize("num_frames", [1, 3, 4, 7, 11])
def test_predict_clip_is_the_network_on_each_window(
    make_clip: MakeClip, network: Network, num_frames: int
) -> None:
    clip = make_clip(1, num_frames)
    found = predict_clip(clip, network)
    size = network.model.config.max_frames
    for start, first, stop in sliding_windows(num_frames, size):
        expected = by_hand(clip, network, start, Masking(rgb=False, skeleton=False))
        for name in NAMES:
            a = getattr(found, name)[first:stop]
            b = getattr(expected, name)[first - start : stop - start]
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert all(len(getattr(found, name)) == num_frames for name in NAMES)
    boxes = network_boxes(clip, plain_view(clip).augmentation)
    np.testing.assert_allclose(found.crop_box_img.numpy(), boxes, rtol=1e-6)
    if num_frames > 1:  # else the comparisons above could not see a frame at a wrong place
        assert (found.crop_cam[1:] - found.crop_cam[:-1]).abs().amax() > 1e-4


def test_frames_of_one_clip_do_not_depend_on_the_batch(
    make_clip: MakeClip, network: Network
) -> None:
    clip = make_clip(2, 11)
    one, many = (predict_clip(clip, replace(network, batch=n)) for n in (1, 8))
    for name in NAMES:
        torch.testing.assert_close(getattr(one, name), getattr(many, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modalities", ["both", "rgb", "skeleton"])
def test_the_modality_that_is_not_asked_for_is_hidden(
    make_clip: MakeClip, network: Network, modalities: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bool] = {}
    forward = network.model.forward

    def record(rgb: torch.Tensor, skeleton: torch.Tensor, valid: torch.Tensor) -> object:
        seen["rgb"], seen["skeleton"] = bool(rgb.any()), bool(skeleton.any())
        return forward(rgb, skeleton, valid)

    monkeypatch.setattr(network.model, "forward", record)
    clip = make_clip(3, 4)
    found = predict_clip(clip, replace(network, modalities=modalities))
    assert seen == {name: modalities in ("both", name) for name in ("rgb", "skeleton")}
    masking = Masking(rgb=modalities == "skeleton", skeleton=modalities == "rgb")
    expected = by_hand(clip, network, 0, masking)
    torch.testing.assert_close(found.pose, expected.pose, rtol=1e-4, atol=1e-4)


def known_prediction(
    clip: Clip, seed: int, crop_cam: tuple[float, float, float]
) -> FramePrediction:
    """An upright person whose camera is known; one shape a seed."""
    t = clip.num_frames
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    boxes = network_boxes(clip, plain_view(clip).augmentation)
    return FramePrediction(
        global_orient=upright.expand(t, 3, 3),
        pose=torch.eye(3).expand(t, 23, 3, 3),
        betas=torch.full((t, 10), float(seed)),
        crop_cam=torch.tensor(crop_cam).expand(t, 3),
        crop_box_img=torch.from_numpy(boxes),
    )


def test_join_motion_joins_in_order_and_has_one_shape(make_clip: MakeClip) -> None:
    clip = make_clip(4, 7)
    parts = [slice_clip(clip, 0, 5), slice_clip(clip, 5, 7)]
    parts[1] = replace(parts[1], meta=replace(clip.meta, first_frame=15))
    motion = join_motion(
        [(part, known_prediction(part, i, (0.9, 0.0, 0.0))) for i, part in enumerate(parts)], 700.0
    )
    assert motion.frame.tolist() == list(range(10, 17))
    for name in ("timestamps", "bbox_xyxy", "keypoints_2d", "is_detected"):
        np.testing.assert_array_equal(getattr(motion, name), getattr(clip, name))
    np.testing.assert_allclose(motion.betas, 2 / 7, rtol=1e-6)
    assert motion.image_size == (120, 160)
    expected = [[700, 0, 80], [0, 700, 60], [0, 0, 1]]
    np.testing.assert_array_equal(motion.intrinsics, np.array(expected, np.float32))
    np.testing.assert_allclose(np.abs(motion.global_orient), [[np.pi, 0, 0]] * 7, atol=1e-3)


def test_the_assumed_focal_length_is_hmr2s(make_clip: MakeClip) -> None:
    clip = make_clip(5, 2)
    motion = join_motion([(clip, known_prediction(clip, 0, (0.9, 0.0, 0.0)))], 0.0)
    assert motion.focal_length == pytest.approx(5000 / 256 * 160)


@pytest.mark.parametrize("crop_cam", [(0.9, 0.0, 0.0), (0.7, 0.1, -0.2)])
def test_a_posed_motion_projects_to_its_place_in_the_crop(
    make_clip: MakeClip, crop_cam: tuple[float, float, float]
) -> None:
    clip, body = make_clip(6, 5), load_body_model()
    prediction = known_prediction(clip, 0, crop_cam)
    motion = join_motion([(clip, prediction)], 0.0)
    posed = motion.posed(body, 1, 4)
    projected = posed.vertices.numpy() @ motion.intrinsics.T
    found = projected[..., :2] / projected[..., 2:]
    own = body(prediction.global_orient, prediction.pose, prediction.betas).vertices
    in_crop = project_to_crop(own, prediction.crop_cam).numpy()[1:4]
    boxes = prediction.crop_box_img.numpy()[1:4, None]
    expected = boxes[..., :2] + in_crop * boxes[..., 2:]
    np.testing.assert_allclose(found, expected, atol=0.5)
    assert np.ptp(found[0, :, 1]) > 40  # a person, not a dot
    head = posed.vertices[0, body.v_template[:, 1].argmax()]
    feet = posed.vertices[0, body.v_template[:, 1].argmin()]
    assert head[1] < feet[1]
    assert (posed.vertices[..., 2] > 0).all()


def test_a_saved_motion_reads_back(make_clip: MakeClip, tmp_path) -> None:
    clip = make_clip(7, 3)
    motion = join_motion([(clip, known_prediction(clip, 1, (0.9, 0.0, 0.0)))], 0.0)
    save_motion(tmp_path / "person_003.npz", motion)
    with np.load(tmp_path / "person_003.npz", allow_pickle=False) as file:
        assert set(file) == {*Motion.__dataclass_fields__, "intrinsics"} - {"is_right"}
        for name in file:
            np.testing.assert_array_equal(file[name], np.array(getattr(motion, name)))


class InBatches:
    """Finds as many people as the frame is bright; counts the calls."""

    name, batch_size = "batches", 3

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, rgb: np.ndarray) -> Detections:
        (found,) = self.detect_batch([rgb])
        return found

    def detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        self.sizes.append(len(images))
        points = np.random.default_rng(0).uniform(10, 90, (1, 17, 3)).astype(np.float32)
        points[..., 2] = 0.9
        box = np.array([[10, 10, 90, 90]], np.float32)
        one = Detections(bbox_xyxy=box, scores=np.ones(1, np.float32), keypoints_2d=points)
        return [one for _ in images]


def test_frames_come_in_batches_where_the_detector_takes_them(tmp_path: Path) -> None:
    detector = InBatches()
    video = write_people(tmp_path / "a.mp4", 10)
    (track,) = detect_tracks(video, detector, PredictConfig(checkpoint=Path())).tracks
    assert detector.sizes == [3, 3, 3, 1]
    assert track.num_frames == 10
    assert np.allclose(np.diff(track.timestamps), 1 / 25)


def test_a_network_of_hands_needs_hands(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    network = Network(
        model=ExtPose(replace(tiny_model_config, body="mano")), body=load_body_model(body="mano")
    )
    video = write_people(tmp_path / "a.mp4", 10)
    with pytest.raises(ValueError, match="needs a HandFinder"):
        predict_video(video, network, detector=InBatches(), config=PredictConfig(checkpoint=Path()))
