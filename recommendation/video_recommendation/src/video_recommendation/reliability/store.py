"""A store that is stopped, frozen, slow or flapping, while requests and events come in.

In: a running server and a fault. Out: what clients saw before, during and after it, and how long
after its end (after its beginning, where the server itself has to end it) every answer was full and
an event that was posted during the fault was visible again.
"""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass

import redis

from video_recommendation.reliability.events import (
    EventAudit,
    EventSource,
    SentEvent,
    acknowledged_ids,
    audit,
    mixed_lines,
    read_log,
    read_state,
)
from video_recommendation.reliability.server_process import ServerProcess, get_json, post_json
from video_recommendation.reliability.store_faults import StoreFault
from video_recommendation.reliability.traffic import (
    Reply,
    Traffic,
    degradation_reasons,
    errors,
    p99_ms,
)
from video_recommendation.reliability.versions import VersionMark

EVENT_SHARE = 0.2
GIVE_UP_S = 15.0
POLL_S = 0.02


@dataclass(frozen=True)
class StoreTraffic:
    """What is sent, and for how long around a fault.

    Attributes:
        reads: Request lines for recommendations.
        mark: The version that is served.
        rate_qps: Poisson arrivals a second; one in five is an event.
        before_s: Before the fault.
        after_s: After the recovery.
    """

    reads: Sequence[str]
    mark: VersionMark
    rate_qps: float
    before_s: float
    after_s: float


@dataclass(frozen=True)
class StoreReport:
    """One fault.

    Attributes:
        fault: What was done.
        replies: All of the session, by due time.
        began: `time.monotonic` seconds, as in the replies.
        ended: Likewise; equal to ``began`` where the server has to end the fault itself.
        complete_s: From ``ended`` until an event posted during the fault was visible in a full
            answer; None if it was not within GIVE_UP_S.
        events: What became of all events.
    """

    fault: StoreFault
    replies: Sequence[Reply]
    began: float
    ended: float
    complete_s: float | None
    events: EventAudit

    @property
    def reads(self) -> list[Reply]:
        """Requests for recommendations."""
        return [reply for reply in self.replies if not reply.is_event]

    @property
    def before(self) -> list[Reply]:
        """Reads that were due before the fault."""
        return [reply for reply in self.reads if reply.due < self.began]

    @property
    def during(self) -> list[Reply]:
        """Reads that were due from its beginning until the state was complete again."""
        until = self.ended + (self.complete_s or 0.0)
        return [reply for reply in self.reads if self.began <= reply.due <= until]

    @property
    def errors(self) -> dict[str, int]:
        """All requests that had no 2xx answer, by outcome."""
        return errors(self.replies)

    @property
    def degraded(self) -> int:
        """Answers of a fallback."""
        return sum(reply.degraded for reply in self.reads)

    @property
    def reasons(self) -> dict[str, int]:
        """How many answers name which stage and reason."""
        return degradation_reasons(self.reads)

    @property
    def p99_before_ms(self) -> float | None:
        """Of reads before the fault."""
        return p99_ms(self.before)

    @property
    def p99_during_ms(self) -> float | None:
        """Of reads during the fault and the recovery."""
        return p99_ms(self.during)

    @property
    def first_full_s(self) -> float | None:
        """From the fault's end to the first full answer; None if there was none."""
        full = [r.finished for r in self.reads if r.due >= self.ended and r.ok and not r.degraded]
        return min(full) - self.ended if full else None

    @property
    def all_full_s(self) -> float | None:
        """From the fault's end to the first full answer after the last degraded one."""
        last = max((r.due for r in self.reads if r.degraded), default=self.ended)
        since = max(last, self.ended)
        full = [r.finished for r in self.reads if r.due >= since and r.ok and not r.degraded]
        return min(full) - self.ended if full else None


def survive(
    server: ServerProcess, store: redis.Redis, fault: StoreFault, plan: StoreTraffic, *, seed: int
) -> StoreReport:
    """Sends traffic, inflicts the fault, waits for the recovery, counts.

    Args:
        server: Running.
        store: An administrator's connection to its store's socket, which outlives the fault.
        fault: What to do.
        plan: What to send.
        seed: Of the arrivals; it also keeps the events of different faults apart.
    """
    source = EventSource(seed, plan.mark.item_ids)
    marker = source.new_user()
    events = source.take(round(60 * plan.rate_qps * EVENT_SHARE))
    lines = mixed_lines(plan.reads, events, event_share=EVENT_SHARE)
    with Traffic(server.url, lines, plan.rate_qps, seconds=60.0, seed=seed) as traffic:
        time.sleep(plan.before_s)
        began = time.monotonic()
        acknowledged: list[bool] = []
        ended = fault.inflict(lambda: acknowledged.append(_acknowledged(server.url, marker)))
        complete_s = _until_visible(server.url, marker, ended)
        time.sleep(plan.after_s)
        replies = traffic.stop()
    known = {event.event_id for event in marker} if acknowledged == [True] else set()
    known |= acknowledged_ids(replies)
    sent = [*marker, *events]
    state = read_state(store, plan.mark, (event.user_id for event in sent))
    logged = read_log(server.data_dir / "events.sqlite")
    return StoreReport(fault, replies, began, ended, complete_s, audit(sent, known, logged, state))


def _acknowledged(url: str, events: Sequence[SentEvent]) -> bool:
    """Posts a batch; whether it was accepted, applied or not."""
    try:
        post_json(f"{url}/v1/events", {"events": [event.body() for event in events]})
    except urllib.error.URLError:
        return False
    return True


def _until_visible(url: str, events: Sequence[SentEvent], since: float) -> float | None:
    """Seconds from ``since`` until a full answer knows the events' user; None if it never does."""
    path = f"{url}/v1/recommendations?user_id={events[0].user_id}"
    while time.monotonic() - since < GIVE_UP_S:
        try:
            answer = get_json(path)
        except urllib.error.URLError:
            answer = {"cold_start": True}
        if not answer["cold_start"] and not answer["degraded"]:
            return time.monotonic() - since
        time.sleep(POLL_S)
    return None
