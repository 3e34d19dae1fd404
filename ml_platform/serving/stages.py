"""Stage timing, budgets and the fallback ladder of one request.

In: a request's deadline and its stages as plain callables. Out: the result of the best stage that
could be afforded, milliseconds by stage, and one `Degradation` for each stage that was skipped,
failed or timed out. A degradation is never silent: it is returned, logged and counted.

How a deadline is kept. Python cannot interrupt a numpy or torch call, so two tools are offered:

- *Look ahead (default, free).* Before an optional stage runs, what is left of the request (and
  the stage's own budget) is compared with the stage's recent p95. If it would not fit, it is
  skipped. An overrun is noticed afterwards, counted, and raises the p95 that the next request
  looks at; the late result is still used, for it has been paid for.
- *Hard timeout (`timeout=True`).* The stage runs on a pool thread and is abandoned at its limit.
  The thread runs on to its end, so this suits waiting (network), not CPU work: an abandoned
  computation still steals the processor from the fallback.

A skipped stage is not measured, so a slow minute could lock it out for ever. After
`probe_after_s` without a run one request tries it again; if it fits, the old samples are dropped.

Errors. `attempt` is the one place that catches ``Exception``: it is the boundary between a model
and the request that must be answered. `StageError` is an expected failure (a store that is down)
and is logged as one line; anything else is a defect and is logged with its traceback. Every one
is counted; of log lines alike one a second is written, with the number held back.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

WINDOW = 256  # samples of a stage's duration that the p95 looks at
MIN_SAMPLES = 20  # with fewer, a p95 says nothing: the stage may run
LOG_EVERY_S = 1.0
REFRESH_EVERY = 16  # the p95 is recomputed after so many samples, not at each one


class StageError(RuntimeError):
    """An expected failure of a stage; its message becomes the degradation's detail."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """One stage that did not do its work in this request.

    Attributes:
        stage: The stage's name.
        reason: "error", "budget" (would not have fitted) or "timeout" (abandoned).
        detail: One line for people; no traceback.
    """

    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One rung of a ladder: a stage's name and the callable that does it."""

    stage: str
    function: Callable[[], T]
    timeout: bool = False


class StageObserver(Protocol):
    """Who counts; `ml_platform.serving.metrics.ServiceMetrics` does."""

    def stage_finished(self, stage: str, elapsed_ms: float) -> None:
        """A stage ended, well or not."""

    def stage_overran(self, stage: str) -> None:
        """It took longer than it had."""

    def stage_degraded(self, degradation: Degradation) -> None:
        """It did not do its work."""


@dataclass
class _Window:
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    since_refresh: int = 0
    p95_ms: float = 0.0
    last_run_s: float = -math.inf


class StageMonitor:
    """What all requests share: stage budgets, recent durations, the observer. Thread-safe.

    Args:
        budgets_ms: Budget by stage; a stage without one is limited by the deadline alone.
        observer: Told of every duration, overrun and degradation.
        executor: Runs stages that ask for a hard timeout.
        probe_after_s: A stage that was skipped this long is tried once more.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        budgets_ms: Mapping[str, float] | None = None,
        *,
        observer: StageObserver | None = None,
        executor: ThreadPoolExecutor | None = None,
        probe_after_s: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.budgets_ms = dict(budgets_ms or {})
        self.observer = observer
        self.executor = executor
        self.probe_after_s = probe_after_s
        self.clock = clock
        self._windows: dict[str, _Window] = {}
        self._logged: dict[tuple[str, ...], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def p95_ms(self, stage: str) -> float:
        """Recent 95th percentile of a stage; 0 while fewer than `MIN_SAMPLES` were seen."""
        with self._lock:
            return self._windows.get(stage, _Window()).p95_ms

    def fits(self, stage: str, available_ms: float) -> bool:
        """Whether the stage should be started with this much time left."""
        if available_ms <= 0:
            return False
        with self._lock:
            window = self._windows.setdefault(stage, _Window())
            if window.p95_ms <= available_ms:
                return True
            if self.clock() - window.last_run_s < self.probe_after_s:
                return False
            window.last_run_s = self.clock()  # this request is the probe; others keep skipping
            return True

    def log_turn(self, *key: str) -> int | None:
        """Whether a line of this kind is due: at most one a second, or a log would drown.

        Returns:
            How many were held back since the last one, or None when this one is held back too.
        """
        with self._lock:
            last_s, held_back = self._logged.get(key, (-math.inf, 0))
            due = self.clock() - last_s >= LOG_EVERY_S
            self._logged[key] = (self.clock(), 0) if due else (last_s, held_back + 1)
            return held_back if due else None

    def record(self, stage: str, elapsed_ms: float, available_ms: float) -> None:
        """Remember a duration; count an overrun."""
        with self._lock:
            window = self._windows.setdefault(stage, _Window())
            if window.p95_ms > available_ms >= elapsed_ms:  # a probe fitted: the past is past
                window.samples.clear()
                window.p95_ms = 0.0
                window.since_refresh = 0
            window.samples.append(elapsed_ms)
            window.since_refresh += 1
            window.last_run_s = self.clock()
            due = window.since_refresh >= REFRESH_EVERY or len(window.samples) == MIN_SAMPLES
            if due and len(window.samples) >= MIN_SAMPLES:
                ordered = sorted(window.samples)
                window.p95_ms = ordered[math.ceil(0.95 * len(ordered)) - 1]
                window.since_refresh = 0
        if self.observer:
            self.observer.stage_finished(stage, elapsed_ms)
            if elapsed_ms > available_ms > 0:  # after the deadline nothing can fit: no news
                self.observer.stage_overran(stage)


class RequestStages:
    """Stages of one request: runs them, keeps `stages_ms` and `degradations`.

    Args:
        monitor: Shared statistics; a private one without budgets when absent (offline replay).
        deadline_ms: Time that the request has from `started`.
        started: Monotonic seconds at which the request arrived; now when absent. Passing the
            arrival time makes time spent in a queue count against the deadline.
    """

    def __init__(
        self,
        monitor: StageMonitor | None = None,
        *,
        deadline_ms: float = math.inf,
        started: float | None = None,
    ) -> None:
        self.monitor = monitor or StageMonitor()
        self.deadline_ms = deadline_ms
        self.started = self.monitor.clock() if started is None else started
        self.stages_ms: dict[str, float] = {}
        self.degradations: list[Degradation] = []

    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return (self.monitor.clock() - self.started) * 1e3

    def available_ms(self, stage: str) -> float:
        """What a stage may use: its own budget or what is left of the deadline, the smaller."""
        left = self.deadline_ms - self.elapsed_ms()
        return min(left, self.monitor.budgets_ms.get(stage, math.inf))

    def run(self, stage: str, function: Callable[[], T]) -> T:
        """Run a stage that has no fallback: timed and recorded; its exceptions go through."""
        available_ms = self.available_ms(stage)
        begin = self.monitor.clock()
        try:
            return function()
        finally:
            self._finish(stage, begin, available_ms)

    def attempt(self, stage: str, function: Callable[[], T], *, timeout: bool = False) -> T | None:
        """Run an optional stage.

        Args:
            stage: Name in metrics and responses.
            function: Does the work; must not return None.
            timeout: Abandon it at its limit (needs the monitor's executor).

        Returns:
            The result, or None when the stage was skipped, failed or was abandoned; the reason
            then stands in `degradations`.
        """
        available_ms = self.available_ms(stage)
        if not self.monitor.fits(stage, available_ms):
            p95_ms = self.monitor.p95_ms(stage)
            self.degrade(stage, "budget", f"{available_ms:.1f} ms left, p95 is {p95_ms:.1f} ms")
            return None
        begin = self.monitor.clock()
        try:
            return self._bounded(function, available_ms) if timeout else function()
        except _AbandonedError:
            self.degrade(stage, "timeout", f"no result after {available_ms:.1f} ms")
        except StageError as error:
            self.degrade(stage, "error", str(error))
        except Exception as error:  # noqa: BLE001 - the boundary described in the module's docstring
            self.degrade(stage, "error", type(error).__name__, defect=error)
        finally:
            self._finish(stage, begin, available_ms)
        return None

    def ladder(self, *steps: Step[T]) -> T:
        """The result of the first step that works; the last one runs whatever the clock says.

        Raises:
            ValueError: No steps.
            Exception: Whatever the last step raises; there is nothing below it.
        """
        if not steps:
            raise ValueError("a ladder needs at least one step")
        for step in steps[:-1]:
            result = self.attempt(step.stage, step.function, timeout=step.timeout)
            if result is not None:
                return result
        return self.run(steps[-1].stage, steps[-1].function)

    def degrade(
        self, stage: str, reason: str, detail: str, *, defect: Exception | None = None
    ) -> None:
        """Record, count and log that a stage did not do its work; a defect with its traceback."""
        degradation = Degradation(stage, reason, detail)
        self.degradations.append(degradation)
        if self.monitor.observer:
            self.monitor.observer.stage_degraded(degradation)
        suppressed = self.monitor.log_turn(stage, reason, detail if defect else "")
        if suppressed is not None:
            logger.warning(
                "degraded: stage=%s reason=%s detail=%s (%d more since the last such line)",
                *(stage, reason, detail, suppressed),
                exc_info=defect,
            )

    def _finish(self, stage: str, begin: float, available_ms: float) -> None:
        elapsed_ms = (self.monitor.clock() - begin) * 1e3
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + elapsed_ms
        self.monitor.record(stage, elapsed_ms, available_ms)

    def _bounded(self, function: Callable[[], T], limit_ms: float) -> T:
        if self.monitor.executor is None:
            raise ValueError("timeout=True needs a StageMonitor with an executor")
        future = self.monitor.executor.submit(function)
        try:
            return future.result(None if math.isinf(limit_ms) else limit_ms / 1e3)
        except FutureTimeoutError:
            if future.done():  # it ended on the last instant, or raised a TimeoutError of its own
                return future.result()
            future.cancel()
            raise _AbandonedError from None


class _AbandonedError(Exception):
    """A hard timeout passed; private, so that a stage's own TimeoutError stays an error."""
