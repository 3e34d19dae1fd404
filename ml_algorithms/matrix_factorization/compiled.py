"""Plain Python loops, compiled by numba where speed is wanted.

Stochastic gradient descent touches one example at a time, which Python does a hundred times too
slowly and numpy cannot batch without becoming another algorithm. So the loops of bpr.py and
funk_svd.py are written as plain Python on arrays: run as they stand they are the readable version
that the tests step through, and the same text compiled is the fast one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code; compiled once a process, at the first call, in a few seconds.

    It runs without the interpreter's lock, so that two fits can share two cores as threads.
    """
    from numba import njit

    return njit(nogil=True)(loop)


def chosen(loop: Callable[..., Any], *, compile_loop: bool) -> Callable[..., Any]:
    """The loop compiled, or as it stands (some hundred times slower, and open to a debugger)."""
    return compiled(loop) if compile_loop else loop
