"""Which slates are made before anybody asks for them.

In: what users do. Out: rows whose slate is worth making while the models are idle, from two lines:

    stale   users who have watched most of what their last answer held: they will ask again soon
    first   after the start, every known user, the most active first

A client that plays ten videos sends ten events before it asks again. Each makes its slate stale;
a new one after each would be made ten times and read once. So a slate is made ahead only from the
``ahead_after``-th event on. A feed that comes earlier is computed when it comes.

Events and answers are told on the loop, work is taken by the computing thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable

import numpy as np

from shorts_recommendation.config import ServingConfig

STALE_BATCH = 8
"""Slates made ahead at once. A call of the models has a fixed cost that eight share; a request
that arrives meanwhile waits for all of them."""
STALE_WAIT_S = 0.2
"""Fewer than that are made once the oldest has waited so long."""
FIRST_BATCH = 32
"""After the start, when few ask: the fixed cost of a call is all but gone."""


class Ahead:
    """The two lines.

    Args:
        config: Whether, and after how many events.
        n_rows: Rows of users' states.
    """

    def __init__(self, config: ServingConfig, n_rows: int) -> None:
        self._config = config
        self._played = np.zeros(n_rows, dtype=np.int32)  # events since the last answer
        self._stale: OrderedDict[int, float] = OrderedDict()
        self._first: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._stale) + len(self._first)

    @property
    def to_start(self) -> int:
        """Slates of the start that are not made yet."""
        return len(self._first)

    def start(self, rows: Iterable[int]) -> None:
        """Make the slates of these rows, in this order, when there is nothing else to do."""
        self._first.extend(rows)

    def answered(self, row: int) -> None:
        """The user has been given videos to watch."""
        self._played[row] = 0

    def watched(self, row: int) -> bool:
        """One event of a user whose slate is stale by it; whether there is a batch to make now."""
        self._played[row] += 1
        if not self._config.compute_ahead or self._played[row] < self._config.ahead_after:
            return False
        self._stale.pop(row, None)  # of several events in a row the last one counts
        self._stale[row] = time.perf_counter()
        return len(self._stale) in (1, STALE_BATCH)

    def forget(self, row: int) -> None:
        """The row belongs to somebody else now."""
        self._stale.pop(row, None)
        self._played[row] = 0

    def take(self) -> list[int]:
        """Rows to make slates of, at once; empty while there is nothing, or too little."""
        oldest_s = next(iter(list(self._stale.values())), float("inf"))
        ripe = time.perf_counter() - oldest_s >= STALE_WAIT_S
        rows: list[int] = []
        if ripe or len(self._stale) >= STALE_BATCH:
            while self._stale and len(rows) < STALE_BATCH:
                try:
                    rows.append(self._stale.popitem(last=False)[0])
                except KeyError:  # the loop took it back for a moment
                    break
        else:
            while self._first and len(rows) < FIRST_BATCH:
                rows.append(self._first.popleft())
        return rows
