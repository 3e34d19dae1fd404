"""Evidence of the guards: by hand, against scipy's integrals, and its promise under many looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from ml_platform.operations.canary_evidence import (
    QUANTILE_STRENGTH,
    more_than_share,
    other_than_share,
    quantile_bounds,
)


def test_one_sided_evidence_by_hand():
    # uniform prior on (1/2, 1): 2 * integral of t^2 = 2 * (1 - 1/8) / 3, over (1/2)^2
    assert math.exp(more_than_share(2, 2, 0.5)) == pytest.approx(2 * (7 / 8) / 3 / 0.25)
    assert more_than_share(0, 0, 0.5) == 0.0


@pytest.mark.parametrize(("hits", "n", "share"), [(0, 5, 0.2), (7, 9, 0.25), (3, 40, 0.05)])
def test_evidence_is_the_integral_it_stands_for(hits, n, share):
    def ratio(t):
        return (t / share) ** hits * ((1 - t) / (1 - share)) ** (n - hits)

    one_sided = quad(lambda t: ratio(t) / (1 - share), share, 1)[0]
    assert math.exp(more_than_share(hits, n, share)) == pytest.approx(one_sided, rel=1e-6)
    prior = stats.beta(20 * share, 20 * (1 - share))
    two_sided = quad(lambda t: ratio(t) * prior.pdf(t), 0, 1)[0]
    assert math.exp(other_than_share(hits, n, share, 20.0)) == pytest.approx(two_sided, rel=1e-4)


def test_evidence_has_mean_one_under_the_null():
    n, share = 30, 0.1
    hits = np.arange(n + 1)
    chance = stats.binom.pmf(hits, n, share)
    for evidence in (more_than_share, other_than_share):
        values = np.exp([evidence(int(h), n, share) for h in hits])
        assert float(values @ chance) == pytest.approx(1.0)


def test_looking_all_the_time_raises_no_more_false_alarms_than_promised():
    rng = np.random.default_rng(0)
    alarms = {0.2: 0, 0.25: 0}
    for true in alarms:
        for _ in range(200):
            hits = np.cumsum(rng.random(300) < true)
            found = [
                more_than_share(int(hits[n - 1]), n, 0.2) > math.log(20) for n in range(5, 300, 5)
            ]
            alarms[true] += any(found)
    assert alarms[0.2] / 200 <= 0.05
    assert alarms[0.25] > alarms[0.2]


def test_counts_are_checked():
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        more_than_share(3, 2, 0.5)
    with pytest.raises(ValueError, match="0 < share < 1"):
        other_than_share(1, 2, 1.0)


def test_quantile_bounds_are_the_plausible_counts():
    ordered = np.sort(np.random.default_rng(1).exponential(size=300)).tolist()
    found = quantile_bounds(ordered, 0.95, 0.05)
    plausible = [
        c for c in range(301) if other_than_share(c, 300, 0.95, QUANTILE_STRENGTH) < math.log(20)
    ]
    assert found.low == ordered[plausible[0] - 1]
    assert found.high == (ordered[plausible[-1]] if plausible[-1] < 300 else math.inf)
    assert found.value == ordered[284]
    assert found.low < found.value < found.high


def test_quantile_bounds_of_little_data_are_open():
    assert quantile_bounds([], 0.95, 0.05).high == math.inf
    few = quantile_bounds([1.0, 2.0, 3.0], 0.95, 0.05)
    assert (few.low, few.high, few.value) == (-math.inf, math.inf, 3.0)


def test_quantile_bounds_hold_at_all_looks_together():
    rng = np.random.default_rng(2)
    truth = stats.lognorm.ppf(0.95, 0.5)
    missed = 0
    for _ in range(150):
        values = rng.lognormal(0, 0.5, 1200)
        bounds = [quantile_bounds(sorted(values[:n]), 0.95, 0.05) for n in range(50, 1201, 50)]
        missed += any(not b.low <= truth <= b.high for b in bounds)
    assert missed / 150 <= 0.05
