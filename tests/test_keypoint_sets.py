"""Names and orders of keypoints."""

import numpy as np
import pytest

from extpose.keypoints import (
    COCO17_OF_BODY44,
    FLIP_PAIRS,
    KEYPOINT_NAMES,
    NUM_KEYPOINTS,
    reorder_keypoints,
)


@pytest.mark.parametrize("name", KEYPOINT_NAMES)
def test_names_are_unique_and_sides_are_paired(name: str) -> None:
    names = KEYPOINT_NAMES[name]
    assert len(set(names)) == len(names) == NUM_KEYPOINTS[name]
    paired = {i for pair in FLIP_PAIRS[name] for i in pair}
    assert paired == {i for i, n in enumerate(names) if "left" in n or "right" in n}
    for left, right in FLIP_PAIRS[name]:
        assert names[left].replace("left", "right") == names[right]


def test_coco_is_a_part_of_the_44() -> None:
    found = tuple(KEYPOINT_NAMES["body44"][i] for i in COCO17_OF_BODY44)
    assert found == KEYPOINT_NAMES["coco17"]


def test_reordered_points_keep_their_names() -> None:
    points = np.arange(6, dtype=np.float32).reshape(1, 2, 3) + 1
    out = reorder_keypoints(points, ("left_wrist", "nose"), "coco17")
    np.testing.assert_array_equal(out[0, 0], points[0, 1])
    np.testing.assert_array_equal(out[0, 9], points[0, 0])
    assert out.astype(bool).any(-1).sum() == 2
    assert not reorder_keypoints(points, (None, None), "coco17").any()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nose", "tail"), r"\['tail'\] are not keypoints of coco17"),
        (("nose", "nose"), "repeated"),
        (("nose",), "2 points, 1 names"),
    ],
)
def test_wrong_names_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reorder_keypoints(np.zeros((2, 3), np.float32), names, "coco17")
