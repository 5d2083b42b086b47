"""`extpose fit-noise`: the noise model of a detector, fitted on renders and checked.

    render --detector--> findings beside the truth --fit--> noise.json --draw--> table

Findings are kept one file a clip below `work`, named by everything that decides them, so a run that
was killed goes on, and those of another world or detector are not mixed in. The model is checked on
renders of other motions, and with `real` on real footage, which is never fitted to.
"""

import functools
from collections.abc import Callable, Iterator

from tqdm import tqdm

from extpose.assets import fetch
from extpose.config import DetectConfig, SynthConfig
from extpose.detect.plugs import detector_identity
from extpose.errors import ExtPoseError
from extpose.schema import Split
from extpose.synth.evidence import Observer
from extpose.synth.noise import DetectorNoise
from extpose.synth.noise_fit import fit_noise
from extpose.synth.noise_table import compare_noise, format_rows
from extpose.synth.observed import (
    Observed,
    join_observed,
    load_observed,
    observe_renders,
    save_observed,
)
from extpose.synth.photographs import load_photographs
from extpose.synth.render import open_studio
from extpose.synth.world import WORLD_VERSION
from pipelines.arguments import FitNoiseArgs
from pipelines.ledger import open_output, write_text
from pipelines.noise_footage import check_footage

SYNTH_FPS = 30.0
HELD_OUT: tuple[Split, ...] = ("val", "test")


def fit(options: FitNoiseArgs) -> str:
    """Collect findings, fit, write `options.out`; the table as text. Raises ExtPoseError."""
    for name in ("num_clips", "num_held_out"):
        if getattr(options, name) < 2:
            raise ExtPoseError(f"{name} is {getattr(options, name)}, it must be at least 2")
    with open_output(options.work):
        observer = functools.cache(open_detector)
        fitted = collect(options, "train", options.num_clips, observer)
        half = -(-options.num_held_out // len(HELD_OUT))
        held_out = join_observed(collect(options, split, half, observer) for split in HELD_OUT)
    noise = fit_noise(
        fitted,
        detector="movenet-thunder",
        detector_identity=detector_identity("movenet", DetectConfig()),
        world_version=WORLD_VERSION,
        fps=SYNTH_FPS,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, noise.to_json())
    return table(noise, fitted, held_out, real=options.real)


def table(noise: DetectorNoise, fitted: Observed, held_out: Observed, *, real: bool) -> str:
    """Detector against model on the renders, and with `real` on footage."""
    parts = []
    for name, observed in (
        ("the renders it was fitted to", fitted),
        ("held-out renders", held_out),
    ):
        frames = observed.is_found.size
        parts.append(f"{name}: {len(observed)} clips, {frames} frames")
        parts.append(format_rows(compare_noise(observed, noise, fps=SYNTH_FPS)))
    if real:
        parts += check_footage(noise, open_detector())
    return "\n".join(parts)


def collect(
    options: FitNoiseArgs,
    split: Split,
    count: int,
    observer: Callable[[], Observer],
) -> Observed:
    """What the detector finds in the first clips of a split; those on disk are not made again."""
    config = SynthConfig(
        out=options.work,
        split=split,
        num_frames=options.num_frames,
        fps=SYNTH_FPS,
        seed=options.seed,
    )
    decided = (
        f"world{WORLD_VERSION}-{detector_identity('movenet', DetectConfig())[:8]}"
        f"-{split}-{options.seed}-{options.num_frames}"
    )
    paths = [options.work / f"{decided}-{index:05d}.npz" for index in range(count)]
    missing = [(i, path) for i, path in enumerate(paths) if not path.exists()]
    for index, observed in _observe([i for i, _ in missing], config, observer):
        save_observed(paths[index], observed)
    return join_observed(load_observed(path) for path in paths)


def _observe(
    indices: list[int], config: SynthConfig, observer: Callable[[], Observer]
) -> Iterator[tuple[int, Observed]]:
    if indices:
        photographs = load_photographs(fetch("panoramas"), fetch("photographs"), config.split)
        studio = open_studio(config, fetch("motion"), observer(), photographs=photographs)
        for index in tqdm(indices, desc=f"detector on {config.split}", unit="clip"):
            yield index, observe_renders(studio, config, index)


def open_detector() -> Observer:
    """The packaged person detector. Raises AssetError where its weights cannot be had."""
    # Only here: it needs its weights and an inference runtime.
    from extpose.detect.movenet import PersonDetector

    return PersonDetector(DetectConfig())
