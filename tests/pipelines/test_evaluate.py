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

from extpose.config import EvaluateConfig, ModelConfig
from extpose.data.augment import flip_targets
from extpose.data.shards import write_shard
from extpose.errors import AssetError, CheckpointError, ExtPoseError, ShardError, TrainingError
from extpose.model.extpose import ExtPose
from extpose.model.weights import save_model
from extpose.params import PoseParams, Prediction
from extpose.predictions import PredictionError
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip, ClipTargets
from extpose.storage import hash_file
from pipelines.evaluate import Evaluation, evaluate
from pipelines.ledger import WriteError
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
    (result,) = found.results
    assert (result.num_clips, result.num_scored, found.unlabelled) == (3, 15, 1)
    assert result.left_out == {"no labelled pose": 6}
    values = values_of(found)
    for name in ("mpjpe", "pa_mpjpe", "mpvpe", "pa_mpvpe", "accel_per_frame"):
        assert values[name] < 0.01, name
    written = json.loads((out / "results.json").read_text())
    assert written["facts"]["modalities"] == "both"
    assert written["facts"]["checkpoint_sha256"] == hash_file(checkpoint)
    assert written["results"][0]["metrics"][1]["value"] == values["mpjpe"]
    for name in ("report.html", "results.md"):
        assert "protocol free-body: 24 joints" in (out / name).read_text()
    assert "15 of 21 frames in 3 clips" in found.table()
    assert len(list((out / "pictures").glob("*.png"))) == 2


def _longer(targets: ClipTargets, num_frames: int) -> dict[str, np.ndarray]:
    once = {"betas", "has_betas", "is_visible", "vertices"}
    names = set(ClipTargets.__dataclass_fields__) - once
    return {name: np.repeat(getattr(targets, name)[:1], num_frames, 0) for name in names}


def values_of(found: Evaluation, which: int = 0) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in found.results[which].metrics}


def test_errors_are_seen(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = still(synthetic_clip("a", num_frames=6))
    assert clip.targets is not None
    turned = replace(clip.targets, global_orient=clip.targets.global_orient + np.float32(0.5))
    tell(monkeypatch, turned)
    data = shards(tmp_path / "data", [clip])
    config = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "o")
    values = values_of(evaluate(config))
    assert values["mpjpe"] > 50
    assert values["pa_mpjpe"] < 0.01


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
    assert found.results[0].protocol.name == "free-hand"
    assert values_of(found)["mpjpe"] < 0.01


def test_metrics_of_a_clip_too_short_for_some_are_null(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", num_frames=2)])
    evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path))
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    metrics = {m["name"]: m["value"] for m in json.loads(text)["results"][0]["metrics"]}
    assert metrics["accel"] is None
    assert metrics["mpjpe"] > 0


def test_unlabelled_shards_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", labelled=False)])
    with pytest.raises(ExtPoseError, match="data: none of 1 clips has labels"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_an_output_that_cannot_be_written_is_known_before_the_work(
    checkpoint: Path, tmp_path: Path
) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", labelled=False)])
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/out: cannot be written"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "file" / "out"))


def test_another_crop_than_the_protocols_is_said(checkpoint: Path, tmp_path: Path) -> None:
    """The plain clip's network crop is 128 of 192 pixels of 240 about a box of 240 x 240."""
    data = shards(tmp_path / "data", [synthetic_clip("a")])
    done = evaluate(
        EvaluateConfig(
            checkpoint=checkpoint, data=data, out=tmp_path, protocol=("3dpw-14-wham",), pictures=0
        )
    )
    assert done.facts["box_scale"] == [0.5]
    assert "3dpw-14-wham itself crops 1.1 times the box, these shards 0.5 times" in done.table()


def test_hands_are_refused_by_a_body_network(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", body="mano")])
    with pytest.raises(ExtPoseError, match="a: body is 'mano', the predictions' is 'smpl'"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out"))


def test_a_file_of_predictions_gives_the_same_numbers(checkpoint: Path, tmp_path: Path) -> None:
    clips = [synthetic_clip(f"clip-{i}", num_frames=5, seed=i) for i in range(3)]
    data = shards(tmp_path / "data", clips)
    first = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "one")
    before = evaluate(first)
    again = EvaluateConfig(
        predictions=tmp_path / "one" / "predictions.npz",
        data=data,
        out=tmp_path / "two",
        protocol=("free-body", "3dpw-14-hmr2", "3dpw-14-wham", "3dpw-24-smpl", "emdb1", "emdb1"),
    )
    after = evaluate(again)
    assert values_of(after) == values_of(before)
    assert len(after.results) == 5
    assert len({values_of(after, i)["mpjpe"] for i in range(5)}) > 1
    table = after.table()
    assert all(name in table for name in again.protocol)
    # No licensed regressor is at hand: the result says that it is not the published protocol.
    assert after.results[2].stand_in
    assert "3dpw-14-wham *" in table


@pytest.fixture(scope="module")
def predicted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and the predictions for them."""
    folder = tmp_path_factory.mktemp("predicted")
    data = shards(folder / "data", [synthetic_clip(f"clip-{i}", num_frames=5) for i in range(2)])
    evaluate(EvaluateConfig(checkpoint=checkpoint, data=data, out=folder / "out", pictures=0))
    return data, folder / "out" / "predictions.npz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": np.array(["clip-0", "b"])}, r"1 clips of .* not in it \(such as \['clip-1'\]"),
        ({"keys": np.array(["clip-0", "clip-0"])}, r"keys are repeated: \['clip-0'\]"),
        ({"num_frames": np.array([5, 4])}, r"orient has shape \(10, 3\), expected \(9, 3\)"),
        ({"num_frames": np.array([4, 6])}, "clip-0: 4 frames, the data set has 5"),
        ({"pose": np.zeros((10, 22, 3), np.float32)}, r"pose has shape \(10, 22, 3\)"),
        ({"transl": np.full((10, 3), np.nan, np.float32)}, r"clip-0: transl\[0, 0\] is nan"),
        ({"betas": np.zeros((9, 10), np.float32)}, r"shape \(9, 10\), expected \(2, 10"),
        ({"pose": np.full((10, 23, 3), 20, np.float32)}, r"pose turns .* 34.6 rad .* degrees"),
        ({"num_frames": np.array([-5, 15])}, "num_frames .* expected whole numbers from 1 on"),
        ({"num_frames": np.array(["5", "5"])}, "num_frames .* expected whole numbers from 1 on"),
        ({"pose": np.zeros((10, 23, 3), str)}, "pose is <U1, expected numbers"),
        ({"facts": np.array("by hand")}, "facts is not JSON"),
        ({"betas": None}, r"lacks \['betas'\]"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(
    predicted: tuple[Path, Path],
    tmp_path: Path,
    change: dict[str, np.ndarray | None],
    message: str,
) -> None:
    data, good = predicted
    arrays = dict(np.load(good)) | change
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(PredictionError, match=rf"bad\.npz: .*{message}"):
        evaluate(EvaluateConfig(predictions=path, data=data, out=tmp_path / "two"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": ("3dpw",)}, "unknown protocol '3dpw', known: "),
        (
            {"protocol": ("freihand",)},
            "freihand is of body 'mano', the predictions' is 'smpl'",
        ),
        ({"predictions": Path("a.npz")}, "give one of the two"),
        (
            {"checkpoint": None, "body_model": Path("SMPL.pkl")},
            "the packaged network is of the free",
        ),
        ({"window": 9}, "window is 9 frames, the network's max_frames is"),
    ],
)
def test_bad_settings_are_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a")])
    config = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out")
    with pytest.raises((ExtPoseError, ValueError), match=message):
        evaluate(replace(config, **changes))


def test_the_first_clips_of_all_shards(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip(f"a{i}", num_frames=3) for i in range(2)])
    write_shard(data / "1.tar", [synthetic_clip(f"b{i}", num_frames=3) for i in range(2)])
    for limit, count in ((0, 4), (1, 1), (3, 3), (9, 4)):
        config = EvaluateConfig(
            checkpoint=checkpoint, data=data, out=tmp_path / "out", max_clips=limit, pictures=0
        )
        assert evaluate(config).results[0].num_clips == count


def test_true_evidence_and_windows_reach_the_network(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip("a", num_frames=6)])
    config = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out", pictures=0)
    found = [
        values_of(evaluate(c))["mpjpe"]
        for c in (
            config,
            replace(config, evidence="truth"),
            replace(config, window=1),
            replace(config, flip_test=True),
            replace(config, modalities="rgb"),
        )
    ]
    assert len(set(found)) == 5


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_workers_change_nothing(checkpoint: Path, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", [synthetic_clip(f"a{i}", seed=i) for i in range(2)])
    write_shard(data / "1.tar", [synthetic_clip("b", seed=5)])
    config = EvaluateConfig(checkpoint=checkpoint, data=data, out=tmp_path / "out")
    shared, alone = evaluate(replace(config, workers=2)), evaluate(config)
    # A worker computes on one thread: sums are rounded otherwise.
    assert values_of(shared) == pytest.approx(values_of(alone), rel=1e-6, nan_ok=True)


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
    assert wrong[0] == "  width: 48 in the file, 24 in the model"
    assert all(" in the file, " in line and line.endswith(" in the model") for line in wrong)
    assert not (config.out / "model.safetensors").exists()
