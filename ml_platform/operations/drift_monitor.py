"""A sliding window of what the model was given lately, and a report of what moved.

In, from the serving path: the feature rows f32[K, F] of each answer, a cluster (the user), which
columns were stale. Out, from a background thread or a command: a `DriftReport` against a reference.
`observe` copies rows into a ring under a lock and returns; all statistics wait for `report`.

Two references answer two questions, and one monitor is asked both:

- the training rows: is the model given what it learned on (skew)?
- what this version was given when it was new: has something changed since (drift)?

TensorFlow Data Validation draws the same line (Breck et al., "Data Validation for Machine
Learning", MLSys 2019, is its paper). The first one finds code that differs between training and
serving, and a world that has moved on; the second one finds what broke last night, without being
drowned in differences that everybody has known since the launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml_platform.operations.drift_causes import Finding, diagnose
from ml_platform.operations.reference_profile import Comparison, ReferenceProfile

WINDOW_ROWS = 6000
"""300 lists of 20 items."""
MIN_CLUSTERS = 10
"""Fewer users cannot tell a drift from a person; no report is made."""

Explain = Callable[[str, Sequence[Finding]], str | None]
"""Names the common cause of the findings in one family of columns, or None to leave it open."""


@dataclass(frozen=True)
class DriftReport:
    """What moved.

    Attributes:
        findings: Alerts first, then by PSI in excess of the noise.
        conclusions: One sentence for each family in which several columns moved.
        comparisons: Of every column, moved or not; empty while there are too few rows.
        stale: f64[F], share of stale values.
        n_rows: Rows in the window.
        n_clusters: Clusters in the window.
    """

    findings: tuple[Finding, ...]
    conclusions: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    stale: np.ndarray
    n_rows: int
    n_clusters: int

    @property
    def ready(self) -> bool:
        """Whether the window held enough to say anything."""
        return bool(self.comparisons)


@dataclass(frozen=True)
class Window:
    """A copy of the ring: rows f32[n, F], clusters i64[n], stale bool[n, F]."""

    rows: np.ndarray
    clusters: np.ndarray
    stale: np.ndarray

    @property
    def n_clusters(self) -> int:
        """Distinct clusters."""
        return len(np.unique(self.clusters))


class DriftMonitor:
    """Thread-safe; `observe` is for the serving path, everything else for the background.

    Args:
        n_columns: F.
        references: Profiles by name; more may be added later.
        capacity: Rows of the window.
    """

    def __init__(
        self,
        n_columns: int,
        references: Mapping[str, ReferenceProfile] | None = None,
        capacity: int = WINDOW_ROWS,
    ) -> None:
        self.references = dict(references or {})
        self._rows = np.zeros((capacity, n_columns), dtype=np.float32)
        self._clusters = np.zeros(capacity, dtype=np.int64)
        self._stale = np.zeros((capacity, n_columns), dtype=bool)
        self._next, self._n = 0, 0
        self._lock = threading.Lock()

    def observe(self, rows: np.ndarray, cluster: int, stale: np.ndarray | bool = False) -> None:
        """Takes the rows of one answer; about ten microseconds.

        Args:
            rows: f32[K, F], NaN where a value is missing.
            cluster: Rows with the same number are not independent: the user.
            stale: bool[F], columns older than they may be; or one for all.
        """
        capacity = len(self._rows)
        rows = rows[-capacity:]
        with self._lock:
            begin, end = self._next, self._next + len(rows)
            if end <= capacity:
                places: slice | np.ndarray = slice(begin, end)
            else:
                places = np.arange(begin, end) % capacity
            self._rows[places] = rows
            self._clusters[places] = cluster
            self._stale[places] = stale
            self._next = end % capacity
            self._n = min(capacity, self._n + len(rows))

    def clear(self) -> None:
        """Forgets the window: a new version starts with none of its predecessor's rows."""
        with self._lock:
            self._next, self._n = 0, 0

    def window(self) -> Window:
        """A copy of what the ring holds."""
        with self._lock:
            return Window(*(a[: self._n].copy() for a in (self._rows, self._clusters, self._stale)))

    def report(self, reference: str, explain: Explain | None = None) -> DriftReport:
        """The window against one of the references.

        Raises:
            KeyError: if there is no reference of that name.
        """
        return drift_report(self.references[reference], self.window(), explain)


def drift_report(
    profile: ReferenceProfile, window: Window, explain: Explain | None = None
) -> DriftReport:
    """What moved between the reference and a window; see `DriftReport`.

    Args:
        profile: The reference.
        window: Recent rows.
        explain: Names the common cause of a family's findings; a plain sentence by default.
    """
    n_rows, n_clusters = len(window.rows), window.n_clusters
    stale = window.stale.mean(axis=0) if n_rows else np.zeros(window.rows.shape[1])
    if n_clusters < MIN_CLUSTERS:
        return DriftReport((), (), (), stale, n_rows, n_clusters)
    comparisons = profile.compare(window.rows, window.clusters)
    found = [
        diagnose(comparison, float(share), profile.level)
        for comparison, share in zip(comparisons, stale, strict=True)
    ]
    findings = sorted((f for f in found if f is not None), key=_by_severity)
    conclusions = conclude(profile, findings, explain)
    return DriftReport(
        tuple(findings), tuple(conclusions), tuple(comparisons), stale, n_rows, n_clusters
    )


def conclude(
    profile: ReferenceProfile, findings: Sequence[Finding], explain: Explain | None
) -> list[str]:
    """One sentence for each family in which at least two columns moved."""
    sentences = []
    for family in dict.fromkeys(finding.family for finding in findings if finding.family):
        members = [finding for finding in findings if finding.family == family]
        if len(members) < 2:
            continue
        size = sum(column.info.family == family for column in profile.columns)
        named = explain(family, members) if explain else None
        sentences.append(
            named
            or f"{len(members)} of the {size} columns of {family} moved together: look at what "
            f"feeds them before each ({', '.join(sorted({m.owner for m in members}))})"
        )
    return sentences


def _by_severity(finding: Finding) -> tuple[bool, float]:
    return finding.severity != "alert", finding.noise - finding.psi
