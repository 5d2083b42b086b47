"""What a folder of shards holds, as one hash."""

import hashlib
import json
from collections.abc import Sequence

from extpose.storage import Location, hash_file, read_bytes

MANIFEST = "manifest.json"


def hash_data(folder: Location, shards: Sequence[Location]) -> str:
    """SHA-256 over the shards' names and hashes, which are the manifest's where it lists them."""
    listed = _listed(folder)
    pairs = [(shard.name, listed.get(shard.name) or hash_file(shard)) for shard in shards]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def hash_listed(folder: Location) -> str | None:
    """The same of a folder by its manifest alone; None without one."""
    pairs = sorted(_listed(folder).items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest() if pairs else None


def _listed(folder: Location) -> dict[str, str]:
    try:
        shards = json.loads(read_bytes(folder / MANIFEST))["shards"]
        return {entry["name"]: entry["sha256"] for entry in shards}
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return {}
