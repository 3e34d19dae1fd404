"""A service's drift, round after round: a window, its references, gauges, log lines, a thread.

In: rows f32[n, F] of what the service was given, which its serving threads put aside for the
thread here. Out, each round: reports by reference, as `DriftSeries` and, what is new, in the log.

`DriftWatch` is what a system's monitor does alike whatever it watches; which rows, from which
requests, with which columns is the system's own. `ReportThread` takes the rounds.

The rows that came first become the reference "launch": has something changed since? They are what
came first, not a day's sample: where features have a daily rhythm, a long-lived process should be
given the sample of a whole day instead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_monitor import DriftMonitor, DriftReport, Explain
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.reference_profile import Monitored, ReferenceProfile, build_profile

logger = logging.getLogger(__name__)

LAUNCH = "launch"


def line(finding: Finding) -> str:
    """One finding in words: what, whose, why."""
    return (
        f"{finding.severity}: {finding.feature} ({finding.group}, ask {finding.owner}): "
        f"{finding.kind}: {finding.sentence}"
    )


class DriftWatch:
    """The window of one service, its references, what the last round found.

    One thread observes and reports, that of the rounds; any thread may read ``reports``, what was
    last found under each reference.

    Args:
        series: Where the numbers go.
        columns: What the F columns are.
        references: Profiles to begin with, by name.
        window_rows: Of the sliding window.
        launch_rows: As many rows, at least, become the launch reference.
        explain: Names the common cause of a family's findings; see `drift_monitor`.
        describe: A finding as a log line.
    """

    def __init__(
        self,
        series: DriftSeries,
        columns: Sequence[Monitored],
        references: Mapping[str, ReferenceProfile],
        *,
        window_rows: int,
        launch_rows: int,
        explain: Explain | None = None,
        describe: Callable[[Finding], str] = line,
    ) -> None:
        self.series, self.columns = series, tuple(columns)
        self.drift = DriftMonitor(len(self.columns), references, window_rows)
        self.reports: dict[str, DriftReport] = {}
        self._explain, self._describe = explain, describe
        self._launch_rows = launch_rows
        self._launch: list[tuple[np.ndarray, int]] = []
        self._told: set[tuple[str, str, str]] = set()

    def observe(self, rows: np.ndarray, cluster: int) -> None:
        """Takes rows f32[n, F] of one cluster, into the window and the launch sample."""
        self.drift.observe(rows, cluster)
        if LAUNCH not in self.drift.references:
            self._launch.append((rows, cluster))
            self._launch_rows -= len(rows)
            if self._launch_rows <= 0:
                self._finish_launch()

    def report(self) -> None:
        """One round: the window against every reference."""
        for name in list(self.drift.references):
            report = self.drift.report(name, self._explain)
            self.reports = {**self.reports, name: report}  # whole: others may be reading it
            self.series.report(name, report)
            self._tell(name, report.findings)
        self.series.finished()

    def _finish_launch(self) -> None:
        rows = np.concatenate([rows for rows, _ in self._launch])
        clusters = np.concatenate([np.full(len(rows), who) for rows, who in self._launch])
        self.drift.references[LAUNCH] = build_profile(rows, clusters, self.columns)
        self._launch.clear()

    def _tell(self, reference: str, findings: Sequence[Finding]) -> None:
        """Logs what is new; what stays is in the series."""
        now = {(reference, f.feature, f.kind): f for f in findings}
        for key in now.keys() - self._told:
            logger.warning("drift since %s: %s", reference, self._describe(now[key]))
        self._told = {key for key in self._told if key[0] != reference} | now.keys()


class ReportThread:
    """Takes a turn every few seconds, beside the serving threads, until closed.

    Args:
        turn: One round of reports.
        interval_s: Before the first turn and between two.
    """

    def __init__(self, turn: Callable[[], object], interval_s: float) -> None:
        self._turn, self._interval_s = turn, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Begins; once."""
        self._thread.start()

    def close(self) -> None:
        """Stops and waits for a turn that runs; without a start it does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._turn()
            except Exception:  # reports outlive any one failure; the last one grows old
                logger.exception("the drift report failed")
