"""The real person detector on rendered people: the pictures are realistic enough for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig, SynthConfig
from extpose.detect.movenet import PersonDetector
from extpose.keypoints import COCO17_OF_BODY44
from extpose.synth.render import make_synthetic_clip, open_studio


@pytest.mark.assets
def test_the_detector_finds_rendered_people(asset: Callable[[str], Path]) -> None:
    asset("movenet-thunder")
    asset("person-boxes")
    config = SynthConfig(out=Path("unused"), num_frames=1, keypoints="detector", split="test")
    studio = open_studio(config, asset("motion"), PersonDetector(DetectConfig()))
    errors = []
    for index in range(12):
        clip = make_synthetic_clip(studio, config, index)
        assert clip.targets is not None
        error = np.linalg.norm(
            clip.keypoints_2d[..., :2] - clip.targets.keypoints_2d[:, list(COCO17_OF_BODY44), :2],
            axis=-1,
        )
        size = np.ptp(clip.targets.keypoints_2d[0, :, :2], axis=0).max()
        errors.append(error[clip.keypoints_2d[..., 2] > 0.3] / size)
    # Not all: some stand behind things, in the dark, or half outside the picture.
    assert sum(len(e) > 0 for e in errors) >= 7
    assert np.median(np.concatenate(errors)) < 0.03
