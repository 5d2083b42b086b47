"""Which libraries and code made the units of a folder: `versions.json`; what is different here.

They are recorded and no part of a unit's identity (docs/decisions/0018). `versions.json` maps the
short names of environments to their versions; a unit's marker says which one made it.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import av

from extpose.storage import Location
from extpose.training.source_code import find_commit, find_edits, find_versions
from pipelines.committed import read_json, settings_differences, write_text

VERSIONS = "versions.json"
LIBRARIES = (
    "extpose", "av", "opencv-python-headless", "numpy", "scipy", "onnxruntime", "onnxruntime-gpu",
    "ai-edge-litert", "torch", "transformers", "rtmlib", "ray", "pyarrow",
)  # fmt: skip


def find_environment() -> dict[str, str]:
    """What is at work here: versions by name, the commit and a hash of local edits."""
    found = find_versions(LIBRARIES)
    parts = sorted(av.library_versions.items())
    found["ffmpeg"] = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in parts)
    edits = find_edits()
    found["edits"] = hashlib.sha256(edits.encode()).hexdigest()[:12] if edits else "none"
    return found | {"commit": find_commit()}


def note_environment(out: Location) -> str:
    """Add this one to the folder's; returns its name. Raises WriteError."""
    here = find_environment()
    name = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:12]
    known = read_environments(out)
    if name not in known:
        text = json.dumps({**known, name: here}, indent=1, sort_keys=True) + "\n"
        write_text(out / VERSIONS, text)
    return name


def read_environments(out: Location) -> dict[str, dict[str, str]]:
    """Those that have worked on the folder. Raises ExtPoseError for a file that cannot be read."""
    found: Any = read_json(out / VERSIONS)
    return found if isinstance(found, dict) else {}


def differences_here(out: Location, name: str) -> tuple[str, ...]:
    """Of the environment of that name from this one, as `numpy: 2.1.0, now 2.2.0`.

    None where the folder does not know it: shards that were made before they were recorded.
    """
    there = read_environments(out).get(name)
    return settings_differences(there, find_environment()) if there else ()


def say_differences(differences: Sequence[str]) -> str:
    """The same for people."""
    return f"here are others: {'; '.join(differences)}" if differences else "here are the same"
