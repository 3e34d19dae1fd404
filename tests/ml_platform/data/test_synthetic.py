"""The generator keeps its promises: sizes, determinism, and the statistics it is asked for."""

import time
from dataclasses import replace

import numpy as np
import pytest

from ml_platform.data.datasets import Dataset, load_dataset
from ml_platform.data.interactions import InteractionLog, Queries, build_interaction_log
from ml_platform.data.schema import canonical_tables
from ml_platform.data.splits import next_event_queries, temporal_windows
from ml_platform.data.synthetic import EPOCHS, SyntheticConfig, generate

SMALL = SyntheticConfig(n_users=400, n_items=600, n_interactions=20_000)


@pytest.fixture(scope="module")
def small() -> Dataset:
    return generate(SMALL)


def test_sizes_are_exact_and_the_tables_valid(small: Dataset) -> None:
    sizes = (len(small.users), len(small.items), len(small.interactions))
    assert sizes == (400, 600, 20_000)
    checked = canonical_tables(small.interactions, small.items, small.users)
    tables = (small.interactions, small.items, small.users)
    assert all(given.equals(table) for given, table in zip(tables, checked, strict=True))
    assert (small.synthetic, small.source, small.name) == (True, "generator", "synthetic")
    assert small.interactions["rating"].isin([1, 2, 3, 4, 5]).all()


def test_the_seed_decides(small: Dataset) -> None:
    again = load_dataset("synthetic", synthetic=SMALL)
    assert again.sha256 == small.sha256
    assert generate(replace(SMALL, seed=1)).sha256 != small.sha256


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_exposure_follows_zipf(exponent: float) -> None:
    config = replace(SMALL, zipf_exponent=exponent, drift=0.0)
    oracle = generate(config).oracle
    assert oracle is not None
    exposure = np.sort(oracle.log_exposure[0])[::-1]
    slope = np.polyfit(np.log(np.arange(1, 601)), exposure, 1)[0]
    assert slope == pytest.approx(-exponent, abs=1e-4)
    assert np.exp(oracle.log_exposure).sum(axis=1) == pytest.approx(np.ones(EPOCHS), abs=1e-4)


def test_counts_follow_the_exposure() -> None:
    # Many more items than a user sees, so that "once only" hardly flattens the head.
    config = SyntheticConfig(n_users=4_000, n_items=2_000, n_interactions=40_000, drift=0.0,
                             position_bias=0.0, taste_strength=0.0)  # fmt: skip
    data = generate(config)
    assert data.oracle is not None
    counts = np.bincount(data.interactions["item_id"] - 1, minlength=2_000)
    order = np.argsort(-data.oracle.log_exposure[0])
    slope = np.polyfit(np.log(np.arange(11, 301)), np.log(counts[order][10:300]), 1)[0]
    assert slope == pytest.approx(-config.zipf_exponent, abs=0.1)


def test_tastes_and_popularity_drift_as_asked() -> None:
    def taste_correlation(drift: float) -> float:
        oracle = generate(replace(SMALL, drift=drift, n_interactions=100)).oracle
        assert oracle is not None
        users = np.arange(400)
        start, end = (oracle.tastes(users, np.full(400, tau)) for tau in (0.0, 1.0))
        assert start.std() == pytest.approx(1.0, abs=0.05)
        assert end.std() == pytest.approx(1.0, abs=0.05)
        return float(np.corrcoef(start.ravel(), end.ravel())[0, 1])

    assert taste_correlation(0.0) == pytest.approx(1.0)
    assert taste_correlation(0.5) == pytest.approx(np.cos(np.pi / 4), abs=0.05)
    assert taste_correlation(1.0) == pytest.approx(0.0, abs=0.05)

    def count_correlation(drift: float) -> float:
        config = replace(SMALL, n_users=2_000, zipf_exponent=0.0, drift=drift)
        items = generate(config).interactions["item_id"].to_numpy() - 1
        halves = [np.bincount(part, minlength=600) for part in (items[:5_000], items[-5_000:])]
        return float(np.corrcoef(halves[0], halves[1])[0, 1])

    assert count_correlation(0.0) < 0.15  # uniform exposure: nothing but sampling noise
    assert 0.25 < count_correlation(1.0) < 0.75  # popularity persists in part


def test_position_bias_favours_what_the_policy_lists_first() -> None:
    """Positions are by popularity, so position bias shows as popular items watched more."""

    def head_share(position_bias: float) -> float:
        config = replace(SMALL, n_users=2_000, position_bias=position_bias, taste_strength=0.0)
        data = generate(config)
        assert data.oracle is not None
        head = np.argsort(-data.oracle.log_exposure.mean(axis=0))[:60] + 1
        return float(data.interactions["item_id"].isin(head).mean())

    none, some, strong = (head_share(bias) for bias in (0.0, 0.5, 1.5))
    assert none + 0.03 < some
    assert some + 0.03 < strong


def test_genres_follow_the_factors(small: Dataset) -> None:
    assert small.oracle is not None
    factors = small.oracle.item_factors
    factors = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    first = small.items["genres"].str.split("|").str[0].to_numpy()
    cosine, same = factors @ factors.T, first[:, None] == first[None, :]
    np.fill_diagonal(same, False)
    assert cosine[same].mean() > cosine[~same].mean() + 0.1
    assert 2 <= small.items["genres"].str.count(r"\|").nunique() <= 3


def hit_rate_at_10(log: InteractionLog, queries: Queries, scores: np.ndarray) -> float:
    ptr, rows = queries.history(log)
    scores = scores.copy()
    scores[np.repeat(np.arange(len(queries)), np.diff(ptr)), log.item_idx[rows]] = -np.inf
    top = np.argpartition(-scores, 10, axis=1)[:, :10]
    ptr, items = queries.relevant(log)
    relevant = np.zeros(scores.shape, dtype=np.bool_)
    relevant[np.repeat(np.arange(len(queries)), np.diff(ptr)), items] = True
    return float(np.take_along_axis(relevant, top, axis=1).any(axis=1).mean())


@pytest.mark.parametrize("position_bias", [0.0, 0.5])
def test_oracle_beats_popularity_beats_random(position_bias: float) -> None:
    data = generate(replace(SMALL, position_bias=position_bias))
    assert data.oracle is not None
    log = build_interaction_log(data)
    cut = temporal_windows(log.timestamp).validation_end
    queries = next_event_queries(log, cut, None)
    counts = np.bincount(log.item_idx[log.timestamp < cut], minlength=log.n_items)
    shape = (len(queries), log.n_items)
    oracle = data.oracle.utility(queries.user_idx, queries.timestamp)
    assert oracle.shape == shape
    assert oracle.dtype == np.float32
    popular = hit_rate_at_10(log, queries, np.broadcast_to(counts.astype(np.float64), shape))
    random = hit_rate_at_10(log, queries, np.random.default_rng(0).random(shape))
    # About 2,000 queries: a standard error is under .01.
    assert hit_rate_at_10(log, queries, oracle) > popular + 0.02
    assert popular > random + 0.04


def test_without_position_bias_the_utility_predicts_its_own_hit_rate() -> None:
    """P(next new item) = softmax(utility), so the oracle's list has a known chance to hit."""
    data = generate(replace(SMALL, n_users=2_000, n_interactions=60_000, position_bias=0.0))
    assert data.oracle is not None
    log = build_interaction_log(data)
    queries = next_event_queries(log, temporal_windows(log.timestamp).validation_end, None)
    queries = queries.subset(queries.relevant_end - queries.history_end == 1)
    utility = data.oracle.utility(queries.user_idx, queries.timestamp).astype(np.float64)
    ptr, rows = queries.history(log)
    utility[np.repeat(np.arange(len(queries)), np.diff(ptr)), log.item_idx[rows]] = -np.inf
    chance = np.exp(utility) / np.exp(utility).sum(axis=1, keepdims=True)
    expected = np.sort(chance, axis=1)[:, -10:].sum(axis=1).mean()
    # About 6,000 queries with hit rates near .13: a standard error is .0045.
    assert hit_rate_at_10(log, queries, utility) == pytest.approx(expected, abs=0.015)


def test_utility_is_what_the_formula_says(small: Dataset) -> None:
    oracle = small.oracle
    assert oracle is not None
    start = small.interactions["timestamp"].min()
    value = oracle.utility(np.array([7]), np.array([start]))[0, 11]
    tau = (start - 1_577_836_800) / (365 * 86_400)
    angle = 0.3 * np.pi / 2 * tau
    taste = np.cos(angle) * oracle.taste_start[7] + np.sin(angle) * oracle.taste_end[7]
    affinity = taste @ oracle.item_factors[11] / 4.0  # the root of 16 factors
    watch = 1 / (1 + np.exp(-(2.0 * affinity - 1.0)))
    expected = oracle.log_exposure[int(tau * EPOCHS), 11] + np.log(watch)
    assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_users": 0}, "n_users must be at least 1, got 0"),
        ({"drift": 1.5}, r"drift must be within \[0, 1\], got 1.5"),
        ({"zipf_exponent": -1.0}, "zipf_exponent must be at least 0"),
        ({"n_interactions": 240_001}, "more than the 240,000 pairs"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_pairs_that_cannot_be_reached_are_refused() -> None:
    config = SyntheticConfig(n_users=3, n_items=200, n_interactions=600, zipf_exponent=3.0)
    with pytest.raises(ValueError, match=r"reached only .* of n_interactions=600: ask for fewer"):
        generate(config)


def test_one_of_everything() -> None:
    data = generate(SyntheticConfig(n_users=1, n_items=1, n_interactions=1, n_factors=1))
    assert len(data.interactions) == 1


def test_generation_is_linear_and_fast() -> None:
    config = SyntheticConfig(n_users=2_000, n_items=50_000, n_interactions=200_000)
    begin = time.process_time()
    assert len(generate(config).interactions) == 200_000
    # Measured 5.0 s and 0.4 GiB for a million on one busy core, where 10 s was the aim.
    assert time.process_time() - begin < 5.0
