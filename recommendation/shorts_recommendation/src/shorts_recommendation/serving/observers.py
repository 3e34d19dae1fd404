"""Who watches the feed: told of slates that were computed and of events that were applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import Outcomes


class FeedObserver(Protocol):
    """Watches an engine. Both methods return at once and keep no caller waiting."""

    def slates_made(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        slates: Sequence[Any],
        asked_s: Sequence[float | None],
    ) -> None:
        """Slates were computed for these requests; on the computing thread.

        Args:
            batch: The requests.
            snapshot: The counters of the moment.
            slates: One for each.
            asked_s: `time.perf_counter` when each was asked for; None for a slate made ahead.
        """

    def events_applied(self, rows: Sequence[int], outcomes: Outcomes) -> None:
        """New events are in the states; on the event loop.

        Args:
            rows: ``user_idx`` of each; -1 where the bundle does not know the user.
            outcomes: What happened.
        """
