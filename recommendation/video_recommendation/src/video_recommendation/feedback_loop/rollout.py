"""May the next version serve? Registered, replayed in the shadow, tried on some users, promoted.

In: a trained recommender, yesterday's request log, today's requests. Out: a registered version, a
shadow report, decisions. The pieces are those of the real deployment: registry, report, controller.

Shadow here is a replay: the candidate answers a sample of yesterday's logged requests again, with
the histories it was trained on cut at each request's second, and its lists are compared with the
logged ones. It finds broken versions, not bad ones.

The canary then finds harm, as far as a few hundred requests a day allow: half of the users get the
candidate until their answers exclude that all watching has stopped, then everybody does, then it is
production. A loss of a tenth would pass. At this traffic a canary is a guard against disaster, and
which arm is better is left to the comparison of many days.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.operations.canary import CanaryController, CanaryPlan, Decision
from ml_platform.operations.registry import ModelRegistry
from ml_platform.operations.shadow_report import ShadowLimits, ShadowReport, ShadowSummary
from ml_platform.serving.stages import RequestStages
from video_recommendation.bundle import check_bundle, load_bundle, save_bundle
from video_recommendation.feedback_loop.service import Watch
from video_recommendation.recommender import Recommender
from video_recommendation.serving.protocol import UserState

KEPT_VERSIONS = 2
"""Bundles that stay on disk beside those with an alias."""
PLAN = CanaryPlan(
    steps=(0.5, 1.0),
    min_requests=(25, 25),
    max_requests=(10_000, 10_000),
    click_margins=(1.0, 1.0),
    window_s=3_600.0,
)


class Rollout:
    """The registry of one loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.registry = ModelRegistry(folder / "registry", check_bundle)

    def register(self, recommender: Recommender, note: str) -> Recommender:
        """Saves, registers and loads again: what is served is what the registry holds."""
        draft = self._folder / "bundle"
        save_bundle(recommender, draft)
        version = self.registry.register(draft, note=note)
        self.registry.set_candidate(version, note=note)
        return load_bundle(self.registry.path(version))

    def promote(self, note: str) -> None:
        """The candidate becomes production; versions that nobody names go."""
        self.registry.promote(note=note)
        self.registry.prune(KEPT_VERSIONS)

    def refuse(self, note: str) -> None:
        """The candidate loses its name; production stays."""
        self.registry.set_candidate(None, note=note)


def replay(
    candidate: Recommender, records: Sequence[Mapping[str, Any]], *, k: int, n: int, seed: int
) -> ShadowSummary:
    """The candidate answers a sample of logged requests again.

    Args:
        candidate: The next version.
        records: Of yesterday's request log, with ``total_ms``.
        k: Items of a list.
        n: Size of the sample.
        seed: Draws it.
    """
    # Wall time on a machine that simulates says nothing about a deadline: no verdict on latency.
    report = ShadowReport(ShadowLimits(min_pairs=min(n, len(records)), latency_ratio=1e9))
    chosen = np.random.default_rng(seed).permutation(len(records))[:n]
    counts = {"answered": 0, "degraded": 0}
    for record in (records[i] for i in np.sort(chosen)):
        stages = RequestStages()
        begin, cpu = time.perf_counter(), time.process_time()
        items = candidate.recommend(
            user_id=record["user_id"],
            state=_history_before(candidate, record["user_id"], record["now"]),
            now=record["now"],
            k=k,
            exclude=np.empty(0, dtype=np.int32),
            counter=candidate.proposer.retriever.counter,
            stages=stages,
            surface=record["surface"],
        )
        answer = {
            "items": [int(candidate.catalogue.item_ids[item.item_idx]) for item in items],
            "scores": [item.score for item in items],
            "elapsed_ms": 1000 * (time.perf_counter() - begin),
            "cpu_ms": 1000 * (time.process_time() - cpu),
        }
        counts["answered"] += 1
        counts["degraded"] += bool(stages.degradations)
        report.add(record, answer)
    return report.summary(counts)


class DayCanary:
    """The platform's canary controller on one simulated day.

    Wall time on a machine that simulates means nothing, so every request counts as equally quick;
    the guards on failures, on the split and on clicks are the real ones.
    """

    def __init__(self, version: str, now: int) -> None:
        self.controller = CanaryController(PLAN, version, float(now))

    def served(self, user_id: int, *, failed: bool, now: int) -> None:
        """One answered request of whichever arm the user is in."""
        arm = self.controller.arm(user_id)
        self.controller.request_served(arm, user_id, 1.0, failed=failed, now=float(now))

    def watched(self, watches: Sequence[Watch]) -> None:
        """Watches that have become known, of lists only."""
        for watch in watches:
            if watch.request_id is not None and watch.rating is None:
                self.controller.clicked(watch.user_id, float(watch.at))

    def look(self, now: int) -> Decision:
        """What to do now."""
        return self.controller.decide(float(now))


def _history_before(recommender: Recommender, user_id: int, now: int) -> UserState:
    """What the version knows of a user up to a second."""
    whole = recommender.history(user_id)
    known = whole.timestamp < now
    return UserState(whole.item_idx[known], whole.rating[known], whole.timestamp[known])
