import math

import numpy as np
import pytest
from scipy import integrate, stats

from ml_platform.operations.sequential import (
    AlwaysValid,
    Moments,
    always_valid_difference,
    always_valid_p,
    half_width,
    mixture_variance,
)


def looks(control: np.ndarray, treatment: np.ndarray, every: int, design_n: int) -> list:
    a, b, out = Moments(0, 0.0, 0.0), Moments(0, 0.0, 0.0), []
    for begin in range(0, len(control), every):
        a = a.plus(Moments.of(control[begin : begin + every]))
        b = b.plus(Moments.of(treatment[begin : begin + every]))
        out.append(always_valid_difference(a, b, design_n=design_n))
    return out


# --- Moments ---------------------------------------------------------------------------------


def test_moments_by_hand() -> None:
    assert Moments.of([1.0, 2.0, 6.0]) == Moments(3, 3.0, 7.0)  # (4 + 1 + 9) / 2
    assert Moments.of([5.0]) == Moments(1, 5.0, 0.0)
    assert Moments.of([]) == Moments(0, 0.0, 0.0)


def test_moments_add_up_to_those_of_all_data() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=1_000)  # a sum of squares would cancel
    total = Moments(0, 0.0, 0.0)
    for part in np.split(values, [0, 1, 2, 300, 301]):
        total = total.plus(Moments.of(part))
    assert total.n == 1_000
    assert total.mean == pytest.approx(values.mean(), rel=1e-15)
    assert total.variance == pytest.approx(values.var(ddof=1), rel=1e-6)


@pytest.mark.parametrize(
    "bad", [(-1, 0.0, 0.0), (2, math.nan, 1.0), (2, 0.0, -1.0), (2, 0.0, math.inf)]
)
def test_moments_that_cannot_be_are_refused(bad: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="moments need"):
        Moments(*bad)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="value 1 is not finite"):
        Moments.of([0.0, math.nan])


# --- the formulas ----------------------------------------------------------------------------


def test_the_mixture_solves_its_equation() -> None:
    x = mixture_variance(1.0, 0.05)
    assert x - math.log(1 + x) == pytest.approx(2 * math.log(20))
    assert x == pytest.approx(8.2, abs=0.05)


def test_by_hand() -> None:
    # V = 1, tau2 = 3: ratio = sqrt(1/4) exp(16 * 3 / 8) = exp(6) / 2 for d = 4.
    assert always_valid_p(4.0, 1.0, 3.0) == pytest.approx(2 * math.exp(-6))
    # width^2 = 1 * 4 / 3 * (log 4 + 2 log 20) = 9.837; its root is 3.136.
    assert half_width(1.0, 3.0, 0.05) == pytest.approx(3.1364, abs=1e-4)
    assert always_valid_p(0.5, 1.0, 3.0) == 1.0  # a ratio below 1 is no evidence


def test_the_ratio_is_the_likelihood_ratio_averaged_over_the_mixture() -> None:
    d, variance, tau2 = 0.31, 0.01, 0.04

    def averaged(effect: float) -> float:
        return stats.norm.pdf(d, effect, variance**0.5) * stats.norm.pdf(effect, 0, tau2**0.5)

    ratio = integrate.quad(averaged, -2, 2, points=[0.0, 0.3])[0] / stats.norm.pdf(
        d, 0, variance**0.5
    )
    assert always_valid_p(d, variance, tau2) == pytest.approx(1 / ratio, rel=1e-6)


def test_no_other_mixture_is_tighter_at_the_design_size() -> None:
    best = mixture_variance(1.0, 0.05)
    others = half_width(1.0, best * np.array([0.3, 0.8, 1.25, 3.0]), 0.05)
    assert (others > half_width(1.0, best, 0.05)).all()
    assert half_width(1.0, best, 0.05) / stats.norm.ppf(0.975) == pytest.approx(1.55, abs=0.005)


# --- the test as a whole -----------------------------------------------------------------------


def test_a_whole_comparison_by_hand() -> None:
    control, treatment = Moments(100, 1.0, 4.0), Moments(100, 3.0, 4.0)
    # Pooled: (99 * 4 + 99 * 4 + 4 * 50) / 199 = 992 / 199; V = 2/100 of it, above 8/100.
    pooled = 992 / 199
    tau2 = 8.2131 * 4 * pooled / 200
    got = always_valid_difference(control, treatment, design_n=200)
    variance = pooled / 50
    expected = math.sqrt(
        variance * (variance + tau2) / tau2 * (math.log(1 + tau2 / variance) + 2 * math.log(20))
    )
    assert (got.difference, got.n) == (2.0, 200)
    assert got.high - 2.0 == pytest.approx(expected, rel=1e-4)
    assert got.excludes_zero
    assert got.p_value < 1e-6


def test_p_and_interval_always_agree() -> None:
    rng = np.random.default_rng(1)
    sharp = 0
    for shift in np.linspace(0, 0.8, 60):
        a, b = Moments.of(rng.normal(size=150)), Moments.of(rng.normal(shift, 2, size=60))
        got = always_valid_difference(a, b, design_n=300)
        assert (got.p_value <= 0.05) == got.excludes_zero
        sharp += got.excludes_zero
    assert 0 < sharp < 60


def test_swapping_the_arms_swaps_the_sign() -> None:
    a, b = Moments(50, 1.0, 2.0), Moments(500, 1.4, 1.0)
    ab = always_valid_difference(a, b, design_n=99)
    ba = always_valid_difference(b, a, design_n=99)
    assert (ab.low, ab.high, ab.p_value) == pytest.approx((-ba.high, -ba.low, ba.p_value))


def test_never_narrower_than_the_fixed_interval() -> None:
    rng = np.random.default_rng(2)
    for n_control, n_treatment in [(20, 20), (20, 2_000), (5_000, 50), (300, 300)]:
        for design_n in (10, 1_000, 100_000):
            x, y = rng.exponential(size=n_control), rng.normal(0, 3, size=n_treatment)
            welch = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
            got = always_valid_difference(Moments.of(x), Moments.of(y), design_n=design_n)
            assert got.high - got.low > welch.high - welch.low


def test_too_little_data_says_nothing() -> None:
    nothing = AlwaysValid(1.0, -math.inf, math.inf, 1.0, 119)
    few = always_valid_difference(Moments(100, 0.0, 1.0), Moments(19, 1.0, 0.0), design_n=50)
    assert few == nothing
    constant = Moments(400, 0.2, 0.0)
    assert always_valid_difference(constant, constant, design_n=50).p_value == 1.0


def test_every_treated_request_fails_and_no_control_one() -> None:
    # Both sample variances are 0; only the pooled variance sees the disaster.
    got = always_valid_difference(Moments(400, 0.0, 0.0), Moments(25, 1.0, 0.0), design_n=2_000)
    assert got.low > 0.3
    assert got.p_value < 1e-10


def test_no_error_in_a_small_arm_is_no_proof() -> None:
    # 0 of 300 when 1% is expected: 5% of all samples look so. The unpooled variance says z = -22.
    control = Moments.of(np.repeat([1.0, 0.0], [300, 29_700]))
    got = always_valid_difference(control, Moments(300, 0.0, 0.0), design_n=30_000)
    assert got.p_value > 0.2


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_bad_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        always_valid_difference(Moments(1, 0, 0), Moments(1, 0, 0), alpha=alpha, design_n=9)


def test_bad_design_is_refused() -> None:
    with pytest.raises(ValueError, match="design_n"):
        always_valid_difference(Moments(1, 0, 0), Moments(1, 0, 0), design_n=0)


# --- coverage over all looks -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "heavy", "rare"])
def test_coverage_over_all_looks(kind: str) -> None:
    """50 looks at each of 300 samples: some look excludes the truth in at most 5% of them."""
    rng = np.random.default_rng(3)
    draw = {
        "normal": lambda: rng.normal(size=2_000),
        "heavy": lambda: rng.lognormal(0, 1, size=2_000),
        "rare": lambda: (rng.random(2_000) < 0.02).astype(float),
    }[kind]
    wrong = fixed_wrong = 0
    for _ in range(300):
        x, y = draw(), draw() + 0.3
        sequence = looks(x, y, every=40, design_n=1_000)
        wrong += any(not look.low <= 0.3 <= look.high for look in sequence)
        count = np.arange(40, 2_001, 40)
        error = (np.cumsum(y - x)[39::40] / count - 0.3) / np.sqrt(2 * x.var() / count)
        fixed_wrong += bool((np.abs(error) > 1.96).any())
    # 5% of 300 is 15; 25 is the upper 99.5% point of the binomial.
    assert wrong <= 25
    assert fixed_wrong > 60  # the same looks with the fixed interval: the test can fail


def test_it_stops_early_on_a_real_effect() -> None:
    rng = np.random.default_rng(4)
    found = [
        any(s.low > 0 for s in looks(rng.normal(size=2_000), rng.normal(0.2, 1, 2_000), 100, 2_000))
        for _ in range(60)
    ]
    assert np.mean(found) > 0.9
