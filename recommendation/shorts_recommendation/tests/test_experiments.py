"""A/B tests on simulated people: against a simulation event by event, and by hand."""

from __future__ import annotations

import copy
import heapq
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from clockwork import Clockwork
from rich.console import Console
from scipy import stats

from ml_platform.evaluation.results import Results
from ml_platform.operations.experiments import Arm, compare
from ml_platform.operations.sequential import Moments, always_valid_difference
from shorts_recommendation.config import Config, StateConfig, WorldConfig
from shorts_recommendation.counters import counters_until
from shorts_recommendation.data import ShortsData
from shorts_recommendation.experiments import command, measures, reading, tables
from shorts_recommendation.experiments.false_alarms import STOPS, _Splits, false_alarms, stop_alarms
from shorts_recommendation.experiments.ground import log_before
from shorts_recommendation.experiments.market import Market, market, over_seeds, panel_worth
from shorts_recommendation.experiments.measures import METRICS, Measured, measure, trace_of_log
from shorts_recommendation.experiments.policies import (
    Random,
    RecommenderPolicy,
    TagMatch,
    Trending,
    Truth,
    best_unseen,
    smoothed_rate,
)
from shorts_recommendation.experiments.settings import FULL, QUICK
from shorts_recommendation.experiments.simulation import Platform, Simulation, Trace
from shorts_recommendation.experiments.studies import (
    ArmSpec,
    Ground,
    Study,
    assign,
    draw_people,
    exploration_study,
    run_study,
    trap_study,
)
from shorts_recommendation.features import replay
from shorts_recommendation.items import fit_projection, make_items
from shorts_recommendation.log import DAY_S, Catalogue, Windows
from shorts_recommendation.state import Outcomes as StateOutcomes
from shorts_recommendation.world.audience import Audience
from shorts_recommendation.world.generate import generate_log
from shorts_recommendation.world.response import Expected, Outcomes
from shorts_recommendation.world.world import make_world

CONFIG = Config(
    world=WorldConfig(
        n_users=200, n_videos=500, impressions_per_user=80, days=14, content_dim=32, n_tags=12
    ),
    state=StateConfig(counter_period_s=3_600),  # fewer, longer periods: fewer steps
)
LOG_DAYS = 10


@pytest.fixture(scope="module")
def ground() -> Ground:
    """A small world, its log of ten days, and the platform at that midnight; no models."""
    world = make_world(CONFIG.world, 0)
    start_s = world.start_s + LOG_DAYS * DAY_S
    log = generate_log(world, 0)
    log = log.select(log.timestamp < start_s)
    items = make_items(world.catalogue, fit_projection(world.catalogue.content, seed=0))
    _, states = replay(world.catalogue, world.users, items, log, CONFIG.state)
    counters = counters_until(
        world.catalogue,
        log,
        start_s,
        half_lives_h=CONFIG.state.counter_half_lives_h,
        period_s=CONFIG.state.counter_period_s,
    )
    stand_in = SimpleNamespace(config=CONFIG, items=items)
    return Ground(world, stand_in, Platform(states, counters), log, start_s, QUICK, 0)


class ByScore:
    """A policy that knows a score of every pair."""

    def __init__(self, score: np.ndarray, items) -> None:
        self.score, self.items = score, items

    def next_videos(self, batch, snapshot, k):
        return best_unseen(self.score[batch.user_idx], batch, self.items, k)


@pytest.fixture(scope="module")
def expected(ground) -> Expected:
    """Of all pairs at the start: tastes hardly drift within the days of a test."""
    pairs = np.tile(np.arange(500, dtype=np.int32), (200, 1))
    return ground.world.expected(np.arange(200), pairs, np.full(200, ground.start_s))


# --- the harness --------------------------------------------------------------------------------


def event_by_event(ground, policies, people, arm, first, end_s, k, refetch, shared):
    """One person and one video at a time, in the order of the clock."""
    audience, states = Clockwork(200), ground.platform.states.copy(200)
    n = 1 if shared else len(policies)
    counters = [copy.deepcopy(ground.platform.counters) for _ in range(n)]
    queue = [(int(t), int(u), True) for u, t in zip(people, first, strict=True)]
    heapq.heapify(queue)
    arm_of = dict(zip(people.tolist(), arm.tolist(), strict=True))
    slates: dict[int, list[int]] = {}
    rows = []
    while queue and queue[0][0] < end_s:
        now, user, opens = heapq.heappop(queue)
        mine = counters[0 if shared else arm_of[user]]
        mine.advance(now)
        who, when = np.array([user], np.int32), np.array([now])
        if opens:
            audience.open_sessions(who, when)
            slates[user] = []
        if not slates[user]:
            slate = policies[arm_of[user]].next_videos(states.batch(who, when), mine.snapshot, k)
            slates[user] = slate[0][:refetch].tolist()
        video = np.array([slates[user].pop(0)], np.int32)
        seen = audience.watch(who, video, when)
        states.apply(who, video, seen, when)
        counted = [[1.0, seen.long_view[0], seen.skip[0], seen.like[0]]]
        mine.add(video, when, np.array(counted, np.float32))
        rows.append((now, user, int(video[0]), float(seen.watch_s[0]), opens))
        now += int(np.ceil(seen.watch_s[0])) + 1
        if seen.leaves[0]:
            now = int(audience.next_visit_s(who, np.array([now]))[0])
        heapq.heappush(queue, (now, user, bool(seen.leaves[0])))
    return sorted(rows)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("refetch", [1, 3])
def test_all_who_are_due_step_together_as_if_one_by_one(ground, shared, refetch):
    items = ground.recommender.items
    policies = [Trending(items), TagMatch(items)]
    people = np.arange(0, 40, dtype=np.int32)
    arm = (people % 2).astype(np.int8)
    first = ground.start_s + people.astype(np.int64) * 311
    end_s = ground.start_s + DAY_S // 4 + 123  # not on the grid
    simulation = Simulation(
        ground.platform, Clockwork(200), policies, people, arm, start_s=ground.start_s,
        first_visit_s=first, slate_length=4, refetch_after=refetch, shared_counters=shared,
    )  # fmt: skip
    trace = simulation.run(end_s)
    fields = (trace.time_s, trace.user, trace.video, trace.watch_s, trace.opens)
    found = list(zip(*(column.tolist() for column in fields), strict=True))
    expected = event_by_event(ground, policies, people, arm, first, end_s, 4, refetch, shared)
    assert len(found) > 400
    assert found == expected


def test_shared_counters_carry_what_separate_ones_do_not(ground):
    """Interference: the control's exposures move with what the treatment shows, or do not."""
    items = ground.recommender.items
    people = np.arange(40, dtype=np.int32)
    arm = (people % 2).astype(np.int8)
    first = ground.start_s + people.astype(np.int64) * 60

    def control_videos(other, shared):
        simulation = Simulation(
            ground.platform, Clockwork(200), [Trending(items), other], people, arm,
            start_s=ground.start_s, first_visit_s=first, shared_counters=shared,
        )  # fmt: skip
        trace = simulation.run(ground.start_s + DAY_S // 6)
        return trace.video[trace.user % 2 == 0].tolist()

    two = (Random(items, 1), TagMatch(items))
    separate = [control_videos(other, False) for other in two]
    shared = [control_videos(other, True) for other in two]
    assert separate[0] == separate[1]
    assert shared[0] != shared[1]


def test_the_platform_that_an_experiment_starts_from_is_not_changed(ground):
    before = ground.platform.states.n_events.copy(), ground.platform.counters.snapshot
    people = np.arange(50, dtype=np.int32)
    Simulation(
        ground.platform, Clockwork(200), [Random(ground.recommender.items, 0)], people,
        np.zeros(50, np.int8), start_s=ground.start_s,
        first_visit_s=np.full(50, ground.start_s),
    ).run(ground.start_s + 7_200)  # fmt: skip
    assert (ground.platform.states.n_events == before[0]).all()
    assert ground.platform.counters.snapshot is before[1]


def test_nobody_sees_a_video_twice_or_before_it_exists(ground):
    trace = run_all(ground, Random(ground.recommender.items, 3), days=2)
    pairs = trace.user.astype(np.int64) * 1_000 + trace.video
    assert len(np.unique(pairs)) == len(pairs)
    assert (ground.world.catalogue.upload_s[trace.video] <= trace.time_s).all()
    assert (np.diff(trace.time_s) >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": np.zeros(2, np.int32)}, "twice"),
        ({"arm": np.array([0, 3], np.int8)}, "there are 1"),
        ({"first_visit_s": np.zeros(2, np.int64)}, "first visit"),
        ({"refetch_after": 9, "slate_length": 4}, "refetch_after 9"),
    ],
)
def test_a_bad_start_is_refused(ground, change, message):
    given = {
        "people": np.arange(2, dtype=np.int32),
        "arm": np.zeros(2, np.int8),
        "first_visit_s": np.full(2, ground.start_s),
        "start_s": ground.start_s,
    }
    policy = Random(ground.recommender.items, 0)
    with pytest.raises(ValueError, match=message):
        Simulation(ground.platform, Clockwork(200), [policy], **(given | change))


def test_a_policy_without_a_video_is_an_error_and_not_an_early_end(ground):
    class Nothing:
        def next_videos(self, batch, snapshot, k):
            return np.full((len(batch), k), -1, dtype=np.int32)

    with pytest.raises(ValueError, match="arm 0 has no video for user"):
        run_all(ground, Nothing(), days=1)


def run_all(ground, policy, *, days):
    people = np.arange(100, dtype=np.int32)
    audience = Audience(ground.world, 5)
    first = audience.first_visits_s()[people] - ground.world.start_s + ground.start_s
    return Simulation(
        ground.platform, audience, [policy], people, np.zeros(len(people), np.int8),
        start_s=ground.start_s, first_visit_s=first,
    ).run(ground.start_s + days * DAY_S)  # fmt: skip


# --- policies -----------------------------------------------------------------------------------


def test_the_best_unseen_by_hand():
    class Batch:
        now_s = np.array([100, 100])
        seen = np.array([[2, -1], [-1, -1]], np.int32)

        def __len__(self):
            return 2

    batch = Batch()
    items = SimpleNamespace(upload_s=np.array([0, 200, 0, 0]))
    score = np.array([[1.0, 9.0, 5.0, 2.0], [1.0, 9.0, 5.0, 2.0]])
    found = best_unseen(score, batch, items, 4)
    assert found.tolist() == [[3, 0, -1, -1], [2, 3, 0, -1]]
    assert best_unseen(score, batch, items, 1).tolist() == [[3], [2]]


def test_the_order_of_policies_is_that_of_what_they_know(ground, expected):
    """Satisfaction: random < tags < truth; a simulator where this fails measures nothing."""
    items = ground.recommender.items
    policies = {
        "random": Random(items, 0),
        "tags": TagMatch(items),
        "truth": ByScore(expected.satisfaction, items),
    }
    felt = {n: run_all(ground, p, days=1).satisfaction.mean() for n, p in policies.items()}
    assert felt["random"] + 0.03 < felt["tags"] < felt["truth"] - 0.1


def test_the_truth_begins_where_the_worlds_oracle_does(ground):
    who = np.flatnonzero((ground.platform.states.seen < 0).all(axis=1))
    users = (who if len(who) else np.arange(200))[:20].astype(np.int32)
    now_s = np.full(len(users), ground.start_s)
    batch = ground.platform.states.batch(users, now_s)
    blank = replace(batch, seen=np.full_like(batch.seen, -1))
    policy = Truth(ground.world, ground.recommender.items)
    found = policy.next_videos(blank, None, 5)
    assert (found == ground.world.oracle_top(users, now_s, 5)).all()
    other = Truth(ground.world, ground.recommender.items, head="skip").next_videos(blank, None, 5)
    assert not (found == other).all()


def test_a_slate_that_is_shorter_than_asked_is_padded(ground):
    slates = [SimpleNamespace(video_idx=np.array([4, 2])), SimpleNamespace(video_idx=np.arange(3))]
    policy = RecommenderPolicy(SimpleNamespace(recommend=lambda *_: slates))
    batch = ground.platform.states.batch(np.arange(2), np.full(2, ground.start_s))
    assert policy.next_videos(batch, None, 3).tolist() == [[4, 2, -1], [0, 1, 2]]


# --- measures -----------------------------------------------------------------------------------


def catalogue_of(tags, upload_s) -> Catalogue:
    n = len(upload_s)
    table = np.full((n, 3), -1, np.int16)
    table[:, 0] = tags
    return Catalogue(
        np.arange(n), np.arange(n, dtype=np.int32) // 2, table, np.zeros(n, np.int16),
        np.full(n, 20.0, np.float32), np.asarray(upload_s), np.zeros((n, 4), np.float32),
    )  # fmt: skip


def trace_of(rows) -> Trace:
    """Rows (user, video, time, watch, long view, skip, opens)."""
    user, video, time_s, watch, long_view, skip, opens = map(np.array, zip(*rows, strict=True))
    return Trace(
        user, video, time_s, watch.astype(np.float32), long_view.astype(bool), skip.astype(bool),
        np.zeros(len(user), bool), watch.astype(np.float32) / 40, opens.astype(bool),
        np.zeros(len(user), np.int32),
    )  # fmt: skip


H = 3600


def test_measures_by_hand():
    rows = [
        # user 7: sessions at 1 h, 20 h (within a day), 60 h (40 h later), 71 h (in the last day)
        (7, 0, 1 * H, 20.0, 1, 0, 1),
        (7, 1, 1 * H + 30, 2.0, 0, 1, 0),
        (7, 2, 20 * H, 10.0, 0, 0, 1),
        (7, 3, 60 * H, 30.0, 1, 0, 1),
        (7, 0, 71 * H, 8.0, 0, 0, 1),
        # user 3: one session; user 5 never comes; user 9 is not in the experiment
        (3, 3, 30 * H, 18.0, 1, 0, 1),
        (9, 0, 2 * H, 99.0, 1, 0, 1),
    ]
    trace = trace_of(sorted(rows, key=lambda row: row[2]))
    catalogue = catalogue_of([0, 1, 0, 1], [-100 * H, -100 * H, 0, 29 * H])
    people = np.array([3, 5, 7], dtype=np.int32)
    found = measure(trace, people, catalogue, start_s=0, end_s=3 * DAY_S, fresh_hours=48)
    assert found["ctr"].top.tolist() == [1, 0, 2]
    assert found["ctr"].bottom.tolist() == [1, 0, 5]
    assert found["watch_s_per_video"].top.tolist() == [18, 0, 70]
    assert found["watch_s_per_day"].top.tolist() == pytest.approx([6, 0, 70 / 3])
    assert found["skip_rate"].top.tolist() == [0, 0, 1]
    assert found["sessions_per_day"].top.tolist() == pytest.approx([1 / 3, 0, 4 / 3])
    assert found["active_days"].top.tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    # Sessions before 48 h could be followed: 1 h by 20 h yes, 20 h by 60 h no, 30 h no.
    assert found["return_24h"].top.tolist() == [0, 0, 1]
    assert found["return_24h"].bottom.tolist() == [1, 0, 2]
    assert found["fresh_share"].top.tolist() == [1, 0, 2]
    assert found["satisfaction"].value == pytest.approx((70 + 18) / 40 / 6)
    assert found["tag_entropy"].bottom.tolist() == [0, 0, 0]


def test_entropy_counts_full_runs_of_ten_only():
    rows = [(1, v, 60 * v, 5.0, 0, 0, v == 0) for v in range(25)]
    tags = [0] * 10 + [0, 1] * 5 + [3] * 5
    found = measure(
        trace_of(rows), np.array([1]), catalogue_of(tags, [0] * 25), start_s=0, end_s=2 * DAY_S,
        fresh_hours=1,
    )  # fmt: skip
    assert found["tag_entropy"].top.tolist() == [1.0]
    assert found["tag_entropy"].bottom.tolist() == [2.0]


def test_every_metric_of_the_list_is_measured_and_every_covariate_is_one(ground):
    before = measure(
        trace_of_log(ground.log), np.arange(200), ground.world.catalogue,
        start_s=ground.world.start_s, end_s=ground.start_s, fresh_hours=48,
    )  # fmt: skip
    assert list(before) == [metric.name for metric in METRICS]
    assert {metric.before for metric in METRICS} <= set(before)
    log = ground.log
    assert before["ctr"].value == pytest.approx(log.long_view.mean())
    assert before["sessions_per_day"].top.sum() * LOG_DAYS == len(np.unique(log.session_id))
    with pytest.raises(ValueError, match="at least two"):
        measure(
            trace_of_log(log), np.arange(2), ground.world.catalogue, start_s=0, end_s=DAY_S,
            fresh_hours=1,
        )  # fmt: skip


# --- reading ------------------------------------------------------------------------------------


def test_the_boundary_is_the_one_that_the_union_bound_needs():
    """With design_n at the number of people the test is |z| > c, and 20 looks stay under 5%."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(size=500)
    gap = b.mean() - a.mean()
    pooled = np.concatenate([a, b]).var(ddof=1) * 2 / 500
    own = a.var(ddof=1) / 500 + b.var(ddof=1) / 500
    found = always_valid_difference(Moments.of(a), Moments.of(b), design_n=1_000)
    boundary = (found.high - gap) / max(pooled, own) ** 0.5
    assert 2 * stats.norm.sf(boundary) * reading.MAX_LOOKS <= reading.ALPHA
    assert 2 * stats.norm.sf(boundary) * (reading.MAX_LOOKS + 1) > reading.ALPHA


def test_cuped_takes_out_what_the_past_knows_and_not_the_effect():
    rng = np.random.default_rng(1)
    n, effect = 4_000, 0.3
    past = rng.normal(size=n)
    treated = np.arange(n) % 2 == 1
    now = {"watch_s_per_day": Measured(past + 0.5 * rng.normal(size=n) + effect * treated + 9)}
    before = {"watch_s_per_day": Measured(past)}
    found = reading.read("watch_s_per_day", now, before, ~treated, treated)
    assert found.variance_saved == pytest.approx(0.8, abs=0.03)  # 1 of 1.25
    assert found.cuped is not None
    assert found.cuped.low < effect < found.cuped.high
    ratio = (found.cuped.high - found.cuped.low) / (found.plain.high - found.plain.low)
    assert ratio == pytest.approx(0.2**0.5, abs=0.03)
    assert found.best is found.cuped
    sides = (~treated, treated)
    values = reading.adjusted_values(now["watch_s_per_day"], before["watch_s_per_day"], sides)
    assert values[1].mean() - values[0].mean() == pytest.approx(found.cuped.difference, abs=0.01)


def test_looks_see_a_growing_effect_and_are_limited():
    rng = np.random.default_rng(2)
    n = 2_000
    treated = np.arange(n) % 2 == 1
    days = [
        {"sessions_per_day": Measured(rng.normal(size=n) + 5 - 0.1 * day * treated)}
        for day in range(6)
    ]
    found = reading.looks("sessions_per_day", days, None, ~treated, treated, 2)
    assert [one.day for one in found] == [2, 3, 4, 5, 6, 7]
    alarm = reading.first_alarm(found, down=True)
    assert alarm is not None
    assert 3 <= alarm <= 6
    assert reading.first_alarm(found, down=False) is None
    with pytest.raises(ValueError, match="up to 20"):
        reading.looks("sessions_per_day", days * 4, None, ~treated, treated, 2)


def people_over(days: int, n: int, seed: int) -> dict[str, np.ndarray]:
    """Of each metric, values f64[days, n] that settle around 5 as the days go by."""
    rng = np.random.default_rng(seed)
    long = 1 + np.arange(days)[:, None]
    return {metric.name: 5 + rng.normal(size=(days, n)).cumsum(axis=0) / long for metric in METRICS}


def as_measured(values: dict[str, np.ndarray]) -> list[dict[str, Measured]]:
    days = len(values["ctr"])
    return [{name: Measured(rows[day]) for name, rows in values.items()} for day in range(days)]


def test_only_a_fallen_guardrail_stops_an_experiment():
    n = 600
    treated = np.arange(n) % 2 == 1

    def stop(**effects):
        values = people_over(6, n, 8)
        for name, effect in effects.items():
            values[name] += effect * treated
        return reading.guardrail_stop(as_measured(values), None, ~treated, treated, 2)

    assert stop() is None
    assert stop(ctr=2.0, satisfaction=-2.0, skip_rate=2.0) is None  # not for a guardrail to see
    assert stop(sessions_per_day=2.0, active_days=2.0, return_24h=2.0) is None  # rises
    assert stop(ctr=2.0, active_days=-2.0) == reading.Stop(2, "active_days")
    both = stop(return_24h=-2.0, sessions_per_day=-2.0)
    assert both == reading.Stop(2, "sessions_per_day")
    later = stop(return_24h=np.where(np.arange(6) < 3, 0.0, -2.0)[:, None])
    assert later == reading.Stop(5, "return_24h")


def test_the_guardrails_share_five_percent_by_the_union_bound():
    assert len(reading.GUARDRAILS) * reading.GUARDRAIL_ALPHA == pytest.approx(reading.ALPHA)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(size=500)
    found = always_valid_difference(
        Moments.of(a), Moments.of(b), alpha=reading.GUARDRAIL_ALPHA, design_n=1_000
    )
    pooled = np.concatenate([a, b]).var(ddof=1) * 2 / 500
    own = a.var(ddof=1) / 500 + b.var(ddof=1) / 500
    boundary = (found.high - (b.mean() - a.mean())) / max(pooled, own) ** 0.5
    one_side = stats.norm.sf(boundary) * reading.MAX_LOOKS * len(reading.GUARDRAILS)
    assert one_side <= reading.ALPHA / 2
    # A finding at 5% each is none at a third of it: the arms below differ by 3.2 deviations.
    shift = 3.2 * max(pooled, own) ** 0.5 - (b.mean() - a.mean())
    both = np.concatenate([a, b - shift - 2 * (b.mean() - a.mean())])
    treated = np.arange(1_000) >= 500
    days = [{metric.name: Measured(both) for metric in METRICS}]
    looks = reading.looks("return_24h", days, None, ~treated, treated, 2)
    assert reading.first_alarm(looks, down=True) == 2
    assert reading.guardrail_stop(days, None, ~treated, treated, 2) is None


def test_the_stopping_rule_holds_its_five_percent_where_a_look_at_everything_does_not():
    n, days = 300, 12
    rng = np.random.default_rng(9)
    before = {metric.name: Measured(rng.random(n)) for metric in METRICS}
    measured = as_measured(people_over(days, n, 10))
    found = stop_alarms(measured, before, np.arange(n), 400, lambda _: None)
    assert found["guardrail_stop"].high < reading.ALPHA
    assert found["guardrail_stop"].n == 400
    assert found["any_metric_peeking"].low > 0.5
    rates = [found[rule].value for rule in STOPS]
    assert rates == sorted(rates)
    assert rates[2] > 3 * rates[0]
    with pytest.raises(ValueError, match="up to 20"):
        stop_alarms(measured * 2, before, np.arange(n), 2, lambda _: None)


def test_peeking_cries_wolf_and_the_always_valid_test_does_not():
    rng = np.random.default_rng(3)
    n = 400
    steps = rng.normal(size=(14, n)).cumsum(axis=0)
    days = [{"ctr": Measured(step / (day + 1) + 2, np.ones(n))} for day, step in enumerate(steps)]
    before = {"ctr": Measured(rng.random(n), np.ones(n))}
    found = false_alarms("ctr", days, before, np.arange(n), 200, lambda _: None)
    assert found.n_looks == 14
    assert found.rates["once"].low < 0.05 < found.rates["peeking"].low
    assert found.rates["always_valid"].low < 0.05
    assert found.rates["always_valid"].value < found.rates["peeking"].value / 2


def test_many_splits_at_once_are_the_tests_of_the_platform_one_by_one():
    rng = np.random.default_rng(4)
    values = rng.exponential(size=120) + 1
    treated = (rng.random((40, 120)) < 0.5).astype(float)
    values[:30] += 2.5  # some splits are lopsided enough for both tests to speak
    treated[::4, :30] = 1
    found = _Splits.of(treated, values)
    fixed, valid = [], []
    for side in treated > 0:
        a, b = values[~side], values[side]
        fixed.append(compare(Arm(a), Arm(b)).p_value < 0.05)
        one = always_valid_difference(Moments.of(a), Moments.of(b), design_n=120)
        valid.append(one.excludes_zero)
    assert found.fixed().tolist() == fixed
    assert found.always_valid().tolist() == valid
    assert 0 < sum(valid) <= sum(fixed) < 40


# --- studies ------------------------------------------------------------------------------------


def plain_study(*arms, days=3, people=200, **more) -> Study:
    specs = tuple(ArmSpec(name, name, policy) for name, policy in arms)
    return Study("plain", "plain", specs, days, people, **more)


def test_a_study_finds_that_the_truth_beats_chance(ground, expected):
    study = plain_study(
        ("random", lambda g: Random(g.recommender.items, 0)),
        ("oracle", lambda g: ByScore(expected.satisfaction, g.recommender.items)),
        people=120,
    )
    outcome = run_study(ground, study, lambda _: None)
    assert outcome.of_arm("random").sum() + outcome.of_arm("oracle").sum() == 120
    found = outcome.readings["oracle"]["satisfaction"].best
    assert found.low > 0.2
    assert found.n == 120
    assert outcome.readings["oracle"]["skip_rate"].best.high < 0
    assert [one.day for one in outcome.looks("oracle", "ctr")] == [2, 3]
    # A guardrail is shown as it is judged: with a third of the 5%.
    treated = outcome.of_arm("oracle")
    whole = reading.looks(
        "sessions_per_day", outcome.by_day, outcome.before, ~treated, treated, 2, reading.ALPHA
    )
    shown = outcome.looks("oracle", "sessions_per_day")
    for narrow, wide in zip(whole, shown, strict=True):
        ratio = (wide.always_valid.high - wide.always_valid.low) / (
            narrow.always_valid.high - narrow.always_valid.low
        )
        assert ratio == pytest.approx(3.412247 / 3.035122, rel=1e-4)
    assert reading.first_alarm(outcome.looks("oracle", "ctr"), down=False) == 2
    assert not outcome.ratio["oracle"].mismatch


def test_the_same_seed_gives_the_same_study_and_another_repeat_another(ground):
    study = plain_study(
        ("a", lambda g: Trending(g.recommender.items)),
        ("b", lambda g: TagMatch(g.recommender.items)),
        days=2,
        people=50,
    )
    one, two, other = (run_study(ground, study, lambda _: None, repeat=r) for r in (0, 0, 1))
    assert one.readings == two.readings
    assert one.markets == two.markets
    assert (one.arm != other.arm).any()


def test_assignment_is_even_and_independent_of_other_studies():
    ids = np.arange(4_000) * 7 + 3
    four = assign(ids, "x", 4)
    assert (abs(np.bincount(four) - 1_000) < 110).all()
    both = np.bincount(assign(ids, "x", 2) * 2 + assign(ids, "y", 2))
    assert (abs(both - 1_000) < 110).all()


def test_more_people_than_there_are_is_refused(ground):
    assert len(np.unique(draw_people(ground, 150))) == 150
    with pytest.raises(ValueError, match="201 people wanted"):
        draw_people(ground, 201)


def test_the_full_world_is_as_dense_as_the_systems_own():
    config = FULL.config(Config())
    own = Config().world
    density = own.impressions_per_user / own.days
    assert config.world.impressions_per_user / config.world.days == pytest.approx(density, rel=0.01)
    assert config.data.train_days + config.data.validation_days == FULL.log_days
    assert config.world.days == FULL.log_days + FULL.long_days
    assert FULL.long_days - 1 <= reading.MAX_LOOKS


def test_models_learn_from_the_log_before_the_experiments_alone(ground):
    log = generate_log(ground.world, 0)
    start_s = ground.world.start_s
    windows = Windows(start_s, start_s + 8 * DAY_S, ground.start_s, ground.world.end_s)
    data = ShortsData(
        ground.world, ground.world.catalogue, ground.world.users, log, windows, "tiny", "0"
    )
    before = log_before(data, windows.validation_end)
    assert len(before.log) == len(ground.log) < len(log)
    assert before.log.timestamp.max() < before.windows.end == ground.start_s
    assert before.windows.train_end == windows.train_end


# --- markets ------------------------------------------------------------------------------------


def test_market_by_hand():
    day = DAY_S
    # Videos 0-3 are old (creators 0, 0, 1, 1), 4 and 5 are uploads of the run, 6 comes too late.
    catalogue = catalogue_of([0] * 7, [-day, -day, -day, -day, 0, 1, 4 * day + 1])
    rows = [(u, 4, u * 60, 5.0, 0, 0, 1) for u in range(5)]
    rows += [(9, 5, 2 * day + 1, 5.0, 0, 0, 1), (9, 0, 4 * day, 5.0, 0, 0, 1)]
    rows += [(9, 4, 4 * day + 60, 5.0, 0, 0, 1)]
    worth = np.array([9, 9, 9, 9, 0.8, 0.2, 5], dtype=np.float32)
    found = market(trace_of(rows), catalogue, worth, start_s=0, end_s=5 * day)
    assert found.creators_shown == pytest.approx(2 / 4)
    assert found.creator_gini == pytest.approx((1 * 1 + 3 * 7) / (4 * 8))  # shown 0, 0, 1, 7
    assert found.creator_top_share == 1.0
    assert found.uploads_tried == 0.5
    assert found.upload_worth == pytest.approx(0.5)
    assert found.upload_lift == pytest.approx(1.0)
    assert found.upload_share == pytest.approx(2 / 3)


def test_the_lift_compares_uploads_with_the_same_uploads():
    """An upload of the last day is shown and is good; the set it would be measured by lacks it."""
    day = DAY_S
    catalogue = catalogue_of([0] * 4, [0, 1, 4 * day + 1, -day])
    worth = np.array([0.8, 0.2, 1.0, 9], dtype=np.float32)
    rows = [(1, 0, 4 * day, 5.0, 0, 0, 1), (2, 2, 4 * day + 2, 5.0, 0, 0, 1)]
    found = market(trace_of(rows), catalogue, worth, start_s=0, end_s=5 * day)
    assert found.upload_worth == pytest.approx(0.9)
    assert found.upload_lift == pytest.approx(0.8 / 0.5)
    nothing = market(trace_of(rows[1:]), catalogue, worth, start_s=0, end_s=5 * day)
    assert np.isnan(nothing.upload_lift)


def test_the_worth_of_uploads_is_that_of_a_panel(ground):
    end_s = ground.start_s + 3 * DAY_S
    worth = panel_worth(ground.world, ground.start_s, end_s, 0)
    upload = ground.world.catalogue.upload_s
    inside = (upload >= ground.start_s) & (upload < end_s)
    assert inside.any()
    assert (worth[inside] > 0).all()
    assert not worth[~inside].any()
    everybody = np.arange(200)
    one = int(np.flatnonzero(inside)[0])
    expected = ground.world.expected(
        everybody, np.full((200, 1), one), np.full(200, end_s)
    ).satisfaction.mean()
    assert worth[one] == pytest.approx(expected, rel=1e-4)  # the panel is everybody here


def test_intervals_over_seeds_need_three_runs():
    runs = [Market(*(np.full(7, value))) for value in (1.0, 2.0, 3.0)]
    found = over_seeds(runs)["creator_gini"]
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert over_seeds(runs[:2])["creator_gini"].low is None


def test_state_outcomes_have_all_that_the_audience_gives():
    """``UserStates.apply`` takes the audience's outcomes as they are."""
    names = set(StateOutcomes.__dataclass_fields__)
    assert names <= set(Outcomes.__dataclass_fields__)
    assert measures.RETURN_S == DAY_S


# --- the trap, and the command ---------------------------------


class KnowsTheTruth:
    """In the recommender's place: perfect heads in the order that the configuration asks for."""

    def __init__(self, ground: Ground, config: Config, expected: Expected) -> None:
        self.ground, self.config, self.expected = ground, config, expected

    def with_config(self, **stages):
        config = self.config.model_copy(update=stages)
        return KnowsTheTruth(self.ground, config, self.expected)

    def prepare(self, snapshot):
        """Nothing depends on it."""

    def count_exposures(self, videos):
        """Keeps no budget."""

    def recommend(self, batch, snapshot, k):
        alone = set(self.config.ranking.value_weights) == {"long_view"}
        score = self.expected.long_view if alone else self.expected.satisfaction
        policy = ByScore(score, self.ground.platform.states.items)
        videos = policy.next_videos(batch, snapshot, k)
        return [SimpleNamespace(video_idx=row[row >= 0]) for row in videos]


@pytest.fixture(scope="module")
def knowing(ground, expected) -> Ground:
    settings = replace(
        QUICK,
        people=60,
        trap_people=60,
        market_people=48,
        days=2,
        long_days=2,
        aa_splits=100,
        trap_repeats=2,
    )
    return replace(ground, recommender=KnowsTheTruth(ground, CONFIG, expected), settings=settings)


def test_the_trap_is_the_worlds_and_likes_lead_out_of_it(ground, expected):
    """Perfect long views show more bait and please less; perfect likes please like the truth."""

    def top(score: np.ndarray) -> np.ndarray:
        return np.argpartition(-score, 10, axis=1)[:, :10]

    lists = {name: top(getattr(expected, name)) for name in ("long_view", "like", "satisfaction")}
    felt = {
        name: np.take_along_axis(expected.satisfaction, videos, axis=1).mean()
        for name, videos in lists.items()
    }
    bait = {name: ground.world.video_truth.clickbait[v].mean() for name, v in lists.items()}
    assert felt["long_view"] < felt["satisfaction"] - 0.03
    assert felt["like"] > felt["satisfaction"] - 0.01
    assert bait["long_view"] > bait["like"] + 0.05


def test_the_arms_of_the_trap_differ_in_the_weights_alone(knowing):
    study = trap_study(knowing.settings)
    assert [arm.name for arm in study.arms] == ["likes_first", "long_views", "weighted"]
    configs = [arm.policy(knowing).recommender.config for arm in study.arms]
    assert configs[0].ranking.value_weights == {"like": 10.0, "long_view": 1.0}
    assert configs[1].ranking.value_weights == {"long_view": 1.0}
    assert configs[2] == CONFIG
    default = CONFIG.ranking.value_weights
    for config in configs:
        ranking = config.ranking.model_copy(update={"value_weights": default})
        assert config.model_copy(update={"ranking": ranking}) == CONFIG


def test_the_arms_of_the_exploration_differ_in_guaranteed_places_alone(knowing):
    arms = exploration_study(knowing.settings).arms
    found = [arm.policy(knowing).recommender.config.reranking for arm in arms]
    assert [one.fresh_slots for one in found] == [0, 1, 2, 4]
    assert len({one.model_copy(update={"fresh_slots": 0}) for one in found}) == 1


def test_a_rate_is_drawn_towards_the_catalogues_where_impressions_are_few():
    count = np.array([[1.0, 30.0, 0.0]])
    shown = np.array([[1.0, 50.0, 11.0]])
    # 31 of 62: the average is 0.5, ten impressions of it stand before a video's own.
    assert smoothed_rate(count, shown, 0).tolist() == pytest.approx([6 / 11, 35 / 60, 5 / 21])


def test_the_command_records_every_study_and_draws(knowing, tmp_path, monkeypatch):
    from shorts_recommendation.commands import Run

    def prepared(data, config, settings, progress):
        assert settings is QUICK
        assert config.world.n_users == QUICK.n_users
        assert config.state.counter_period_s == 3_600
        return knowing

    world = SimpleNamespace(name="tiny world", sha256="0" * 64)
    monkeypatch.setattr(command, "load_data", lambda config, progress: world)
    monkeypatch.setattr(command, "prepare", prepared)
    out = io.StringIO()
    config = CONFIG.model_copy(update={"quick": True})
    command.main(Run(config, tmp_path, Console(file=out, width=160)))
    written = Results.read(tmp_path / "demonstrations" / "experiments.json")
    stages = {key.split("/")[0] for key in written}
    for name in ("ranker", "diversity", "aa", "exploration", "trap"):
        assert {f"experiment_{name}", f"experiment_{name}_difference"} <= stages
    assert written["experiment_exploration_market/fresh_4_of_20/creator_gini"].n == 1
    again = run_study(knowing, trap_study(knowing.settings), lambda _: None)
    day = tables.alarm_day(again.looks("long_views", "ctr"))
    first = written["experiment_trap_guardrail/long_views/ctr_first_day"].value
    assert first == (-1 if day is None else day)
    stop = again.guardrail_stop("long_views")
    stopped = written["experiment_trap_stop/long_views/run_1_day"].value
    assert stopped == (-1 if stop is None else stop.day)
    other = run_study(knowing, trap_study(knowing.settings), lambda _: None, repeat=1)
    relative = [one.readings["long_views"]["ctr"].best.relative for one in (again, other)]
    assert written["experiment_trap_runs/long_views/ctr_relative"].value == pytest.approx(
        np.mean(relative), rel=1e-5
    )
    assert written["experiment_trap_runs/long_views/ctr_relative"].n == 2
    false = written["experiment_aa_stop/guardrail_stop/false_alarm_rate"]
    assert false.low is not None
    assert false.low <= reading.ALPHA
    rate = written["experiment_aa/always_valid/ctr_false_alarm_rate"]
    assert rate.low is not None
    assert rate.low <= reading.ALPHA
    assert rate.n == 100
    assert "salted hash" in rate.protocol
    ranked = written["experiment_ranker_difference/lightgbm/ctr"]
    assert "distilled from the transformer" in ranked.protocol
    assert "distilled" not in rate.protocol
    for name in ("ranker", "diversity", "aa", "exploration", "trap_days"):
        picture = tmp_path / "demonstrations" / "plots" / f"experiment_{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    said = out.getvalue()
    assert said.count("QUICK RUN, simulated") >= 7
    assert "CUPED saves" in said
