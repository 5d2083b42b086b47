"""Which code is running: its version, commit and local edits.

A checkout says it itself. Where the code was sent without its repository (`extpose submit`), the
sender leaves both in the environment.
"""

import base64
import logging
import os
import platform
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE = ("extpose", "pipelines", "cluster")
"""Folders of a checkout in which files that git does not know are edits too."""
COMMIT, EDITS = "EXTPOSE_COMMIT", "EXTPOSE_EDITS"
MOST_CHARACTERS = 96_000
"""Of a variable; Linux takes 128 KiB."""
logger = logging.getLogger(__name__)


def code_version() -> str:
    """Of this package."""
    try:
        return version("extpose")
    except PackageNotFoundError:
        return "unknown"


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python, of the platform, and of those packages that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def find_commit(folder: Path = Path(__file__).parent) -> str:
    """Of the checkout that the folder is in, or that this code was sent from."""
    commit = _git(folder, "rev-parse", "HEAD").strip() or os.environ.get(COMMIT, "")
    return commit or "unknown: not a git checkout"


def find_edits(folder: Path = Path(__file__).parent) -> str:
    """What differs from the commit, as a diff; files that git does not know included."""
    top = _git(folder, "rev-parse", "--show-toplevel").strip()
    if not top:
        return _unpack(os.environ.get(EDITS, ""))
    root = Path(top)
    known = [name for name in CODE if (root / name).is_dir()]
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *known)
    new = [_git(root, "diff", "--no-index", "/dev/null", name) for name in unknown.split("\0")[:-1]]
    return "".join([_git(root, "diff", "HEAD"), *new])


def describe_code(folder: Path) -> Mapping[str, str]:
    """Variables that say the same where the folder's code is sent to."""
    commit, edits = find_commit(folder), find_edits(folder)
    packed = base64.b64encode(zlib.compress(edits.encode(), 9)).decode()
    if len(packed) > MOST_CHARACTERS:
        logger.warning("local edits are too many to be sent along: %d bytes of diff", len(edits))
        packed = ""
        commit += f" with {len(edits)} bytes of local edits that were too many to be sent"
    return {COMMIT: commit, EDITS: packed}


def _unpack(packed: str) -> str:
    return zlib.decompress(base64.b64decode(packed)).decode() if packed else ""


def _git(folder: Path, *command: str) -> str:
    """What git says; empty where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *command],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # 1: `diff --no-index` found differences.
    return done.stdout if done.returncode in (0, 1) else ""
