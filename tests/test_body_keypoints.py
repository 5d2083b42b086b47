"""Keypoints by folded weights equal the keypoints of the skinned mesh."""

import numpy as np
import pytest
import torch

from extpose.body_file import BodyArrays
from extpose.body_model import BodyModel
from extpose.rotations import axis_angle_to_matrix


@pytest.mark.parametrize("num_joints", [24, 16])
@pytest.mark.parametrize("has_regressor", [True, False])
@pytest.mark.parametrize("has_correctives", [True, False])
def test_equal_those_of_the_mesh(num_joints: int, has_regressor: bool, has_correctives: bool):
    rng = np.random.default_rng(0)
    v, j = 6900 if num_joints == 24 else 800, num_joints - 1
    weights = rng.random((v, num_joints)).astype(np.float32)
    regressor = rng.random((19, v)).astype(np.float32)
    model = BodyModel(
        BodyArrays(
            v_template=rng.normal(size=(v, 3)).astype(np.float32),
            shapedirs=rng.normal(0, 0.1, (v, 3, 10)).astype(np.float32),
            posedirs=rng.normal(0, 0.01, (v, 3, 9 * j)).astype(np.float32)
            if has_correctives
            else None,
            J_regressor=np.full((num_joints, v), 1 / v, np.float32),
            weights=weights / weights.sum(1, keepdims=True),
            parents=(-1, *range(j)),
            faces=np.zeros((1, 3), np.int64),
            coco_regressor=None,
            extra_regressor=regressor / regressor.sum(1, keepdims=True) if has_regressor else None,
        )
    )
    torch.manual_seed(0)
    arguments = (
        axis_angle_to_matrix(torch.randn(2, 3, 3)),
        axis_angle_to_matrix(0.5 * torch.randn(2, 3, j, 3)),
        torch.randn(2, 3, 10),
    )
    found, mesh = model.find_keypoints(*arguments), model(*arguments)
    torch.testing.assert_close(found, mesh.keypoints, rtol=0, atol=3e-6)
