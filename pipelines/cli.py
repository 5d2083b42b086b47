"""The command line: `extpose VERB ...`.

    extpose demo
    extpose preprocess --source.path walk.mp4 videos/ --out shards
    extpose train tiny --data shards
    extpose predict walk.mp4 --checkpoint runs/train/model.safetensors

Options are derived from the dataclasses of `extpose.config`. Exit codes: 0 all was done; 1 an
error, printed as one line; 2 a usage error; 3 the run finished but something was quarantined.
"""

import difflib
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import tyro

from extpose import __version__
from extpose.config import (
    RECIPES,
    EvaluateConfig,
    IngestConfig,
    PreprocessConfig,
    SynthConfig,
    TrainConfig,
)
from extpose.errors import ExtPoseError
from pipelines.arguments import (
    ConvertArgs,
    DemoArgs,
    DoctorArgs,
    ExportArgs,
    InspectArgs,
    MocapArgs,
    NoArgs,
    PlanArgs,
    PredictArgs,
    ValidateArgs,
    Verb,
)

T = TypeVar("T")


def parse(
    kind: type[T], args: list[str], verb: Verb, default: T | None = None, *, more: str = ""
) -> T:
    """Options to a dataclass; tyro prints usage errors and exits with 2."""
    name = next(name for name, candidate in VERBS.items() if candidate is verb)
    prog, description = f"extpose {name}", f"{verb.summary}\n\n{more}Example:  {verb.example}"
    if default is None:
        return tyro.cli(kind, prog=prog, description=description, args=args)
    return tyro.cli(kind, prog=prog, description=description, args=args, default=default)


def require_some(what: str, given: Sequence[Path], verb: Verb) -> None:
    """Exit with 2 when no file is given: tyro lets a list be empty."""
    if not given:
        print(f"extpose: no {what} is given. Example:  {verb.example}", file=sys.stderr)
        raise SystemExit(2)


def run_demo(args: list[str], verb: Verb) -> int:
    """The whole line on a packaged video."""
    options = parse(DemoArgs, args, verb)
    from pipelines.demo import demo

    return demo(options.out, train_seconds=options.train_seconds, num_clips=options.num_clips)


def run_doctor(args: list[str], verb: Verb) -> int:
    """What is there and what is missing."""
    options = parse(DoctorArgs, args, verb)
    from pipelines.doctor import doctor

    return doctor(fetch_missing=options.fetch)


def run_synth(args: list[str], verb: Verb) -> int:
    """Rendered clips."""
    config = parse(SynthConfig, args, verb)
    from pipelines.synth import synthesize

    return synthesize(config)


def run_preprocess(args: list[str], verb: Verb) -> int:
    """Videos to shards."""
    config = parse(PreprocessConfig, args, verb)
    from pipelines.preprocess import preprocess

    return preprocess(config)


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
        return usage_error("data set", name, list(SOURCES))
    source = SOURCES[name]
    # Help joins the lines of a paragraph, so each file is one.
    files = source.layout.replace("\n", "\n\n")
    more = f"{name} needs, below --root:\n\n{files}\n\n{source.licence}\n\n"
    config = parse(IngestConfig, args, verb, more=more)
    from pipelines.ingest import ingest

    return ingest(config, source)


def run_export(args: list[str], verb: Verb) -> int:
    """A run's checkpoint to one file of weights."""
    options = parse(ExportArgs, args, verb)
    from extpose.training.export import export_weights

    print(f"{options.out}: weights of {export_weights(options.source, options.out)}")
    return 0


def run_mocap(args: list[str], verb: Verb) -> int:
    """Motion capture to poses for a discriminator."""
    options = parse(MocapArgs, args, verb)
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


def run_inspect(args: list[str], verb: Verb) -> int:
    """Shards to contact sheets."""
    options = parse(InspectArgs, args, verb)
    require_some("shard", options.shard, verb)
    from pipelines.inspect import inspect_shards

    for path in inspect_shards(options.shard, options.out, max_clips=options.max_clips):
        print(path)
    return 0


def run_validate(args: list[str], verb: Verb) -> int:
    """Shards against the contract."""
    options = parse(ValidateArgs, args, verb)
    from pipelines.validate import validate

    return validate(options.folder)


def take_recipe(args: list[str]) -> TrainConfig:
    """The recipe that the first argument names, if it names one; exits with 2 for another name."""
    if not args or args[0].startswith("-"):
        return TrainConfig()
    recipe = args.pop(0)
    if recipe not in RECIPES:
        raise SystemExit(usage_error("recipe", recipe, list(RECIPES)))
    return RECIPES[recipe]


def run_plan(args: list[str], verb: Verb) -> int:
    """What a training run will need."""
    options = parse(PlanArgs, args, verb, PlanArgs(config=take_recipe(args)))
    from pipelines.train_plan import parse_cluster, plan_table

    cluster = parse_cluster(options.cluster)
    print(plan_table(options.config, cluster, mfu=options.mfu, price=options.price))
    return 0


def run_train(args: list[str], verb: Verb) -> int:
    """Shards to a checkpoint."""
    config = parse(TrainConfig, args, verb, take_recipe(args))
    from pipelines.train import train

    print(f"checkpoint: {train(config)}")
    return 0


def run_recipes(args: list[str], verb: Verb) -> int:
    """Sizes and parameters of what `train` knows by name."""
    parse(NoArgs, args, verb)
    from pipelines.recipes import ablation_table, recipe_table

    print(f"{recipe_table()}\n\n{ablation_table()}")
    return 0


def run_evaluate(args: list[str], verb: Verb) -> int:
    """Metrics on labelled shards."""
    config = parse(EvaluateConfig, args, verb)
    from pipelines.evaluate import evaluate

    print(evaluate(config).table())
    return 0


def run_predict(args: list[str], verb: Verb) -> int:
    """Videos to body parameters, overlay and report."""
    options = parse(PredictArgs, args, verb)
    require_some("video", options.video, verb)
    from pipelines.predict import predict

    return predict(options.video, options.config)


def run_convert(args: list[str], verb: Verb) -> int:
    """A checkpoint to another layout."""
    options = parse(ConvertArgs, args, verb)
    from pipelines.convert import convert, find_config

    found = find_config(
        options.checkpoint,
        num_heads=options.model.num_heads,
        head_num_heads=options.model.head_num_heads,
    )
    # Again, with what the file says in place of the defaults.
    options = parse(ConvertArgs, args, verb, replace(options, model=found))
    done = convert(
        options.checkpoint,
        options.out,
        config=options.model,
        to=options.to,
        keep_discriminator=options.keep_discriminator,
    )
    print(done.table())
    return 0


def run_submit(args: list[str], verb: Verb) -> int:
    """Another verb, on a Ray cluster."""
    if find_spec("cluster") is None:
        raise ExtPoseError("works from a clone of the repository, which it uploads")
    from cluster.submit import SubmitConfig, submit

    if "--" not in args:
        parse(SubmitConfig, args if args else ["--help"], verb)
        raise SystemExit(usage_error("verb", "", list(VERBS)))
    split = args.index("--")
    return submit(args[split + 1 :], parse(SubmitConfig, args[:split], verb))


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
    "preprocess": Verb(
        "Videos to shards: people, tracks, 2D keypoints, crops, skeleton drawings.",
        "extpose preprocess --source.path walk.mp4 videos/ --out data/walk",
        run_preprocess,
    ),
    "ingest": Verb(
        "A labelled data set, as downloaded, to shards.",
        "extpose ingest 3dpw --root /data/3DPW --split test --out data/3dpw-test",
        run_ingest,
    ),
    "mocap": Verb(
        "Motion capture of AMASS (or free poses) to what the adversarial term learns from.",
        "extpose mocap --root /data/AMASS --out data/mocap.npz",
        run_mocap,
    ),
    "inspect": Verb(
        "Draw the clips of a shard as a contact sheet.",
        "extpose inspect data/walk/*.tar --out sheets",
        run_inspect,
    ),
    "validate": Verb(
        "Check shards against the contract and their manifest.",
        "extpose validate data/walk",
        run_validate,
    ),
    "train": Verb(
        f"Shards to a checkpoint. Recipes: {', '.join(RECIPES)}.",
        "extpose train tiny --data data/synth --out runs/tiny",
        run_train,
    ),
    "plan": Verb(
        "Memory, time and cost of a training recipe on a cluster, before it is paid for.",
        "extpose plan body-video --cluster 8xA100-80GB --engine.precision bf16",
        run_plan,
    ),
    "export": Verb(
        "The weights in a training run's newest checkpoint, as one safetensors file.",
        "extpose export runs/tiny tiny.safetensors",
        run_export,
    ),
    "recipes": Verb(
        "The recipes of `train` and the paper's ablations, with their numbers of parameters.",
        "extpose recipes",
        run_recipes,
    ),
    "evaluate": Verb(
        "Metrics of a checkpoint on labelled shards.",
        "extpose evaluate --checkpoint runs/tiny/model.safetensors --data data/held-out",
        run_evaluate,
    ),
    "predict": Verb(
        "Every person of a video: body parameters, mesh overlay, report.",
        "extpose predict walk.mp4 --checkpoint runs/tiny/model.safetensors --out runs/walk",
        run_predict,
    ),
    "convert": Verb(
        "A checkpoint of HMR2.0, HaMeR or ViTPose to this project's layout, or back.",
        "extpose convert epoch=35-step=1000000.ckpt hmr2.safetensors",
        run_convert,
    ),
    "submit": Verb(
        "Send another verb to a Ray cluster.",
        "extpose submit --address http://head:8265 -- train body-video --data /data/shards",
        run_submit,
    ),
}


def usage() -> str:
    """The list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: extpose VERB [OPTIONS]",
            "",
            *lines,
            "",
            "`extpose VERB --help` shows its options.",
        ]
    )


def usage_error(what: str, given: str, allowed: Sequence[str]) -> int:
    """Say what was not understood and what may have been meant; returns exit code 2."""
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else f" Choose from: {', '.join(allowed)}."
    print(f"extpose: unknown {what} '{given}'.{hint}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    args: list[Any] = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"extpose {__version__}")
        return 0
    name = args.pop(0)
    if name not in VERBS:
        return usage_error("verb", name, list(VERBS))
    try:
        return VERBS[name].run(args, VERBS[name])
    except ExtPoseError as error:
        logging.debug("%s", traceback.format_exc())
        print(f"extpose {name}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("extpose", "pipelines", "cluster"):
            raise
        print(
            f"extpose {name}: the package '{error.name}' is not installed; "
            "`pip install 'extpose[cluster]'` brings everything that the pipelines need",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
