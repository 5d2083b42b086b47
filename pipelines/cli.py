"""The command line: `extpose VERB ...`.

    extpose demo
    extpose preprocess --source.path walk.mp4 videos/ --out shards
    extpose train tiny --data shards
    extpose predict walk.mp4 --checkpoint runs/train/model.safetensors

Options are derived from the dataclasses of `extpose.config`. Exit codes: 0 all was done; 1 an
error, printed as one line; 2 a usage error; 3 the run finished but something was quarantined.
"""

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from extpose import __version__
from extpose.errors import ExtPoseError
from pipelines import verbs_data, verbs_network
from pipelines.arguments import Verb
from pipelines.parsing import usage_error

VERBS: dict[str, Verb] = verbs_data.VERBS | verbs_network.VERBS


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
