"""The files of FreiHAND's and HO3D's servers."""

import json
from pathlib import Path

import numpy as np
import pytest

from extpose.body_model import load_body_model
from extpose.errors import ExtPoseError
from extpose.evaluation.posed import JointReader, load_reader
from extpose.evaluation.protocols import PROTOCOLS
from extpose.predictions import ClipPrediction
from pipelines.records import SourceError
from pipelines.submission import write_submission


def prediction(num_frames: int, depth: float) -> ClipPrediction:
    transl = np.tile(np.float32([0, 0.1, depth]), (num_frames, 1))
    transl[:, 0] = np.arange(num_frames)
    return ClipPrediction(
        global_orient=np.zeros((num_frames, 3), np.float32),
        pose=np.full((num_frames, 15, 3), 0.1, np.float32),
        betas=np.zeros(10, np.float32),
        transl=transl,
        focal_length=500.0,
    )


def reader_of(protocol: str) -> JointReader:
    return load_reader(PROTOCOLS[protocol], load_body_model(body="mano"))


def test_freihand_is_by_number_in_opencv_axes(tmp_path: Path) -> None:
    rgb = tmp_path / "evaluation" / "rgb"
    rgb.mkdir(parents=True)
    for number in (0, 1, 10):
        (rgb / f"{number:08d}.jpg").touch()
    found = {
        f"freihand-{number:08d}_0_{0:06d}": prediction(1, 1.0 + number) for number in (10, 0, 1)
    }
    reader = reader_of("freihand")
    joints, vertices = json.loads(write_submission(tmp_path, tmp_path, found, reader).read_text())
    assert np.shape(joints) == (3, 21, 3)
    assert np.shape(vertices) == (3, len(reader.body.v_template), 3)
    np.testing.assert_allclose(np.mean(joints, 1)[:, 2], [1, 2, 11], atol=0.1)


def test_ho3d_is_as_in_its_list_in_opengl_axes(tmp_path: Path) -> None:
    (tmp_path / "evaluation.txt").write_text("SM1/0012\nAP10/0000\nSM1/0011\n")
    found = {
        "ho3d-v2-SM1-0010_0_000010": prediction(3, 1.0),
        "ho3d-v2-AP10-0000_0_000000": prediction(1, 2.0),
    }
    reader = reader_of("ho3d-v2")
    joints, _ = json.loads(write_submission(tmp_path, tmp_path, found, reader).read_text())
    wrists = np.array(joints)[:, 0]
    assert (np.array(joints)[..., 2] < 0).all()
    np.testing.assert_allclose(wrists[:, 2], [-1, -2, -1], atol=0.1)
    np.testing.assert_allclose(np.diff(wrists[[2, 0], 0]), 1, atol=1e-5)
    output = found["ho3d-v2-AP10-0000_0_000000"].posed(reader.body, is_right=True)
    own = reader.read(output).joints[0].numpy() * [1, -1, -1]
    # MANO's order: after the wrist the index finger, which is the second of `hand21`.
    np.testing.assert_allclose(joints[1][1], own[5], atol=1e-6)
    np.testing.assert_allclose(joints[1][16:], own[[4, 8, 12, 16, 20]], atol=1e-6)


def test_what_cannot_be_submitted_is_refused(tmp_path: Path) -> None:
    found = {"ho3d-v2-SM1-0010_0_000010": prediction(1, 1.0)}
    with pytest.raises(SourceError, match=r"evaluation\.txt: cannot be read"):
        write_submission(tmp_path, tmp_path, found, reader_of("ho3d-v2"))
    (tmp_path / "evaluation.txt").write_text("SM1/0010\nSM1/0011\n")
    with pytest.raises(ExtPoseError, match=r"1 of 2 pictures .* \[\('SM1', 11\)\]"):
        write_submission(tmp_path, tmp_path, found, reader_of("ho3d-v2"))
    with pytest.raises(ExtPoseError, match="free-hand has no server"):
        write_submission(tmp_path, tmp_path, found, reader_of("free-hand"))
    with pytest.raises(SourceError, match="rgb: no pictures"):
        write_submission(tmp_path, tmp_path, found, reader_of("freihand"))
    (tmp_path / "evaluation.txt").write_text("SM1\n")
    with pytest.raises(SourceError, match="SEQUENCE/NUMBER"):
        write_submission(tmp_path, tmp_path, found, reader_of("ho3d-v2"))
