"""Faults of one process: kills of the driver, disks, checkpoints, shards, configs."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from extpose.config import TrainConfig
from extpose.data.shards import ShardIndex
from extpose.training.checkpoint import STATE_FILE
from extpose.training.saving import CHECKPOINTS
from tests.chaos.outcome import Outcome, bit_differences, last_step
from tests.chaos.victim import PLACES, REFUSED, Place, Victim
from tests.pipelines.train_runs import config_for

STEPS, EVERY = 24, 4
PACE = 0.02
SMALL = (".csv", ".json", ".diff", ".png")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where runs are hurt."""

    folder: Path
    data: Path
    rng: random.Random

    def config(self, name: str, *, backend: str = "plain") -> TrainConfig:
        """Of a run in a folder of its own."""
        config = config_for(
            self.data, self.folder / name, steps=STEPS, checkpoint_every=EVERY, log_every=1000
        )
        engine = replace(config.engine, backend=backend, zero_stage=2)
        return replace(config, engine=engine)


def kills(
    bench: Bench, backend: str, count: int, *, places: Iterable[Place] = PLACES
) -> Iterator[Outcome]:
    """The driver is killed at random moments, at random steps, and in the middle of writing."""
    config = bench.config(f"{backend}-straight", backend=backend)
    began = time.monotonic()
    straight = Victim(config=config, pace=PACE)
    assert straight.run() == 0, straight.told
    length = time.monotonic() - began
    name = {"plain": "plain", "deepspeed": "ZeRO-2"}[backend]
    for number in range(count):
        out = bench.config(f"{backend}-time-{number}", backend=backend)
        yield _killed_by_the_clock(bench, out, config.out, length, name)
    for place in places:
        for number in range(count):
            out = bench.config(f"{backend}-{place}-{number}", backend=backend)
            yield _killed_at(bench, out, config.out, place, name)


def _killed_by_the_clock(
    bench: Bench, config: TrainConfig, straight: Path, length: float, name: str
) -> Outcome:
    """Twice, then left alone."""
    moments = []
    for _ in range(2):
        process = Victim(config=config, pace=PACE).start()
        process.join(bench.rng.uniform(0, length))
        process.kill()
        process.join()
        is_writing = bool(list(config.out.glob(f"{CHECKPOINTS}/*.tmp")))
        moments.append(f"step {last_step(config.out)}{' (in a write)' if is_writing else ''}")
    return finished(config, straight, f"driver killed twice, {name}", ", then ".join(moments))


LATEST: dict[Place, int] = {
    "step": STEPS,
    "row": STEPS,
    "state": STEPS // EVERY,
    "sync": 4 * STEPS // EVERY,
    "rewrite": 1,
    "weights": 1,
}


def _killed_at(
    bench: Bench, config: TrainConfig, straight: Path, place: Place, name: str
) -> Outcome:
    count = bench.rng.randint(1, LATEST[place])
    if place == "rewrite":
        first = bench.rng.randint(1, STEPS)
        assert Victim(config=config, place="step", count=first).run() == -signal.SIGKILL
    code = Victim(config=config, place=place, count=count).run()
    moment = f"{PLACES[place]}, step {last_step(config.out)}"
    outcome = finished(config, straight, f"driver killed, {name}", moment)
    return replace(outcome, is_good=outcome.is_good and code == -signal.SIGKILL)


def finished(config: TrainConfig, straight: Path, fault: str, moment: str) -> Outcome:
    """Started once more, to the end."""
    victim = Victim(config=config)
    code = victim.run()
    if code:
        text = f"exit {code}: {victim.told[-300:]}"
        return Outcome(fault=fault, moment=moment, outcome=text, differences=None, is_good=False)
    return Outcome(
        fault=fault,
        moment=moment,
        outcome="went on to the end",
        differences=bit_differences(straight, config.out),
    )


def others(bench: Bench, straight: Path) -> Iterator[Outcome]:
    """All but the kills; `straight` was left alone."""
    yield from broken_checkpoints(bench, straight)
    yield from full_disk(bench, straight)
    yield from damaged_shard(bench)
    yield from impossible(bench)


def broken_checkpoints(bench: Bench, straight: Path) -> Iterator[Outcome]:
    """The newest checkpoint is cut off, or one byte of it is another."""
    for harm in ("cut off", "one byte changed", "meta.json gone"):
        config = bench.config(f"checkpoint-{harm.split()[0]}")
        step = bench.rng.randint(2 * EVERY + 1, STEPS - 1)
        Victim(config=config, place="step", count=step).run()
        newest = max((config.out / CHECKPOINTS).glob("step_*[0-9]"))
        state = newest / STATE_FILE
        content = bytearray(state.read_bytes())
        if harm == "cut off":
            state.write_bytes(content[: bench.rng.randrange(len(content))])
        elif harm == "meta.json gone":
            (newest / "meta.json").unlink()
        else:
            content[bench.rng.randrange(len(content))] ^= 0xFF
            state.write_bytes(content)
        outcome = finished(config, straight, f"newest checkpoint: {harm}", f"step {step}")
        text = "skipped by name, went on from the one before"
        told = f"skipped: {newest}" in Victim(config=config).told
        yield replace(outcome, outcome=text, is_good=outcome.is_good and told)


def full_disk(bench: Bench, straight: Path) -> Iterator[Outcome]:
    """No room for a checkpoint: by a limit on file sizes, and on a small file system."""
    size = next(straight.glob(f"{CHECKPOINTS}/*/{STATE_FILE}")).stat().st_size
    config = bench.config("limited")
    victim = Victim(config=config, file_limit=size // 2)
    yield _disk_outcome(victim, straight, "file larger than the limit at each checkpoint")
    config = bench.config("full")
    config.out.mkdir(parents=True)
    # Room for what a run writes at its start, and for one checkpoint: then for nothing more.
    others = sum(file.stat().st_size for file in straight.rglob("*.*") if file.suffix in SMALL)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={others + size * 3 // 2}", "tmpfs", config.out],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        text = f"not run: {mounted.stderr.decode().strip()}"
        yield Outcome(fault="disk full", moment="-", outcome=text, differences=None)
        return
    try:
        victim = Victim(config=config)
        yield _disk_outcome(
            victim,
            straight,
            "run folder full from the second checkpoint on",
            config.out,
        )
    finally:
        subprocess.run(["umount", config.out], check=True)


def _disk_outcome(victim: Victim, straight: Path, fault: str, tmpfs: Path | None = None) -> Outcome:
    code, last = victim.run(), last_step(victim.config.out)
    is_told = "a checkpoint cannot be written" in victim.told and "trying again" in victim.told
    if tmpfs is not None:
        subprocess.run(["mount", "-o", "remount,size=64m", tmpfs], check=True)
    outcome = finished(victim.config, straight, fault, f"stopped after step {last}")
    text = "told, tried again, ended with an error; with room again it went on to the end"
    return replace(outcome, outcome=text, is_good=outcome.is_good and is_told and code == REFUSED)


def damaged_shard(bench: Bench) -> Iterator[Outcome]:
    """A clip becomes unreadable while the run goes on; and one is from the beginning."""
    from tests.pipelines.train_runs import write_data

    data = write_data(bench.folder / "damaged-data")
    config = replace(bench.config("damaged"), data=(data,))
    config = replace(config, loader=replace(config.loader, max_damaged=0.5))
    process = Victim(config=config, pace=0.1).start()
    while last_step(config.out) < EVERY and process.is_alive():
        time.sleep(0.01)
    step = last_step(config.out)
    _damage(data / "0.tar", bench.rng)
    process.join()
    skipped = _skipped(config.out)
    yield Outcome(
        fault="a clip of a shard becomes unreadable",
        moment=f"step {step}",
        outcome=f"{skipped} draws took the next clip, named, counted",
        differences=None,
        is_good=process.exitcode == 0 and skipped > 0,
    )
    again = replace(config, out=bench.folder / "damaged-again")
    assert Victim(config=again).run() == 0
    hurt = replace(config, out=bench.folder / "damaged-killed")
    step = bench.rng.randint(1, STEPS)
    Victim(config=hurt, place="step", count=step).run()
    yield finished(hurt, again.out, "driver killed, shard damaged before", f"step {step}")


def _damage(shard: Path, rng: random.Random) -> None:
    index = ShardIndex([shard])
    content = bytearray(shard.read_bytes())
    at = content.index(b"arrays.npz", rng.randrange(len(index)) * len(content) // len(index) // 2)
    content[at + 600 : at + 900] = bytes(300)
    with shard.open("r+b") as file:
        file.write(content)
        os.fsync(file.fileno())


def _skipped(out: Path) -> int:
    from tests.pipelines.train_runs import read_log

    return sum(int(float(value)) for value in read_log(out)["skipped"])


def impossible(bench: Bench) -> Iterator[Outcome]:
    """Configs that cannot work are refused before anything is written."""
    base = bench.config("impossible")
    for text, config in {
        "batch 4, 3 workers": replace(base, launcher="ray", num_workers=3),
        "min_workers 3, num_workers 2": replace(base, launcher="ray", num_workers=2, min_workers=3),
        "launcher local, 2 workers": replace(base, num_workers=2),
    }.items():
        victim = Victim(config=config)
        code = victim.run()
        message = victim.told.strip().splitlines()[-1].removeprefix("error: ")
        is_good = code == REFUSED and not config.out.exists()
        yield Outcome(
            fault=text, moment="start", outcome=message, differences=None, is_good=is_good
        )
