"""Shadow traffic: a candidate gets copies of live requests and can never touch an answer.

In: records of requests that production has answered. Out: pairs (record, candidate's answer) for
`shadow_report`, and counts of everything that did not become a pair.

    response path            lane's thread                    child process
    offer(record) --queue--> send one, wait with a timeout --> load a model, answer lines
                  full: drop   check the answer: rubbish?  <-- one line each

Why each part is there. *The queue* is bounded and `offer` never waits: a candidate that is slower
than the traffic loses records, not production its time. *The process* is another interpreter at the
lowest priority (see `shadow_process`). *One request at a time*: a child that falls behind is seen
as drops, not as memory. *The timeout* ends a child that hangs; it is started again after a pause
that doubles. *The check* keeps rubbish out of the report's means and counts it by reason. After
`max_failures` requests in a row without a usable answer the lane closes, says why, and stays
closed: a candidate that never answers has nothing to teach, and restarts cost the machine.

Protocol. The child first prints one JSON line, ``{"ready": true, ...}``. Then, for each line on
stdin (the record, with "request_id"), it prints one line: ``{"request_id", "items": [...],
"scores": [...], "elapsed_ms", ...}``, or ``{"request_id", "error": "..."}``.

A candidate for shadowing must have no effect on the world: it writes no events, sends no messages
and charges nobody. Shadowing shows what it would have answered, never how users would have reacted:
that takes a canary.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from ml_platform.operations.assignment import in_share
from ml_platform.operations.shadow_process import ChildError, ChildProcess

logger = logging.getLogger(__name__)

Record: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[Record, Any], str | None]
SAMPLING_SALT = "shadow"
LOG_EVERY_S = 1.0  # one line a second at most; the counts have all of them
FAILURES = ("timeout", "exited", "garbled", "raised", "start")
"""Kinds of failure besides rubbish: no answer in time, the child ended, it wrote out of turn, it
said that the candidate raised, it did not become ready."""


@dataclass(frozen=True)
class ShadowSettings:
    """How one lane runs.

    Attributes:
        command: The child program.
        share: Share of requests that are copied, by a hash of the request id.
        max_waiting: Records that may wait; more are dropped.
        timeout_s: For one answer. Generous: the child runs only when the processor is idle.
        start_timeout_s: From the start of the child to its first line.
        backoff_s: Pause before the first restart; doubles with each failure in a row.
        max_backoff_s: Longest pause.
        max_failures: Failures and rubbish in a row after which the lane closes.
        environment: Added to the child's environment.
        lowest_priority: Run the child only when the processor is idle. Off for tests that wait.
    """

    command: Sequence[str]
    share: float = 0.1
    max_waiting: int = 100
    timeout_s: float = 2.0
    start_timeout_s: float = 120.0
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    max_failures: int = 20
    environment: Mapping[str, str] = field(default_factory=dict)
    lowest_priority: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be within 0 and 1, got {self.share}")
        if min(self.max_waiting, self.max_failures) < 1:
            raise ValueError("max_waiting and max_failures must be at least 1")


class ShadowLane:
    """Owns one child process and the thread that talks to it. `close` it at the end.

    Args:
        settings: Child program, share, limits.
        check: Says what is wrong with an answer, or None; see `rubbish_reason`.
        on_pair: Given the record and the child's good answer, in the lane's thread.
        count: Told of every outcome as it happens, for Prometheus; `counts` holds the sums.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        *,
        check: Check,
        on_pair: Callable[[Record, Mapping[str, Any]], None],
        count: Callable[[str, int], None] = lambda outcome, n: None,
    ) -> None:
        self.settings = settings
        self.closed_because: str | None = None
        self._check, self._on_pair, self._tell = check, on_pair, count
        self._counts: dict[str, int] = {}
        self._counts_lock = threading.Lock()
        self._queue: queue.Queue[Record | None] = queue.Queue(settings.max_waiting)
        self._stop = threading.Event()
        self._child: ChildProcess | None = None
        self._failures = 0  # in a row
        self._n_started = 0
        self._log_again_s = 0.0
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def wants(self, request_id: str) -> bool:
        """Whether the request is in the sample: a record of any other need not be made."""
        return in_share(request_id, SAMPLING_SALT, self.settings.share)

    def offer(self, record: Record) -> bool:
        """Copy a request into the lane, if it is in the sample and there is room. Never waits.

        Args:
            record: JSON-able (numpy arrays too), with "request_id"; not to be changed afterwards.

        Returns:
            Whether it was taken.
        """
        if not self.wants(record["request_id"]):
            return False
        if self.closed_because is not None or self._stop.is_set():
            self._add("closed")
            return False
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._add("dropped")
            return False
        self._add("taken")
        return True

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes so far, and restarts.

        Of an offer: taken, dropped (no room), closed (the lane was). Of what was taken: answered,
        one of `FAILURES`, rubbish_* by reason, abandoned (the lane closed before its turn).
        """
        with self._counts_lock:
            return dict(self._counts)

    def drained(self) -> bool:
        """Whether every record that was taken has come to an end."""
        return self._queue.unfinished_tasks == 0 or not self._thread.is_alive()

    def close(self) -> None:
        """Stop the thread and the child; records that wait are lost."""
        self._stop.set()
        child = self._child
        if child is not None:
            child.kill()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._queue.put_nowait(None)
        self._thread.join()

    # --- the lane's thread ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._start_child()
            while not self._stop.is_set() and self.closed_because is None:
                record = self._queue.get()
                if record is not None and not self._stop.is_set():
                    self._one(record)
                self._queue.task_done()
        finally:
            # A defect of ours must not leave a lane that takes records and does nothing.
            if self.closed_because is None and not self._stop.is_set():
                self.closed_because = "its thread failed; see the traceback in the log"
            self._end_child()
            self._discard_waiting()

    def _one(self, record: Record) -> None:
        """One request to its end: a pair, or a counted failure."""
        while self._child is None:
            if self._stop.is_set() or self.closed_because is not None:
                self._add("abandoned")
                return
            self._start_child()
        try:
            line = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
            reply = self._child.ask(line, self.settings.timeout_s)
        except ChildError as error:
            self._failed(error.kind, str(error), restart=True)
            return
        self._judge(record, reply)

    def _judge(self, record: Record, reply: bytes) -> None:
        try:
            answer = orjson.loads(reply)
        except orjson.JSONDecodeError:  # NaN is no JSON either
            self._failed("rubbish_not_json", f"answer {reply[:80]!r}")
            return
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            self._failed("raised", answer["error"][:300])
            return
        reason = self._check(record, answer)
        if reason is not None:
            self._failed(f"rubbish_{reason}", f"answer {reply[:80]!r}")
            return
        self._failures = 0
        self._add("answered")
        self._on_pair(record, answer)

    def _start_child(self) -> None:
        """Start and wait until ready; a failure is counted and paid for with a pause."""
        if self._n_started:
            self._add("restarts")
        self._n_started += 1
        try:
            settings = self.settings
            self._child = ChildProcess(
                settings.command, settings.environment, idle=settings.lowest_priority
            )
            if self._stop.is_set():  # `close` came before there was a child to kill
                return
            self._child.first_line(settings.start_timeout_s)
        except (ChildError, OSError) as error:
            self._failed("start", str(error), restart=True)

    def _failed(self, kind: str, detail: str, *, restart: bool = False) -> None:
        if self._stop.is_set():  # we killed it ourselves
            return
        self._failures += 1
        self._add(kind)
        if time.monotonic() >= self._log_again_s:
            self._log_again_s = time.monotonic() + LOG_EVERY_S
            logger.warning("shadow: %s: %s", kind, detail)
        if restart:
            self._end_child()
        if self._failures >= self.settings.max_failures:
            self.closed_because = f"{self._failures} failures in a row; the last: {kind}: {detail}"
            logger.warning("shadow lane closed after %s", self.closed_because)
        elif restart:
            pause_s = self.settings.backoff_s * 2 ** min(self._failures - 1, 30)
            self._stop.wait(min(pause_s, self.settings.max_backoff_s))

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _discard_waiting(self) -> None:
        while True:
            try:
                record = self._queue.get_nowait()
            except queue.Empty:
                return
            if record is not None:
                self._add("abandoned")
            self._queue.task_done()

    def _add(self, outcome: str) -> None:
        with self._counts_lock:
            self._counts[outcome] = self._counts.get(outcome, 0) + 1
        self._tell(outcome, 1)


def wait_until_drained(lane: ShadowLane, timeout_s: float) -> bool:
    """Wait for the records in the lane, for demonstrations and tests; False when time runs out."""
    end_s = time.monotonic() + timeout_s
    while not lane.drained():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True
