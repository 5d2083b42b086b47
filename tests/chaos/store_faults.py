"""A store that errs, is silent, goes away; runs on a store that are killed, or that are two."""

import time
from collections.abc import Iterator
from functools import partial

from extpose import storage
from extpose.errors import ExtPoseError
from pipelines.preprocess import preprocess
from tests.chaos.lab import Lab, Row
from tests.chaos.preprocess_run import fake_config, units_done
from tests.pipelines.fakes import box_detector
from tests.s3_server import ANY

FOREVER = 1_000_000
SILENCE = 4.0
"""Seconds; longer than the tests' clients wait."""


def store_faults(lab: Lab) -> Iterator["partial[Row]"]:
    """All of them."""
    yield partial(_overcome, lab, "one of five requests gets 503", every=5)
    yield partial(_overcome, lab, "silent at one of twenty requests", every=20, seconds=SILENCE)
    yield partial(lose_store, lab)
    yield partial(kill_on_store, lab)
    yield partial(two_on_store, lab)


def _overcome(lab: Lab, fault: str, *, every: int, seconds: float = 0.0) -> Row:
    """Errors that a run must survive by trying again."""
    out = lab.new_prefix()
    told = lab.store.fail(ANY, f"{out.name}/", FOREVER, every=every, seconds=seconds)
    try:
        code: int | str = lab.run(out)
    except ExtPoseError as error:
        code = f"error: {error}"
    finally:
        lab.store.faults.clear()
    num = FOREVER - told.times
    after, is_equal = lab.run_again(out)
    return Row(
        fault=f"store: {fault}",
        moment="all the time",
        outcome=f"exit {code}, {num} requests failed",
        after=after,
        is_ok=is_equal and code == lab.code and num > 0,
    )


def lose_store(lab: Lab) -> Row:
    """A store that takes no shard any more after the first ones, and then is there again."""
    out = lab.new_prefix()
    victim = lab.start(out, own_ray=False)
    victim.wait_for_unit()
    lab.store.fail("PUT", f"{out.name}/", FOREVER)
    code = victim.wait()
    victim.clear()
    lab.store.faults.clear()
    units, shards = units_done(out), len(storage.list_files(out, ".tar"))
    is_told = f"{out}/" in victim.log.read_text() and "cannot be written" in victim.log.read_text()
    after, is_equal = lab.run_again(out)
    return Row(
        fault="store: takes nothing any more",
        moment="first unit done",
        outcome=f"exit {code}, {'names the object' if is_told else 'NO MESSAGE'}, "
        f"{units} units done, {shards} shards",
        after=after,
        is_ok=is_equal and is_told and code == 1,
    )


def kill_on_store(lab: Lab) -> Row:
    """The driver of a run on a store is killed: its lease must end."""
    victim = lab.start(lab.new_prefix(), own_ray=False)
    began = time.monotonic()
    victim.wait_for_unit()
    time.sleep(lab.random.uniform(0.0, 2.0))
    moment = f"after {time.monotonic() - began:.1f} s"
    victim.process.kill()
    return lab.finish("store: kill -9 driver", moment, victim, expected={-9})


def two_on_store(lab: Lab) -> Row:
    """A second run on the prefix of one that works."""
    victim = lab.start(lab.new_prefix(), own_ray=False, FAKE_DETECTOR_SECONDS="0.2")
    victim.wait_for_unit()
    try:
        preprocess(fake_config(lab.videos, victim.out), detector=box_detector("nothing"))
        refusal = "THE SECOND WAS LET IN"
    except ExtPoseError as error:
        refusal = "second refused" if "another run" in str(error) else f"second: {error}"
    fault = f"store: two drivers ({refusal})"
    row = lab.finish(fault, "first unit done", victim, expected={lab.code})
    return row if refusal == "second refused" else Row(**vars(row) | {"is_ok": False})
