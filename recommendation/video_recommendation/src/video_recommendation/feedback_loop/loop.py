"""One arm of the experiment: every day serves, learns, and hands over to the next version.

In: settings, an arm, a seed, a folder. Out: one ``DayRecord`` a day, written to the folder as a
whole when the day is over, so that an interrupted run leaves complete days and nothing else.

Day 0 is served by the first version, trained on the history. Every later day begins with training
on all that is known at six in the morning; see ``settings`` for the clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ml_platform.evaluation.results import write_atomic
from ml_platform.operations.canary import Decision
from ml_platform.operations.shadow_report import ShadowSummary
from video_recommendation.config import Config
from video_recommendation.feedback_loop.audience import Audience, DayTruth
from video_recommendation.feedback_loop.joining import TrainingRows, join
from video_recommendation.feedback_loop.measures import gini, top_share
from video_recommendation.feedback_loop.rollout import DayCanary, Rollout, replay
from video_recommendation.feedback_loop.service import LiveService
from video_recommendation.feedback_loop.settings import (
    CLOSE_AT_S,
    OPEN_AT_S,
    TRAIN_AT_S,
    Arm,
    LoopSettings,
)
from video_recommendation.feedback_loop.training import FirstVersion, known_data, next_version
from video_recommendation.recommender import Recommender
from video_recommendation.simulation.world import World

LOOK_EVERY = 10
"""Requests between two looks of the canary's controller."""
TOP_TENTH = 1.2816
"""A tenth of a standard normal distribution, which quality follows, lies above."""
FOUND = 20
"""Impressions after which an item's watches say something about it."""


@dataclass(frozen=True)
class DayRecord:
    """One day of one arm: what the loop did, and what it was worth by the truth.

    Attributes:
        day: 0-based.
        version: That served in the evening.
        requests, degraded: Answered today; of these, not in full.
        events, duplicates: Accepted since yesterday's training; sent twice and refused.
        rows: Impressions that the morning's join had.
        mature_share: Share of them that was old enough to train on.
        late: Events so far that came after their row had matured.
        wrong_negatives: Share of the watches on the rows that yesterday's training left out as
            immature which were unknown then: taken as negatives they would have been wrong.
        shadow_overlap: Overlap@10 with yesterday's lists; None on day 0.
        canary: "none", "promoted", "rolled back", "undecided" or "stopped in shadow".
        canary_reason: One sentence.
        canary_users: That had met the candidate in its last step.
        regret: Expected watches a request that the shown list was short of the best one.
        best_value: Expected watches of the best list, for scale.
        watch_rate: Watches for each item shown.
        coverage: Share of the catalogue that was shown today.
        ever_shown: Share of the catalogue that was shown on any day so far.
        gini, top_share: Of today's impressions over the catalogue; top tenth of the items.
        new_shown: Of the items published since day 0, the share that was ever shown.
        new_impressions: Share of today's impressions that were of such items.
        hits_found: Of such items with a quality in the top tenth, the share that was shown at least
            ``FOUND`` times; by the truth, which no log knows. None without such items.
        explored: Impressions drawn for the exploration slot.
        seconds: Real time.
    """

    day: int
    version: str
    requests: int
    degraded: int
    events: int
    duplicates: int
    rows: int
    mature_share: float
    late: int
    wrong_negatives: float | None
    shadow_overlap: float | None
    canary: str
    canary_reason: str
    canary_users: int
    regret: float
    best_value: float
    watch_rate: float
    coverage: float
    ever_shown: float
    gini: float
    top_share: float
    new_shown: float
    new_impressions: float
    hits_found: float | None
    explored: int
    seconds: float


@dataclass(frozen=True)
class Morning:
    """What came of the training at six; on day 0 nothing.

    Attributes:
        rows: The joined rows.
        candidate: The next version, registered; None where there is none to try.
        trained_through_seq: Last event of the log that it knows.
        shadow: Its replay.
        stopped: Why it was refused before any user met it.
    """

    rows: TrainingRows | None = None
    candidate: Recommender | None = None
    trained_through_seq: int = 0
    shadow: ShadowSummary | None = None
    stopped: str | None = None


class Loop:
    """One arm between its days."""

    def __init__(
        self, world: World, settings: LoopSettings, arm: Arm, first: FirstVersion, folder: Path
    ) -> None:
        self._world, self._settings, self._folder = world, settings, folder
        self._config = settings.config_of(arm, world.config.seed)
        self._first = first
        self._rollout = Rollout(folder)
        recommender = self._rollout.register(with_config(first.recommender, self._config), "day 0")
        self._rollout.promote("the first version")
        self._service = LiveService(recommender, folder / "serving")
        self._audience = Audience(world, settings)
        self._shown = np.zeros(len(world.item_ids), dtype=np.int64)
        self._rows: TrainingRows | None = None
        self._counted = (0, 0, 0)

    def run_day(self, day: int) -> DayRecord:
        """One day, from the training at six to the last request; its record is on disk after."""
        begin = time.perf_counter()
        morning = self._morning(day) if day > 0 else Morning()
        truth = DayTruth()
        decision = self._serve(day, morning, truth)
        record = self._record(day, truth, morning, decision, time.perf_counter() - begin)
        text = json.dumps(asdict(record), indent=1)
        write_atomic(self._folder / "days" / f"day_{day:02d}.json", text)
        self._rows = morning.rows
        return record

    def close(self) -> None:
        """Stops the service; its logs stay."""
        self._service.close()

    # --- the hours of a day ---------------------------------------------------------------------

    def _morning(self, day: int) -> Morning:
        """Join, train, register, replay."""
        service, settings = self._service, self._settings
        now = self._world.day_start(day) + TRAIN_AT_S
        self._audience.deliver(service, now)
        impressions, watches = service.reader.read(service.n_requests)
        rows = join(impressions, watches, as_of=now, window_s=settings.window_s)
        data = known_data(self._world, watches, day, self._config, as_of=now)
        examine = self._world.examine_probability(settings.k)
        trained = next_version(self._first, data, rows, self._config, examine)
        candidate = self._rollout.register(trained, f"day {day}")
        shadow = replay(
            candidate,
            service.reader.records[-settings.n_requests :],
            k=settings.k,
            n=settings.n_shadow,
            seed=self._config.seed,
        )
        stopped = "; ".join(shadow.reasons) if shadow.verdict == "stop" else None
        return Morning(rows, candidate, service.reader.last_seq, shadow, stopped)

    def _serve(self, day: int, morning: Morning, truth: DayTruth) -> Decision | None:
        """All visits in time order; the candidate's rollout goes on beside them."""
        service, audience = self._service, self._audience
        canary = self._start_canary(day, morning)
        decision = None
        for number, visit in enumerate(audience.visits(day)):
            known = audience.deliver(service, visit.at)
            service.refresh(visit.at)
            whole = audience.visit(service, day, visit, truth)
            if canary is None:
                continue
            canary.watched(known)
            canary.served(int(self._world.user_ids[visit.user_idx]), failed=not whole, now=visit.at)
            if number % LOOK_EVERY == 0:
                decision = canary.look(visit.at)
                if decision.final:
                    self._finish(morning, decision)
                    canary = None
        audience.deliver(service, self._world.day_start(day) + CLOSE_AT_S)
        if canary is not None and decision is not None:
            self._finish(morning, decision)
        return decision

    def _start_canary(self, day: int, morning: Morning) -> DayCanary | None:
        """The candidate takes its share of the users, unless the shadow has stopped it."""
        if morning.candidate is None:
            return None
        if morning.stopped:
            self._rollout.refuse(morning.stopped)
            return None
        self._service.install(morning.candidate, "candidate", morning.trained_through_seq)
        canary = DayCanary(morning.candidate.version, self._world.day_start(day) + OPEN_AT_S)
        self._service.engine.router = canary.controller.arm
        return canary

    def _finish(self, morning: Morning, decision: Decision) -> None:
        """The candidate becomes production, or goes."""
        service = self._service
        service.engine.router = None
        service.engine.remove_candidate()
        if decision.action == "promote" and morning.candidate is not None:
            self._rollout.promote(decision.reason)
            service.install(morning.candidate, "production", morning.trained_through_seq)
        else:
            self._rollout.refuse(decision.reason)

    # --- the books ------------------------------------------------------------------------------

    def _record(
        self,
        day: int,
        truth: DayTruth,
        morning: Morning,
        decision: Decision | None,
        seconds: float,
    ) -> DayRecord:
        service, world = self._service, self._world
        counted = (service.n_events, service.n_duplicates, service.n_degraded)
        events, duplicates, degraded = (
            now - then for now, then in zip(counted, self._counted, strict=True)
        )
        self._counted = counted
        counts = np.bincount(np.concatenate(truth.shown), minlength=len(world.item_ids))
        self._shown += counts
        available = world.available(day)
        new = available[world.published_day[available] >= 0]
        hits = new[world.quality[new] > TOP_TENTH]
        n_shown = int(counts.sum())
        rows = morning.rows
        canary, reason = _outcome(morning, decision)
        return DayRecord(
            day=day,
            version=service.engine.production.version,
            requests=len(truth.value),
            degraded=degraded,
            events=events,
            duplicates=duplicates,
            rows=rows.counts.impressions if rows else 0,
            mature_share=rows.counts.mature / rows.counts.impressions if rows else 0.0,
            late=rows.counts.late if rows else 0,
            wrong_negatives=wrong_negatives(self._rows, rows),
            shadow_overlap=_overlap(morning.shadow),
            canary=canary,
            canary_reason=reason,
            canary_users=decision.users if decision else 0,
            regret=float(np.mean(np.subtract(truth.best_value, truth.value))),
            best_value=float(np.mean(truth.best_value)),
            watch_rate=float(np.concatenate(truth.watched).mean()),
            coverage=float((counts[available] > 0).mean()),
            ever_shown=float((self._shown[available] > 0).mean()),
            gini=gini(counts[available]),
            top_share=top_share(counts[available]),
            new_shown=float((self._shown[new] > 0).mean()) if len(new) else 0.0,
            new_impressions=float(counts[new].sum() / n_shown),
            hits_found=float((self._shown[hits] >= FOUND).mean()) if len(hits) else None,
            explored=sum(place >= 0 for place in truth.exploration_place),
            seconds=seconds,
        )


def run_arm(
    world: World,
    settings: LoopSettings,
    arm: Arm,
    first: FirstVersion,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    after_day: Callable[[], None] = lambda: None,
) -> list[DayRecord]:
    """All days of one arm.

    Args:
        world: Its seed is the run's.
        settings: What to do.
        arm: How to explore.
        first: From ``training.first_version``, the same for all arms of a seed.
        folder: Logs, registry and days; must be empty.
        stop: Asked before every day; true ends the run there.
        after_day: Called when a day is complete.
    """
    loop = Loop(world, settings, arm, first, folder)
    days = []
    try:
        for day in range(settings.n_days):
            if stop():
                break
            days.append(loop.run_day(day))
            after_day()
    finally:
        loop.close()
    return days


def with_config(recommender: Recommender, config: Config) -> Recommender:
    """The same models under another configuration (the arm's re-ranking)."""
    return Recommender(
        version="unsaved",
        config=config,
        catalogue=recommender.catalogue,
        users=recommender.users,
        log=recommender.log,
        proposer=recommender.proposer,
        preranker=recommender.preranker,
        rankers=recommender.rankers,
        calibrator=recommender.calibrator,
    )


def wrong_negatives(before: TrainingRows | None, after: TrainingRows | None) -> float | None:
    """Of the watches on rows that were immature yesterday, the share that was unknown then.

    Rows keep their numbers from day to day, for the log only grows.
    """
    if before is None or after is None:
        return None
    young = np.flatnonzero(~before.mature)
    watched = after.watched[young]
    unknown = watched & ~before.watched[young]
    return float(unknown.sum() / watched.sum()) if watched.any() else None


def _overlap(shadow: ShadowSummary | None) -> float | None:
    return shadow.agreement["overlap@10"].value if shadow and shadow.agreement else None


def _outcome(morning: Morning, decision: Decision | None) -> tuple[str, str]:
    """The canary in a word and a sentence."""
    if morning.candidate is None:
        return "none", "the first version"
    if morning.stopped:
        return "stopped in shadow", morning.stopped
    if decision is None:
        return "undecided", "no request came"
    word = {"promote": "promoted", "roll back": "rolled back"}.get(decision.action, "undecided")
    return word, decision.reason
