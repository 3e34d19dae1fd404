"""The monitor of a serving engine: watches what is shown, compares, reports.

In: every list of the production version with its feature rows, every event. Out: gauges at
``/metrics``, findings at ``GET /v1/operations`` and in the log. On the event loop it only puts rows
aside; a thread of its own compares, every few seconds.

Two references, for two questions (see ``ml_platform.operations.drift_monitor``):

- "training", from the bundle: is the model given what it learned on? Read it when a version is
  new, and when deciding to retrain;
- "launch", a uniform sample of the lists of this version's first day, kept beside the event log:
  has something changed since? This is the one that wakes people. A day, because counts of a day
  and lengths of sittings have a daily rhythm, and a reference of one hour alarms at all others.

Beside the lists it watches the labels (calibration) and the events themselves (concentration).

Only production is watched. A candidate is compared by shadow traffic and by the canary.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.operations.concentration import concentration_drift, top_share
from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_monitor import WINDOW_ROWS, DriftMonitor, DriftReport
from ml_platform.operations.health import Calibration, calibration_drift, measure_calibration
from ml_platform.operations.reference_profile import ReferenceProfile, build_profile
from video_recommendation.features import SCHEMA
from video_recommendation.monitoring.drift_metrics import DriftMetrics
from video_recommendation.monitoring.labels import LabelJoin
from video_recommendation.monitoring.reference import (
    ACTIVITY,
    RANKER_OWNER,
    Reference,
    explain_family,
    monitored_columns,
)
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.engine import ServingEngine
from video_recommendation.serving.observers import AcceptedEvent, ServedRequest
from video_recommendation.serving.protocol import RecommendedItem
from video_recommendation.stored_features import ITEM_ACTIVITY

logger = logging.getLogger(__name__)

MIN_LABELLED = 300
"""Answered lists before calibration is judged: at a few watches in a hundred lists, fewer say
nothing."""


MAX_EVENTS = 1000
EVENTS_OWNER = "video_recommendation.serving"


@dataclass(frozen=True)
class MonitorSettings:
    """How often, over how much.

    Attributes:
        interval_s: Between two reports.
        window_rows: Shown items of the sliding window.
        launch_lists: Size of the sample that becomes the launch reference.
        launch_s: How long the sample is drawn from.
    """

    interval_s: float = 15.0
    window_rows: int = WINDOW_ROWS
    launch_lists: int = 1500
    launch_s: float = 86_400.0


class LaunchSample:
    """A uniform sample of a version's first lists (reservoir sampling); then a reference.

    Args:
        settings: Size and duration.
    """

    def __init__(self, settings: MonitorSettings) -> None:
        self._size, self._until = settings.launch_lists, time.monotonic() + settings.launch_s
        self._lists: list[tuple[np.ndarray, int]] = []
        self._n_seen = 0
        self._random = random.Random(0)

    def observe(self, rows: np.ndarray, user_id: int) -> None:
        """Takes a list f32[K, F + 1] into the sample, with the right probability."""
        self._n_seen += 1
        if len(self._lists) < self._size:
            self._lists.append((rows, user_id))
        elif (place := self._random.randrange(self._n_seen)) < self._size:
            self._lists[place] = (rows, user_id)

    def profile(self) -> ReferenceProfile | None:
        """The reference, once the sample is full and the time is over."""
        lists = list(self._lists)
        if len(lists) < self._size or time.monotonic() < self._until:
            return None
        users = np.repeat([user for _, user in lists], [len(rows) for rows, _ in lists])
        return build_profile(np.concatenate([r for r, _ in lists]), users, monitored_columns())


class ModelMonitor:
    """An observer and an attachment; see the module's docstring.

    Args:
        engine: Whose production version is watched.
        settings: How often, over how much.
    """

    name = "monitor"

    def __init__(self, engine: ServingEngine, settings: MonitorSettings | None = None) -> None:
        self.settings = settings or MonitorSettings()
        self._engine = engine
        self._folder = engine.settings.data_dir
        self._metrics = DriftMetrics(engine.metrics.registry)
        self._drift = DriftMonitor(len(SCHEMA) + 1, capacity=self.settings.window_rows)
        self._labels = LabelJoin()
        self._events: deque[int] = deque(maxlen=MAX_EVENTS)
        self._launch: LaunchSample | None = None
        self._trained: Reference | None = None
        self._version = ""
        self._adopt(engine.production.version)
        self.reports: dict[str, DriftReport] = {}
        self.calibration: Calibration | None = None
        self._told: set[tuple[str, str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._thread.start()
        engine.observers.append(self)

    # --- on the event loop ------------------------------------------------------------------------

    def request_served(self, served: ServedRequest) -> None:
        """Puts the rows and scores of a production list aside."""
        production = self._engine.production
        features = served.features
        if served.slot != "production" or served.version != production.version or features is None:
            return  # a candidate's, a version on its way out, or a fallback without a ranker
        if served.version != self._version:
            self._adopt(served.version)
        rows, stale = shown_matrix(served.items, features, served.now)
        self._drift.observe(rows, served.user_id, stale)
        if self._launch is not None:
            self._launch.observe(rows, served.user_id)
        ids = production.recommender.catalogue.item_ids
        items = ids[[item.item_idx for item in served.items]]
        self._labels.shown(served.user_id, items, rows[:, -1].astype(np.float64))

    def event_accepted(self, event: AcceptedEvent) -> None:
        """Answers the user's waiting list, and counts for the concentration of events."""
        self._events.append(event.item_id)
        self._labels.event(event.user_id, event.item_id, event.timestamp)

    def _adopt(self, version: str) -> None:
        """Starts over with a version: its references, none of its predecessor's rows."""
        self._version = version
        self._drift.clear()
        self._labels.clear()
        self._trained = getattr(self._engine.production.recommender, "reference", None)
        self._drift.references = {"training": self._trained.profile} if self._trained else {}
        self._launch = LaunchSample(self.settings)
        if self._launch_path().is_file():
            with np.load(self._launch_path()) as stored:
                self._drift.references["launch"] = ReferenceProfile.of_arrays(stored)
            self._launch = None

    # --- in the background ------------------------------------------------------------------------

    def refresh(self) -> None:
        """Compares and reports, now."""
        self._finish_launch()
        for name in list(self._drift.references):
            report = self._drift.report(name, explain_family)
            self.reports[name] = report
            self._metrics.report(name, report)
            self._tell(name, report.findings)
        self._judge_calibration()
        self._judge_events()
        self._metrics.finished()

    def describe(self) -> dict[str, Any]:
        """Findings under each reference, worst first."""
        return {
            "version": self._version,
            "references": sorted(self._drift.references),
            "findings": {
                name: [*report.conclusions, *(_line(f) for f in report.findings)]
                for name, report in self.reports.items()
            },
            "calibration_ratio": self.calibration.ratio if self.calibration else None,
        }

    def close(self) -> None:
        """Unhooks and stops the thread."""
        self._engine.observers.remove(self)
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.settings.interval_s):
            try:
                self.refresh()
            except Exception:  # the monitor outlives any one failure; its last report grows old
                logger.exception("the drift report failed")

    def _finish_launch(self) -> None:
        profile = self._launch.profile() if self._launch is not None else None
        if profile is not None:
            self._launch = None
            np.savez(self._launch_path(), **profile.arrays())  # type: ignore[arg-type]
            self._drift.references["launch"] = profile

    def _judge_calibration(self) -> None:
        scores, watched, users = self._labels.answered()
        if self._trained is None or self._labels.n_answered < MIN_LABELLED:
            return
        edges = self._trained.calibration.edges
        self.calibration = measure_calibration(scores, watched, users, edges)
        finding = calibration_drift(self._trained.calibration, self.calibration, RANKER_OWNER)
        self._metrics.calibration(self.calibration, finding)
        self._tell("labels", [finding] if finding else [])

    def _judge_events(self) -> None:
        if self._trained is None or not self._events:
            return
        items = np.array(list(self._events)[-self._trained.concentration.block :])
        finding = concentration_drift(self._trained.concentration, items, EVENTS_OWNER)
        self._metrics.concentration(top_share(items), finding)
        self._tell("events", [finding] if finding else [])

    def _tell(self, reference: str, findings: Sequence[Finding]) -> None:
        """Logs what is new; what stays is in the gauges."""
        now = {(reference, f.feature, f.kind): f for f in findings}
        for key in now.keys() - self._told:
            logger.warning("drift since %s: %s", reference, _line(now[key]))
        self._told = {key for key in self._told if key[0] != reference} | now.keys()

    def _launch_path(self) -> Path:
        return self._folder / f"launch-{self._version}.npz"


def watch_drift(settings: MonitorSettings | None = None) -> Attach:
    """The monitor as an attachment of the app."""
    return lambda engine: ModelMonitor(engine, settings)


_ACTIVITY_COLUMNS = np.isin(monitored_names := [c.name for c in monitored_columns()], ACTIVITY)


def shown_matrix(
    items: Sequence[RecommendedItem], features: np.ndarray, now: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows f32[K, F + 1] of a list (features, then the score), and which values are stale.

    A row that the store did not have, or that is older than the feature set's time to live, makes
    the columns of item activity stale; the others are computed in the request.

    Args:
        items: What was shown.
        features: f32[K, F].
        now: Unix seconds.
    """
    scores = np.array([item.score for item in items], dtype=np.float32)
    as_of = np.array([item.features_as_of for item in items])
    ttl_s = ITEM_ACTIVITY.ttl_s or now
    late = (as_of < 0) | (now - as_of > ttl_s)
    return np.column_stack([features, scores]), late[:, None] & _ACTIVITY_COLUMNS


def _line(finding: Finding) -> str:
    return (
        f"{finding.severity}: {finding.feature} ({finding.group}, ask {finding.owner}): "
        f"{finding.kind}: {finding.sentence}"
    )
