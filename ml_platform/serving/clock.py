"""The server's clock, which runs in the data's own era.

A data set that ended years ago, or a simulated one, has no meaning at today's date: ages and
recency features would be decades off what the models were trained on. So server time starts at
the end of the data and runs on at normal speed: ``now = data_end + seconds since start``. An
log's records say when the server received them; after a restart the replayed log moves the clock
there, so time never runs backwards.

A client's timestamp may lead the clock by ``max_lead_s`` at most. A service that lets it move the
clock gives each event that much of everybody's time: two in a row give twice as much. So a service
should move the clock by what it stamped itself, and clamp a client's time to that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_LEAD_S = 86_400
"""Lead of a timestamp that is still accepted, unless a service says otherwise."""


class ServerClock:
    """Unix seconds in the data's era; never runs backwards. Thread-safe.

    Args:
        data_end: Last timestamp of the training log.
        monotonic: Seconds that pass.
        max_lead_s: Most seconds by which a client's timestamp may lead the clock.
    """

    def __init__(
        self,
        data_end: int,
        monotonic: Callable[[], float] = time.monotonic,
        max_lead_s: int = MAX_LEAD_S,
    ) -> None:
        self.max_lead_s = max_lead_s
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
