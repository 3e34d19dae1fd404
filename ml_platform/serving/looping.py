"""A background thread's loop that outlives its errors: each is logged and counted, then it goes on.

In: one turn of the work as a callable. Out: turns until told to stop. A thread that ended by an
exception would leave a service that looks well and has stopped to publish, to count or to compute.
What can still end a thread is found by `dead_threads`, which a readiness check should ask.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

PAUSE_S = 0.2
"""After a turn that raised: an error that stays must not fill a processor, nor the log's disk."""


def keep_going(
    turn: Callable[[], object],
    *,
    name: str,
    stop: threading.Event,
    failed: Callable[[str], object] = lambda name: None,
    pause_s: float = PAUSE_S,
) -> None:
    """Take turns until told to stop.

    Args:
        turn: One turn; waits by itself where there is nothing to do.
        name: In log lines and counts.
        stop: Set from outside.
        failed: Told the name after a turn that raised.
        pause_s: Rest after such a turn.
    """
    while not stop.is_set():
        try:
            turn()
        except Exception:  # the boundary of a thread: nobody above could catch it
            logger.exception("a turn of thread %s failed; it goes on", name)
            failed(name)
            stop.wait(pause_s)


def dead_threads(threads: Iterable[threading.Thread]) -> list[str]:
    """Names of threads that were started and have ended."""
    return [t.name for t in threads if t.ident is not None and not t.is_alive()]
