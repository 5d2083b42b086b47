"""What travels between stages: rows of plain values, arrays bundled as bytes, errors as data.

One bundle instead of many array columns: units have different numbers of people, and columns of
arrays of different shapes (or of none) are slow and fragile in Arrow tables.
"""

import io
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from extpose.errors import VideoError
from extpose.npz import read_npz
from extpose.storage import make_location
from extpose.video import Frame, read_frames
from extpose.video_index import VideoIndex
from pipelines.ledger import Outcome, Unit


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a unit could not be done."""

    reason: str
    """A `VideoError`'s reason, or the name of the exception."""
    message: str
    traceback: str


def failure_of(error: Exception) -> Failure:
    """The error as data."""
    return Failure(
        reason=error.reason if isinstance(error, VideoError) else type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )


def fail(row: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    """The row with the error instead of results; later stages hand it on."""
    return fail_with(row, failure_of(error))


def fail_with(row: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
    """As `fail`, for what is data already."""
    return {f.name: row[f.name] for f in fields(Unit)} | {"error": json.dumps(asdict(failure))}


def quarantine(unit: Unit, failure: Failure | None) -> Outcome:
    """The outcome of a unit that could not be done."""
    known = failure or Failure(reason="unknown", message="", traceback="")
    return Outcome(
        name=unit.name,
        identity=unit.identity,
        status="quarantined",
        frames=unit.num_frames,
        quarantined=unit.num_frames,
        reason=known.reason,
        message=known.message,
        traceback=known.traceback,
    )


def unit_of(row: Mapping[str, Any]) -> Unit:
    """The unit that the row is about."""
    return Unit(**{f.name: row[f.name] for f in fields(Unit)})


def read_unit(
    row: Mapping[str, Any], on_skip: Callable[[int], None] | None = None
) -> Iterator[Frame]:
    """The frames of the unit that the row is about. As `extpose.video.read_frames`."""
    path = make_location(row["path"])
    index = VideoIndex.from_text(row["index"], path) if row.get("index") else None
    return read_frames(path, row["start"], row["stop"], index=index, on_skip=on_skip)


def pack_arrays(**arrays: np.ndarray) -> bytes:
    """Arrays as one value of a row."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Inverse of `pack_arrays`."""
    return read_npz(data)
