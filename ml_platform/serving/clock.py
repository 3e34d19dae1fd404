"""The server's clock, which runs in the data's own era.

A data set that ended years ago, or a simulated one, has no meaning at today's date: ages and
recency features would be decades off what the models were trained on. So server time starts at
the end of the data and runs on at normal speed: ``now = data_end + seconds since start``. An
event with a later timestamp moves the clock there; after a restart the replayed log does the
same, so time never runs backwards. An event may lead the clock by `MAX_LEAD_S` at most: otherwise
one client with a wrong clock would age everybody's history.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_LEAD_S = 86_400


class ServerClock:
    """Unix seconds in the data's era; never runs backwards. Thread-safe.

    Args:
        data_end: Last timestamp of the training log.
        monotonic: Seconds that pass.
    """

    def __init__(self, data_end: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._origin = data_end - monotonic()
        self._lock = threading.Lock()

    def now(self) -> int:
        """Server time."""
        return int(self._origin + self._monotonic())

    def advance_to(self, timestamp: int) -> None:
        """Move to a later time; an earlier one changes nothing."""
        with self._lock:
            self._origin = max(self._origin, timestamp - self._monotonic())
