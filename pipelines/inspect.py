"""`extpose inspect`: clips of shards as contact sheets.

extpose inspect data/walk/*.tar --out sheets
"""

from collections.abc import Sequence
from pathlib import Path

from extpose.data.clip import encode_png
from extpose.data.shards import ShardIndex
from extpose.storage import Location
from extpose.visualize import contact_sheet


def inspect_shards(shards: Sequence[Location], out: Path, *, max_clips: int = 4) -> list[Path]:
    """Draw up to `max_clips` clips of each shard into `out`; the pictures' paths.

    The clips are spread over the shard. Raises ShardError.
    """
    if max_clips < 1:
        raise ValueError(f"max_clips is {max_clips}, it must be at least 1")
    out.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for shard in shards:
        index = ShardIndex([shard])
        step = max(1, -(-len(index) // max_clips))
        for i in range(0, len(index), step):
            path = out / f"{index.keys[i]}.png"
            path.write_bytes(encode_png(contact_sheet(index.read_clip(i))))
            pictures.append(path)
        index.close()
    return pictures
