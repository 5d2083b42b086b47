import importlib.metadata
import re
from pathlib import Path

import pytest

from extpose.assets import ASSETS
from extpose.errors import AssetError
from pipelines import doctor as module
from pipelines.doctor import PACKAGES, doctor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one that does not exist yet."""
    path = tmp_path / "not" / "yet"
    monkeypatch.setenv("EXTPOSE_CACHE", str(path))
    return path


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    original = importlib.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def line_of(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split()[1:2] == [name]]
    return line


def test_an_empty_cache_says_how_to_fill_it(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor() == 0
    text = capsys.readouterr().out
    assert f"Files in {cache}" in text
    for name in ASSETS:
        assert line_of(text, name).startswith("  missing")
        assert "extpose doctor --fetch" in line_of(text, name)
    assert all(line_of(text, name) for name in PACKAGES)
    assert "ExtPose can run; what is missing above is fetched" in text
    assert re.search(r"attention of ViT-H: .* kernel \(\w+, bfloat16, head width 80\)", text)
    assert not cache.exists()


def test_what_is_there_is_ok(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asset in ASSETS.values():
        for member in asset.members:
            path = cache / asset.name / Path(member.path).name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(member.size)  # sparse: the doctor goes by size
    assert doctor() == 0
    text = capsys.readouterr().out
    assert all(line_of(text, name).startswith("  ok") for name in ASSETS)
    assert "All is there." in text


def test_a_missing_package_that_is_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "numba", "ray")
    assert doctor() == 1
    text = capsys.readouterr().out
    assert "ExtPose cannot run: numba missing." in text
    assert line_of(text, "numba").endswith("pip install extpose")
    assert line_of(text, "ray").endswith("pip install 'extpose[cluster]'")
    assert line_of(text, "torch").startswith("  ok")


def test_optional_packages_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, *(set(PACKAGES) - set(module.REQUIRED)))
    assert doctor() == 0


def test_a_file_that_cannot_be_fetched_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def fetch(name: str) -> Path:
        asked.append(name)
        if name == "motion":
            raise AssetError("no connection")
        return Path(name)

    monkeypatch.setattr(module, "fetch", fetch)
    assert doctor(fetch_missing=True) == 0
    text = capsys.readouterr().out
    assert asked == list(ASSETS)
    assert "(no connection)" in line_of(text, "motion")
    missing = [name for name in ASSETS if line_of(text, name).startswith("  missing")]
    assert missing == ["motion"]
