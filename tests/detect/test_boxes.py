import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extpose.detect.boxes import box_iou, fit_image, keep_best


@pytest.mark.parametrize("is_centred", [False, True])
@pytest.mark.parametrize("shape", [(40, 80), (90, 30), (10, 10), (1, 200)])
def test_an_image_is_fitted_without_distortion(shape: tuple[int, int], is_centred: bool) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    result, scale, (x, y) = fit_image(image, (64, 96), is_centred=is_centred)
    height, width = (max(1, round(n * scale)) for n in shape)
    assert scale == min(64 / shape[0], 96 / shape[1])
    assert result.shape == (64, 96, 3)
    assert (result[y : y + height, x : x + width] == 200).all()
    assert (result == 200).sum() == 3 * height * width
    assert is_centred or (x, y) == (0, 0)


def test_iou() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]], np.float32)
    expected = [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(box_iou(boxes, boxes), expected, atol=1e-6)


def test_iou_of_an_empty_box_is_zero() -> None:
    empty = np.zeros((1, 4), np.float32)
    assert box_iou(empty, empty) == 0
    assert box_iou(empty[:0], empty).shape == (0, 1)


@given(st.lists(st.floats(0, 1, width=32), max_size=8), st.integers(0, 2**32 - 1))
def test_what_is_kept_is_sorted_and_single(scores: list[float], seed: int) -> None:
    n = len(scores)
    is_double = np.random.default_rng(seed).random((n, n)) < 0.4
    is_double |= is_double.T
    values = np.array(scores, np.float32)
    kept = keep_best(values, is_double)
    assert (np.diff(values[kept]) <= 0).all()
    for index in range(n):
        rivals = [other for other in kept if other != index and is_double[index, other]]
        if index in kept:
            assert not rivals
        else:
            assert any(values[other] >= values[index] for other in rivals)
