"""The rules of the shown list: diversity, the cap, and a draw whose probability is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.evaluation.intervals import bootstrap_mean
from video_recommendation.config import RerankingConfig
from video_recommendation.reranking import Pool, cap_genres, diversify, explore, rerank

PLAIN = RerankingConfig(
    method="none", k=10, genre_cap=10**6, exploration_slot=-1, freshness_boost=0.0
)


def make_pool(n: int = 60, n_similar: int = 40, seed: int = 0, n_genres: int = 4) -> Pool:
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.normal(size=(min(n, n_similar), 5)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Pool(
        rows=rng.permutation(n) + 1000,
        score=np.sort(rng.normal(size=n))[::-1],
        fresh=rng.random(n) < 0.1,
        first_genre=rng.integers(-1, n_genres, n),
        similarity=vectors @ vectors.T,
    )


def build(pool: Pool, seed: int = 0, k: int = 10, **changes):
    config = PLAIN.model_copy(update=changes)
    return rerank(pool, config, k=k, rng=np.random.default_rng(seed))


def test_method_none_is_the_rankers_order():
    pool = make_pool()
    listed = build(pool)
    assert listed.rows.tolist() == pool.rows[:10].tolist()
    assert (listed.exploration_place, listed.propensity) == (-1, 1.0)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_a_trade_off_of_one_is_the_order_of_relevance(method):
    pool = make_pool()
    listed = build(pool, method=method, trade_off=1.0)
    assert listed.rows.tolist() == pool.rows[:10].tolist()


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_less_relevance_is_less_similarity(method):
    pool = make_pool()
    place = {int(row): position for position, row in enumerate(pool.rows)}

    def similarity(trade_off: float) -> float:
        positions = [place[int(r)] for r in build(pool, method=method, trade_off=trade_off).rows]
        block = pool.similarity[np.ix_(positions, positions)]
        return float(block[np.triu_indices(10, 1)].mean())

    assert similarity(0.3) < similarity(0.8) < similarity(1.0)


@pytest.mark.parametrize("method", ["mmr", "dpp", "none"])
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 40))
def test_a_list_has_no_duplicates_and_is_as_long_as_it_can_be(method, seed, k, n):
    pool = make_pool(n=n, n_similar=25, seed=seed)
    listed = build(pool, seed, k=k, method=method, trade_off=0.7, genre_cap=3, exploration_slot=2)
    rows = listed.rows.tolist()
    assert len(set(rows)) == len(rows) == min(k, n)
    assert set(rows) <= set(pool.rows.tolist())


def test_fresh_items_gain_what_the_boost_says():
    pool = make_pool()
    fresh = np.zeros(60, dtype=bool)
    fresh[5] = True
    pool = Pool(pool.rows, np.linspace(1, 0, 60), fresh, pool.first_genre, pool.similarity)
    # Scores fall by 1/39 a place within the first 40: 0.06 is worth two places.
    changes = {"method": "mmr", "trade_off": 1.0, "freshness_boost": 0.06}
    order = diversify(pool, PLAIN.model_copy(update=changes), k=8)
    assert order.tolist() == [0, 1, 2, 5, 3, 4, 6, 7]


# --- the cap ------------------------------------------------------------------------------------


def test_the_cap_by_hand():
    genre = np.array([7, 7, 7, 1, -1, -1, -1, 7, 1])
    order = np.arange(9)
    assert cap_genres(order, genre, cap=2, k=5).tolist() == [0, 1, 3, 4, 5]
    # Too few others: filled up with what was held back, in order.
    assert cap_genres(np.array([0, 1, 2, 7, 3]), genre, cap=2, k=5).tolist() == [0, 1, 3, 2, 7]


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_no_genre_is_over_its_cap_where_the_pool_has_others(seed, cap):
    pool = make_pool(n=80, seed=seed, n_genres=9)  # 10 codes: 10 places can always be filled
    place = {int(row): position for position, row in enumerate(pool.rows)}
    listed = build(pool, seed, method="mmr", trade_off=0.8, genre_cap=cap, exploration_slot=4)
    genres = pool.first_genre[[place[int(row)] for row in listed.rows]]
    counts = np.bincount(genres[genres >= 0], minlength=9)
    available = np.bincount(pool.first_genre[pool.first_genre >= 0], minlength=9)
    if np.minimum(available, cap).sum() + (pool.first_genre < 0).sum() >= 10:
        assert counts.max() <= cap


def test_the_cap_looks_for_others_in_the_whole_pool():
    """The best 45 of 60 are of one genre: the others lie beyond what diversity picked from."""
    pool = make_pool()
    genre = np.where(np.arange(60) < 45, 0, 1)
    pool = Pool(pool.rows, pool.score, pool.fresh, genre, pool.similarity)
    listed = build(pool, method="mmr", trade_off=0.9, genre_cap=6)
    assert (np.isin(listed.rows, pool.rows[:45])).sum() == 6
    assert listed.rows[6:].tolist() == pool.rows[45:49].tolist()


def test_the_cap_scales_with_the_length_of_the_list():
    pool = make_pool()
    pool = Pool(pool.rows, pool.score, pool.fresh, np.arange(60) % 2, pool.similarity)
    genre_of = dict(zip(pool.rows.tolist(), pool.first_genre.tolist(), strict=True))
    # 7 of 10 is 14 of 20; with two genres of alternating places nothing has to be moved ...
    assert build(pool, k=20, genre_cap=7).rows.tolist() == pool.rows[:20].tolist()
    # ... and 5 of 10 is exactly one of two.
    assert sorted(genre_of[int(r)] for r in build(pool, k=2, genre_cap=5).rows) == [0, 1]


# --- exploration --------------------------------------------------------------------------------


def test_each_eligible_item_is_drawn_as_often_as_its_propensity_says():
    """4,000 draws: the frequency of every item is within five standard errors of 1 / n."""
    pool, n_draws = make_pool(), 4000
    settings = {"exploration_slot": 3, "exploration_pool": 12}
    drawn: dict[int, int] = {}
    for seed in range(n_draws):
        listed = build(pool, seed, **settings)
        row = int(listed.rows[3])
        drawn[row] = drawn.get(row, 0) + 1
        assert listed.propensity == 1 / 12
        assert listed.exploration_place == 3
    assert len(drawn) == 12
    frequency = np.array(list(drawn.values())) / n_draws
    error = np.sqrt(1 / 12 * 11 / 12 / n_draws)
    assert (np.abs(frequency - 1 / 12) < 5 * error).all()


def test_weighting_by_propensity_gives_the_truth():
    """What the logged propensity is for: inverse weighting estimates a sum over all eligible."""
    pool = make_pool()
    value = dict(zip(pool.rows.tolist(), np.random.default_rng(1).random(60), strict=True))
    logged, eligible = [], set()
    for seed in range(2000):
        listed = build(pool, seed, exploration_slot=0, exploration_pool=12)
        row = int(listed.rows[0])
        eligible.add(row)
        logged.append(value[row] / listed.propensity)
    estimate = bootstrap_mean(np.array(logged), None, resamples=200)
    truth = sum(value[row] for row in eligible)
    assert estimate.low - 0.3 < truth < estimate.high + 0.3


def test_fresh_items_are_eligible_first_then_the_best_ranked():
    pool = make_pool()
    fresh = np.zeros(60, dtype=bool)
    fresh[[50, 55]] = True
    pool = Pool(pool.rows, pool.score, fresh, pool.first_genre, pool.similarity)
    settings = {"exploration_slot": 9, "exploration_pool": 4}
    drawn = {int(build(pool, seed, **settings).rows[9]) for seed in range(200)}
    assert drawn == set(pool.rows[[50, 55, 10, 11]].tolist())


def test_the_rest_of_the_list_stays_and_its_last_item_makes_room():
    pool = make_pool()
    listed = build(pool, exploration_slot=3)
    assert np.delete(listed.rows, 3).tolist() == pool.rows[:9].tolist()


def test_the_drawn_item_keeps_to_the_cap():
    """Genre 0 is full: only items of other genres may be drawn, and the propensity knows."""
    pool = make_pool()
    genre = np.where(np.arange(60) < 45, 0, 1)
    pool = Pool(pool.rows, pool.score, np.zeros(60, dtype=bool), genre, pool.similarity)
    settings = {"genre_cap": 6, "exploration_slot": 9, "exploration_pool": 5}
    for seed in range(50):
        listed = build(pool, seed, **settings)
        assert listed.rows[9] in pool.rows[49:54]
        assert listed.propensity == 1 / 5


@pytest.mark.parametrize(("slot", "k"), [(-1, 10), (10, 10), (15, 10)])
def test_no_slot_no_exploration(slot, k):
    listed = build(make_pool(), k=k, exploration_slot=slot)
    assert (listed.exploration_place, listed.propensity) == (-1, 1.0)


def test_nothing_left_nothing_explored():
    pool = make_pool(n=10)
    listed = explore(
        pool,
        np.arange(10),
        PLAIN.model_copy(update={"exploration_slot": 2}),
        cap=10,
        k=10,
        rng=np.random.default_rng(0),
    )
    assert listed.rows.tolist() == pool.rows.tolist()
    assert listed.exploration_place == -1
