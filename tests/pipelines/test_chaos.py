"""A few of the faults of `make chaos`, in short."""

import pytest

from tests.chaos.detector_faults import DETECTOR_FAULTS, break_detector
from tests.chaos.lab import Lab, laboratory
from tests.chaos.preprocess import kill

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(ray_local, s3_session):
    with laboratory() as folder:
        yield Lab(folder, 0, store=s3_session)


@pytest.mark.parametrize("target", ["detector", "raylet"])
def test_a_killed_process(lab, target):
    row = kill(lab, [target])
    assert row.is_ok, str(row)


@pytest.mark.parametrize("fault", ["hangs", "kills its actor"])
def test_a_detector_that_fails(lab, fault):
    row = break_detector(lab, fault, DETECTOR_FAULTS[fault])
    assert row.is_ok, str(row)
