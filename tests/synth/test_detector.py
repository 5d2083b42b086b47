"""The real person detector on rendered people: the pictures are realistic enough for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig, SynthConfig
from extpose.detect.hands import HandDetector
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


@pytest.mark.assets
def test_the_hand_detector_finds_rendered_hands(asset: Callable[[str], Path]) -> None:
    pytest.importorskip("ai_edge_litert")
    for name in ("palm-detection", "hand-landmarks"):
        asset(name)
    config = SynthConfig(
        out=Path("unused"), body="hand", num_frames=1, keypoints="detector", photographs=False
    )
    studio = open_studio(config, None, HandDetector(DetectConfig()))
    errors = []
    for index in range(12):
        clip = make_synthetic_clip(studio, config, index)
        assert clip.targets is not None
        truth = clip.targets.keypoints_2d[0, :, :2]
        if clip.is_detected[0]:
            error = np.linalg.norm(clip.keypoints_2d[0, :, :2] - truth, axis=-1)
            errors.append(np.median(error) / np.ptp(truth, axis=0).max())
    assert len(errors) >= 4
    assert np.median(errors) < 0.1
