import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportions_chisquare

from ml_platform.operations.experiments import Arm, SampleRatio, compare, sample_ratio, unit_values


def users(n: int, seed: int, lift: float = 0.0) -> Arm:
    """Heavy-tailed activity with a personal like rate; the time before is from the same person."""
    rng = np.random.default_rng(seed)
    rate, taste = rng.gamma(0.8, 20, n), rng.beta(4, 3, n)
    before, now = rng.poisson(rate + 1), rng.poisson((rate + 1) * (1 + lift))
    return Arm(
        metric=rng.binomial(now, taste).astype(float),
        per=now.astype(float),
        before=rng.binomial(before, taste).astype(float),
        before_per=before.astype(float),
    )


def mean_only(arm: Arm) -> Arm:
    return Arm(arm.metric, before=arm.before)


# --- sample ratio ------------------------------------------------------------------------------


def test_sample_ratio_by_hand() -> None:
    # (4900 - 5000)^2 / 5000 * 2 = 4, and chi-square(1) exceeds 4 with probability 0.0455.
    got = sample_ratio(4_900, 5_100)
    assert got == SampleRatio(4_900, 5_100, 5_000.0, pytest.approx(0.0455, abs=1e-4))
    assert not got.mismatch
    assert sample_ratio(49_000, 51_000).mismatch


def test_sample_ratio_agrees_with_statsmodels() -> None:
    for control, treatment, share in [(120, 80, 0.5), (9_050, 950, 0.1), (10, 0, 0.5)]:
        n = control + treatment
        _, expected, _ = proportions_chisquare(treatment, n, value=share)
        assert sample_ratio(control, treatment, treatment_share=share).p_value == pytest.approx(
            expected
        )


@pytest.mark.parametrize(
    ("counts", "share", "words"),
    [((0, 0), 0.5, "not both 0"), ((-1, 5), 0.5, "not both 0"), ((5, 5), 1.0, "treatment_share")],
)
def test_a_sample_ratio_that_cannot_be_is_refused(
    counts: tuple[int, int], share: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        sample_ratio(*counts, treatment_share=share)


# --- means -------------------------------------------------------------------------------------


def test_a_mean_is_welchs_t() -> None:
    a, b = users(300, 0), users(200, 1)
    got = compare(Arm(a.metric), Arm(b.metric))
    welch = stats.ttest_ind(b.metric, a.metric, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert (got.difference, got.low, got.high) == pytest.approx(
        (b.metric.mean() - a.metric.mean(), low, high)
    )
    assert got.p_value == pytest.approx(welch.pvalue)
    assert (got.control, got.treatment, got.n) == (
        pytest.approx(a.metric.mean()),
        pytest.approx(b.metric.mean()),
        500,
    )


def test_the_relative_effect_has_its_own_interval() -> None:
    """Against a bootstrap of the quotient: the control mean is random too."""
    a, b = users(2_000, 2), users(2_000, 3, lift=0.2)
    got = compare(Arm(a.metric), Arm(b.metric))
    rng = np.random.default_rng(0)
    draws_a = a.metric[rng.integers(2_000, size=(2_000, 2_000))].mean(axis=1)
    draws_b = b.metric[rng.integers(2_000, size=(2_000, 2_000))].mean(axis=1)
    low, high = np.quantile(draws_b / draws_a - 1, [0.025, 0.975])
    assert got.relative == pytest.approx(b.metric.mean() / a.metric.mean() - 1)
    width = high - low
    assert got.relative_low == pytest.approx(low, abs=0.08 * width)
    assert got.relative_high == pytest.approx(high, abs=0.08 * width)


def test_no_percentage_of_a_mean_that_is_not_positive() -> None:
    rng = np.random.default_rng(0)
    got = compare(Arm(rng.normal(-3, 1, 50)), Arm(rng.normal(2, 1, 50)))
    assert got.difference == pytest.approx(5, abs=1)
    assert (got.relative, got.relative_low, got.relative_high) == (None, None, None)


def test_cuped_is_regression_on_the_covariate() -> None:
    """statsmodels' OLS on arm and covariate, with robust errors, gives the same answer."""
    a, b = mean_only(users(3_000, 4)), mean_only(users(3_000, 5))
    got = compare(a, b, cuped=True)
    treated = np.repeat([0.0, 1.0], 3_000)
    before = np.concatenate([a.before, b.before])
    design = np.column_stack([np.ones(6_000), treated, before])
    ols = sm.OLS(np.concatenate([a.metric, b.metric]), design).fit(cov_type="HC1")
    assert got.difference == pytest.approx(ols.params[1], rel=0.02, abs=0.01)
    assert got.high - got.low == pytest.approx(2 * 1.96 * ols.bse[1], rel=0.01)


def test_cuped_keeps_the_effect_and_shrinks_the_variance_by_rho_squared() -> None:
    a, b = mean_only(users(4_000, 6)), mean_only(users(4_000, 7, lift=0.1))
    plain, adjusted = compare(a, b), compare(a, b, cuped=True)
    rho = np.corrcoef(np.r_[a.metric, b.metric], np.r_[a.before, b.before])[0, 1]
    assert rho > 0.8
    shrunk = ((adjusted.high - adjusted.low) / (plain.high - plain.low)) ** 2
    assert shrunk == pytest.approx(1 - rho**2, rel=0.05)
    # Both are honest about the same truth: 10% of the mean, which is 17 * 4 / 7 likes.
    assert adjusted.low < 0.1 * 17 * 4 / 7 < adjusted.high


# --- ratios ------------------------------------------------------------------------------------


def test_a_ratio_by_hand() -> None:
    control, treatment = (
        Arm(np.array([1.0, 2.0, 0.0]), per=np.array([2.0, 2.0, 2.0])),
        Arm(np.array([2.0, 3.0, 1.0]), per=np.array([2.0, 4.0, 2.0])),
    )
    got = compare(control, treatment)
    assert (got.control, got.treatment, got.difference) == pytest.approx((0.5, 0.75, 0.25))
    # Linearised: control (1 - 1, 2 - 1, 0 - 1) / 2, variance 1/4; treatment
    # (2 - 1.5, 3 - 3, 1 - 1.5) / (8/3), variance 0.25 * 9/64.
    variance = 0.25 / 3 + 0.25 * 9 / 64 / 3
    degrees = variance**2 / ((0.25 / 3) ** 2 / 2 + (0.25 * 9 / 64 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, degrees) * variance**0.5
    assert got.high - got.difference == pytest.approx(half)


def test_a_ratio_agrees_with_the_bootstrap_of_users() -> None:
    a, b = users(1_500, 8), users(1_500, 9)
    a, b = Arm(a.metric, per=a.per), Arm(b.metric, per=b.per)
    got = compare(a, b)
    rng = np.random.default_rng(0)

    def ratios(arm: Arm) -> np.ndarray:
        rows = rng.integers(1_500, size=(2_000, 1_500))
        return arm.metric[rows].sum(axis=1) / arm.per[rows].sum(axis=1)

    spread = float((ratios(b) - ratios(a)).std())
    assert (got.high - got.low) / (2 * 1.96) == pytest.approx(spread, rel=0.06)
    # What event-by-event counting would claim is far too small.
    p, n = a.metric.sum() / a.per.sum(), a.per.sum()
    assert spread > 1.5 * (2 * p * (1 - p) / n) ** 0.5


def test_cuped_of_a_ratio_is_a_regression_of_linearised_values() -> None:
    a, b = users(2_000, 10), users(2_000, 11)
    plain = compare(a, b)
    got = compare(a, b, cuped=True)
    both = Arm(*(np.r_[getattr(a, c), getattr(b, c)] for c in a.columns))
    rho = np.corrcoef(
        unit_values(Arm(both.metric, per=both.per)),
        unit_values(Arm(both.before, per=both.before_per)),
    )[0, 1]
    shrunk = ((got.high - got.low) / (plain.high - plain.low)) ** 2
    assert shrunk == pytest.approx(1 - rho**2, rel=0.03)


def test_unit_values_have_the_metrics_mean_and_error() -> None:
    arm = users(500, 12)
    values = unit_values(Arm(arm.metric, per=arm.per))
    assert values.mean() == pytest.approx(arm.metric.sum() / arm.per.sum())
    assert unit_values(Arm(arm.metric)).tolist() == arm.metric.tolist()
    assert unit_values(arm, cuped=True).mean() == pytest.approx(values.mean())
    assert unit_values(arm, cuped=True).var() < values.var()


# --- promises ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cuped", [False, True])
@pytest.mark.parametrize("ratio", [False, True])
def test_false_positives_keep_the_promise(cuped: bool, ratio: bool) -> None:
    wrong = 0
    for seed in range(200):
        arms = users(400, 1_000 + seed)
        side = np.random.default_rng(seed).random(400) < 0.5
        halves = []
        for mask in (side, ~side):
            columns = {name: values[mask] for name, values in arms.columns.items()}
            halves.append(Arm(**columns) if ratio else mean_only(Arm(**columns)))
        wrong += compare(*halves, cuped=cuped).p_value < 0.05
    # 10 expected; 1 and 20 are about three standard deviations away.
    assert 1 <= wrong <= 20


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"metric": np.array([1.0])}, "at least 2 units, got 1"),
        ({"metric": np.array([])}, "at least 2 units, got 0"),
        ({"metric": np.array([1.0, np.nan])}, "metric of unit 1 is nan"),
        ({"metric": np.ones(3), "per": np.ones(2)}, r"not aligned.*per has shape \(2,\)"),
        ({"metric": np.ones(2), "before": np.array([np.inf, 1])}, "before of unit 0 is inf"),
        ({"metric": np.ones(2), "per": np.zeros(2)}, "denominator per sums to 0"),
        ({"metric": np.ones(2), "before_per": np.ones(2)}, "before, which is missing"),
    ],
)
def test_an_arm_that_cannot_be_read_is_refused(columns: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Arm(**columns)


def test_comparisons_that_say_nothing_are_refused() -> None:
    varied = Arm(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="no noise to test"):
        compare(Arm(np.ones(5)), Arm(np.zeros(5)))
    with pytest.raises(ValueError, match="different columns"):
        compare(varied, Arm(np.ones(2), per=np.ones(2)))
    with pytest.raises(ValueError, match="needs the column before"):
        compare(varied, varied, cuped=True)
    constant = Arm(np.array([1.0, 2.0]), before=np.ones(2))
    with pytest.raises(ValueError, match="constant"):
        compare(constant, constant, cuped=True)
    with pytest.raises(ValueError, match="same for every unit"):
        unit_values(constant, cuped=True)
    with pytest.raises(ValueError, match="needs the column before"):
        unit_values(varied, cuped=True)
