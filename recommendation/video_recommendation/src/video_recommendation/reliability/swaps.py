"""Version swaps under load: promote, roll back, promote the next one, again and again.

In: a registry with three versions and a server that follows its production alias. Out: what clients
saw, and how long each swap took from the moved alias to the first answer of the new version.

Every second swap is a rollback. A promotion makes the server load, check and warm up a bundle that
it does not hold; a rollback takes the one that it kept. Three versions take turns, for with two the
server would hold both and load nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_platform.operations.registry import ModelRegistry
from video_recommendation.reliability.events import (
    EventAudit,
    EventSource,
    acknowledged_ids,
    audit,
    mixed_lines,
    read_log,
    read_state,
)
from video_recommendation.reliability.server_process import ServerProcess, get_json, store_client
from video_recommendation.reliability.traffic import Reply, Traffic, errors, p99_ms
from video_recommendation.reliability.versions import VersionMark, mixed_answers

EVENT_SHARE = 0.1
SWAP_TIMEOUT_S = 30.0
POLL_S = 0.05


class SwapError(RuntimeError):
    """The server did not take up a version."""


@dataclass(frozen=True)
class SwapReport:
    """All swaps.

    Attributes:
        replies: All of the session, by due time.
        began: When the swaps began, `time.monotonic` seconds, as in the replies.
        ended: When the last one was served.
        promotions_s: From the moved alias to the new version being served, with loading.
        rollbacks_s: Likewise, without loading.
        mixed: Answers parts of which were made by different versions.
        events: What became of the events sent meanwhile, in the state of the last version.
        refused: Versions that the server refused, with the reason.
    """

    replies: Sequence[Reply]
    began: float
    ended: float
    promotions_s: tuple[float, ...]
    rollbacks_s: tuple[float, ...]
    mixed: int
    events: EventAudit
    refused: dict[str, str]

    @property
    def reads(self) -> list[Reply]:
        """Requests for recommendations."""
        return [reply for reply in self.replies if not reply.is_event]

    @property
    def during(self) -> list[Reply]:
        """Requests of both kinds that were due while versions were swapped."""
        return [reply for reply in self.replies if self.began <= reply.due <= self.ended]

    @property
    def errors(self) -> dict[str, int]:
        """Requests without a 2xx answer, by outcome."""
        return errors(self.replies)

    @property
    def before(self) -> list[Reply]:
        """Reads that were due before the first swap."""
        return [reply for reply in self.reads if reply.due < self.began]

    @property
    def degraded(self) -> int:
        """Answers of a fallback while versions were swapped."""
        return sum(reply.degraded for reply in self.during)

    @property
    def by_version(self) -> Counter[str]:
        """Answers of each version."""
        return Counter(str(reply.body["version"]) for reply in self.reads if reply.body)

    @property
    def p99_before_ms(self) -> float | None:
        """Of reads before the first swap."""
        return p99_ms(self.before)

    @property
    def p99_during_ms(self) -> float | None:
        """Of reads while versions were swapped."""
        return p99_ms([reply for reply in self.during if not reply.is_event])


def register_all(registry: ModelRegistry, variants: Sequence[tuple[Path, VersionMark]]) -> None:
    """Registers the versions and makes the first one production."""
    for folder, _ in variants:
        registry.register(folder, note="reliability run")
    registry.promote(variants[0][1].version)


def swap_repeatedly(
    server: ServerProcess,
    registry: ModelRegistry,
    marks: Sequence[VersionMark],
    reads: Sequence[str],
    *,
    swaps: int,
    rate_qps: float,
    calm_s: float,
    seed: int = 0,
    step: Callable[[int], None] = lambda _: None,
) -> SwapReport:
    """Swaps under load.

    Args:
        server: Running; follows the registry.
        registry: Holds all versions; the first one is production.
        marks: Three versions.
        reads: Request lines for recommendations.
        swaps: How many; every second one is a rollback.
        rate_qps: Poisson arrivals a second; one in ten is an event.
        calm_s: Load without swaps before the first one, to compare with.
        seed: Of the arrivals.
        step: Told after each swap.

    Raises:
        SwapError: The server did not take up a version in time.
    """
    source = EventSource(seed, marks[0].item_ids)
    allowance_s = calm_s + swaps * 5.0 + 30.0
    events = source.take(round(allowance_s * rate_qps * EVENT_SHARE))
    lines = mixed_lines(reads, events, event_share=EVENT_SHARE)
    seconds: dict[str, list[float]] = {"promote": [], "rollback": []}
    with Traffic(server.url, lines, rate_qps, seconds=allowance_s, seed=seed) as traffic:
        time.sleep(calm_s)
        began = time.monotonic()
        for number in range(swaps):
            action = "rollback" if number % 2 else "promote"
            version = marks[0 if number % 2 else 1 + number // 2 % (len(marks) - 1)].version
            if action == "promote":
                registry.set_candidate(version)
            moved = _move(registry, action)
            seconds[action].append(_until_served(server.url, version, moved))
            step(1)
        ended = time.monotonic()
        replies = traffic.stop()
    operations = get_json(f"{server.url}/v1/operations")
    last = next(mark for mark in marks if mark.version == version)
    with store_client(server.store_socket()) as client:
        state = read_state(client, last, (event.user_id for event in events))
    logged = read_log(server.data_dir / "events.sqlite")
    return SwapReport(
        replies,
        began,
        ended,
        tuple(seconds["promote"]),
        tuple(seconds["rollback"]),
        len(mixed_answers([r.body for r in replies if r.body and not r.is_event], marks)),
        audit(events, acknowledged_ids(replies), logged, state),
        operations["deployment"]["refused"],
    )


def _move(registry: ModelRegistry, action: str) -> float:
    """Moves the alias; returns the moment at which it was moved."""
    if action == "promote":
        registry.promote()
    else:
        registry.rollback()
    return time.monotonic()


def _until_served(url: str, version: str, since: float) -> float:
    """Seconds until the server names the version as the one in production."""
    while (running := get_json(f"{url}/v1/version")["version"]) != version:
        if time.monotonic() - since > SWAP_TIMEOUT_S:
            refused = get_json(f"{url}/v1/operations")["deployment"]["refused"]
            raise SwapError(f"{running} still serves, {version} does not; refused: {refused}")
        time.sleep(POLL_S)
    return time.monotonic() - since
