"""What the detector found, kept by a hash of what decides it.

Detection takes most of the time, and other crops, drawings or tracking need no second one. Below
`out`: `detections/<unit>.npz`, the bundle that the detection stage hands on, with the identity of
the video's content, the frames, the detector and its settings. A hundredth of the shards' bytes, so
it is kept unless `--no-keep-detections`.
"""

import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from extpose import storage
from extpose.storage import Location
from pipelines.committed import DETECTIONS
from pipelines.rows import pack_arrays, unpack_arrays

LATER_SETTINGS = (
    "split", "clip_frames", "unit_frames", "crop", "skeleton", "body", "hands_identity",
)  # fmt: skip
"""Of the run's settings: those that only what comes after detection looks at."""
LATER_DETECT_SETTINGS = (
    "min_box_height", "min_mean_confidence", "max_gap", "min_track_frames", "smooth_boxes", "hands",
    "min_hand_pixels",
)  # fmt: skip
"""The same of `detect`: the tracker's, and those of hands."""
IDENTITY = "kept_identity"
log = logging.getLogger(__name__)


def detection_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides detections, besides video and frames: all that is not known to come later."""
    kept = {name: value for name, value in settings.items() if name not in LATER_SETTINGS}
    detect = kept.get("detect", {})
    kept["detect"] = {n: v for n, v in detect.items() if n not in LATER_DETECT_SETTINGS}
    return kept


class KeptDetect:
    """The detection stage, which first looks whether the work was done before.

    `make` builds the stage itself; it is not built while everything is there. Nothing is kept where
    `out` is None.
    """

    def __init__(
        self, make: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]], out: Location | None
    ) -> None:
        self.make, self.out = make, out
        self._stage: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Unit to unit with `detections`, or with an error."""
        if self.out is None:
            return self._detect(row)
        start = time.monotonic()
        path = self.out / DETECTIONS / f"{row['name']}.npz"
        found = read_detections(path, row["detection_identity"])
        if found is not None:
            return row | {"detections": found, "seconds_detect": time.monotonic() - start}
        done = self._detect(row)
        if not done.get("error"):
            _keep(path, row["detection_identity"], done["detections"])
        return done

    def _detect(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._stage is None:
            self._stage = self.make()
        return self._stage(row)


def read_detections(path: Location, identity: str) -> bytes | None:
    """The kept bundle, if it is there, whole and of this identity."""
    try:
        arrays = unpack_arrays(storage.read_bytes(path))
    except (OSError, ValueError):
        # Anything that cannot be read is made again; the shards decide whether that is possible.
        return None
    if str(arrays.pop(IDENTITY, "")) != identity:
        return None
    return pack_arrays(**arrays)


def _keep(path: Location, identity: str, bundle: bytes) -> None:
    """Without it nothing is lost but time: an error is told and the run goes on to the shard."""
    buffer = io.BytesIO()
    arrays = unpack_arrays(bundle)
    np.savez_compressed(buffer, **arrays, **{IDENTITY: np.array(identity)})  # type: ignore[arg-type]
    try:
        storage.make_folder(path.parent)
        storage.write_bytes(path, buffer.getvalue())
    except OSError as error:
        log.warning("%s: not kept (%s)", path, error)
