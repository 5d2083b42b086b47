"""Checkpoint loading and conversion at full size: `python FILE [--folder /fast/disk]`.

Writes a synthetic HMR2.0 checkpoint of ViT-H (2.7 GB, with a config object inside), then loads and
converts it, each in a process of its own, beside the plain way: construct the network, `torch.load`
the file, copy (`construct` is the first part of it, most of which is random numbers). Time is that
of the call, with every weight read once, without importing torch. Peaks are of the whole process:
resident memory holds the mapped pages of the file, which the system takes back when it needs them;
anonymous memory is what the process really owns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from extpose.model.extpose import ExtPose
from extpose.model.weights import load_model
from extpose.recipes import BASE, HUGE
from extpose.training.discriminator import Discriminator
from pipelines.convert import convert, find_config

MIB = 2**20
ACTIONS = ("nothing", "construct", "plain", "load ckpt", "convert", "load own", "convert back")
PEAKS = {"VmHWM": 0, "RssAnon": 0}


class Config:
    """An object that PyTorch's safe loader refuses."""


def write_released(path: Path, *, is_small: bool) -> None:
    """Random weights with the released names, and a body model's arrays."""
    torch.manual_seed(0)
    model = ExtPose(BASE if is_small else HUGE)
    state = {key: value for key, value in model.state_dict().items() if key != "temporal_embed"}
    critic = Discriminator("smpl").state_dict()
    state |= {f"discriminator.{key}": value for key, value in critic.items()}
    state |= {"smpl.posedirs": torch.zeros(207, 20670), "initialized": torch.tensor(True)}
    torch.save({"epoch": 35, "state_dict": state, "hyper_parameters": {"cfg": Config()}}, path)


def read_plainly(path: Path, small: bool) -> ExtPose:
    """As the reference does, on files that are trusted (this one we wrote ourselves)."""
    model = ExtPose(BASE if small else HUGE)
    content = torch.load(path, map_location="cpu", weights_only=False)
    model.load_state_dict(content["state_dict"], strict=False)
    return model


def touch(model: ExtPose) -> None:
    """Read every weight."""
    for parameter in model.parameters():
        parameter.detach().sum()


@contextmanager
def watched() -> Iterator[None]:
    """Follow the memory of this process."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.002):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in PEAKS:
                    PEAKS[name] = max(PEAKS[name], int(value.split()[0]) * 1024)

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    done.set()
    thread.join()


def run_one(action: str, folder: Path, small: bool) -> None:
    """One row, in this process."""
    ckpt, own, back = folder / "hmr2.ckpt", folder / "hmr2.safetensors", folder / "back.ckpt"
    actions: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "construct": lambda: ExtPose(BASE if small else HUGE),
        "plain": lambda: touch(read_plainly(ckpt, small)),
        "load ckpt": lambda: touch(load_model(ckpt)),
        "load own": lambda: touch(load_model(own)),
        "convert": lambda: _convert(ckpt, own, "extpose"),
        "convert back": lambda: _convert(own, back, "hmr2"),
    }
    with watched():
        wall, cpu = time.perf_counter(), time.process_time()
        actions[action]()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        time.sleep(0.01)
    size = ckpt.stat().st_size
    peak, anonymous = PEAKS["VmHWM"], PEAKS["RssAnon"]
    print(
        f"{action:13s} {wall:7.2f} {cpu:7.2f} {peak / MIB:9.0f} {peak / size:6.2f} "
        f"{anonymous / MIB:10.0f} {anonymous / size:6.2f}",
        flush=True,
    )


def _convert(path: Path, out: Path, to: str) -> None:
    convert(path, out, config=find_config(path), to=to, keep_discriminator=False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where 8 GB may be written for a while")
    parser.add_argument("--small", action="store_true", help="ViT-B: a quick try")
    parser.add_argument("--action", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action:
        run_one(options.action, options.folder, options.small)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path = Path(name) / "hmr2.ckpt"
        write_released(path, is_small=options.small)
        print(
            f"file: {path.stat().st_size / MIB:.0f} MiB, page cache warm, torch {torch.__version__}"
        )
        print("action           wall s   cpu s  peak MiB  /file   anon MiB  /file")
        for action in ACTIONS:
            words = [sys.executable, __file__, "--folder", name, "--action", action]
            words += ["--small"] if options.small else []
            root = Path(__file__).parents[2]
            environment = os.environ | {"PYTHONPATH": str(root)}
            subprocess.run(words, check=True, env=environment)


if __name__ == "__main__":
    main()
