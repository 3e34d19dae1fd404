import math

import numpy as np
import pytest
import tea_tasting.aggr
from scipy import stats
from tea_tasting.metrics.mean import Mean

from ml_platform.operations.experiments import Arm, compare
from ml_platform.operations.power import (
    Design,
    Spread,
    minimum_detectable_effect,
    power_curve,
    required_units,
    spread,
)

ONE = Spread(mean=10.0, variance=1.0)


def test_required_units_by_hand() -> None:
    # 4 (1.95996 + 0.84162)^2 / 0.1^2 = 3139.55
    assert required_units(ONE, 0.1) == 3_140
    assert required_units(ONE, -0.1) == 3_140
    assert required_units(ONE, 0.05) == pytest.approx(4 * 3_139.55, abs=2)


def test_an_effect_as_large_as_the_spread_needs_few_units() -> None:
    # 4 * 7.849 / 3.5^2 = 2.56, but each arm needs two units for a variance.
    assert required_units(ONE, 3.5) == 4
    assert required_units(ONE, 1.0) == 32  # 31.4
    assert required_units(ONE, 3.5, Design(treatment_share=0.1)) == 20


def test_an_uneven_split_costs_more() -> None:
    # n1 = 9 n2: variance (1/0.9 + 1/0.1) instead of 4, 2.78 times.
    uneven = required_units(ONE, 0.1, Design(treatment_share=0.1))
    assert uneven == pytest.approx(3_139.55 * (1 / 0.9 + 1 / 0.1) / 4, rel=1e-3)


def test_the_three_questions_are_one() -> None:
    design = Design(alpha=0.01, power=0.9, treatment_share=0.3)
    units = required_units(ONE, 0.2, design)
    assert power_curve(ONE, 0.2, units, design) == pytest.approx(0.9, abs=1e-3)
    assert minimum_detectable_effect(ONE, units, design) == pytest.approx(0.2, rel=1e-3)


def test_the_curve_starts_at_alpha_and_rises() -> None:
    curve = power_curve(ONE, 0.1, [2, 100, 1_000, 3_140, 10_000])
    assert curve[0] == pytest.approx(0.05, abs=0.002)
    assert (np.diff(curve) > 0).all()
    assert curve[3] == pytest.approx(0.8, abs=1e-3)


def test_tea_tasting_needs_as_many() -> None:
    aggregates = tea_tasting.aggr.Aggregates(
        count_=100, mean_={"x": 10.0}, var_={"x": 7.0}, cov_={}
    )
    theirs = Mean("x", effect_size=0.5, use_t=False, power=0.8, alpha=0.05)
    solved = theirs.solve_power_from_aggregates(aggregates, "n_obs")[0].n_obs
    assert required_units(Spread(10.0, 7.0), 0.5) == pytest.approx(solved, abs=2)


def test_cuped_saves_rho_squared_of_the_users() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=20_000)
    past = Arm(0.8 * before + 0.6 * rng.normal(size=20_000), before=before)
    plain, cuped = required_units(spread(past), 0.1), required_units(spread(past, cuped=True), 0.1)
    assert cuped / plain == pytest.approx(1 - 0.8**2, abs=0.01)


def test_spread_of_a_ratio() -> None:
    got = spread(Arm(np.array([1.0, 2.0, 0.0]), per=np.full(3, 2.0)))
    assert (got.mean, got.variance) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("ratio", [False, True])
def test_a_simulation_finds_the_power_that_was_promised(ratio: bool) -> None:
    rng = np.random.default_rng(1)

    def draw(n: int, lift: float) -> Arm:
        events = rng.poisson(rng.gamma(2, 5, n) + 1).astype(float)
        likes = rng.binomial(events.astype(int), np.clip(rng.beta(6, 6, n) + lift, 0, 1))
        return Arm(likes.astype(float), per=events) if ratio else Arm(likes.astype(float))

    past = draw(200_000, 0.0)
    effect = 0.05 if ratio else 0.05 * 11  # 0.05 of the likes of 11 events
    units = required_units(spread(past), effect)
    found = [
        compare(draw(units // 2, 0.0), draw(units // 2, 0.05)).p_value < 0.05 for _ in range(300)
    ]
    # 240 expected of 300; the bounds are the 0.1% points of the binomial.
    low, high = stats.binom.ppf([0.001, 0.999], 300, 0.8)
    assert low <= sum(found) <= high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Spread(1.0, 0.0), "variance above 0"),
        (lambda: Spread(math.nan, 1.0), "finite mean"),
        (lambda: Design(alpha=0.0), "alpha must be between"),
        (lambda: Design(power=0.04), "must be above alpha"),
        (lambda: required_units(ONE, 0.0), "not 0"),
        (lambda: minimum_detectable_effect(ONE, 1), "at least 2 units"),
        (lambda: power_curve(ONE, 0.1, [1]), "at least 2 units"),
    ],
)
def test_designs_that_cannot_be_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
