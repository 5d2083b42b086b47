"""`extpose predict` on small drawn videos, with a detector that sees their rectangles."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from extpose.body_model import load_body_model
from extpose.config import CropConfig, DetectConfig, ModelConfig, PredictConfig
from extpose.detect.wrist_hands import FoundHands
from extpose.errors import CheckpointError
from extpose.inference import Network, predict_clip
from extpose.model.extpose import ExtPose
from extpose.model.weights import save_model
from extpose.motion import join_motion
from extpose.video import read_frames
from pipelines import predict as predict_module
from pipelines.predict import folder_names, predict
from tests.clips import random_clip
from tests.pipelines.fakes import BoxDetector, write_people

NUM_FRAMES = 12
HAND = np.random.default_rng(0).uniform(0, 30, (21, 2))
DOCUMENT = Path(__file__).parents[2] / "docs" / "output.md"


class FakeDetector(BoxDetector):
    name = "boxes"

    def __init__(self, _: DetectConfig) -> None:
        super().__init__(0.0)


@pytest.fixture(scope="module")
def checkpoint(tiny_model_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("predict") / "model.safetensors"
    save_model(path, ExtPose(tiny_model_config))
    return path


@pytest.fixture
def config(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    monkeypatch.setattr(predict_module, "build_detector", lambda _, detect: FakeDetector(detect))
    return PredictConfig(checkpoint=checkpoint, out=tmp_path / "out", crop=CropConfig(size=64))


def documented_arrays() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.M))


def test_what_is_written(config: PredictConfig, tmp_path: Path) -> None:
    video = write_people(tmp_path / "walk one.mp4", NUM_FRAMES, people=2)
    assert predict([video], config) == 0
    folder = config.out / "walk-one"
    people = sorted(path.name for path in folder.glob("*.npz"))
    assert len(people) == 2
    for name in people:
        with np.load(folder / name, allow_pickle=False) as file:
            assert set(file) == documented_arrays() - {"is_right"}
            assert name == f"person_{int(file['track_id']):03d}.npz"
            assert file["frame"].tolist() == list(range(NUM_FRAMES))
            assert file["pose"].shape == (NUM_FRAMES, 23, 3)
            assert file["image_size"].tolist() == [120, 160]
            assert np.isfinite(file["transl"]).all()
    frames = [frame.rgb for frame in read_frames(folder / "overlay.mp4")]
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape == (120, 160, 3)
    source = [frame.rgb for frame in read_frames(video)]
    assert np.abs(frames[5].astype(int) - source[5]).max() > 60  # a mesh is drawn
    page = (config.out / "report.html").read_text()
    links = re.findall(r'src="([^"]*)"', page)
    assert len(links) == 4
    assert all((config.out / link).is_file() for link in links)


def test_without_an_overlay(config: PredictConfig, tmp_path: Path) -> None:
    video = write_people(tmp_path / "a.mp4", NUM_FRAMES)
    assert predict([video], replace(config, overlay=False)) == 0
    assert [path.suffix for path in (config.out / "a").iterdir()] == [".npz"]
    assert "<video" not in (config.out / "report.html").read_text()


def test_a_short_track_is_reported(config: PredictConfig, tmp_path: Path) -> None:
    """Too short for a rate or jitter."""
    video = write_people(tmp_path / "a.mp4", 2)
    detect = DetectConfig(min_track_frames=1)
    assert predict([video], replace(config, detect=detect)) == 0


def missing(path: Path) -> None:
    assert not path.exists()


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    write_people(path, NUM_FRAMES)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 200])


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def picture(path: Path) -> None:
    done, data = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))
    assert done
    path.write_bytes(data.tobytes())


def nobody(path: Path) -> None:
    write_people(path, NUM_FRAMES, people=0)


BAD = {
    missing: "missing",
    empty: "empty",
    truncated: "truncated",
    sound: "no_video_stream",
    picture: "not_a_video",
    nobody: "no_people",
}


@pytest.mark.parametrize(("make", "reason"), BAD.items(), ids=BAD.values())
def test_a_bad_video_is_named_with_its_reason(
    config: PredictConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    reason: str,
) -> None:
    bad = tmp_path / "bad.mp4"
    make(bad)
    assert predict([bad], config) == 1
    assert f"{bad}: {reason}" in caplog.text
    assert f"Failed: {bad}: {reason}" in (config.out / "report.html").read_text()
    assert not (config.out / "bad").exists()


def test_one_bad_video_does_not_stop_the_others(config: PredictConfig, tmp_path: Path) -> None:
    good = write_people(tmp_path / "good.mp4", NUM_FRAMES)
    assert predict([tmp_path / "none.mp4", good], config) == 3
    assert (config.out / "good" / "overlay.mp4").is_file()
    page = (config.out / "report.html").read_text()
    assert "none.mp4: missing" in page
    assert 'src="good/overlay.mp4"' in page


def test_videos_of_one_name_do_not_overwrite_each_other(
    config: PredictConfig, tmp_path: Path
) -> None:
    videos = []
    for name, num_frames in (("a", 10), ("b", 12)):
        (tmp_path / name).mkdir()
        videos.append(write_people(tmp_path / name / "walk.mp4", num_frames))
    assert predict(videos, replace(config, overlay=False)) == 0
    lengths = []
    for folder in ("walk", "walk-2"):
        (path,) = (config.out / folder).glob("*.npz")
        with np.load(path, allow_pickle=False) as file:
            lengths.append(len(file["frame"]))
    assert lengths == [10, 12]


def test_folder_names_are_plain_and_different() -> None:
    stems = ["a", "x/a", "a-2", "видео", "фильм", "b c.d", "--"]
    names = folder_names([Path(f"{stem}.mp4") for stem in stems])
    assert names == ["a", "a-2", "a-2-2", "video", "video-2", "b-c-d", "video-3"]


def test_a_second_run_leaves_nothing_of_the_first(config: PredictConfig, tmp_path: Path) -> None:
    assert predict([write_people(tmp_path / "a.mp4", NUM_FRAMES, people=2)], config) == 0
    kept = config.out / "a" / "notes.txt"
    kept.write_text("the user's")
    video = write_people(tmp_path / "a.mp4", NUM_FRAMES)
    assert predict([video], replace(config, overlay=False)) == 0
    assert len(list((config.out / "a").glob("person_*.npz"))) == 1
    assert not (config.out / "a" / "overlay.mp4").exists()
    assert "<img" not in (config.out / "report.html").read_text()
    assert kept.exists()


class FakeHands:
    """Both hands at the box's lower corners, apart; the left one away for a while."""

    name = "fake-hands"

    def __init__(self) -> None:
        self.calls = 0

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray, bodies: np.ndarray) -> FoundHands:
        self.calls += 1
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        for side in range(2):
            corner = boxes[:, [2 * side, 3]] - [10, 30]
            points[:, side, :, :2] = corner[:, None] + HAND
            points[:, side, :, 2] = 0.9
        reasons = [["", ""] for _ in boxes]
        if 6 <= self.calls <= 12:
            points[:, 0], reasons = 0, [["unsure", ""] for _ in boxes]
        return FoundHands(
            keypoints_2d=points, reasons=reasons, is_disputed=np.zeros((len(boxes), 2), bool)
        )


def test_hands_of_a_network_of_hands(
    config: PredictConfig,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tmp_path / "hand.safetensors"
    torch.manual_seed(0)
    save_model(checkpoint, ExtPose(replace(tiny_model_config, body="mano")))
    monkeypatch.setattr(predict_module, "open_hand_finder", lambda *_: FakeHands())
    video = write_people(tmp_path / "a.mp4", 20)
    detect = DetectConfig(min_track_frames=4, max_gap=3)
    assert predict([video], replace(config, checkpoint=checkpoint, detect=detect)) == 0
    folder = config.out / "a"
    names = sorted(path.name for path in folder.glob("*.npz"))
    assert names == ["person_000_left.npz", "person_000_right.npz"]
    for name, is_right in zip(names, (False, True), strict=True):
        with np.load(folder / name, allow_pickle=False) as file:
            assert set(file) == documented_arrays()
            assert bool(file["is_right"]) == is_right
            assert file["pose"].shape[1:] == (15, 3)
            away = range(5, 12) if not is_right else range(0)
            assert file["frame"].tolist() == [i for i in range(20) if i not in away]
            assert int(file["track_id"]) == int(is_right)
            seen = file["keypoints_2d"][0, :, 0].mean() - file["bbox_xyxy"][0, 0]
            assert 0 < seen < 30
    assert len(list(read_frames(folder / "overlay.mp4"))) == 20
    assert "000_left" in (config.out / "report.html").read_text()


def test_nobodys_hands(
    config: PredictConfig,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = tmp_path / "hand.safetensors"
    save_model(checkpoint, ExtPose(replace(tiny_model_config, body="mano")))
    monkeypatch.setattr(predict_module, "open_hand_finder", lambda *_: FakeHands())
    detect = DetectConfig(min_hand_pixels=90.0)
    video = write_people(tmp_path / "a.mp4", NUM_FRAMES)
    assert predict([video], replace(config, checkpoint=checkpoint, detect=detect)) == 1
    expected = "no_hands (frames of hands by reason: too_short 5, too_small 12, unsure 7)"
    assert expected in caplog.text


def test_the_mesh_of_a_left_hand_is_drawn_from_outside(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the triangles of the right hand its surface would be lit from within."""
    clip = random_clip(0, 1, body="mano")
    network = Network(
        model=ExtPose(replace(tiny_model_config, body="mano")), body=load_body_model(body="mano")
    )
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(
        predict_module,
        "overlay_mesh",
        lambda rgb, meshes, faces, **_: drawn.extend(faces) or rgb,
    )
    for is_right in (True, False):
        own = replace(clip, meta=replace(clip.meta, is_right=is_right))
        motion = join_motion([(own, predict_clip(own, network))], 0.0)
        rgb = np.zeros((*motion.image_size, 3), np.uint8)
        predict_module.draw_people(rgb, int(motion.frame[0]), [motion], network, 1.0)
    np.testing.assert_array_equal(drawn[1], drawn[0][:, ::-1])


def test_a_missing_checkpoint_is_named(config: PredictConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        predict([], replace(config, checkpoint=tmp_path / "none.safetensors"))
