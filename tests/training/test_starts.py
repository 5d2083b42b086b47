"""The list of starts, and what killed processes leave behind."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.training.starts import delete_leftovers, note_start, read_starts, silence_of
from extpose.training.validation import append_row, drop_rows_after


def test_each_start_is_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    note_start(tmp_path, step=0, workers=2, lost=0, idle=0.0)
    assert not caplog.text
    note_start(tmp_path, step=40, workers=1, lost=7, idle=31.5)
    assert "goes on from step 40 with 1 workers; 7 steps are done again, 32 s" in caplog.text
    with (tmp_path / "starts.csv").open("a") as file:
        file.write("17,8")
    found = [(start.step, start.workers, start.lost) for start in read_starts(tmp_path)]
    assert found == [(0, 2, 0), (40, 1, 7)]
    note_start(tmp_path, step=60, workers=2, lost=1, idle=9.0)
    assert [start.step for start in read_starts(tmp_path)] == [0, 40, 60]
    assert read_starts(tmp_path / "none") == []


def test_silence_and_leftovers(tmp_path: Path) -> None:
    assert silence_of(tmp_path / "log.csv") == 0.0
    (tmp_path / "log.csv").touch()
    assert 0 <= silence_of(tmp_path / "log.csv") < 60
    half, whole = tmp_path / ".best.safetensors.x1", tmp_path / "best.safetensors"
    for path in (half, whole):
        path.touch()
    delete_leftovers(tmp_path)
    assert not half.exists()
    assert whole.exists()


@settings(max_examples=60)
@given(cut=st.integers(0, 80), step=st.integers(0, 5))
def test_a_table_cut_off_anywhere_is_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, cut: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "log.csv"
    for number in range(1, 6):
        append_row(path, {"step": number, "loss": number / 7})
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    # The lines of a table end in two characters, and the first of them is enough.
    whole = len(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) - 2
    kept = max(0, min(step, whole))
    forgotten = drop_rows_after(path, step)
    assert forgotten >= whole - kept
    append_row(path, {"step": kept + 1, "loss": 0.5})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, kept + 2))
    assert rows[-1]["loss"] == "0.5"
