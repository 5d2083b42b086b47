"""Commit and local edits, from a checkout and from whoever sent the code without one."""

import subprocess
from pathlib import Path

import pytest

from extpose.training.source_code import EDITS, describe_code, find_commit, find_edits


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "extpose").mkdir(parents=True)
    (folder / "extpose" / "old.py").write_text("a = 1\n")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_edits_and_new_files_travel_with_the_code(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_edits(checkout) == ""
    (checkout / "extpose" / "old.py").write_text("a = 2\n")
    (checkout / "extpose" / "new.py").write_text("b = 3\n")
    (checkout / "notes.txt").write_text("not code\n")
    edits = find_edits(checkout / "extpose")
    assert {"+a = 2", "-a = 1", "+b = 3"} <= set(edits.splitlines())
    assert "not code" not in edits
    sent = tmp_path / "sent"
    sent.mkdir()
    assert find_commit(sent) == "unknown: not a git checkout"
    for name, value in describe_code(checkout).items():
        monkeypatch.setenv(name, value)
    assert find_commit(sent) == find_commit(checkout)
    assert len(find_commit(sent)) == 40
    assert find_edits(sent) == edits


def test_too_many_edits_are_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extpose.training.source_code.MOST_CHARACTERS", 10)
    (checkout / "extpose" / "old.py").write_text("a = 2\n")
    found = describe_code(checkout)
    assert found[EDITS] == ""
    assert "bytes of local edits that were too many" in found["EXTPOSE_COMMIT"]
