"""Where the value's weights come from: panels by hand, regressions on data with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_system import TinySystem

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from shorts_recommendation.evaluation.retrieval_queries import session_queries
from shorts_recommendation.evaluation.values import (
    evaluate_values,
    record_choice,
    record_values_truth,
    scaled_weight,
)
from shorts_recommendation.log import DAY_S
from shorts_recommendation.ranking.heads import Heads
from shorts_recommendation.ranking.proxies import (
    Fitted,
    Impressions,
    Panel,
    association,
    can_fit,
    correlations,
    fit_panel,
    return_panel,
    stay_panel,
)
from shorts_recommendation.ranking.sequences import Sequences
from shorts_recommendation.ranking.value_choice import (
    ORDER,
    VALUE_HEADS,
    WIDE_GRID,
    LoggedHeads,
    ValueChoice,
    Way,
    as_weights,
    best_of_grid,
    choose_value,
    proxy_rows,
)

DEFAULT = {"long_view": 1.0, "watch": 1.0, "like": 2.0, "skip": -1.0}
HOUR = 3600


# --- panels ---------------------------------------------------------------------------------------


def _two_users() -> Impressions:
    """User 3: sessions of 2 and 1 with a gap of 5 hours; user 7: one session of 2."""
    return Impressions(
        user=np.array([3, 3, 3, 7, 7]),
        session=np.array([10, 10, 11, 12, 12]),
        time_s=np.array([0, 60, 60 + 5 * HOUR, 100, 200]),
        features=np.array([[0.2], [0.4], [0.9], [0.5], [0.7]]),
    )


def test_return_panel_by_hand() -> None:
    panel = return_panel(_two_users(), 40 * HOUR, horizon_s=DAY_S)
    assert panel.user.tolist() == [3, 3, 7]
    assert panel.features[:, 0] == pytest.approx([0.3, 0.9, 0.6])
    # 5 hours; two people who had not come back a day later: whatever they did then is not read.
    assert panel.outcome == pytest.approx([-np.log(5 * HOUR), -np.log(DAY_S), -np.log(DAY_S)])
    assert panel.controls[:, -1] == pytest.approx(np.log([2, 1, 2]))
    assert panel.controls[1, 0] == pytest.approx(np.sin(2 * np.pi * (60 + 5 * HOUR) / DAY_S))


def test_a_session_whose_horizon_the_log_does_not_hold_is_left_out() -> None:
    """The second session of user 3 ends 5 hours later: only its horizon passes the log's end."""
    panel = return_panel(_two_users(), DAY_S + HOUR, horizon_s=DAY_S)
    assert panel.user.tolist() == [3, 7]
    exact = return_panel(_two_users(), DAY_S + 60, horizon_s=DAY_S)
    assert exact.user.tolist() == [3]  # ends at 60: known to the second; user 7 ends at 200: not


def test_censoring_does_not_prefer_short_gaps() -> None:
    """Observed gaps alone would look short; the capped mean does not depend on the log's end."""
    rng = np.random.default_rng(0)
    logs = []
    for user in range(400):
        ends = np.cumsum(rng.exponential(20 * HOUR, 40)).astype(np.int64)
        logs.append((np.full(40, user), np.arange(40) + 100 * user, ends))
    user, session, time_s = (np.concatenate(x) for x in zip(*logs, strict=True))
    means = []
    for days in (3, 20):
        seen = time_s < days * DAY_S
        log = Impressions(user[seen], session[seen], time_s[seen], np.zeros((int(seen.sum()), 1)))
        means.append(return_panel(log, days * DAY_S).outcome.mean())
    gap = np.clip(rng.exponential(20 * HOUR, 200_000), 60, DAY_S)
    assert means[0] == pytest.approx(-np.log(gap).mean(), abs=0.06)
    assert means[1] == pytest.approx(-np.log(gap).mean(), abs=0.03)


def test_stay_panel_by_hand() -> None:
    panel = stay_panel(_two_users(), 40 * HOUR)
    assert panel.outcome.tolist() == [1, 0, 0, 1, 0]
    assert panel.controls[:, 0].tolist() == [0, 1, 0, 0, 1]
    # The log ends 20 minutes after user 7's last video: neither its end nor the stay before counts
    # unless half an hour lies between.
    early = stay_panel(_two_users(), 200 + 1200)
    assert len(early) == 0
    assert stay_panel(_two_users(), 1900).user.tolist() == [3, 3, 7]
    with pytest.raises(ValueError, match="no impressions"):
        stay_panel(replace(_two_users(), user=np.zeros(0)), 10)


# --- regressions ----------------------------------------------------------------------------------


def _panel(
    effect: list[float], *, n_users: int = 300, rows: int = 12, noise: float = 0.5, seed: int = 0
) -> Panel:
    """Users differ in level, and the level goes with the features: only within-user is right."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), rows)
    level = rng.standard_normal(n_users)[user]
    features = rng.standard_normal((len(user), len(effect))) + level[:, None]
    control = rng.standard_normal((len(user), 1)) + 0.5 * features[:, :1]
    outcome = features @ np.array(effect) - 3.0 * level + 0.7 * control[:, 0]
    return Panel(features, control, outcome + noise * rng.standard_normal(len(user)), user)


def test_regression_recovers_weights_that_pooling_gets_wrong() -> None:
    panel = _panel([0.3, 0.0])
    fitted = fit_panel(panel, ridge=0.0)
    assert fitted.weights == pytest.approx([0.3, 0.0], abs=0.03)
    assert fitted.identified.tolist() == [True, False]
    columns = np.column_stack([panel.features, panel.controls, np.ones(len(panel))])
    pooled = np.linalg.lstsq(columns, panel.outcome, rcond=None)[0]
    assert pooled[0] < -0.3  # the same data, with the sign turned round


def test_regression_equals_dummy_variables() -> None:
    """Demeaning by user is the same as one constant a user (Frisch, Waugh and Lovell)."""
    panel = _panel([0.3, -0.2], n_users=20)
    dummies = (panel.user[:, None] == np.arange(20)).astype(float)
    columns = np.column_stack([panel.features, panel.controls, dummies])
    expected = np.linalg.lstsq(columns, panel.outcome, rcond=None)[0][:2]
    assert fit_panel(panel, ridge=0.0).weights == pytest.approx(expected, abs=1e-6)


def test_intervals_cover_and_power_is_what_it_says() -> None:
    """Of 60 panels, about 95% of intervals hold the truth, and 80% find a detectable effect."""
    panels = [fit_panel(_panel([0.0], n_users=60, rows=6, seed=s)) for s in range(100, 120)]
    size = float(np.mean([p.detectable[0] / p.spread[0] for p in panels]))  # as a weight
    covered, found = 0, 0
    for seed in range(60):
        panel = _panel([size], n_users=60, rows=6, seed=seed)
        fitted = fit_panel(panel, ridge=0.0, resamples=200, seed=seed)
        covered += bool(fitted.low[0] <= size <= fitted.high[0])
        found += bool(fitted.identified[0])
    assert covered >= 51
    assert 38 <= found <= 57


def test_ridge_shrinks_heads_and_not_controls() -> None:
    free, tied = (fit_panel(_panel([0.3, 0.0]), ridge=r).weights[0] for r in (0.0, 1.0))
    assert 0 < tied < 0.75 * free


def test_heads_that_say_nothing_are_refused() -> None:
    panel = _panel([0.3])
    flat = replace(panel, features=np.ones_like(panel.features))
    assert can_fit(panel)
    assert not can_fit(flat)
    with pytest.raises(ValueError, match="without variation within users"):
        fit_panel(flat)
    alone = replace(panel, user=np.arange(len(panel)))  # no user twice
    assert not can_fit(alone)
    with pytest.raises(ValueError, match="0 users"):
        fit_panel(alone)


def test_association_is_a_deviation_of_the_value() -> None:
    panel = _panel([0.3, 0.0], noise=0.1)
    found = association(panel, np.array([2.0, 0.0]))
    assert found.value == pytest.approx(0.3 * 1.0, abs=0.03)  # the scale of a value means nothing
    assert found.low is not None
    assert found.low > 0
    assert found.n == len(panel)


def test_partial_correlation_of_a_grid() -> None:
    panel = _panel([0.3, -0.3])
    grid = np.array([[1.0, -1.0], [1.0, 1.0], [5.0, -5.0]])
    found = correlations(panel, grid)
    assert found[0] == pytest.approx(found[2])
    assert found[0] > 0.5 > abs(found[1])
    within = [
        x - (np.bincount(panel.user, x) / 12)[panel.user]
        for x in (panel.features @ grid[0], panel.controls[:, 0], panel.outcome)
    ]
    rest = [x - within[1] * (x @ within[1]) / (within[1] @ within[1]) for x in within]
    assert found[0] == pytest.approx(np.corrcoef(rest[0], rest[2])[0, 1], abs=1e-9)


def test_predictions_keep_the_weight_that_outcomes_lose() -> None:
    """Why the regressions read predictions: a rare event, seen as 0 or 1, is mostly chance."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(2000), 20)
    chance = rng.uniform(0.0, 0.1, len(user))
    outcome = 5.0 * chance + rng.standard_normal(len(user))
    happened = (rng.random(len(user)) < chance).astype(float)
    none = np.zeros((len(user), 1)) + rng.standard_normal((len(user), 1))
    weights = [
        fit_panel(Panel(x[:, None], none, outcome, user), ridge=0.0).weights[0]
        for x in (chance, happened)
    ]
    assert weights[0] == pytest.approx(5.0, abs=0.7)
    assert weights[1] < 0.3


# --- the choice -----------------------------------------------------------------------------------


def _days(
    *, stay: float, sooner: float, seed: int, n_users: int = 150, days: int = 6
) -> LoggedHeads:
    """Bait raises long views and grades; what is liked keeps people and brings them back.

    Likes are predicted in [0, 0.1]. ``stay`` and ``sooner`` are the effects of a like's full range.
    """
    rng = np.random.default_rng(seed)
    user, session, time_s, like = [], [], [], []
    for person in range(n_users):
        now = rng.integers(DAY_S)
        number = 0
        while now < days * DAY_S:
            shown = []
            while True:
                shown.append(rng.random())
                if rng.random() < 0.25 - stay * (shown[-1] - 0.5):
                    break
            times = now + 20 * np.arange(len(shown))
            user += [person] * len(shown)
            session += [person * 1000 + number] * len(shown)
            time_s += times.tolist()
            like += shown
            gap = 6 * HOUR * np.exp(-sooner * (np.mean(shown) - 0.5) + 0.3 * rng.standard_normal())
            now = int(times[-1] + gap)
            number += 1
    n = len(user)
    liked, bait = np.array(like), rng.random(n)
    skip = np.clip(0.6 - 0.5 * bait + 0.1 * rng.standard_normal(n), 0, 1)
    watch = np.clip(bait + 0.1 * rng.standard_normal(n), 0, 1)
    columns = (bait, watch, 0.1 * liked, skip, rng.random(n))
    heads = Heads(*(c.astype(np.float32) for c in columns))
    gains = np.where(rng.random(n) < skip, 0.0, np.where(rng.random(n) < bait, 2.0, 1.0))
    return LoggedHeads(
        heads,
        np.array(user),
        np.array(session),
        np.array(time_s),
        gains.astype(np.float32),
        days * DAY_S,
    )


def _choice(*, stay: float, sooner: float) -> ValueChoice:
    learn = _days(stay=stay, sooner=sooner, seed=1)
    return choose_value(learn, _days(stay=stay, sooner=sooner, seed=2, days=3), DEFAULT)


def test_return_goes_first_where_the_log_shows_it() -> None:
    choice = _choice(stay=0.3, sooner=2.0)
    assert choice.taken == "return"
    assert choice.weights["like"] == 1.0  # the largest, by far: likes span a tenth of the others
    assert abs(choice.weights["long_view"]) < 0.1
    grid = choice.ways["return_grid"].weights
    assert grid["like"] > 0
    assert grid["like"] >= 10 * max(abs(grid[head]) for head in grid if head != "like")
    grades = choice.ways["engagement"]
    assert grades.ndcg > choice.ways["return"].ndcg  # the grades prefer bait, and would have won
    assert grades.sooner is not None
    assert choice.ways["return"].sooner is not None
    assert choice.ways["return"].sooner.value > grades.sooner.value


def test_stay_is_taken_where_return_is_noise() -> None:
    choice = _choice(stay=0.3, sooner=0.0)
    assert choice.taken == "stay"
    assert choice.weights["like"] == 1.0
    way = choice.ways["stay"]
    assert way.fitted is not None
    assert way.fitted.identified[VALUE_HEADS.index("like")]
    assert set(choice.ways) == {"engagement", "return", "return_grid", "stay"}


def test_without_any_signal_engagement_stays() -> None:
    assert _choice(stay=0.0, sooner=0.0).taken == "engagement"


def test_what_only_the_training_days_show_is_not_taken() -> None:
    learn = _days(stay=0.3, sooner=2.0, seed=1)
    check = _days(stay=-0.2, sooner=-1.0, seed=2, days=3)
    choice = choose_value(learn, check, DEFAULT)
    for name in ORDER:
        fitted = choice.ways[name].fitted
        assert fitted is not None
        assert fitted.identified.any()
    assert choice.taken == "engagement"


def test_too_small_a_log_keeps_engagement() -> None:
    tiny = _days(stay=0.3, sooner=2.0, seed=1, n_users=1, days=1)
    choice = choose_value(tiny, tiny, DEFAULT)
    assert choice.taken == "engagement"
    assert set(choice.ways) == {"engagement"}
    assert choice.ways["engagement"].sooner is None
    assert best_of_grid(return_panel(tiny.impressions(), tiny.until_s)) is None


def test_weights_are_exchange_rates() -> None:
    assert as_weights(np.array([0.1, 0.0, -0.4, 0.2])) == {
        "long_view": 0.25,
        "watch": 0.0,
        "like": -1.0,
        "skip": 0.5,
    }
    assert max(WIDE_GRID["like"]) == 50


def test_proxy_rows_take_users_whole() -> None:
    user = np.repeat(np.arange(10), 5)
    sequences = Sequences(*([None] * 7))  # type: ignore[list-item]
    sequences = replace(sequences, user_idx=user)
    learn = np.tile([True, True, True, True, False], 10)
    rows = proxy_rows(sequences, learn, most=18)
    assert rows.sum() == 16  # four users of four rows each
    assert not rows[~learn].any()
    assert set(np.bincount(user[rows], minlength=10)) == {0, 4}
    assert proxy_rows(sequences, learn).sum() == learn.sum()


# --- the report -----------------------------------------------------------------------------------


def _results() -> Results:
    return Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="none",
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=Path(__file__).parent,
    )


def test_a_trained_system_is_judged_whole(tiny_system: TinySystem) -> None:
    data, trained = tiny_system.data, tiny_system.trained
    choice = trained.transformer.value_choice
    assert trained.transformer.value_weights == choice.weights
    assert trained.recommender.config.ranking.value_weights == choice.weights
    queries = session_queries(
        data,
        trained.recommender.items,
        trained.recommender.config,
        data.windows.validation_end,
        data.windows.end,
        most=40,
    )
    results = _results()
    evaluate_values(data, trained, queries, results, Silent(), requests=12)
    assert results[f"ranking_value/{choice.taken}/taken"].value == 1
    for way in choice.ways:
        found = results[f"ranking_value/{way}/truth_satisfaction"]
        assert found.n == 12
        assert results[f"ranking_value/{way}/truth_ndcg@10"].value < 1
        assert found.value < results["ranking_value/oracle/truth_satisfaction"].value
    assert results["ranking_value/oracle/truth_ndcg@10"].value == pytest.approx(1.0)
    hidden = results["ranking_value/hidden_satisfaction/train_stay"]
    assert hidden.low is not None
    assert hidden.low > 0  # who is pleased stays: that is how the world was built


def test_recorded_keys_and_differences() -> None:
    fitted = Fitted(
        np.array([0.0, 0.1, 0.4, -0.2]),
        np.array([-0.1, 0.0, 0.2, -0.4]),
        np.array([0.1, 0.2, 0.6, 0.0]),
        np.full(4, 0.5),
        np.full(4, 0.03),
        1000,
        50,
    )
    sure = Estimate(0.02, 0.01, 0.03, 900)
    ways = {
        "engagement": Way(dict(DEFAULT, like=0.0), None, 0.8, sure, sure),
        "stay": Way(as_weights(fitted.weights), fitted, 0.7, None, sure),
    }
    found: Estimate = scaled_weight(fitted, 2)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.5, 1.5))
    results = _results()
    choice = ValueChoice("stay", ways)
    record_choice(results, choice, protocol="by hand")
    rng = np.random.default_rng(0)
    satisfaction = rng.random((40, 30)).astype(np.float32)
    wrong = rng.random((40, 30)).astype(np.float32)
    heads = Heads(wrong, np.zeros_like(wrong), satisfaction, np.zeros_like(wrong), wrong)
    videos = np.tile(np.arange(30, dtype=np.int32), (40, 1))
    record_values_truth(
        results, choice, heads, videos, satisfaction, np.arange(40), protocol="t", resamples=100
    )
    assert results["ranking_value/stay/taken"].value == 1
    assert results["ranking_value/engagement/taken"].value == 0
    assert results["ranking_value/stay/effect_like"].value == pytest.approx(0.2)
    assert results["ranking_value/stay/detectable_like"].value == pytest.approx(0.03)
    assert '"ranking_value/engagement/validation_return"' in results.to_json()
    assert '"ranking_value/stay/validation_return"' not in results.to_json()
    assert results["ranking_value/like_head/truth_ndcg@10"].value == pytest.approx(1.0)
    assert results["ranking_value/stay/truth_ndcg@10"].value == pytest.approx(1.0)
    gap = results["ranking_value/stay_minus_engagement/truth_satisfaction"]
    assert gap.low is not None
    assert gap.low > 0
