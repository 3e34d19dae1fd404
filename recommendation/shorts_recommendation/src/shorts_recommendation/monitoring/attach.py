"""The monitor on a running service: ``watch_feed(create_app(...))``.

In: an app. Out: the same app, whose engine tells the monitor of slates and events once it has
started. The serving code knows nothing of it: the engine's recommender and states are wrapped by
objects that pass everything on and listen. A monitor that fails is counted
(``observer_failures_total``); answers go out as if it were not there.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.monitoring.monitor import FeedMonitor, MonitorSettings
from shorts_recommendation.monitoring.reference import load_reference
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.serving.engine import FeedEngine
from shorts_recommendation.serving.users import WatchEvent, outcomes_of

logger = logging.getLogger(__name__)


def watch_feed(
    app: FastAPI, bundle: Path | None = None, settings: MonitorSettings | None = None
) -> FastAPI:
    """Lets a monitor watch the app; it stands in ``app.state.monitor`` while the app runs.

    Args:
        app: From ``create_app``; not started yet.
        bundle: Folder with the reference of training; without one only the launch is compared.
        settings: How often, over how much.
    """
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Any]:
        async with inner(served) as state:
            served.state.monitor = monitor = attach(served.state.engine, bundle, settings)
            monitor.start()
            try:
                yield state
            finally:
                monitor.close()

    app.router.lifespan_context = lifespan
    return app


def attach(
    engine: FeedEngine, bundle: Path | None = None, settings: MonitorSettings | None = None
) -> FeedMonitor:
    """A monitor that hears of everything the engine does from now on; not started."""
    monitor = FeedMonitor(
        engine.metrics.registry,
        engine.recommender.config.state,
        lambda: engine.recommender.items,
        snapshot_age_s=lambda: float(engine.clock.now() - engine.snapshot.as_of_s),
        trained=load_reference(bundle) if bundle else None,
        settings=settings,
    )

    engine.recommender = TellingRecommender(engine, monitor)  # type: ignore[assignment]
    engine.users = TellingUsers(engine, monitor)  # type: ignore[assignment]
    return monitor


class TellingRecommender:
    """A recommender that tells of its slates."""

    def __init__(self, engine: FeedEngine, monitor: FeedMonitor) -> None:
        self._inner, self._engine, self._monitor = engine.recommender, engine, monitor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recommend(
        self, batch: RequestBatch, snapshot: CounterSnapshot, k: int, **more: Any
    ) -> Sequence[Any]:
        """As the recommender's; then the monitor hears of it."""
        slates: Sequence[Any] = self._inner.recommend(batch, snapshot, k, **more)
        try:
            self._monitor.slates_made(batch, snapshot, slates)
        except Exception:  # an observer never costs an answer
            logger.exception("the monitor failed on slates; they go out")
            self._engine.metrics.observer_failed(self._monitor.name)
        return slates


class TellingUsers:
    """Live states that tell of events, once the log is replayed: old events are no news."""

    def __init__(self, engine: FeedEngine, monitor: FeedMonitor) -> None:
        self._inner, self._engine, self._monitor = engine.users, engine, monitor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def apply(self, events: Sequence[WatchEvent]) -> list[int]:
        """As the states'; then the monitor hears of it."""
        rows = self._inner.apply(events)
        if not events or self._engine.not_ready():
            return rows
        try:
            videos = [event.video_idx for event in events]
            duration_s = self._engine.recommender.items.duration_s[videos]
            known = [row if row < self._inner.n_known else -1 for row in rows]
            self._monitor.events_applied(known, outcomes_of(events, duration_s))
        except Exception:  # as above
            logger.exception("the monitor failed on events; they are applied")
            self._engine.metrics.observer_failed(self._monitor.name)
        return rows
