"""`extpose fit-noise` without rendering: findings are kept, a second run makes none again."""

from pathlib import Path

import pytest

import pipelines.fit_noise
from extpose.errors import ExtPoseError
from extpose.synth.noise import load_noise
from extpose.synth.noise_errors import simulate
from extpose.synth.observed import Observed
from pipelines.arguments import FitNoiseArgs
from pipelines.fit_noise import fit
from tests.synth.people import make_people


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for renders and detector; the clips that were looked at."""
    made: list[int] = []

    def look(studio: object, config: object, index: int) -> Observed:
        made.append(index)
        return simulate(make_people(1, seed=index), load_noise(), fps=30.0, seed=index, repeats=1)

    def open_nothing(*_: object, photographs: object) -> None:
        assert photographs == "photographs"

    monkeypatch.setattr(pipelines.fit_noise, "observe_renders", look)
    monkeypatch.setattr(pipelines.fit_noise, "open_studio", open_nothing)
    monkeypatch.setattr(pipelines.fit_noise, "load_photographs", lambda *_: "photographs")
    monkeypatch.setattr(pipelines.fit_noise, "open_detector", lambda: None)
    monkeypatch.setattr(pipelines.fit_noise, "fetch", Path)
    return made


def test_a_second_run_looks_at_nothing_again(tmp_path: Path, looks: list[int]) -> None:
    options = FitNoiseArgs(
        out=tmp_path / "noise.json", work=tmp_path / "work", num_clips=5, num_held_out=4
    )
    text = fit(options)
    assert len(looks) == 5 + 2 * 2
    assert "held-out renders: 4 clips, 64 frames" in text
    assert load_noise(options.out).detector == "movenet-thunder"
    first = options.out.read_bytes()
    fit(options)
    assert len(looks) == 9
    assert options.out.read_bytes() == first


@pytest.mark.parametrize("change", ["WORLD_VERSION", "detector_identity"])
def test_findings_of_another_world_or_detector_are_not_taken(
    tmp_path: Path, looks: list[int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    options = FitNoiseArgs(
        out=tmp_path / "noise.json", work=tmp_path / "work", num_clips=2, num_held_out=2
    )
    fit(options)
    before = len(looks)
    other = 99 if change == "WORLD_VERSION" else lambda *_: "another"
    monkeypatch.setattr(pipelines.fit_noise, change, other)
    fit(options)
    assert len(looks) == 2 * before
    noise = load_noise(options.out)
    assert (noise.world_version == 99) != (noise.detector_identity == "another")


def test_too_few_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtPoseError, match="num_clips is 1"):
        fit(FitNoiseArgs(out=tmp_path / "x", work=tmp_path, num_clips=1))
