"""What the driver of a run watches: that units are finished, and that none is lost on the way."""

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from extpose.errors import ExtPoseError
from pipelines.ledger import Unit
from pipelines.rows import Failure

log = logging.getLogger(__name__)
SAY_EVERY = 300.0
"""Seconds without a finished unit after which the open ones are named, again and again."""
NAMED = 5
"""Open units that a message names."""


class StallError(ExtPoseError):
    """No unit was finished for too long."""


def watched_rows(
    rows: Iterable[dict[str, Any]], units: list[Unit], *, limit: float
) -> Iterator[dict[str, Any]]:
    """The same rows (each has the `name` of a unit); their errors arrive in place.

    Raises StallError when none comes for `limit` seconds, however deep the source of rows hangs.
    """
    arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
    threading.Thread(target=_pump, args=(rows, arrived), daemon=True).start()
    open_units = {unit.name: unit for unit in units}
    last = time.monotonic()
    while True:
        silent = time.monotonic() - last
        try:
            kind, value = arrived.get(timeout=max(min(SAY_EVERY, limit - silent), 0.01))
        except queue.Empty:
            _complain(list(open_units.values()), time.monotonic() - last, limit)
            continue
        last = time.monotonic()
        if kind == "error":
            raise value
        if kind == "end":
            return
        open_units.pop(value["name"], None)
        yield value


def _pump(rows: Iterable[dict[str, Any]], arrived: "queue.Queue[tuple[str, Any]]") -> None:
    try:
        for row in rows:
            arrived.put(("row", row))
        arrived.put(("end", None))
    except BaseException as error:
        arrived.put(("error", error))


def _complain(units: list[Unit], silent: float, limit: float) -> None:
    names = ", ".join(f"{unit.name} ({unit.path})" for unit in units[:NAMED])
    more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
    message = f"no unit was finished for {silent:.0f} s; open: {names}{more}"
    if silent >= limit:
        raise StallError(message)
    log.warning("%s", message)


def lost(tries: int) -> Failure:
    """Of a unit that Ray gave up: its worker, not its detector, died in every try."""
    message = f"its workers died in each of {tries} tries, or failed outside of a stage"
    return Failure(reason="workers_died", message=message, traceback="")
