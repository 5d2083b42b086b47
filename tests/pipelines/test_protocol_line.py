"""From a data set's files to the table: who predicts the labels has no error, whatever the rule.

Source, shard, predictions file, protocol and scoring must agree on units, axes, roots, genders and
sides for that.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extpose.config import CropConfig, EvaluateConfig, IngestConfig
from extpose.data.loader import find_shards
from extpose.data.shards import read_shard
from extpose.predictions import ClipPrediction, save_predictions
from pipelines.datasets import SOURCES
from pipelines.evaluate import Evaluation, evaluate
from pipelines.ingest import ingest
from pipelines.validate import validate
from tests.pipelines.sources import hands as h
from tests.pipelines.sources import test_dexycb, test_emdb, test_threedpw
from tests.pipelines.sources.bodies import make_world


def make_shards(name: str, root: Path, out: Path, **changes: object) -> Path:
    config = IngestConfig(out=out, root=root, workers=0, crop=CropConfig(size=64))
    assert ingest(replace(config, **changes), SOURCES[name]) == 0
    assert validate(out) == 0
    return out


def write_truth(data: Path, path: Path, *, shift: float = 0.0) -> Path:
    """The labels as predictions, `shift` metres to the right and with it the first joint turned."""
    found = {}
    for shard in find_shards(data):
        for clip in read_shard(shard):
            targets = clip.targets
            assert targets is not None
            found[clip.key] = ClipPrediction(
                global_orient=targets.global_orient,
                pose=targets.pose + np.float32(shift),
                betas=targets.betas,
                transl=targets.transl + np.float32([1.0, 0, 0]),
                focal_length=500.0,
            )
    save_predictions(path, found, {"made": "by the test"})
    return path


def score(data: Path, tmp_path: Path, *protocols: str, shift: float = 0.0) -> Evaluation:
    path = write_truth(data, tmp_path / "predictions.npz", shift=shift)
    config = EvaluateConfig(
        data=data, predictions=path, protocol=protocols, out=tmp_path / "out", pictures=1
    )
    return evaluate(config)


def errors(evaluation: Evaluation, which: int = 0) -> dict[str, float | None]:
    return {m.name: m.value for m in evaluation.results[which].metrics}


BODY_PROTOCOLS = ("3dpw-14-wham", "3dpw-14-hmr2", "3dpw-24-smpl", "emdb1", "free-body")


@pytest.mark.parametrize("name", ["3dpw", "emdb"])
def test_bodies_under_five_protocols(name: str, tmp_path: Path) -> None:
    world = make_world(num_frames=6, num_people=2 if name == "3dpw" else 1)
    (test_threedpw if name == "3dpw" else test_emdb).write_sequence(tmp_path / "set", world)
    data = make_shards(name, tmp_path / "set", tmp_path / "data")
    found = score(data, tmp_path, *BODY_PROTOCOLS)
    for i in range(len(BODY_PROTOCOLS)):
        values = errors(found, i)
        for metric in ("mpjpe", "pa_mpjpe", "mpvpe", "accel_per_frame"):
            value = values[metric]
            assert value is not None
            assert value < 0.5, (BODY_PROTOCOLS[i], metric)
        assert found.results[i].num_scored == 6 * len(world.people)
    wrong = score(data, tmp_path, *BODY_PROTOCOLS, shift=0.1)
    found_errors = [errors(wrong, i)["mpjpe"] for i in range(len(BODY_PROTOCOLS))]
    assert all(value is not None and value > 20 for value in found_errors)
    # The same predictions, the same labels: what differs is the rule.
    assert len({round(value or 0, 3) for value in found_errors}) >= 2


@pytest.mark.parametrize(("split", "place", "is_right"), [("train", 0, True), ("val", 4, False)])
def test_hands_of_both_sides(tmp_path: Path, split: str, place: int, is_right: bool) -> None:
    root = tmp_path / "set"
    for subject in test_dexycb.SUBJECTS:
        for i in range(test_dexycb.NUM_SEQUENCES):
            (root / subject / f"20200709_{140000 + i}").mkdir(parents=True)
    folder = f"20200709_{140000 + place}"
    hands = test_dexycb.make_hands(is_right=is_right)
    test_dexycb.write_sequence(root, root / test_dexycb.SUBJECTS[0] / folder, hands)
    h.write_mano(root)
    unit = f"{test_dexycb.SUBJECTS[0]}-{folder}"
    data = make_shards("dexycb", root, tmp_path / "data", split=split, units=(unit,))
    (clip, *_) = read_shard(find_shards(data)[0])
    assert clip.meta.is_right is is_right
    values = errors(score(data, tmp_path, "free-hand"))
    for metric in ("mpjpe", "pa_mpjpe", "mpvpe"):
        value = values[metric]
        assert value is not None
        assert value < 0.01, metric
    assert (errors(score(data, tmp_path, "free-hand", shift=0.1))["mpjpe"] or 0) > 1


def test_the_result_says_what_made_it(tmp_path: Path) -> None:
    test_threedpw.write_sequence(tmp_path / "set", make_world(num_frames=5, num_people=2))
    data = make_shards("3dpw", tmp_path / "set", tmp_path / "data")
    score(data, tmp_path, "3dpw-14-wham")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    facts, (result,) = written["facts"], written["results"]
    content = (tmp_path / "predictions.npz").read_bytes()
    assert facts["predictions_sha256"] == hashlib.sha256(content).hexdigest()
    assert len(facts["data_sha256"]) == 64
    assert facts["evidence"] == ["openpose"]
    assert result["protocol"]["name"] == "3dpw-14-wham"
    assert [row["num_frames"] for row in result["sequences"]] == [5, 5]
    assert result["stand_in"]
    metric = result["metrics"][0]
    assert metric["low"] <= metric["value"] <= metric["high"]
