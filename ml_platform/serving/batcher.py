"""Micro-batching: requests of several users share one call of the models.

In: jobs, submitted on the event loop. Out: a future for each. One thread computes. While it is
busy, jobs gather; when it is free it takes all of them, up to ``max_batch``. Only a thread that
was idle waits ``wait_ms`` for company: under load there is none to wait for, it is in the line
already.

A job that has become pointless (its request was answered by a fallback meanwhile) is dropped before
it is computed: under overload a line of such jobs would otherwise keep every later one late.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ml_platform.serving.looping import keep_going

logger = logging.getLogger(__name__)
SPARE_LOOK_S = 0.05
"""An idle thread looks for spare work so often while some is gathering."""
J = TypeVar("J")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Job(Generic[J, R]):
    """One submitted piece of work.

    Attributes:
        task: What to work on.
        future: Gets the result, None where the job was dropped, or the exception of its batch.
        expires_s: Monotonic seconds after which nobody waits for it.
        submitted_s: Monotonic seconds.
        started_s: When its batch began; 0 before.
    """

    task: J
    future: asyncio.Future[R | None]
    expires_s: float
    submitted_s: float = field(default_factory=time.perf_counter)
    started_s: float = 0.0


class Batcher(Generic[J, R]):
    """One computing thread behind a line of jobs.

    Args:
        work: Computes a batch; one result for each task, in order.
        max_batch: Most tasks in one call.
        wait_ms: How long an idle thread waits for a second job.
        loop: Where futures are resolved.
        spare: Asked for tasks to compute while nobody waits; none while there are too few of them.
        spare_waits: Whether there are some, so that an idle thread asks again soon.
        on_spare: Given the results of spare tasks, on the loop.
        thread_start: Run first by the thread.
        thread_failed: Told the thread's name after an error outside of ``work``, and "spare" after
            one in spare work, for which nobody waits.
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[R]],
        *,
        max_batch: int,
        wait_ms: float,
        loop: asyncio.AbstractEventLoop,
        spare: Callable[[], Sequence[J]] = lambda: (),
        spare_waits: Callable[[], bool] = lambda: False,
        on_spare: Callable[[Sequence[J], Sequence[R]], object] = lambda tasks, results: None,
        thread_start: Callable[[], object] = lambda: None,
        thread_failed: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._thread_failed = thread_failed
        self._work, self._spare, self._on_spare = work, spare, on_spare
        self._spare_waits = spare_waits
        self._max_batch, self._wait_s = max_batch, wait_ms / 1e3
        self._loop = loop
        self._jobs: deque[Job[J, R]] = deque()
        self._alone: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._stop = threading.Event()
        self._thread_start = thread_start
        self.batches = 0
        self.dropped = 0
        self.busy_s = 0.0
        self.thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self.thread.start()

    def waiting(self) -> int:
        """Jobs in the line."""
        return len(self._jobs)

    def submit(self, task: J, *, expires_s: float) -> Job[J, R]:
        """Put a task into the line; call it on the loop's thread."""
        job = Job(task, self._loop.create_future(), expires_s)
        with self._condition:
            self._jobs.append(job)
            self._condition.notify()
        return job

    def run_alone(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the computing thread, between two batches."""
        future: Future[Any] = Future()
        with self._condition:
            self._alone.append((function, future))
            self._condition.notify()
        return future

    def nudge(self) -> None:
        """There may be spare work now."""
        with self._condition:
            self._condition.notify()

    def close(self) -> None:
        """Finish the batch in hand, drop the line."""
        with self._condition:
            self._closed = True
            self._stop.set()
            self._condition.notify()
        self.thread.join()

    # --- the computing thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._thread_start()
        except Exception:  # what it prepares is speed; without it the thread still computes
            logger.exception("the computing thread's set-up failed")
            self._thread_failed("compute")
        keep_going(self._turn, name="compute", stop=self._stop, failed=self._thread_failed)

    def _turn(self) -> None:
        turn = self._next()
        if turn is None:
            return
        jobs, alone, spare = turn
        if alone is not None:
            _settle(*alone)
        elif jobs:
            self._compute([job.task for job in jobs], jobs)
        elif spare:
            self._compute(spare, [])

    def _next(
        self,
    ) -> tuple[list[Job[J, R]], tuple[Callable[[], Any], Future[Any]] | None, Sequence[J]] | None:
        """What to do now; None when closed."""
        with self._condition:
            while not self._closed:
                if self._alone:
                    return [], self._alone.popleft(), ()
                if self._jobs:
                    return self._take(), None, ()
                spare = self._spare()
                if spare:
                    return [], None, spare
                self._condition.wait(SPARE_LOOK_S if self._spare_waits() else None)
                if self._jobs and self._wait_s and len(self._jobs) < self._max_batch:
                    self._condition.wait_for(
                        lambda: self._closed or len(self._jobs) >= self._max_batch, self._wait_s
                    )
            return None

    def _take(self) -> list[Job[J, R]]:
        now = time.perf_counter()
        jobs: list[Job[J, R]] = []
        late: list[Job[J, R]] = []
        while self._jobs and len(jobs) < self._max_batch:
            job = self._jobs.popleft()
            (jobs if job.expires_s > now else late).append(job)
            job.started_s = now
        if late:
            self.dropped += len(late)
            self._loop.call_soon_threadsafe(_resolve, late, [None] * len(late))
        return jobs

    def _compute(self, tasks: Sequence[J], jobs: Sequence[Job[J, R]]) -> None:
        begin = time.perf_counter()
        try:
            results = self._work(tasks)
        except Exception as error:  # of any kind: who waits gets it; of spare work the log does
            if jobs:
                self._loop.call_soon_threadsafe(_fail, jobs, error)
            else:
                logger.exception("spare work failed")
                self._thread_failed("spare")
            return
        finally:
            self.batches += 1
            self.busy_s += time.perf_counter() - begin
        if jobs:
            self._loop.call_soon_threadsafe(_resolve, jobs, results)
        else:
            self._loop.call_soon_threadsafe(self._on_spare, tasks, results)


def _resolve(jobs: Sequence[Job[Any, R]], results: Sequence[R | None]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if not job.future.done():
            job.future.set_result(result)


def _fail(jobs: Sequence[Job[Any, Any]], error: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)


def _settle(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - handed to who waits for it
        future.set_exception(error)
    else:
        future.set_result(result)
