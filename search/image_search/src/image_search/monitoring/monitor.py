"""The queries of a running service, held against the catalogue and against the launch.

In: every answered picture query. Out: series at ``/metrics`` (``drift_severity`` and the numbers
behind it), sentences at ``/v1/operations``. The serving threads only put vectors aside; a thread of
its own compares, every few seconds.

*What is watched.* A vector of 256 numbers has no column with a meaning, and 256 columns share one
rate of false alarms. So queries are looked at along the gallery's first principal directions, plus
the similarity of the best hit: the first say that people bring other pictures, the last that the
catalogue has nothing like them.

*Against what.* "catalogue": gallery items that ask for their like, their own row excluded. Training
has seen those pictures, so the best hit of a query is a little less similar for good. "launch": the
first queries of this process. Only the second wakes people. Texts live in another space and are
not compared.

Legend: N gallery rows, D dimension, P directions, n queries.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry

from image_search.searcher import Searcher
from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.drift_watch import DriftWatch, ReportThread
from ml_platform.operations.reference_profile import Monitored, ReferenceProfile, build_profile

if TYPE_CHECKING:
    from image_search.serving.queries import Query
    from image_search.serving.settings import Found

WAITING = 5_000
"""Queries put aside between two reports; older ones fall out."""


@dataclass(frozen=True)
class MonitorSettings:
    """How often, over how much.

    Attributes:
        interval_s: Between two reports.
        window: Queries of the sliding window.
        launch: Queries that become the launch reference.
        gallery: Items that ask for their like, for the other reference.
        directions: P.
    """

    interval_s: float = 15.0
    window: int = 2_000
    launch: int = 1_000
    gallery: int = 1_000
    directions: int = 8


class QueryMonitor:
    """Watches one engine's picture queries; ``saw`` is for the event loop.

    Args:
        registry: Of the service's metrics.
        searcher: Whose gallery is the reference.
        settings: How often, over how much.
        seed: Of the items drawn for the reference.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        searcher: Searcher,
        settings: MonitorSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings or MonitorSettings()
        vectors = searcher.spaces["image"].vectors
        rows = np.random.default_rng(seed).permutation(len(vectors))[: self.settings.gallery]
        self._middle, self._directions = principal(vectors[rows], self.settings.directions)
        self._columns = columns(len(self._directions))
        self.watch = DriftWatch(
            DriftSeries(registry),
            self._columns,
            {"catalogue": self._of_gallery(vectors[rows])},
            window_rows=self.settings.window,
            launch_rows=self.settings.launch,
            describe=line,
        )
        self._aside: deque[tuple[np.ndarray, float, int]] = deque(maxlen=WAITING)
        self._n_seen = 0
        self._thread = ReportThread(self.refresh, self.settings.interval_s)

    def saw(self, query: Query, found: Found) -> None:
        """Puts an answered picture query aside."""
        if query.picture is None:
            return
        self._n_seen += 1
        who = self._n_seen if query.user_id is None else -1 - query.user_id
        best = float(found.answer.similarity.max()) if len(found.answer.rows) else np.nan
        self._aside.append((found.vector, best, who))

    def start(self) -> None:
        """Begins to report."""
        self._thread.start()

    def close(self) -> None:
        """Stops the thread."""
        self._thread.close()

    def refresh(self) -> None:
        """Compares and reports, now."""
        while self._aside:
            vector, best, who = self._aside.popleft()
            self.watch.observe(self._row(vector[None], np.array([best])), who)
        self.watch.report()

    def describe(self) -> dict[str, Any]:
        """Findings under each reference, worst first, and how much they rest on."""
        return {
            name: {
                "queries": report.n_rows,
                "ready": report.ready,
                "findings": [line(finding) for finding in report.findings],
            }
            for name, report in self.watch.reports.items()
        }

    def _row(self, vectors: np.ndarray, best: np.ndarray) -> np.ndarray:
        """f32[n, P + 1] of vectors f32[n, D] and best similarities f32[n]."""
        along = (vectors - self._middle) @ self._directions.T
        return np.column_stack([along, best]).astype(np.float32)

    def _of_gallery(self, drawn: np.ndarray) -> ReferenceProfile:
        """What items look like that ask for their like, among the drawn ones."""
        alike = drawn @ drawn.T
        np.fill_diagonal(alike, -np.inf)
        rows = self._row(drawn, alike.max(axis=1) if len(drawn) > 1 else np.ones(len(drawn)))
        return build_profile(rows, np.arange(len(rows)), self._columns)


def principal(vectors: np.ndarray, directions: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean f32[D] and the first principal directions f32[P, D] of vectors f32[N, D]."""
    middle = vectors.mean(axis=0)
    _, _, found = np.linalg.svd(vectors - middle, full_matrices=False)
    return middle, found[: min(directions, len(found))]


def columns(directions: int) -> tuple[Monitored, ...]:
    """P directions, then the best similarity."""
    owner = "image_search.embeddings"
    along = [Monitored(f"direction_{n}", "query", owner, "query") for n in range(directions)]
    return (*along, Monitored("best_similarity", PREDICTION, "image_search.retrieval"))


def line(finding: Finding) -> str:
    """One finding in words: what, whose, why."""
    return f"{finding.severity}: {finding.feature}: {finding.kind}: {finding.sentence}"
