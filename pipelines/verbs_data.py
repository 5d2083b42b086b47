"""The demo, and verbs of the command line that make, read and check data.

Each parses its options, then imports what it needs: `extpose --help` loads nothing else.
"""

import sys

from extpose.config import IngestConfig, PreprocessConfig, SynthConfig
from pipelines import parsing
from pipelines.arguments import (
    CalibrateArgs,
    DemoArgs,
    DoctorArgs,
    ExplainArgs,
    FitNoiseArgs,
    InspectArgs,
    MocapArgs,
    MultiviewArgs,
    RebuildArgs,
    ReplayArgs,
    ValidateArgs,
    Verb,
)


def run_demo(args: list[str], verb: Verb) -> int:
    """The whole line on a packaged video."""
    options = parsing.parse(DemoArgs, args, verb)
    from pipelines.demo import demo

    return demo(options.out, train_seconds=options.train_seconds, num_clips=options.num_clips)


def run_doctor(args: list[str], verb: Verb) -> int:
    """What is there and what is missing."""
    options = parsing.parse(DoctorArgs, args, verb)
    from pipelines.doctor import doctor

    return doctor(fetch_missing=options.fetch)


def run_synth(args: list[str], verb: Verb) -> int:
    """Rendered clips."""
    config = parsing.parse(SynthConfig, args, verb)
    from pipelines.synth import synthesize

    return synthesize(config)


def run_fit_noise(args: list[str], verb: Verb) -> int:
    """The noise model of a detector."""
    options = parsing.parse(FitNoiseArgs, args, verb)
    from pipelines.fit_noise import fit

    print(f"{fit(options)}\n{options.out}: use it with `extpose synth --noise`")
    return 0


def run_preprocess(args: list[str], verb: Verb) -> int:
    """Videos to shards."""
    config = parsing.parse(PreprocessConfig, args, verb)
    if config.dry_run:
        from pipelines.dry_run import dry_run

        print(dry_run(config))
        return 0
    from pipelines.preprocess import preprocess

    return preprocess(config)


def run_estimate(args: list[str], verb: Verb) -> int:
    """A measured run to the time and cost of a large one."""
    from pipelines.estimate import EstimateArgs, estimate

    lines, _ = estimate(parsing.parse(EstimateArgs, args, verb))
    print("\n".join(lines))
    return 0


def run_replay(args: list[str], verb: Verb) -> int:
    """One stage of one unit, again, against what it gave before."""
    options = parsing.parse(ReplayArgs, args, verb)
    from pipelines.replay import STAGES, replay, save_golden

    is_equal = True
    if options.save_from is not None:
        lines = save_golden(options.folder, options.save_from, options.unit, files=options.detect)
    else:
        stages = STAGES if options.stage == "all" else (options.stage,)
        lines, is_equal = replay(
            options.folder,
            stages,
            repeat=options.repeat,
            tolerance=options.tolerance,
            files=options.detect,
        )
    print("\n".join(lines))
    return 0 if is_equal else 1


def run_ingest(args: list[str], verb: Verb) -> int:
    """A labelled data set to shards."""
    from pipelines.datasets import SOURCES

    if not args or args[0].startswith("-"):
        print(f"usage: extpose ingest DATASET [OPTIONS]\n\n{verb.summary}\n")
        print("\n".join(f"  {name:<18}{', '.join(s.splits)}" for name, s in SOURCES.items()))
        print(f"\nExample:  {verb.example}\n`extpose ingest DATASET --help` shows its files.")
        raise SystemExit(0 if args else 2)
    name = args.pop(0)
    if name not in SOURCES:
        return parsing.usage_error("data set", name, list(SOURCES))
    source = SOURCES[name]
    # Help joins the lines of a paragraph, so each file is one.
    files = source.layout.replace("\n", "\n\n")
    more = f"{name} needs, below --root:\n\n{files}\n\n{source.licence}\n\n"
    config = parsing.parse(IngestConfig, args, verb, more=more)
    from pipelines.ingest import ingest

    return ingest(config, source)


def run_multiview(args: list[str], verb: Verb) -> int:
    """Videos of several cameras to people in 3D."""
    options = parsing.parse(MultiviewArgs, args, verb)
    parsing.require_some("video", options.video, verb)
    from pipelines.multiview import run

    print(f"{run(options)}\n{options.out / 'report.html'}")
    return 0


def run_mocap(args: list[str], verb: Verb) -> int:
    """Motion capture to poses for a discriminator."""
    options = parsing.parse(MocapArgs, args, verb)
    if options.free == (options.root is not None):
        print(f"extpose: give --root or --free. Example:  {verb.example}", file=sys.stderr)
        return 2
    if options.root is None:
        from pipelines.free_mocap import write_free_mocap

        made = write_free_mocap(options.out, num_poses=options.num_poses)
    else:
        from pipelines.sources.amass import write_mocap

        made = write_mocap(options.root, options.out, fps=options.fps)
    print(f"{options.out}: {made.num_poses} poses of {made.num_files} files")
    return 0


def run_calibrate(args: list[str], verb: Verb) -> int:
    """A detector's confidence to expected accuracy."""
    options = parsing.parse(CalibrateArgs, args, verb)
    parsing.require_some("folder", options.data, verb)
    from pipelines.calibrate import calibrate

    report = calibrate(options.data, options.check, options.out, origin=options.origin)
    print(report.table())
    return 0


def run_inspect(args: list[str], verb: Verb) -> int:
    """Shards to contact sheets."""
    options = parsing.parse(InspectArgs, args, verb)
    parsing.require_some("shard", options.shard, verb)
    from pipelines.inspect import inspect_shards

    for path in inspect_shards(options.shard, options.out, max_clips=options.max_clips):
        print(path)
    return 0


def run_validate(args: list[str], verb: Verb) -> int:
    """Shards against the contract."""
    options = parsing.parse(ValidateArgs, args, verb)
    from pipelines.validate import validate

    return validate(options.folder, workers=options.workers, strict=options.strict)


def run_explain(args: list[str], verb: Verb) -> int:
    """Where a sample comes from, or why there is none."""
    options = parsing.parse(ExplainArgs, args, verb)
    from pipelines.explain import explain

    print(explain(options.what, options.data))
    return 0


def run_rebuild(args: list[str], verb: Verb) -> int:
    """A sample made again and compared; 1 when it is not the same."""
    options = parsing.parse(RebuildArgs, args, verb)
    from pipelines.rebuild import rebuild

    made = rebuild(options.key, options.data, source=options.source, files=options.detect)
    for library in made.libraries:
        print(f"another library than then: {library}", file=sys.stderr)
    if made.differing:
        print(f"{options.key}: not the same: {', '.join(made.differing)}")
        return 1
    print(f"{options.key}: {made.members} members, the same bytes")
    return 0


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "The whole line on a real video, with pictures and a report.", "extpose demo", run_demo
    ),
    "doctor": Verb(
        "What is installed, what is missing, and the command that brings it.",
        "extpose doctor --fetch",
        run_doctor,
    ),
    "synth": Verb(
        "Render clips of the free body with exact truth.",
        "extpose synth --out data/synth --num-clips 64",
        run_synth,
    ),
    "fit-noise": Verb(
        "Fit the noise model of 2D keypoints to the packaged detector on renders.",
        "extpose fit-noise --out noise.json --real",
        run_fit_noise,
    ),
    "preprocess": Verb(
        "Videos to shards: people, tracks, 2D keypoints, crops, skeleton drawings.",
        "extpose preprocess --source.path walk.mp4 videos/ --out data/walk",
        run_preprocess,
    ),
    "estimate": Verb(
        "How long and how much for many clips on 1 to 16 nodes, from a measured run.",
        "extpose estimate data/walk --clips 1000000 --node cpu-32",
        run_estimate,
    ),
    "replay": Verb(
        "Run one stage of one unit alone, without Ray, against its golden output.",
        "extpose replay golden --stage track",
        run_replay,
    ),
    "ingest": Verb(
        "A labelled data set, as downloaded, to shards.",
        "extpose ingest 3dpw --root /data/3DPW --split test --out data/3dpw-test",
        run_ingest,
    ),
    "multiview": Verb(
        "People in 3D from the videos of several calibrated cameras: a reference to evaluate by.",
        "extpose multiview cam1.mp4 cam2.mp4 cam3.mp4 --calibration cameras.toml --out data/mine",
        run_multiview,
    ),
    "mocap": Verb(
        "Motion capture of AMASS (or free poses) to what the adversarial term learns from.",
        "extpose mocap --root /data/AMASS --out data/mocap.npz",
        run_mocap,
    ),
    "calibrate": Verb(
        "Learn from labelled clips what a detector's confidence is worth.",
        "extpose calibrate data/fit --check data/held-out --out movenet.json",
        run_calibrate,
    ),
    "inspect": Verb(
        "Draw the clips of a shard as a contact sheet.",
        "extpose inspect data/walk/*.tar --out sheets",
        run_inspect,
    ),
    "explain": Verb(
        "Where a sample comes from, or why a frame is in none.",
        "extpose explain walk.mp4:120 --data data/walk",
        run_explain,
    ),
    "rebuild": Verb(
        "Make a sample again from its source, and compare the bytes.",
        "extpose rebuild walk-1f0c5a3e9b_0_000000 --data data/walk",
        run_rebuild,
    ),
    "validate": Verb(
        "Check shards against the contract and their manifest.",
        "extpose validate data/walk --workers 8",
        run_validate,
    ),
}
