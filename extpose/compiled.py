"""How the few pixel loops of the project become machine code: numba, in one thread."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, and keep the result on disk where there is a place for it.

    Write `@no_type_check` below it: a test run's shape checks must stay out of compiled code.
    """
    try:
        return njit(cache=True)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written (read-only container).
        return njit(function)
