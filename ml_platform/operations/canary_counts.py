"""What a canary's step has seen, by arm: users, requests, failures, latencies, clicks per user.

In: requests and clicks with the time they happened. Out: the sums that the guards look at.

The unit is the user, because users are what was randomised. Requests of one user resemble each
other: to count them as independent would promise intervals far narrower than the truth. So each
user gives *one* value for clicks: clicks per request in the first `window_s` seconds from the
user's first request in this step. The value is closed when the window has passed, whatever the user
did; later requests do not change it. That makes the values a stream of independent draws, which is
what the always-valid interval assumes, and it keeps those who left after one bad list in the
count. (A value closed after three requests would drop exactly them.) The price: what users do
after their window is not used, and a user with one request counts as much as one with ten.

Failures are counted by user too: affected users, not failed requests. Latencies are kept one for
each request.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from ml_platform.operations.sequential import Moments

Arm = Literal["production", "candidate"]


@dataclass
class ArmCounts:
    """One arm in one step.

    Attributes:
        users: Different users seen.
        requests: Requests answered.
        failures: Requests in which this arm's model failed.
        failed_users: Users with at least one failure.
        clicks: Closed values of users, clicks per request.
    """

    users: set[int] = field(default_factory=set)
    requests: int = 0
    failures: int = 0
    failed_users: set[int] = field(default_factory=set)
    clicks: Moments = field(default_factory=lambda: Moments(0, 0.0, 0.0))
    _latencies_ms: list[float] = field(default_factory=list)

    def add_latency(self, ms: float) -> None:
        """One request's latency."""
        self._latencies_ms.append(ms)

    @property
    def latencies_ms(self) -> list[float]:
        """All, ascending. Sorting what is nearly sorted costs little."""
        self._latencies_ms.sort()
        return self._latencies_ms

    @property
    def failure_rate(self) -> float:
        """Failed requests of all requests."""
        return self.failures / self.requests if self.requests else 0.0


@dataclass
class _OpenValue:
    arm: Arm
    closes_at: float
    requests: int = 0
    clicks: int = 0


class StepCounts:
    """Both arms in one step of a rollout. Not thread-safe: one thread feeds and reads it.

    Args:
        started_at: Seconds, on the clock of all later calls.
        window_s: Length of a user's window for clicks.
    """

    def __init__(self, started_at: float, window_s: float) -> None:
        self.started_at = started_at
        self.window_s = window_s
        self.arms: dict[Arm, ArmCounts] = {"production": ArmCounts(), "candidate": ArmCounts()}
        self._open: dict[int, _OpenValue] = {}
        self._to_close: deque[int] = deque()  # users in the order in which their windows end

    def request(self, arm: Arm, user_id: int, latency_ms: float, failed: bool, now: float) -> None:
        """One answered request.

        Args:
            arm: To which the user was assigned, whoever answered in the end.
            user_id: Who asked.
            latency_ms: Of the whole request.
            failed: The arm's model raised or was degraded.
            now: Seconds.
        """
        counts = self.arms[arm]
        counts.requests += 1
        counts.add_latency(latency_ms)
        if failed:
            counts.failures += 1
            counts.failed_users.add(user_id)
        if user_id not in counts.users:
            counts.users.add(user_id)
            self._open[user_id] = _OpenValue(arm, now + self.window_s)
            self._to_close.append(user_id)
        value = self._open.get(user_id)
        if value is not None and now < value.closes_at:
            value.requests += 1

    def click(self, user_id: int, now: float) -> bool:
        """A click on a list that was shown; False when the user's window is over."""
        value = self._open.get(user_id)
        if value is None or now >= value.closes_at:
            return False
        value.clicks += 1
        return True

    def close_values(self, now: float) -> None:
        """Move the values of windows that have passed into the arms' moments."""
        while self._to_close and self._open[self._to_close[0]].closes_at <= now:
            value = self._open.pop(self._to_close.popleft())
            counts = self.arms[value.arm]
            counts.clicks = counts.clicks.plus(Moments(1, value.clicks / value.requests, 0.0))
