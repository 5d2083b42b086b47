"""`extpose evaluate`: the truth has no error, and what cannot be evaluated is refused by name."""

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.batch import PoseParams, Prediction
from extpose.config import EvaluateConfig, ModelConfig
from extpose.data.augment import flip_targets
from extpose.data.shards import write_shard
from extpose.errors import AssetError, CheckpointError, ExtPoseError, ShardError, TrainingError
from extpose.model.extpose import ExtPose
from extpose.model.weights import save_model
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip, ClipTargets
from pipelines.evaluate import evaluate
from pipelines.train import train
from tests.pipelines.train_runs import config_for, write_data
from tests.plain_clips import synthetic_clip


@pytest.fixture(scope="module")
def checkpoint(tiny_model_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("evaluate") / "model.safetensors"
    save_model(path, ExtPose(tiny_model_config))
    return path


def hand_checkpoint(folder: Path, config: ModelConfig) -> Path:
    save_model(folder / "hand.safetensors", ExtPose(replace(config, body="mano")))
    return folder / "hand.safetensors"


def shards(folder: Path, clips: Iterable[Clip]) -> Path:
    folder.mkdir()
    write_shard(folder / "0.tar", clips)
    return folder


def still(clip: Clip) -> Clip:
    """The same clip with its first frame's labels in every frame."""
    targets = clip.targets
    assert targets is not None
    orient, pose = (
        np.repeat(a[:1], clip.num_frames, 0) for a in (targets.global_orient, targets.pose)
    )
    return replace(clip, targets=replace(targets, global_orient=orient, pose=pose))


def tell(monkeypatch: pytest.MonkeyPatch, truth: ClipTargets) -> None:
    """Make every network answer with the first frame of `truth`."""

    def forward(_: ExtPose, rgb: torch.Tensor, *__: object) -> Prediction:
        b, t = rgb.shape[:2]
        orient = axis_angle_to_matrix(torch.from_numpy(truth.global_orient[:1]))
        pose = axis_angle_to_matrix(torch.from_numpy(truth.pose[:1]))
        params = PoseParams(
            global_orient=orient.expand(b, t, 3, 3),
            pose=pose.expand(b, t, -1, 3, 3),
            betas=torch.from_numpy(truth.betas).expand(b, 10),
        )
        return Prediction(params=params, crop_cam=torch.ones(b, t, 3))

    monkeypatch.setattr(ExtPose, "forward", forward)


def test_the_truth_has_no_error(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = still(synthetic_clip("a", num_frames=6))
    second = still(synthetic_clip("b", num_frames=9))  # the same seed: the same first frame
    assert first.targets is not None
    assert second.targets is not None
    second = replace(second, targets=replace(first.targets, **_longer(first.targets, 9)))
    blank = synthetic_clip("c", labelled=False)
    hidden = replace(first, key="d", targets=replace(first.targets, has_pose=np.zeros(6, bool)))
    data = shards(tmp_path / "data", [first, second, blank, hidden])
    tell(monkeypatch, first.targets)
    out = tmp_path / "out"
    found = evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=out))
    assert (found.metrics.num_clips, found.metrics.num_frames, found.without_labels) == (2, 15, 2)
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm", "accel_mm_frame2"):
        assert getattr(found.metrics, name) < 0.01, name
    written = json.loads((out / "metrics.json").read_text())
    assert (written["protocol"], written["modalities"]) == ("smpl-24", "both")
    assert written["metrics"]["mpjpe_mm"] == found.metrics.mpjpe_mm
    assert "smpl-24" in (out / "report.html").read_text()
    assert "protocol smpl-24, modalities both, 2 clips, 15 frames" in found.table()


def _longer(targets: ClipTargets, num_frames: int) -> dict[str, np.ndarray]:
    once = {"betas", "has_betas", "is_visible", "vertices"}
    names = set(ClipTargets.__dataclass_fields__) - once
    return {name: np.repeat(getattr(targets, name)[:1], num_frames, 0) for name in names}


def test_errors_are_seen(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = still(synthetic_clip("a", num_frames=6))
    assert clip.targets is not None
    turned = replace(clip.targets, global_orient=clip.targets.global_orient + np.float32(0.5))
    tell(monkeypatch, turned)
    data = shards(tmp_path / "data", [clip])
    metrics = evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "o")).metrics
    assert metrics.mpjpe_mm > 50
    assert metrics.pa_mpjpe_mm < 0.01


@pytest.mark.parametrize("is_right", [True, False])
def test_left_hands_are_compared_mirrored(
    tiny_model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    """The network only ever sees right hands."""
    clip = still(synthetic_clip("a", num_frames=4, body="mano"))
    clip = replace(clip, meta=replace(clip.meta, is_right=is_right))
    assert clip.targets is not None
    seen = clip.targets
    if not is_right:
        seen = flip_targets(seen, body="mano")
    tell(monkeypatch, seen)
    config = EvaluateConfig(
        checkpoint=hand_checkpoint(tmp_path, tiny_model_config),
        data=shards(tmp_path / "data", [clip]),
        out=tmp_path / "out",
    )
    found = evaluate(config)
    assert found.protocol == "mano-16"
    assert found.metrics.mpjpe_mm < 0.01


def test_metrics_of_a_clip_too_short_for_some_are_null(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", num_frames=2)])
    evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path))
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)["metrics"]
    assert metrics["accel_m_s2"] is None
    assert metrics["mpjpe_mm"] > 0


@pytest.mark.parametrize("labelled", [False, True])
def test_unlabelled_shards_are_refused(checkpoint: Path, tmp_path: Path, labelled: bool) -> None:
    clip = synthetic_clip("a", labelled=labelled)
    if clip.targets is not None:
        clip = replace(clip, targets=replace(clip.targets, has_pose=np.zeros(4, bool)))
    data = shards(tmp_path / "data", [clip])
    with pytest.raises(ExtPoseError, match="data: none of 1 clips has labelled frames"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_hands_are_refused_by_a_body_network(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", body="mano")])
    with pytest.raises(ExtPoseError, match="a: body is 'mano', the checkpoint's is 'smpl'"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out"))


def test_missing_and_broken_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a")])
    good = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out")
    with pytest.raises(ShardError, match="nowhere: no shards"):
        evaluate(replace(good, data=tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        evaluate(replace(good, checkpoint=tmp_path / "none.safetensors"))
    whole, cut = checkpoint.read_bytes(), tmp_path / "cut.safetensors"
    for content in (whole[: len(whole) // 2], b"", b"hello" * 100):
        cut.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            evaluate(replace(good, checkpoint=cut))
    with pytest.raises((AssetError, ExtPoseError), match=r"none\.npz"):
        evaluate(replace(good, body_model=tmp_path / "none.npz"))


def test_another_schema_version_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a")])
    with tarfile.open(data / "0.tar") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    meta = json.loads(members["a.meta.json"]) | {"schema_version": 99}
    members["a.meta.json"] = json.dumps(meta).encode()
    with tarfile.open(data / "0.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ShardError, match=r"0\.tar: a.*schema_version is 99, this code reads 2"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out"))


def test_training_from_weights_of_another_size_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = config_for(write_data(tmp_path / "data"), tmp_path / "out", init=checkpoint)
    with pytest.raises(TrainingError) as caught:
        train(config)
    message = str(caught.value)
    assert f"{checkpoint} does not fit the model" in message
    wrong = [line for line in message.splitlines() if "in the file" in line]
    assert wrong
    assert all(" in the file, (" in line and line.endswith(" in the model") for line in wrong)
    assert not (config.out / "model.safetensors").exists()
