"""Open-loop load in the background, kept request by request.

In: request lines and a rate. Out: one `Reply` for each request that was due, with its moment on the
same clock that the faults are timed by (`time.monotonic`), so that what clients saw can be laid
beside what was done to the server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ml_platform.serving.http_pool import Sample
from ml_platform.serving.load_test import MAX_SECONDS, LoadPlan, send_load

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request.

    Attributes:
        line: The request line.
        due: When it was due, `time.monotonic` seconds.
        finished: When it ended, likewise.
        outcome: The status as text, or "connection", "timeout".
        body: Of an answer with a 2xx status.
    """

    line: str
    due: float
    finished: float
    outcome: str
    body: dict[str, Any] | None

    @property
    def latency_ms(self) -> float:
        """From the moment it was due."""
        return (self.finished - self.due) * 1e3

    @property
    def ok(self) -> bool:
        """Answered with a 2xx status."""
        return self.body is not None

    @property
    def is_event(self) -> bool:
        """A POST; a request for recommendations otherwise."""
        return self.line.startswith("POST")

    @property
    def degraded(self) -> bool:
        """Answered by a fallback."""
        return self.body is not None and bool(self.body.get("degraded"))


class Traffic:
    """Sends from `__enter__` on, until `stop` or until ``seconds`` are over.

    Args:
        url: The server.
        lines: Request lines, used in turn.
        rate_qps: Poisson arrivals a second.
        seconds: The longest that it sends.
        seed: Of the arrivals.
    """

    def __init__(
        self,
        url: str,
        lines: Sequence[str],
        rate_qps: float,
        *,
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        self._lines = lines
        self._plan = LoadPlan(
            url=url,
            requests=lines,
            rate_qps=rate_qps,
            seconds=seconds or min(MAX_SECONDS, 500_000 / rate_qps),
            warmup_seconds=0.0,
            timeout_s=TIMEOUT_S,
            seed=seed,
        )
        self._stop = threading.Event()
        self._samples: list[Sample] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._send, name="traffic", daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def stop(self) -> list[Reply]:
        """Sends nothing more, waits for what is in flight, returns all replies by due time.

        Raises:
            ConnectionError: Nobody listened when it began.
        """
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        n = len(self._lines)
        return [_reply(self._lines[i % n], sample) for i, sample in enumerate(self._samples)]

    def _send(self) -> None:
        try:
            _, self._samples, _ = send_load(self._plan, keep_bodies=True, stop=self._stop)
        except (OSError, ValueError) as error:
            self._failure = error


def _reply(line: str, sample: Sample) -> Reply:
    body = json.loads(sample.body) if sample.outcome[:1] == "2" else None
    return Reply(line, sample.due, sample.finished, sample.outcome, body)


def p99_ms(replies: Sequence[Reply]) -> float | None:
    """99th percentile of the latency of those that were answered; None for none."""
    latencies = [reply.latency_ms for reply in replies if reply.ok]
    return float(np.percentile(latencies, 99)) if latencies else None


def errors(replies: Sequence[Reply]) -> dict[str, int]:
    """How many ended in which way other than a 2xx status."""
    found: dict[str, int] = {}
    for reply in replies:
        if not reply.ok:
            found[reply.outcome] = found.get(reply.outcome, 0) + 1
    return found


def degraded_share(replies: Sequence[Reply]) -> float:
    """Share of fallbacks among the answers to reads; 0 for none."""
    answers = [reply.degraded for reply in replies if reply.ok and not reply.is_event]
    return sum(answers) / max(1, len(answers))


def degradation_reasons(replies: Sequence[Reply]) -> dict[str, int]:
    """How many answers name which "stage/reason"."""
    found: dict[str, int] = {}
    for reply in replies:
        for part in (reply.body or {}).get("degradations", ()):
            name = f"{part['stage']}/{part['reason']}"
            found[name] = found.get(name, 0) + 1
    return found
