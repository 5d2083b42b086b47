"""Training reads shards of a store as it reads those of a disk."""

import csv
from pathlib import Path

from extpose import storage
from extpose.storage import S3Path
from pipelines.train import train
from tests.pipelines.train_runs import config_for, write_data


def losses(out: Path) -> list[str]:
    with (out / "log.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file) if row.get("loss")]


def test_the_same_steps_have_the_same_losses(tmp_path, s3):
    here = write_data(tmp_path / "data")
    there = S3Path(f"s3://bucket/{tmp_path.name}")
    storage.write_bytes(there / "0.tar", (here / "0.tar").read_bytes())
    for data, name in ((here, "a"), (there, "b")):
        train(config_for(data, tmp_path / name, steps=2, log_every=1))
    first, second = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert len(first) == 2
    assert first == second
    paths = [tmp_path / name / "model.safetensors" for name in "ab"]
    # The files also hold the config, with the data's path: as long, and the same weights.
    assert weights(paths[0]) == weights(paths[1])


def weights(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}
