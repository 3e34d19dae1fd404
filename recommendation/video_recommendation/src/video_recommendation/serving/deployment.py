"""Keeps what is served equal to the registry's production alias.

A thread looks at the alias file twice a second. When ``promote`` or ``rollback`` has moved the
alias, the version is loaded beside the running one, warmed up, caught up with the event log and
swapped in (`ServingEngine.install`). A version that cannot be loaded is refused: the reason is
logged, counted and shown, the running version stays, and the alias is looked at again only when
somebody moves it.

Polling a file instead of a call to the server: the registry may lie on a disk that several servers
share, an alias that was moved while a server was down is found when it comes back, and there is
nothing to secure. It costs one `stat` each time.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_platform.operations.registry import ModelRegistry, RegistryError
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.engine import ServingEngine
from video_recommendation.serving.protocol import Recommender

logger = logging.getLogger(__name__)

POLL_S = 0.5
LOADER_NICENESS = 10  # loading may take longer; answering may not


class Deployment:
    """Follows the production alias. See `Attachment`.

    Args:
        engine: Whose production version is kept up to date.
        registry: Where versions and aliases are.
        load: Reads, checks and warms up the bundle in a folder; raises when it must not serve.
        poll_s: Pause between looks at the alias.
    """

    name = "deployment"

    def __init__(
        self,
        engine: ServingEngine,
        registry: ModelRegistry,
        load: Callable[[Path], Recommender],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._load = load
        self._poll_s = poll_s
        self._seen: object = None
        self._refused: dict[str, str] = {}
        self._last_swap_s: float | None = None
        self._n_swaps = 0
        # Production and the one before it: going back needs no loading.
        self._kept: dict[str, Recommender] = {
            engine.production.version: engine.production.recommender
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="deployment", daemon=True)
        self._thread.start()

    def describe(self) -> dict[str, Any]:
        """Running version, aliases, swaps so far, and what was refused and why."""
        return {
            "running": self._engine.production.version,
            "aliases": self._registry.aliases(),
            "swaps": self._n_swaps,
            "last_swap_s": self._last_swap_s,
            "refused": dict(self._refused),
        }

    def close(self) -> None:
        """Stop following; a version that is being loaded is finished first."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Compare once, and swap where they differ. The thread's one step; tests call it too."""
        try:
            wanted = self._registry.aliases().get("production")
        except RegistryError as error:
            logger.error("the registry cannot be read, %s stays: %s", self._running, error)
            return
        if wanted is None or wanted == self._running:
            return
        begin = time.perf_counter()
        try:
            recommender = self._kept.get(wanted) or self._load(self._registry.path(wanted))
        except Exception as error:
            # The boundary of loading: whatever is wrong with a new version, the running one stays.
            self._refused[wanted] = f"{type(error).__name__}: {error}"
            self._engine.metrics.model_refused("production")
            logger.error("refused %s, %s stays: %s", wanted, self._running, error, exc_info=True)
            return
        before = self._running
        self._engine.install(recommender)
        self._refused.pop(wanted, None)
        self._kept = {v: r for v, r in self._kept.items() if v == before} | {wanted: recommender}
        self._n_swaps += 1
        self._last_swap_s = round(time.perf_counter() - begin, 3)

    @property
    def _running(self) -> str:
        return self._engine.production.version

    def _follow(self) -> None:
        if sys.platform == "linux":  # elsewhere niceness belongs to the process, not to the thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICENESS)
        while not self._stop.wait(self._poll_s):
            moved = self._registry.aliases_changed_at()
            if moved != self._seen:
                self._seen = moved
                self.look()


def follow_registry(registry: ModelRegistry, load: Callable[[Path], Recommender]) -> Attach:
    """Attaches a `Deployment` to the app's engine."""
    return lambda engine: Deployment(engine, registry, load)
