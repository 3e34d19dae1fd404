"""The D2Q label by hand, its inverse, and what the three labels make of one world."""

from __future__ import annotations

import numpy as np
import pytest

from shorts_recommendation.evaluation.duration_study import rank_correlation
from shorts_recommendation.ranking.duration import KNOTS, fit_watch_label


def test_quantile_is_taken_within_the_duration_group() -> None:
    # Two groups: short videos watched 0..9 s, long ones 0..90 s.
    short, long = np.arange(10.0), np.arange(10.0) * 10
    watch, duration = np.r_[short, long], np.r_[np.full(10, 10.0), np.full(10, 100.0)]
    label = fit_watch_label(watch, duration, kind="d2q", groups=2)
    assert label.knots.shape == (2, KNOTS)
    # 4.5 s is the median of the short ones and next to nothing among the long ones.
    assert label.transform(np.array([4.5]), np.array([10.0]))[0] == pytest.approx(0.5, abs=1e-3)
    assert label.transform(np.array([45.0]), np.array([100.0]))[0] == pytest.approx(0.5, abs=1e-3)
    assert label.transform(np.array([4.5]), np.array([100.0]))[0] == pytest.approx(0.05, abs=2e-3)


def test_equal_watch_times_share_the_middle_of_their_quantiles() -> None:
    # Half skip at 1 s, half watch all of 10 s: the labels are 1/4 and 3/4, their mean 1/2.
    watch = np.r_[np.full(50, 1.0), np.full(50, 10.0)]
    label = fit_watch_label(watch, np.full(100, 10.0), kind="d2q", groups=4)
    found = label.transform(watch, np.full(100, 10.0))
    np.testing.assert_allclose(found[[0, -1]], [0.25, 0.75], atol=1e-2)
    assert found.mean() == pytest.approx(0.5, abs=2e-3)


def test_labels_are_free_of_duration_on_training_rows() -> None:
    rng = np.random.default_rng(0)
    duration = rng.uniform(5, 60, 20_000)
    watch = duration**0.5 * rng.exponential(2.0, 20_000)
    means = {}
    for kind in ("d2q", "ratio", "seconds"):
        label = fit_watch_label(watch, duration, kind=kind, groups=20)
        values = label.transform(watch, duration)
        means[kind] = np.corrcoef(values, duration)[0, 1]
    assert abs(means["d2q"]) < 0.02
    assert means["ratio"] < -0.2
    assert means["seconds"] > 0.2


@pytest.mark.parametrize("kind", ["d2q", "ratio", "seconds"])
def test_seconds_undoes_transform(kind: str) -> None:
    rng = np.random.default_rng(1)
    duration = rng.uniform(5, 60, 5000)
    watch = rng.uniform(0, 1, 5000) * duration  # continuous, within the caps but for the last 1%
    label = fit_watch_label(watch, duration, kind=kind, groups=8)  # type: ignore[arg-type]
    back = label.seconds(label.transform(watch, duration), duration)
    inside = watch < label.most_s if kind == "seconds" else np.ones(5000, dtype=bool)
    np.testing.assert_allclose(back[inside], watch[inside], atol=0.3)
    assert label.transform(np.array([1e6]), np.array([10.0]))[0] <= 1.0


def test_quantile_matches_a_naive_empirical_distribution() -> None:
    rng = np.random.default_rng(2)
    watch, duration = rng.exponential(5, 4000), rng.choice([10.0, 20.0, 40.0], 4000)
    label = fit_watch_label(watch, duration, kind="d2q", groups=3)
    for seconds, length in ((1.0, 10.0), (7.0, 20.0), (30.0, 40.0)):
        same = watch[label.group(duration) == label.group(np.array(length))]
        naive = (same < seconds).mean()
        found = label.transform(np.array([seconds]), np.array([length]))[0]
        assert found == pytest.approx(naive, abs=3e-3)


def test_equal_durations_make_one_group() -> None:
    label = fit_watch_label(np.arange(5.0), np.full(5, 7.0), kind="d2q", groups=20)
    assert len(label.edges) == 0
    assert label.knots.shape == (1, KNOTS)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        fit_watch_label(np.zeros(0), np.zeros(0), kind="d2q")
    with pytest.raises(ValueError, match="positive"):
        fit_watch_label(np.ones(2), np.array([3.0, 0.0]), kind="ratio")


def test_rank_correlation_by_hand() -> None:
    score = np.array([[3.0, 2.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    other = np.array([[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    there = np.array([[True, True, True, False], [True] * 4])
    np.testing.assert_allclose(rank_correlation(score, other, there), [-1.0, 0.0])
