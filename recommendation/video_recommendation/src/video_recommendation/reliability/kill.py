"""``kill -9`` in the middle of traffic, again and again, over one data folder.

In: a server that can be started. Out: what was acknowledged, what of it was missing after each
restart, and how long the restarts took.

One cycle: traffic of events and recommendations; at a random moment the serving process is killed;
the traffic runs on for a moment against the closed port; the server is started again. Then, before
anything is sent again, the log and the state are compared with what was acknowledged. Then every
event of the cycle is sent again, the acknowledged ones too, as a client does that cannot know which
answers were lost: each must count once.

The request log promises less: an answer that was still in the writer's queue is not in it. How many
were is counted, and whether the file can be read to its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
from video_recommendation.reliability.server_process import (
    ServerProcess,
    get_json,
    post_json,
    store_client,
)
from video_recommendation.reliability.traffic import Reply, Traffic, errors
from video_recommendation.reliability.versions import VersionMark

EVENT_SHARE = 0.7
KILL_AFTER_S = (0.2, 0.8)
RUN_ON_S = 0.1
FULL_ANSWER_S = 10.0


@dataclass(frozen=True)
class KillReport:
    """All kills of one kind of server.

    Attributes:
        kills: How many.
        answered: Requests of any kind that were answered.
        errors: Requests that failed while the server was up, by outcome.
        acknowledged: Events that were acknowledged before a kill.
        lost: Of them, those that the log did not hold after the restart.
        invisible: Of them, those that the state or the API did not show after the restart.
        twice: Times that an event counted more than once after all had been sent again.
        unasked: Events logged although the acknowledgement never arrived.
        torn_lines: Lines of the request log that are no JSON.
        unlogged: Answered recommendations that the request log does not hold.
        recovery_s: From the start of each new process to ready.
    """

    kills: int
    answered: int
    errors: dict[str, int]
    acknowledged: int
    lost: int
    invisible: int
    twice: int
    unasked: int
    torn_lines: int
    unlogged: int
    recovery_s: tuple[float, ...]


@dataclass(frozen=True)
class _Cycle:
    """One kill: replies before it, the audit after the restart, the audit after sending again."""

    replies: Sequence[Reply]
    killed_at: float
    recovery_s: float
    restarted: EventAudit
    unseen: int
    sent_again: EventAudit


def kill_repeatedly(
    server: ServerProcess,
    reads: Sequence[str],
    mark: VersionMark,
    *,
    kills: int,
    rate_qps: float,
    seed: int,
    step: Callable[[int], None] = lambda _: None,
) -> KillReport:
    """Starts the server, kills and restarts it ``kills`` times; it runs when this returns.

    Args:
        server: Not started yet.
        reads: Request lines for recommendations.
        mark: The version that it serves.
        kills: How often, at least once.
        rate_qps: Poisson arrivals a second of events and reads together.
        seed: Of the moments and the arrivals.
        step: Told after each kill.
    """
    rng = np.random.default_rng(seed)
    source = EventSource(seed, mark.item_ids)
    server.start()
    cycles = []
    for number in range(kills):
        events = source.take(round(rate_qps * EVENT_SHARE))
        lines = mixed_lines(reads, events, event_share=EVENT_SHARE)
        after_s = float(rng.uniform(*KILL_AFTER_S))
        replies, killed_at = _killed_in_traffic(server, lines, rate_qps, after_s, seed + number)
        cycles.append(_restarted(server, events, replies, killed_at, mark))
        step(1)
    return _summed(cycles, server.data_dir / "requests.jsonl")


def _killed_in_traffic(
    server: ServerProcess, lines: Sequence[str], rate_qps: float, after_s: float, seed: int
) -> tuple[list[Reply], float]:
    """Replies, and the moment of the kill on their clock."""
    with Traffic(server.url, lines, rate_qps, seconds=1.0, seed=seed) as traffic:
        time.sleep(after_s)
        killed_at = time.monotonic()
        server.kill()
        time.sleep(RUN_ON_S)
        return traffic.stop(), killed_at


def _restarted(
    server: ServerProcess,
    events: Sequence[SentEvent],
    replies: Sequence[Reply],
    killed_at: float,
    mark: VersionMark,
) -> _Cycle:
    recovery_s = server.start()
    acknowledged = acknowledged_ids(replies)
    restarted = _audited(server, events, acknowledged, mark)
    unseen = _unseen_by_api(server.url, events, acknowledged)
    post_json(f"{server.url}/v1/events", {"events": [event.body() for event in events]})
    everything = {event.event_id for event in events}
    sent_again = _audited(server, events, everything, mark)
    return _Cycle(replies, killed_at, recovery_s, restarted, unseen, sent_again)


def _audited(
    server: ServerProcess,
    events: Sequence[SentEvent],
    acknowledged: set[str],
    mark: VersionMark,
) -> EventAudit:
    with store_client(server.store_socket()) as client:
        state = read_state(client, mark, (event.user_id for event in events))
    return audit(events, acknowledged, read_log(server.data_dir / "events.sqlite"), state)


def _unseen_by_api(url: str, events: Sequence[SentEvent], acknowledged: set[str]) -> int:
    """Events that the API does not show: their user counts as cold, or is offered their item."""
    due = [event for event in events if event.event_id in acknowledged]
    unseen = 0
    for user_id in sorted({event.user_id for event in due}):
        answer = _full_answer(f"{url}/v1/recommendations?user_id={user_id}&k=100")
        offered = {item["item_id"] for item in answer["items"]}
        mine = [event.item_id for event in due if event.user_id == user_id]
        unseen += sum(answer["cold_start"] or item_id in offered for item_id in mine)
    return unseen


def _full_answer(path: str) -> dict[str, Any]:
    """The first answer that is not degraded (which would not know the user), or the last one."""
    give_up = time.monotonic() + FULL_ANSWER_S
    while (answer := get_json(path))["degraded"] and time.monotonic() < give_up:
        time.sleep(0.05)
    return answer


def _summed(cycles: Sequence[_Cycle], request_log: Path) -> KillReport:
    replies = [reply for cycle in cycles for reply in cycle.replies]
    torn_lines, unlogged = request_log_gaps(request_log, replies)
    while_up = [r for c in cycles for r in c.replies if r.finished < c.killed_at]
    audits = [audit for cycle in cycles for audit in (cycle.restarted, cycle.sent_again)]
    return KillReport(
        kills=len(cycles),
        answered=sum(reply.ok for reply in replies),
        errors=errors(while_up),
        acknowledged=sum(cycle.restarted.acknowledged for cycle in cycles),
        lost=sum(audit.lost for audit in audits),
        invisible=sum(audit.invisible for audit in audits) + sum(c.unseen for c in cycles),
        twice=sum(cycle.sent_again.twice for cycle in cycles),
        unasked=sum(cycle.restarted.unasked for cycle in cycles),
        torn_lines=torn_lines,
        unlogged=unlogged,
        recovery_s=tuple(cycle.recovery_s for cycle in cycles),
    )


def request_log_gaps(path: Path, replies: Sequence[Reply]) -> tuple[int, int]:
    """Lines of the request log that cannot be read, and answers that it does not hold."""
    logged, torn_lines = set(), 0
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                logged.add(json.loads(line)["request_id"])
            except ValueError:
                torn_lines += 1
    shown = {reply.body["request_id"] for reply in replies if reply.body and not reply.is_event}
    return torn_lines, len(shown - logged)
