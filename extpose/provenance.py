"""Which code and which libraries are at work here: what a run writes beside what it makes."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def library_versions(packages: Iterable[str]) -> dict[str, str]:
    """Python, the platform, and those of the packages that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_commit() -> str:
    """Of the checkout that this code is in."""
    return ask_git("rev-parse", "HEAD").strip() or "unknown: not a git checkout"


def ask_git(*command: str) -> str:
    """What git says about this code; empty where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *command],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
