from __future__ import annotations

import numpy as np
import pytest
from handmade import START_S, make_catalogue, make_log, make_users

from shorts_recommendation.counters import (
    COUNTED,
    VideoCounters,
    counted_columns,
    counters_until,
    feature_names,
)

HALF_LIVES_H = (1.0, 24.0)


def _counters(n_videos: int = 4, start_s: int = START_S) -> VideoCounters:
    return VideoCounters(n_videos, HALF_LIVES_H, 900, start_s)


def _event(counters: VideoCounters, video: int, at_s: int, *, long_view: bool = False) -> None:
    counters.add(np.array([video]), np.array([at_s]), np.array([[1.0, long_view, 0.0, 0.0]]))


def test_a_count_halves_in_one_half_life() -> None:
    counters = _counters()
    _event(counters, 2, START_S + 3600 - 1, long_view=True)
    counters.advance(START_S + 3600)
    later = counters.advance(START_S + 2 * 3600)
    assert later.impressions[0, 2] == pytest.approx(0.5, rel=1e-3)
    assert later.long_views[1, 2] == pytest.approx(2 ** (-1 / 24), rel=1e-3)
    assert later.impressions[:, [0, 1, 3]].sum() == 0


def test_a_snapshot_holds_only_what_is_older_than_the_grid_point() -> None:
    counters = _counters()
    _event(counters, 0, START_S + 899)
    _event(counters, 1, START_S + 900)
    snapshot = counters.advance(START_S + 1000)
    assert snapshot.as_of_s == START_S + 900
    assert snapshot.exposures.tolist() == [1, 0, 0, 0]
    assert counters.advance(START_S + 1800).exposures.tolist() == [1, 1, 0, 0]


def test_advancing_within_a_period_publishes_nothing_new() -> None:
    counters = _counters()
    first = counters.advance(START_S + 900)
    _event(counters, 0, START_S + 901)
    assert counters.advance(START_S + 1799) is first


def test_the_old_snapshot_does_not_change() -> None:
    counters = _counters()
    _event(counters, 0, START_S + 1)
    first = counters.advance(START_S + 900)
    before = first.counts.copy()
    _event(counters, 0, START_S + 901)
    counters.advance(START_S + 5000)
    np.testing.assert_array_equal(first.counts, before)


def test_steps_do_not_matter() -> None:
    """One advance over a day equals one at every period, up to rounding."""
    catalogue = make_catalogue()
    log = make_log(catalogue, make_users())
    columns = counted_columns(log)
    slow, quick = (_counters(len(catalogue)) for _ in range(2))
    slow.add(log.video_idx, log.timestamp, columns)
    quick.add(log.video_idx, log.timestamp, columns)
    end = START_S + 3 * 86_400
    for now in range(START_S, end + 1, 900):
        slow.advance(now)
    np.testing.assert_allclose(
        slow.snapshot.counts, quick.advance(end).counts, rtol=2e-3, atol=1e-5
    )


def test_counts_equal_the_sum_over_events() -> None:
    catalogue = make_catalogue()
    log = make_log(catalogue, make_users())
    until = START_S + 2 * 86_400
    counters = counters_until(catalogue, log, until, half_lives_h=HALF_LIVES_H, period_s=900)
    expected = np.zeros((len(COUNTED), 2, len(catalogue)))
    for row in np.flatnonzero(log.timestamp < until):
        weights = [2 ** (-(until - log.timestamp[row]) / (h * 3600)) for h in HALF_LIVES_H]
        for c, happened in enumerate((1, log.long_view[row], log.skip[row], log.like[row])):
            for h, weight in enumerate(weights):
                expected[c, h, log.video_idx[row]] += weight * happened
    np.testing.assert_allclose(counters.snapshot.counts, expected, rtol=1e-3, atol=1e-6)


def test_rates_of_an_unknown_video_are_the_average() -> None:
    counters = _counters()
    _event(counters, 0, START_S + 1, long_view=True)
    _event(counters, 1, START_S + 1)
    snapshot = counters.advance(START_S + 900)
    names = feature_names(HALF_LIVES_H)
    rate = snapshot.features[:, names.index("long_view_rate_24h")]
    assert rate[3] == pytest.approx(0.5, rel=1e-3)
    weight = 2 ** (-899 / 86_400)
    assert rate[0] == pytest.approx((weight + 5) / (weight + 10), rel=1e-4)
    assert snapshot.features.shape == (4, len(names))
    np.testing.assert_array_equal(snapshot.features_of(np.array([2, 0])), snapshot.features[[2, 0]])


def test_uploads_start_at_nothing() -> None:
    counters = _counters()
    _event(counters, 0, START_S + 1)
    counters.advance(START_S + 900)
    counters.grow(6)
    assert counters.snapshot.exposures.tolist() == [1, 0, 0, 0, 0, 0]
    assert counters.snapshot.counts.shape == (4, 2, 6)


def test_a_copy_has_a_future_of_its_own() -> None:
    counters = _counters()
    _event(counters, 0, START_S + 1)
    twin = counters.copy()
    _event(twin, 1, START_S + 2)
    assert counters.advance(START_S + 900).exposures.tolist() == [1, 0, 0, 0]
    assert twin.advance(START_S + 900).exposures.tolist() == [1, 1, 0, 0]


def test_a_bad_half_life_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        VideoCounters(3, (0.0,), 900, START_S)


def test_many_small_additions_are_one_large_one() -> None:
    rng = np.random.default_rng(0)
    n = 500
    videos = rng.integers(0, 20, n).astype(np.int32)
    times = rng.integers(0, 5_000, n)
    counted = rng.integers(0, 2, (n, 4)).astype(np.float32)
    one, many = (VideoCounters(20, (1.0, 24.0), 900, 0) for _ in range(2))
    one.add(videos, times, counted)
    for row in range(n):
        many.add(videos[row : row + 1], times[row : row + 1], counted[row : row + 1])
    for now_s in (1_000, 2_000, 6_000):  # each leaves a rest for the next
        first, second = one.advance(now_s), many.advance(now_s)
        assert (first.counts == second.counts).all()
        assert (first.exposures == second.exposures).all()
    assert first.exposures.sum() == counted[:, 0].sum()


def test_a_thousand_times_more_additions_cost_little_more() -> None:
    """By calls of the slow part and not by the clock."""
    counters, calls = VideoCounters(5, (1.0,), 900, 0), []
    inner = counters._add
    counters._add = lambda *given: (calls.append(len(given[2])), inner(*given))[1]  # type: ignore[method-assign]
    for second in range(1_000):
        counters.add(np.array([second % 5]), np.array([second]), np.ones((1, 4)))
    counters.advance(900)
    assert calls == [900]
