"""The packaged networks: each modality and window, on rendered clips of the split `test` and
(bodies) on the real benchmark, in the reference's boxes and in detected ones; beside them a body at
rest, with the network's heading and shape. Ends with the benchmark's own tables.

No recording, picture or place of `test` is in training; composed poses are other draws of the same
rules, so bodies have a row for each kind. All hands are composed.

python tests/benchmarks/bench_packaged.py [--num-clips 64] [--work runs/packaged]
"""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from extpose.config import CropConfig, EvaluateConfig, SynthConfig
from extpose.predictions import load_predictions, save_predictions
from extpose.synth.motion import MOTIONS
from pipelines.benchmark import BENCHMARKS
from pipelines.evaluate import PREDICTIONS, Evaluation, evaluate
from pipelines.synth import synthesize

COLUMNS = {"pa_mpjpe": "PA-MPJPE", "mpjpe": "MPJPE", "mpvpe": "MPVPE", "accel": "acceleration",
           "jitter": "jitter", "target_jitter": "its truth"}  # fmt: skip
WINDOWS = (1, 8, 16)
MODALITIES = ("rgb", "skeleton", "both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-clips", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path("runs/packaged"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    names = " | ".join(COLUMNS.values())
    print(
        f"| data | input | frames at once | {names} |\n|{'---|' * (len(COLUMNS) + 3)}", flush=True
    )
    tables: list[str] = []
    for body in ("body", "hand"):
        rendered = SynthConfig(
            out=args.work / body,
            body=body,
            num_clips=args.num_clips,
            split="test",
            image_size=(256, 256),
            crop=CropConfig(size=128),
            workers=0,
        )
        synthesize(rendered)
        config = EvaluateConfig(data=rendered.out, out=args.work / "evaluate", pictures=0)
        print_rows(f"rendered: {body}", config)
    for name in BENCHMARKS:
        config = EvaluateConfig(benchmark=name, out=args.work / "evaluate", pictures=0)
        whole = print_rows(f"`{name}`", config)
        tables.append(whole.table())
    print("", *tables, sep="\n\n")


def print_rows(data: str, config: EvaluateConfig) -> Evaluation:
    """A row for each input; the evaluation of both modalities with the longest window."""
    found: dict[tuple[str, int], Evaluation] = {}
    for modalities in MODALITIES:
        for window in WINDOWS:
            options: dict[str, Any] = {"modalities": modalities, "window": window}
            found[modalities, window] = evaluate(replace(config, **options))
            print_row(f"{data} | {modalities} | {window}", found[modalities, window])
    print_row(f"{data} | none: at rest | -", evaluate_at_rest(config))
    return found["both", WINDOWS[-1]]


def print_row(name: str, evaluation: Evaluation) -> None:
    """All clips; of rendered bodies then those of recorded motions, and composed ones."""
    result = evaluation.results[0]
    print_values(name, {m.name: m.value for m in result.metrics})
    if not name.startswith("rendered: body |"):
        return
    recorded = tuple(motion.replace("_", "-") for motion in MOTIONS["test"])
    for kind, is_recorded in (("recorded", True), ("composed", False)):
        rows = [r for r in result.sequences if r.sequence.endswith(recorded) == is_recorded]
        frames = [row.num_frames for row in rows]
        means = {c: float(np.average([r.values[c] for r in rows], weights=frames)) for c in COLUMNS}
        print_values(name.replace("body", f"{len(rows)} {kind}", 1), means)


def print_values(name: str, values: Mapping[str, float | None]) -> None:
    cells = ("-" if values.get(c) is None else f"{values[c]:.1f}" for c in COLUMNS)
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def evaluate_at_rest(config: EvaluateConfig) -> Evaluation:
    """The predictions of the run before without their pose."""
    given, facts = load_predictions(config.out / PREDICTIONS)
    rest = {key: replace(clip, pose=np.zeros_like(clip.pose)) for key, clip in given.items()}
    path = config.out / "at-rest.npz"
    save_predictions(path, rest, facts)
    return evaluate(replace(config, predictions=path))


if __name__ == "__main__":
    main()
