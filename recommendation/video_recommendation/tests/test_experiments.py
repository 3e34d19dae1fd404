"""The experiments command: who the users are, what each study counts, what it writes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from tiny_system import TINY

from ml_platform.data.interactions import InteractionLog
from ml_platform.data.splits import TimeWindows, next_event_queries
from ml_platform.evaluation.results import Results
from video_recommendation.commands import Run
from video_recommendation.data import load_data
from video_recommendation.experiments import false_alarms, lost_users, plots, precision, rankers
from video_recommendation.experiments.command import run_experiments
from video_recommendation.experiments.population import (
    BEFORE_S,
    DAY_S,
    Population,
    by_calendar,
    first_events,
    returning_users,
)
from video_recommendation.experiments.settings import QUICK, ExperimentSettings


def nothing(_: int) -> None:
    return None


def log_of(*users: list[tuple[int, float]]) -> InteractionLog:
    """One list of (timestamp, rating) a user; every event has an item of its own."""
    rows = [row for user in users for row in user]
    counts = [len(user) for user in users]
    return InteractionLog(
        user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item_idx=np.arange(len(rows), dtype=np.int32),
        rating=np.array([rating for _, rating in rows], dtype=np.float32),
        timestamp=np.array([when for when, _ in rows], dtype=np.int64),
        user_ids=np.arange(len(users), dtype=np.int64),
        item_ids=np.arange(len(rows), dtype=np.int64),
    )


def data_of(log: InteractionLog, train_end: int = 10**9) -> SimpleNamespace:
    return SimpleNamespace(log=log, synthetic=False, windows=TimeWindows(train_end, train_end + 1))


def clustered(n: int = 400, seed: int = 0) -> Population:
    """Users who like nearly everything or nearly nothing, many events each."""
    rng = np.random.default_rng(seed)
    events, before = (rng.poisson(30, n).astype(float) + 1 for _ in range(2))
    taste = rng.choice([0.1, 0.9], n)
    likes, likes_before = (
        rng.binomial(e.astype(int), taste).astype(float) for e in (events, before)
    )
    return Population("clustered", events, likes, before, likes_before)


SMALL = ExperimentSettings(n_seeds=60, n_users=400, looks=10, loss_users=(400,), loss_seeds=20)


# --- population --------------------------------------------------------------------------------


def test_the_first_minutes_and_the_week_after_by_hand() -> None:
    start = 1_000
    log = log_of(
        [
            (start, 5.0),
            (start + BEFORE_S - 1, 3.0),
            (start + BEFORE_S, 4.0),  # the first second that is measured
            (start + BEFORE_S + 7 * DAY_S - 1, 2.0),  # the last one
            (start + BEFORE_S + 7 * DAY_S, 5.0),  # too late
        ],
        [],  # a user without events takes no part
        [(50_000, 4.0)],  # never came back
    )
    got = returning_users(data_of(log))
    assert got.events.tolist() == [2, 0]
    assert got.likes.tolist() == [1, 0]
    assert got.events_before.tolist() == [2, 1]
    assert got.likes_before.tolist() == [1, 1]


def test_the_calendar_keeps_those_who_are_seen_after_it() -> None:
    log = log_of([(10, 4.0), (20, 4.0)], [(10, 1.0), (100, 4.0), (101, 1.0)], [(100, 1.0)])
    got = by_calendar(data_of(log, train_end=100))
    assert got.events.tolist() == [2, 1]
    assert got.events_before.tolist() == [1, 0]
    assert got.likes.tolist() == [1, 0]


def test_ten_events_then_ten_more() -> None:
    enough = [(i, 4.0 if i < 3 or i in (10, 11) else 1.0) for i in range(25)]
    got = first_events(data_of(log_of(enough, enough[:19])))
    assert got.events.tolist() == got.events_before.tolist() == [10]
    assert (got.likes.tolist(), got.likes_before.tolist()) == ([2], [3])


# --- false alarms ------------------------------------------------------------------------------


def test_the_naive_test_by_hand() -> None:
    population = Population("two", np.array([100.0, 100.0]), np.array([50.0, 60.0]),
                            np.zeros(2), np.zeros(2))  # fmt: skip
    # z = 0.1 / sqrt(0.25 / 100 + 0.24 / 100) = 1.4286, two-sided p = 0.1531
    p_value = false_alarms.naive_event_test(population, np.array([0]), np.array([1]))
    assert p_value == pytest.approx(0.1531, abs=1e-4)


@pytest.mark.slow
def test_counting_events_breaks_the_promise_and_users_keep_it() -> None:
    population = clustered()
    draws = false_alarms.draw_experiments(population, SMALL)
    rates = {a.key: a.rate for a in false_alarms.fixed_end(population, draws, nothing)}
    assert rates["naive_events"].low > 0.4
    for kept in ("delta", "delta_cuped", "welch", "welch_cuped"):
        assert rates[kept].value < 0.16  # four standard deviations of 60 runs


def test_assignment_is_by_hash_and_even() -> None:
    first, second = false_alarms.draw_experiments(clustered(), SMALL)[:2]
    assert 140 < first.treated.sum() < 260
    assert (first.treated != second.treated).any()
    again = false_alarms.draw_experiments(clustered(), SMALL)[0]
    assert (again.treated == first.treated).all()
    assert (again.rows == first.rows).all()


def test_peeking_raises_alarms_and_the_always_valid_test_does_not() -> None:
    population = clustered()
    draws = false_alarms.draw_experiments(population, SMALL)
    found = false_alarms.peeking(population, draws, SMALL.looks, nothing)
    assert found.users.tolist() == list(range(40, 401, 40))
    fixed = [rate.value for rate in found.fixed]
    assert fixed == sorted(fixed)  # an alarm stays an alarm
    assert fixed[-1] > 0.1
    assert found.always_valid[-1].value <= 0.05
    assert found.found_effect > 0


def test_the_price_of_looking() -> None:
    population = clustered()
    draws = false_alarms.draw_experiments(population, SMALL)
    found = false_alarms.price_of_looking(population, draws, SMALL.looks, nothing)
    assert found.lift > 0
    assert found.fixed.value == pytest.approx(0.8, abs=0.2)
    assert 0.1 < found.always_valid.value < found.fixed.value
    assert 0 < found.stopped_after <= 1


# --- precision ---------------------------------------------------------------------------------


def test_cuped_saves_what_the_correlation_promises() -> None:
    population = clustered(800)
    row = precision.cuped_row(
        "likes", ("likes", "before"), population.likes_per_user, 800, SMALL, nothing
    )
    assert row.rho > 0.8
    assert row.promised == pytest.approx(row.rho**2)
    assert row.measured.low < row.promised < row.measured.high
    assert row.required_cuped / row.required == pytest.approx(1 - row.rho**2, rel=0.02)


def test_the_power_curve_meets_its_line() -> None:
    settings = ExperimentSettings(power_users=(100, 900), power_seeds=40)
    found = precision.likes_power(clustered(), settings, nothing)
    calculated = np.interp(found.users, found.grid, found.plain_line)
    simulated = [power.value for power in found.plain]
    assert simulated == pytest.approx(calculated.tolist(), abs=0.2)
    assert simulated[0] < simulated[-1]
    assert found.required_good < found.required


# --- lost users --------------------------------------------------------------------------------


def test_the_ratio_check_finds_a_skew_in_large_experiments_only() -> None:
    settings = ExperimentSettings(n_seeds=60, ratio_users=(500, 200_000))
    small, large = lost_users.ratio_rows(settings)
    assert large.skewed.value == 1.0
    assert small.skewed.value < 0.1
    assert large.sound.value < 0.06


def test_losing_active_users_looks_like_an_effect() -> None:
    rng = np.random.default_rng(0)
    events = np.where(rng.random(2_000) < 0.04, 500.0, rng.poisson(5, 2_000)).astype(float)
    population = Population("heavy", events, events, events, events)
    settings = ExperimentSettings(loss_seeds=20)
    found = lost_users.heavy_users_lost(population, 4_000, settings, nothing)
    # About half of the heavy 4% are gone on one side: 20 + 5 events shrink to about 15.
    assert found.effect == pytest.approx(-0.4, abs=0.08)
    assert found.treated_share < 0.5
    assert found.false_alarms.value > 0.7


# --- rankers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_data():
    return load_data(TINY.data)


def test_lists_are_of_unseen_items_without_repeats(tiny_data) -> None:
    queries = next_event_queries(tiny_data.log, tiny_data.windows.train_end, None)
    queries = queries.subset(np.arange(40))
    lists = rankers.ranker_lists(tiny_data, queries)
    ptr, rows = queries.history(tiny_data.log)
    for lists_of_one in lists.values():
        assert lists_of_one.shape == (40, 10)
        for query, items in enumerate(lists_of_one.tolist()):
            seen = set(tiny_data.log.item_idx[rows[ptr[query] : ptr[query + 1]]].tolist())
            assert len(set(items)) == 10
            assert not seen & set(items)


def test_a_ranker_against_itself_wins_nothing(tiny_data) -> None:
    queries = next_event_queries(tiny_data.log, tiny_data.windows.train_end, None)
    lists = rankers.ranker_lists(tiny_data, queries)["popularity"]
    users = rankers._per_user(tiny_data.log, queries, lists, lists, QUICK)
    assert (users.clicks_a == users.clicks_b).all()
    total = users.credits.sum(axis=1)
    assert (np.abs(total) < 4 * np.sqrt(users.clicks_a.sum())).all()


def test_the_better_ranker_is_found_by_both_methods() -> None:
    """Users who each click 3 more of B's items in 10 queries."""
    rng = np.random.default_rng(0)
    queries = np.full(200, 10.0)
    a = rng.poisson(2, 200).astype(float)
    b = a + rng.poisson(3, 200)
    users = rankers._PerUser(queries, a, b, credits=(b - a)[None, :] / 2)
    settings = ExperimentSettings(n_seeds=80, ranker_users=(10, 200))
    found = rankers._duel("x", ("a", "b"), users, settings, nothing)
    assert found.interleaving_users < found.ab_users < 60
    assert found.ab[-1].value == found.interleaving[-1].value == 1.0
    assert found.ab[0].value < found.interleaving[0].value
    assert found.clicks_b - found.clicks_a == pytest.approx(0.3, abs=0.04)


# --- the command -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_quick_command_writes_everything_and_says_that_it_is_quick(tmp_path) -> None:
    out = io.StringIO()
    run = Run(TINY, tmp_path, Console(file=out, width=100))
    run_experiments(run, quick=True)
    folder = tmp_path / "demonstrations"
    results = Results.read(folder / "experiments.json")
    assert results.run.dataset.synthetic
    for key in (
        "aa_fixed/naive_events/false_alarm_rate",
        "aa_peeking/always_valid/false_alarm_rate_by_day_5",
        "cuped/liked_share/variance_saved",
        "power/cuped/simulated_at_1000",
        "sample_ratio/skewed/stopped_at_20000",
        "lost_users/users_2000/stopped",
        "interleaving/popularity_ease/times_fewer_users",
    ):
        assert key in results
    names = {path.name for path in (folder / "plots").iterdir()}
    assert names == {
        f"experiments_{name}.png" for name in ("false_alarms", "peeking", "power", "interleaving")
    }
    words = out.getvalue()
    assert words.count("QUICK RUN, not a result.") == 6
    assert "SYNTHETIC data." in words
    assert plots.PROMISED == false_alarms.ALPHA
