"""Each video goes to its camera, and keeps its own first frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extpose.errors import ExtPoseError
from extpose.multiview.cameras import CalibrationError, write_cameras
from extpose.video import VideoWriter
from pipelines.arguments import MultiviewArgs
from pipelines.multiview_open import open_recording
from tests.multiview.scene import make_cameras

SIZE = (64, 96)
FRAMES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras `cam0`, `cam1`, and videos under several names; `fast` has another rate."""
    path = tmp_path_factory.mktemp("views")
    write_cameras(path / "cameras.json", [replace(c, size=SIZE) for c in make_cameras(2)])
    rates = {"cam0": 30.0, "cam1": 30.0, "can1": 30.0, "left": 30.0, "right": 30.0, "fast": 31.0}
    for name, rate in rates.items():
        with VideoWriter(path / f"{name}.mp4", rate, SIZE) as writer:
            for _ in range(FRAMES):
                writer.write(np.full((*SIZE, 3), 90, np.uint8))
    return path


def make_options(folder: Path, *names: str, offset: tuple[int, ...] = ()) -> MultiviewArgs:
    videos = tuple(folder / f"{name}.mp4" for name in names)
    return MultiviewArgs(video=videos, calibration=folder / "cameras.json", offset=offset)


def test_an_offset_goes_with_its_video(folder: Path) -> None:
    found = open_recording(make_options(folder, "cam1", "cam0", offset=(7, 0)))
    assert [path.stem for path in found.paths] == ["cam0", "cam1"]
    assert found.first == [0, 7]
    assert found.num_frames == FRAMES - 7


def test_all_start_at_their_offsets(folder: Path) -> None:
    found = open_recording(make_options(folder, "cam0", "cam1", offset=(5, 8)))
    assert found.first == [5, 8]
    assert found.num_frames == FRAMES - 8


def test_other_names_are_taken_in_order(folder: Path) -> None:
    found = open_recording(make_options(folder, "right", "left", offset=(2, 0)))
    assert [path.stem for path in found.paths] == ["right", "left"]
    assert found.first == [2, 0]


@pytest.mark.parametrize(
    ("names", "offset", "message"),
    [
        (("cam0", "can1"), (), "cam1 has not one video of its name among cam0, can1"),
        (("cam0", "cam0"), (), "cam1 has not one video of its name"),
        (("cam0", "cam1", "left"), (), "2 cameras .*, 3 videos .*left"),
        (("cam0",), (), "2 cameras .*, 1 videos"),
        (("cam0", "cam1"), (3,), "offset has 1 numbers, there are 2 videos"),
        (("cam0", "cam1"), (-3, 0), "frames are counted from 0"),
        (("cam0", "cam1"), (FRAMES - 1, 0), "1 frames are common"),
        (("left", "fast"), (), "after 30 frames they are 1.0 apart"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, names: tuple[str, ...], offset: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ExtPoseError, match=message):
        open_recording(make_options(folder, *names, offset=offset))


def test_rates_that_part_by_less_than_half_a_frame_are_taken(folder: Path) -> None:
    options = replace(make_options(folder, "left", "fast"), num_frames=12)
    assert open_recording(options).num_frames == 12


def test_another_size_than_the_cameras(folder: Path, tmp_path: Path) -> None:
    write_cameras(tmp_path / "other.json", make_cameras(2))
    options = replace(make_options(folder, "cam0", "cam1"), calibration=tmp_path / "other.json")
    with pytest.raises(CalibrationError, match="64 x 96 pixels, camera cam0"):
        open_recording(options)
