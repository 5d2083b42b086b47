"""`extpose demo`: the whole line on real footage, from a video to a mesh on its pixels.

    extpose demo --out demo

The footage is the sample video of the `sports2d` package. Nothing here is special to the demo:
each step is the verb that its line in the table names, with its ordinary options.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from extpose.assets import fetch
from extpose.config import (
    CropConfig,
    EvaluateConfig,
    PredictConfig,
    PreprocessConfig,
    SourceConfig,
    SynthConfig,
)
from extpose.errors import ExtPoseError
from extpose.recipes import RECIPES
from extpose.report import Report
from pipelines.evaluate import evaluate
from pipelines.inspect import inspect_shards
from pipelines.predict import predict
from pipelines.preprocess import preprocess
from pipelines.runtime import ray_session
from pipelines.synth import synthesize
from pipelines.train import train
from pipelines.validate import validate

VIDEO = "video-walkers"


@dataclass
class Steps:
    """What was done, how long it took, and what it made."""

    say: Callable[[str], None]
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, makes: Path) -> Iterator[None]:
        """Time one step and say what it makes."""
        self.say(f"\n== {name}")
        start = time.monotonic()
        yield
        self.rows.append((name, f"{time.monotonic() - start:.0f} s", str(makes)))

    def must(self, name: str, code: int) -> None:
        """Raise ExtPoseError where a verb did not return 0."""
        if code:
            raise ExtPoseError(f"demo: {name} ended with exit code {code}")


def demo(
    out: Path, *, train_seconds: float, num_clips: int, say: Callable[[str], None] = print
) -> int:
    """Run every step; returns the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    steps = Steps(say)
    with steps.step("fetch: the video and the detectors' weights", Path("cache")):
        video = fetch(VIDEO)
        fetch("movenet-thunder")
        fetch("motion")
    with ray_session():
        _make_data(out, video, num_clips, steps)
        with steps.step("train tiny: Ray Train, 2 workers, DeepSpeed ZeRO-2", out / "train"):
            recipe = RECIPES["tiny"]
            checkpoint = train(
                replace(recipe, data=(out / "synth",), out=out / "train", max_seconds=train_seconds)
            )
    with steps.step("evaluate: held-out synthetic clips", out / "evaluate"):
        evaluation = evaluate(
            EvaluateConfig(checkpoint=checkpoint, data=out / "held-out", out=out / "evaluate")
        )
        say(evaluation.table())
    with steps.step("predict: every person of the video, the packaged network", out / "predict"):
        steps.must("predict", predict((video,), PredictConfig(out=out / "predict")))
    page = _write_report(out, steps, evaluation.table())
    say("\nMade:")
    for name, seconds, path in steps.rows:
        say(f"  {seconds:>6}  {path:<24}  {name}")
    say(f"\nLook at {page}")
    return 0


def _make_data(out: Path, video: Path, num_clips: int, steps: Steps) -> None:
    with steps.step("preprocess: the video to shards", out / "shards"):
        source = SourceConfig(path=(video,))
        config = PreprocessConfig(source=source, out=out / "shards", unit_frames=128)
        steps.must("preprocess", preprocess(config))
        steps.must("validate", validate(out / "shards"))
    with steps.step("inspect: contact sheets of the clips", out / "sheets"):
        shards = tuple(sorted((out / "shards").glob("*.tar")))
        inspect_shards(shards[:1], out / "sheets", max_clips=2)
    with steps.step(f"synth: {num_clips} clips with exact truth", out / "synth"):
        rendered = SynthConfig(
            out=out / "synth",
            num_clips=num_clips,
            image_size=(256, 256),
            crop=CropConfig(size=2 * RECIPES["tiny"].model.image_size),
        )
        steps.must("synth", synthesize(rendered))
    with steps.step("synth: 16 clips without a recording of training", out / "held-out"):
        held_out = replace(rendered, out=out / "held-out", num_clips=16, split="val", workers=0)
        steps.must("synth", synthesize(held_out))


def _write_report(out: Path, steps: Steps, table: str) -> Path:
    report = Report("ExtPose: the demo", out)
    report.text(
        "Networks of a few million parameters, trained on rendered clips of a free body: for 50 "
        "minutes (the packaged one, which predicts here) and for a minute (the one of this demo). "
        "They show the whole line at work, not the method's accuracy."
    )
    report.table(("step", "time", "made"), steps.rows)
    report.heading("The mesh on the pixels")
    for overlay in sorted((out / "predict").rglob("overlay.mp4")):
        report.video(overlay, "Predicted meshes on the video")
    for picture in sorted((out / "predict").rglob("frame_*.jpg")):
        report.picture(picture, picture.stem)
    report.heading("What the network saw: clips of the video")
    for sheet in sorted((out / "sheets").glob("*.png")):
        report.picture(sheet, sheet.stem)
    report.heading("Training")
    for picture in sorted((out / "train").glob("first_batch*.png")):
        report.picture(picture, "The first batch: image and skeleton of each clip")
    report.heading("Held-out synthetic clips, the network of this demo")
    report.code(table)
    return report.write()
