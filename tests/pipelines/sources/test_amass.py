from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.records import SourceError
from pipelines.sources.amass import Mocap, write_mocap


def write_motion(root: Path, name: str, num: int = 24, **changes: Any) -> dict[str, np.ndarray]:
    """A motion as AMASS's are; gender is stored as bytes."""
    rng = np.random.default_rng(num)
    content = {
        "trans": rng.normal(size=(num, 3)),
        "gender": np.array(b"female"),
        "mocap_framerate": np.array(120.0),
        "betas": rng.normal(size=16),
        "dmpls": rng.normal(size=(num, 8)),
        "poses": rng.normal(0, 0.3, (num, 156)),
    } | changes
    path = root / "CMU" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)
    return content


def test_poses_are_thinned_and_hands_left_out(tmp_path: Path) -> None:
    first = write_motion(tmp_path, "01/01_01_poses.npz", 24)
    second = write_motion(tmp_path, "02/02_01_poses.npz", 13, mocap_framerate=np.array(60.0))
    np.savez(tmp_path / "CMU" / "01" / "shape.npz", betas=np.zeros(16))
    out = tmp_path / "mocap.npz"
    assert write_mocap(tmp_path, out) == Mocap(num_files=2, num_poses=2 + 3)
    with np.load(out, allow_pickle=False) as found:
        assert found["body_pose"].shape == (5, 69)
        assert found["body_pose"].dtype == found["betas"].dtype == np.float32
        np.testing.assert_allclose(found["body_pose"][1, :63], first["poses"][12, 3:66], rtol=1e-6)
        np.testing.assert_allclose(found["body_pose"][4, :63], second["poses"][12, 3:66], rtol=1e-6)
        assert not found["body_pose"][:, 63:].any()
        np.testing.assert_allclose(found["betas"][1], first["betas"][:10], rtol=1e-6)
        np.testing.assert_allclose(found["betas"][2], second["betas"][:10], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": np.zeros((24, 165))}, r"poses is float64 of shape \(24, 165\), .*156"),
        ({"poses": np.full((24, 156), 90.0)}, "poses reach 90, .*degrees"),
        ({"poses": np.full((24, 156), np.nan)}, r"poses\[0, 0\] is nan"),
        ({"mocap_framerate": np.array(5.0)}, "mocap_framerate 5, expected"),
        ({"betas": np.zeros(4)}, "4 betas"),
        ({"poses": np.array([None])}, "not a readable npz of plain arrays"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, changes: Any, message: str) -> None:
    write_motion(tmp_path, "01_01_poses.npz", **changes)
    with pytest.raises(SourceError, match=r"01_01_poses\.npz: .*" + message):
        write_mocap(tmp_path, tmp_path / "out.npz")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no \*_poses\.npz$"):
        write_mocap(tmp_path, tmp_path / "out.npz")
    (tmp_path / "01_01_stageii.npz").touch()
    with pytest.raises(SourceError, match=r"stageii\.npz \(SMPL-X\): the release for SMPL\+H"):
        write_mocap(tmp_path, tmp_path / "out.npz")
    np.savez(tmp_path / "01_01_poses.npz", trans=np.zeros(3))
    with pytest.raises(SourceError, match=r"no array 'betas', has \['trans'\]"):
        write_mocap(tmp_path, tmp_path / "out.npz")
