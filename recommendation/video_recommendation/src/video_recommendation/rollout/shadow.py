"""Shadow traffic of a serving process: an observer that copies requests to a candidate's process.

In: answered requests, on the event loop. Out: records in the lane's queue, and the report so far at
``GET /v1/operations``. The work on the response path is a hash, a few array look-ups and a put into
a bounded queue. Everything else happens in the lane's thread and in the child
(``rollout.shadow_worker``), which has one thread for its libraries and the lowest priority.

Only full answers of production are copied. A degraded answer would be compared with something it
is not, and a canary's users see the candidate itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.operations.shadow import ShadowLane, ShadowSettings
from ml_platform.operations.shadow_answers import rubbish_reason
from ml_platform.operations.shadow_report import ShadowReport, ShadowSummary
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.engine import ServingEngine
from video_recommendation.serving.observers import AcceptedEvent, ServedRequest
from video_recommendation.serving.protocol import Catalogue

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ShadowTraffic:
    """Copies requests to one candidate. An ``Attachment`` and a ``RequestObserver``.

    Args:
        engine: Whose requests are copied.
        settings: Child program, share and limits of the lane; see `worker_settings`.
        name: Its key in ``GET /v1/operations``; several candidates need several names.
    """

    def __init__(
        self, engine: ServingEngine, settings: ShadowSettings, *, name: str = "shadow"
    ) -> None:
        self.name = name
        self._engine = engine
        self.report = ShadowReport()
        outcomes = engine.metrics.shadow_requests
        self.lane = ShadowLane(
            settings,
            check=lambda record, answer: rubbish_reason(record, answer, knows=engine.knows_item),
            on_pair=self.report.add,
            count=lambda outcome, n: outcomes.labels(name, outcome).inc(n),
        )
        engine.observers.append(self)

    def request_served(self, served: ServedRequest) -> None:
        """See ``RequestObserver``."""
        production = self._engine.production
        if served.slot != "production" or served.degraded or not self.lane.wants(served.request_id):
            return
        if served.version == production.version:  # else a swap came between; indices have changed
            self.lane.offer(record_of(served, production.recommender.catalogue))

    def event_accepted(self, event: AcceptedEvent) -> None:
        """See ``RequestObserver``; the child reads the event log itself."""

    def summary(self) -> ShadowSummary:
        """The report so far."""
        return self.report.summary(self.lane.counts, self.lane.closed_because)

    def describe(self) -> dict[str, Any]:
        """See ``Attachment``."""
        settings = self.lane.settings
        about = {"command": list(settings.command), "share": settings.share}
        return {**about, "closed_because": self.lane.closed_because, **self.summary().as_dict()}

    def close(self) -> None:
        """See ``Attachment``."""
        if self in self._engine.observers:
            self._engine.observers.remove(self)
        self.lane.close()


def worker_settings(
    bundle: Path, events: Path, *, share: float, options: Sequence[str] = (), **limits: Any
) -> ShadowSettings:
    """A lane whose child is ``rollout.shadow_worker`` with one thread for its libraries.

    Args:
        bundle: The candidate's folder.
        events: The server's event log.
        share: Share of the requests.
        options: More arguments of the child program.
        limits: Other fields of ``ShadowSettings``.
    """
    command = (sys.executable, "-m", "video_recommendation.rollout.shadow_worker", str(bundle))
    environment = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return ShadowSettings(
        (*command, "--events", str(events), *options),
        share=share,
        environment=environment,
        **limits,
    )


def shadow_traffic(
    bundle: Path, *, share: float, name: str = "shadow", options: Sequence[str] = (), **limits: Any
) -> Attach:
    """Attaches a `ShadowTraffic` for a bundle to the app's engine."""
    return lambda engine: ShadowTraffic(
        engine,
        worker_settings(bundle, engine.log.path, share=share, options=options, **limits),
        name=name,
    )


def record_of(served: ServedRequest, catalogue: Catalogue) -> dict[str, Any]:
    """What the child needs to answer, and what its answer is compared with; all in external ids."""
    ids, state = catalogue.item_ids, served.state
    history, exclude = ids[state.item_idx], ids[served.exclude]
    return {
        "request_id": served.request_id,
        "user_id": served.user_id,
        "k": served.k,
        "surface": served.surface,
        "now": served.now,
        "history_items": history,
        "history_ratings": np.ascontiguousarray(state.rating),
        "history_times": np.ascontiguousarray(state.timestamp),
        "exclude": exclude,
        "blocked": np.concatenate([history, exclude]),
        "items": ids[[item.item_idx for item in served.items]],
        "scores": [item.score for item in served.items],
        "total_ms": served.total_ms,
    }
