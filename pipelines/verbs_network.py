"""Verbs of the command line that train, run and move networks.

Each parses its options, then imports what it needs: `extpose --help` loads nothing else.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from extpose.config import EvaluateConfig, TrainConfig
from extpose.errors import ExtPoseError
from extpose.recipes import RECIPES
from pipelines import parsing
from pipelines.arguments import (
    ConvertArgs,
    ExportArgs,
    NoArgs,
    PlanArgs,
    PredictArgs,
    Verb,
)


def take_recipe(args: list[str]) -> TrainConfig:
    """The recipe that the first argument names, if it names one; exits with 2 for another name."""
    if not args or args[0].startswith("-"):
        return TrainConfig()
    recipe = args.pop(0)
    if recipe not in RECIPES:
        raise SystemExit(parsing.usage_error("recipe", recipe, list(RECIPES)))
    return RECIPES[recipe]


def run_train(args: list[str], verb: Verb) -> int:
    """Shards to a checkpoint."""
    config = parsing.parse(TrainConfig, args, verb, take_recipe(args))
    from pipelines.train import train

    print(f"checkpoint: {train(config)}")
    return 0


def run_plan(args: list[str], verb: Verb) -> int:
    """What a training run will need."""
    options = parsing.parse(PlanArgs, args, verb, PlanArgs(config=take_recipe(args)))
    from pipelines.train_plan import parse_cluster, plan_table

    cluster = parse_cluster(options.cluster)
    print(plan_table(options.config, cluster, mfu=options.mfu, price=options.price))
    return 0


def run_export(args: list[str], verb: Verb) -> int:
    """A run's checkpoint to one file of weights."""
    options = parsing.parse(ExportArgs, args, verb)
    from extpose.training.export import export_weights

    folder = export_weights(options.source, options.out, precision=options.precision)
    print(f"{options.out}: weights of {folder}")
    return 0


def run_recipes(args: list[str], verb: Verb) -> int:
    """Sizes and parameters of what `train` knows by name."""
    parsing.parse(NoArgs, args, verb)
    from pipelines.recipes import ablation_table, recipe_table

    print(f"{recipe_table()}\n\n{ablation_table()}")
    return 0


def run_evaluate(args: list[str], verb: Verb) -> int:
    """Metrics on labelled shards."""
    config = parsing.parse(EvaluateConfig, args, verb)
    parsing.require_some(
        "data or benchmark",
        [config.data] if config.data != Path() or config.benchmark else [],
        verb,
    )
    from pipelines.evaluate import evaluate

    print(evaluate(config).table())
    return 0


def run_predict(args: list[str], verb: Verb) -> int:
    """Videos to body parameters, overlay and report."""
    options = parsing.parse(PredictArgs, args, verb)
    parsing.require_some("video", options.video, verb)
    from pipelines.predict import predict

    return predict(options.video, options.config)


def run_convert(args: list[str], verb: Verb) -> int:
    """A checkpoint to another layout."""
    options = parsing.parse(ConvertArgs, args, verb)
    from pipelines.convert import convert, find_config

    found = find_config(
        options.checkpoint,
        num_heads=options.model.num_heads,
        head_num_heads=options.model.head_num_heads,
    )
    # Again, with what the file says in place of the defaults.
    options = parsing.parse(ConvertArgs, args, verb, replace(options, model=found))
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
        parsing.parse(SubmitConfig, args if args else ["--help"], verb)
        raise SystemExit(parsing.usage_error("verb", "", list(VERBS)))
    split = args.index("--")
    return submit(args[split + 1 :], parsing.parse(SubmitConfig, args[:split], verb))


VERBS: dict[str, Verb] = {
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
        "extpose submit --address http://head:8265 -- train tiny --data /data/shards",
        run_submit,
    ),
}
