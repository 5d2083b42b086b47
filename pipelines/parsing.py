"""Options of a verb, from its words; what is said when they cannot be understood."""

import difflib
import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

from pipelines.arguments import Verb

T = TypeVar("T")


def parse(
    kind: type[T], args: list[str], verb: Verb, default: T | None = None, *, more: str = ""
) -> T:
    """Options to a dataclass; tyro prints usage errors and exits with 2."""
    prog = " ".join(verb.example.split()[:2])
    description = f"{verb.summary}\n\n{more}Example:  {verb.example}"
    if default is None:
        return tyro.cli(kind, prog=prog, description=description, args=args)
    return tyro.cli(kind, prog=prog, description=description, args=args, default=default)


def require_some(what: str, given: Sequence[object], verb: Verb) -> None:
    """Exit with 2 when no file is given: tyro lets a list be empty."""
    if not given:
        print(f"extpose: no {what} is given. Example:  {verb.example}", file=sys.stderr)
        raise SystemExit(2)


def usage_error(what: str, given: str, allowed: Sequence[str]) -> int:
    """Say what was not understood and what may have been meant; returns exit code 2."""
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else f" Choose from: {', '.join(allowed)}."
    print(f"extpose: unknown {what} '{given}'.{hint}", file=sys.stderr)
    return 2
