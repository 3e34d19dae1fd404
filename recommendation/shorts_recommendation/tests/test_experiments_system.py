"""Arms that are the real funnel, small: places for uploads, budgets, independent views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from clockwork import Clockwork
from tiny_system import TinySystem

from shorts_recommendation.bundle import load_bundle
from shorts_recommendation.experiments.policies import RecommenderPolicy
from shorts_recommendation.experiments.settings import QUICK
from shorts_recommendation.experiments.simulation import Platform, Simulation, Trace
from shorts_recommendation.experiments.studies import (
    ArmSpec,
    Ground,
    Outcome,
    Study,
    exploration_study,
    funnel,
    run_study,
)
from shorts_recommendation.log import DAY_S
from shorts_recommendation.world.audience import Audience

SLOTS = {"fresh_slots": 1, "fresh_reserve": 8}


@pytest.fixture
def ground(tiny_system: TinySystem) -> Ground:
    """A service that starts where the world ends: uploads of the last two days are in the pool."""
    recommender = load_bundle(tiny_system.bundle)
    return Ground(
        world=tiny_system.data.world,
        recommender=recommender,
        platform=Platform(recommender.new_states(), recommender.new_counters()),
        log=tiny_system.data.log,
        start_s=recommender.data_end,
        settings=replace(QUICK, people=40, days=1),
        seed=0,
    )


def played(
    ground: Ground,
    policies: list[RecommenderPolicy],
    *,
    hours: int,
    shared: bool,
    refetch: int = 10,
) -> Trace:
    people = np.arange(40, dtype=np.int32)
    audience = Audience(ground.world, 3)
    first = audience.first_visits_s()[people] - ground.world.start_s + ground.start_s
    return Simulation(
        ground.platform,
        audience,
        policies,
        people,
        (people % len(policies)).astype(np.int8),
        start_s=ground.start_s,
        first_visit_s=ground.start_s + (first - ground.start_s) % 7_200,
        refetch_after=refetch,
        shared_counters=shared,
    ).run(ground.start_s + hours * 3_600)


# --- the guaranteed place -----------------------------------------------------------------------


def test_ten_answered_of_twenty_computed_hold_the_guaranteed_upload(ground: Ground) -> None:
    recommender = ground.recommender
    snapshot = recommender.new_counters().snapshot
    users = np.arange(30, dtype=np.int32)
    batch = ground.platform.states.batch(users, np.full(30, ground.start_s))
    hours, owed = recommender.config.retrieval.fresh_hours, recommender.config.retrieval
    upload_s = recommender.catalogue.upload_s
    young = (upload_s > ground.start_s - hours * 3_600) & (upload_s <= ground.start_s)
    fresh = young & (snapshot.exposures < owed.fresh_exposures)
    slates = recommender.recommend(batch, snapshot, 20)
    given = np.array([fresh[slate.video_idx[:10]].any() for slate in slates])
    had = np.array([fresh[slate.video_idx].any() for slate in slates])
    assert had.mean() > 0.9
    assert (given == had).all()
    without = recommender.with_config(
        reranking=recommender.config.reranking.model_copy(update={"fresh_slots": 0})
    ).recommend(batch, snapshot, 20)
    assert sum(fresh[one.video_idx[:10]].any() for one in without) < given.sum()


class Noting(RecommenderPolicy):
    """Keeps who was guaranteed which upload, by the last slate that held it."""

    def __init__(self, recommender) -> None:
        super().__init__(recommender)
        self.owed: set[tuple[int, int]] = set()

    def next_videos(self, batch, snapshot, k):
        slates = self.recommender.recommend(batch, snapshot, k)
        for user, slate in zip(batch.user_idx.tolist(), slates, strict=True):
            for video, reason in zip(slate.video_idx.tolist(), slate.reasons, strict=True):
                self.owed.discard((user, video))  # fetched before, not played, now on merit
                if reason == "fresh":
                    self.owed.add((user, video))
        return np.stack([slate.video_idx for slate in slates])


def test_a_guaranteed_place_is_played(ground: Ground) -> None:
    """A slate of ten that is played out reaches it; one that is dropped after five never does."""

    def guaranteed(slots: int, refetch: int) -> tuple[int, int]:
        policy = Noting(funnel(ground, reranking={**SLOTS, "fresh_slots": slots}).recommender)
        trace = played(ground, [policy], hours=6, shared=True, refetch=refetch)
        return len(policy.owed), len(policy.owed & set(zip(trace.user, trace.video, strict=True)))

    fetched, seen = guaranteed(1, QUICK.refetch_after)
    assert 5 < seen <= fetched
    assert guaranteed(1, 5)[1] == 0  # why the settings play slates out: the place is the sixth
    assert guaranteed(0, 10)[0] == 0


def test_the_arms_of_the_exploration_count_their_slots_in_twenty(ground: Ground) -> None:
    found = [
        arm.policy(ground).recommender.config.reranking for arm in exploration_study(QUICK).arms
    ]
    assert {one.k for one in found} == {20}
    assert QUICK.refetch_after == QUICK.slate_length == ground.recommender.config.reranking.k


# --- the budget ---------------------------------------------------------------------------------


class Ledger:
    """In the recommender's place: hears of plays."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.prepared: list[int] = []

    def prepare(self, snapshot) -> None:
        self.prepared.append(snapshot.as_of_s)

    def count_exposures(self, videos: np.ndarray) -> None:
        self.told += videos.tolist()


class Kept(RecommenderPolicy):
    """The funnel's videos; the plays go into a ledger."""

    def __init__(self, inner: RecommenderPolicy, ledger: Ledger) -> None:
        self.inner, self.recommender = inner, ledger

    def next_videos(self, batch, snapshot, k):
        return self.inner.next_videos(batch, snapshot, k)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_a_policy_hears_of_what_was_played_and_not_of_what_was_fetched(
    ground: Ground, shared: bool
) -> None:
    ledgers = [Ledger(), Ledger()]
    policies = [Kept(funnel(ground), ledger) for ledger in ledgers]
    trace = played(ground, policies, hours=3, shared=shared)
    for number, ledger in enumerate(ledgers):
        mine = trace.video if shared else trace.video[trace.user % 2 == number]
        assert sorted(ledger.told) == sorted(mine.tolist())
        assert ledger.prepared == sorted(ledger.prepared)
        assert len(set(ledger.prepared)) > 1


def test_plays_spend_the_budget_until_the_next_snapshot(ground: Ground) -> None:
    policy = funnel(ground)
    snapshot = ground.platform.counters.snapshot
    policy.recommender.prepare(snapshot)
    pool = policy.recommender.retriever._pool
    video, before = pool.videos[0], float(pool.shown[0])
    policy.count_exposures(np.array([video, video], dtype=np.int32), snapshot)
    assert pool.shown[0] == before + 2
    newer = replace(snapshot, as_of_s=snapshot.as_of_s + 900)
    policy.count_exposures(np.array([video], dtype=np.int32), newer)
    assert policy.recommender.retriever._pool.shown[0] == before + 1
    assert ground.recommender.retriever._pool is None  # the ground's own is not touched


# --- independent arms ---------------------------------------------------------------------------


def of_control(ground: Ground, treatment: RecommenderPolicy, *, shared: bool) -> list[tuple]:
    """People without chance: the audience's one stream of draws would tie the arms together."""
    people = np.arange(40, dtype=np.int32)
    trace = Simulation(
        ground.platform,
        Clockwork(150),
        [funnel(ground), treatment],
        people,
        (people % 2).astype(np.int8),
        start_s=ground.start_s,
        first_visit_s=ground.start_s + people.astype(np.int64) * 60,
        shared_counters=shared,
    ).run(ground.start_s + 5 * 3_600)
    mine = trace.user % 2 == 0
    return list(zip(trace.user[mine], trace.video[mine], trace.time_s[mine], strict=True))


def test_arms_with_a_platform_each_do_not_feel_each_other(ground: Ground) -> None:
    """The control's videos are the same whatever the treatment does; shared counters move them."""
    spoilt = {"fresh_slots": 4, "fresh_reserve": 20, "relevance_weight": 1.0}
    others: list[Callable[[], RecommenderPolicy]] = [
        lambda: funnel(ground),
        lambda: funnel(ground, reranking=spoilt, retrieval={"fresh_exploration": 5.0}),
    ]
    separate = [of_control(ground, other(), shared=False) for other in others]
    assert len(separate[0]) > 100
    assert separate[0] == separate[1]
    shared = [of_control(ground, other(), shared=True) for other in others]
    assert shared[0] != shared[1]


def study(name: str, **changes) -> Study:
    arms = (
        ArmSpec("one", "one", funnel),
        ArmSpec("two", "two", lambda ground: funnel(ground, **changes)),
    )
    return Study(name, name, arms, 1, 40, shared_counters=False)


def test_a_study_is_the_same_alone_and_after_another(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shorts_recommendation.experiments.studies.FIRST_LOOK", 1)
    kept: list[Trace] = []
    run = Simulation.run

    def keep(self, *given):
        kept.append(run(self, *given))
        return kept[-1]

    monkeypatch.setattr(Simulation, "run", keep)
    monkeypatch.setattr("shorts_recommendation.experiments.studies._read", lambda *_: Outcome)
    second = study("b", reranking={"tag_cap": 0})
    run_study(ground, second, lambda _: None)
    run_study(ground, study("a", reranking={"fresh_slots": 4}), lambda _: None)
    run_study(ground, second, lambda _: None)
    alone, other, after = kept
    for name in Trace.__dataclass_fields__:
        assert (getattr(alone, name) == getattr(after, name)).all(), name
    assert len(alone) > 100
    assert len(other) != len(alone) or (other.video != alone.video).any()
    assert alone.time_s.max() - ground.start_s < DAY_S
