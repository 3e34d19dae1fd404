"""The monitor on a running service: ``watch_feed(create_app(...))``.

In: an app. Out: the same app, whose engine tells the monitor of slates and events once it has
started. A monitor that fails is counted (``observer_failures_total``); answers go out as if it were
not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from shorts_recommendation.monitoring.monitor import FeedMonitor, MonitorSettings
from shorts_recommendation.monitoring.reference import load_reference
from shorts_recommendation.serving.engine import FeedEngine


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
        answered=engine.config.prefetch,
        settings=settings,
    )
    engine.observers.append(monitor)
    return monitor
