"""Merge, votes, lists and the fresh pool against loops and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from retrieval_case import START_S, make_case, small_config, snapshot_at

from ml_algorithms.matrix_factorization.ials import fit_ials
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.log import DAY_S
from shorts_recommendation.retrieval.candidates import SOURCES, Candidates
from shorts_recommendation.retrieval.collaborative import (
    BINS,
    FoldIn,
    fit_neighbours,
    long_view_matrix,
    neighbour_votes,
)
from shorts_recommendation.retrieval.fresh import FreshPool, make_pool
from shorts_recommendation.retrieval.lists import (
    capped_list,
    foreign_discount,
    lists_by_tag,
    make_lists,
    merged_by_language,
    trending_score,
)
from shorts_recommendation.retrieval.merge import ROUNDS, merge, shares, similarities

NOW_S = START_S + 7 * DAY_S


@pytest.fixture(scope="module")
def case():
    return make_case()


def run_merge(lists, *, most, quotas=(2, 1, 1), tags=None, seen=(), upload_s=None, rest=()):
    """One request; source 2 is the tags', given as lists by tag with weights."""
    n_videos = 40
    tags = tags or []
    table = np.full((1, max(len(tags), 1), 8), -1, dtype=np.int32)
    weight = np.zeros((1, max(len(tags), 1)), dtype=np.float32)
    for t, (names, share) in enumerate(tags):
        table[0, t, : len(names)] = names
        weight[0, t] = share
    arrays = tuple(np.array([names], dtype=np.int32).reshape(1, -1) for names in lists)
    videos = np.full((1, most), -1, dtype=np.int32)
    sources = np.zeros((1, most), dtype=np.uint8)
    merge(
        arrays,
        table,
        np.zeros(1, dtype=np.int64),
        np.arange(table.shape[1])[None],
        weight,
        2,
        np.array(rest, dtype=np.int32),
        np.array([quotas]),
        np.array([list(seen) or [-1]], dtype=np.int32),
        np.zeros(n_videos, np.int64) if upload_s is None else upload_s,
        np.array([100]),
        np.zeros(n_videos, dtype=np.int64),
        np.zeros(n_videos, dtype=np.int32),
        1,
        videos,
        sources,
    )
    return videos[0].tolist(), sources[0].tolist()


def test_sources_take_turns_by_quota():
    videos, sources = run_merge([[1, 2, 3, 4], [11, 12, 13], []], tags=[([21, 22], 1.0)], most=8)
    assert videos == [1, 2, 11, 21, 3, 4, 12, 22]
    assert sources == [1, 1, 2, 4, 1, 1, 2, 4]


def test_a_video_named_twice_stands_once_with_both_bits_and_costs_a_turn():
    videos, sources = run_merge([[1, 2, 3, 4], [2, 12], []], tags=[([1], 1.0)], most=5)
    assert videos == [1, 2, 3, 4, 12]
    assert sources == [1 | 4, 1 | 2, 1, 1, 2]


def test_seen_and_later_uploads_are_passed_over_and_the_place_is_refilled():
    upload_s = np.zeros(40, dtype=np.int64)
    upload_s[2] = 101  # a second after the request
    videos, _ = run_merge([[1, 2, 3, 4, 5], [11], []], tags=[], most=4, seen=[1], upload_s=upload_s)
    assert videos == [3, 4, 11, 5]


def test_the_last_resort_fills_and_an_exhausted_catalogue_pads():
    videos, sources = run_merge([[1], [], []], most=4, rest=[1, 7, 8], seen=[8])
    assert videos == [1, 7, -1, -1]
    assert sources == [1, 0, 0, 0]


def test_tags_take_turns_by_weight():
    videos, _ = run_merge(
        [[], [], []], tags=[([1, 2, 3, 4, 5, 6], 3.0), ([11, 12, 13], 1.0)], most=8
    )
    assert sorted(videos) == [1, 2, 3, 4, 5, 6, 11, 12]
    assert [v > 10 for v in videos[:4]].count(True) == 1
    assert [v > 10 for v in videos[4:]].count(True) == 1


def test_shares_add_up_to_the_quotas_and_come_early():
    quotas = (400, 250, 200, 100, 50, 3)
    parts = shares(quotas)
    assert parts.shape == (ROUNDS, 6)
    assert parts.sum(axis=0).tolist() == list(quotas)
    assert parts[0].tolist() == [8, 5, 4, 2, 1, 1]


def test_similarities_are_the_products():
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(3, 8)), rng.normal(size=(20, 8))
    queries, vectors = queries.astype(np.float32), vectors.astype(np.float32)
    videos = rng.integers(0, 20, (3, 6)).astype(np.int32)
    videos[1, 4] = -1
    target = np.empty((3, 6), dtype=np.float32)
    similarities(queries, vectors, videos, target)
    expected = np.einsum("bd,bcd->bc", queries, vectors[videos])
    expected[1, 4] = 0
    np.testing.assert_allclose(target, expected, rtol=1e-5)


def test_votes_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    video = np.stack([rng.permutation(60)[:6] for _ in range(60)]).astype(np.int32)
    similarity = -np.sort(-rng.random((60, 6)), axis=1).astype(np.float32)
    video[5, 3:] = -1
    recent = np.array([[5, 9, -1], [-1, -1, -1], [30, 31, 32]], dtype=np.int32)
    target = np.full((3, 40), -1, dtype=np.int32)
    votes = np.zeros(60, dtype=np.float32)
    neighbour_votes(
        recent, np.float32(0.5), video, similarity, votes, np.zeros(18, np.int32),
        np.zeros(BINS + 1, np.int32), target,
    )  # fmt: skip
    assert not votes.any()
    assert (target[1] == -1).all()
    for b in (0, 2):
        total = np.zeros(60)
        for h, source in enumerate(recent[b]):
            for k in range(6):
                if source >= 0 and video[source, k] >= 0:
                    total[video[source, k]] += 0.5**h * similarity[source, k]
        found = target[b][target[b] >= 0]
        assert set(found) == set(np.flatnonzero(total))
        # Sorted to within one step of the counting sort.
        assert (np.diff(total[found]) <= total.max() / (BINS - 1) + 1e-6).all()


def test_neighbours_are_the_shrunk_cosine(case):
    config = small_config(neighbours=5, shrink=3.0).retrieval
    matrix = long_view_matrix(case.log, NOW_S, len(case.users), len(case.catalogue))
    assert matrix.data.max() == 1.0
    found = fit_neighbours(matrix, config)
    dense = matrix.toarray()
    views = dense.sum(axis=0)
    cosine = (dense.T @ dense) / np.sqrt(np.outer(views + 3.0, views + 3.0))
    np.fill_diagonal(cosine, 0)
    for v in (0, 17, 250):
        best = np.sort(cosine[v])[::-1][:5]
        np.testing.assert_allclose(found.similarity[v], best, atol=1e-5)
        there = found.video[v] >= 0
        np.testing.assert_allclose(cosine[v][found.video[v][there]], best[there], atol=1e-5)


def test_fold_in_equals_the_sparse_half_step(case):
    matrix = long_view_matrix(case.log, NOW_S, len(case.users), len(case.catalogue))
    model = fit_ials(matrix, factors=6, unobserved_weight=0.1, reg=0.05, iterations=4, seed=0)
    rng = np.random.default_rng(0)
    users = rng.choice(len(case.users), 5, replace=False)
    recent = np.full((5, 40), -1, dtype=np.int32)
    for row, user in enumerate(users):
        videos = matrix[user].indices[:39]
        recent[row, : len(videos)] = videos
        recent[row, len(videos)] = videos[0]  # watched twice: still one view
    rows = matrix[users]
    for row in range(5):
        kept = np.isin(rows[row].indices, recent[row])
        assert kept.all()
    np.testing.assert_allclose(FoldIn(model).users(recent), model.fold_in(rows), atol=2e-4)


def test_trending_score_by_hand():
    counts = np.zeros((4, 3, 2), dtype=np.float32)
    counts[0, 0] = [30, 10]  # impressions, 2 h
    counts[1, 0] = [30, 0]  # long views
    snapshot = CounterSnapshot(0, counts, np.zeros(2, dtype=np.int32))
    # Average rate 0.75; rates (30 + 7.5) / 40 and 7.5 / 20; shares of volume 0.75 and 0.25.
    np.testing.assert_allclose(trending_score(snapshot), [0.9375 * 0.75, 0.375 * 0.25], rtol=1e-6)


def test_language_discount_reorders_and_keeps_everybody():
    order = np.array([3, 1, 0, 2], dtype=np.int32)
    score = np.array([4.0, 6.0, 3.0, 10.0])
    language = np.array([0, 0, 0, 1])
    mine = merged_by_language(order, score, language, 0, np.float64(0.5))
    assert mine.tolist() == [1, 3, 0, 2]  # 10 x 0.5 = 5 stands between 6 and 4
    theirs = merged_by_language(order, score, language, 1, np.float64(0.5))
    assert theirs.tolist() == [3, 1, 0, 2]


def test_creator_cap_and_lists_by_tag():
    target = np.full(4, -1, dtype=np.int32)
    capped_list(np.array([5, 4, 3, 2, 1]), np.array([0, 7, 7, 1, 1, 1]), 8, 2, target)
    assert target.tolist() == [5, 4, 2, 1]
    by_tag = np.full((3, 2), -1, dtype=np.int32)
    tags = np.array([[0, 2], [0, -1], [0, 1]], dtype=np.int16)
    lists_by_tag(np.array([2, 0, 1], dtype=np.int32), tags, by_tag)
    assert by_tag.tolist() == [[2, 0], [2, -1], [0, -1]]


def test_lists_hold_only_what_exists_and_obey_the_cap(case):
    config = small_config(creator_cap=2, list_length=400).retrieval
    snapshot = snapshot_at(case, NOW_S)
    lists = make_lists(snapshot, case.catalogue, config, n_languages=2, foreign=0.5)
    for videos in (lists.trending[0], lists.tags[1].ravel(), lists.everything):
        videos = videos[videos >= 0]
        assert len(videos)
        assert (case.catalogue.upload_s[videos] <= snapshot.as_of_s).all()
    shown = lists.trending[0][lists.trending[0] >= 0]
    assert np.bincount(case.catalogue.creator_idx[shown]).max() == 2
    exists = (case.catalogue.upload_s <= snapshot.as_of_s).sum()
    assert len(np.unique(lists.everything)) == len(lists.everything) == exists
    tagged = lists.tags[0, 1][lists.tags[0, 1] >= 0]
    assert (case.catalogue.tags[tagged] == 1).any(axis=1).all()


def test_foreign_discount_is_the_ratio_of_rates(case):
    log = case.log.select(slice(0, 3000))
    same = case.users.language[log.user_idx] == case.catalogue.language[log.video_idx]
    expected = log.long_view[~same].mean() / log.long_view[same].mean()
    until_s = int(log.timestamp[-1]) + 1
    found = foreign_discount(case.log, case.users, case.catalogue, until_s)
    assert found == pytest.approx(expected)
    assert expected < 0.5  # in this world, language goes with taste
    only_own = log.select(same)
    assert foreign_discount(only_own, case.users, case.catalogue, until_s) == 1.0


def test_pool_holds_young_videos_below_their_budget(case):
    config = small_config(fresh_hours=48, fresh_exposures=5).retrieval
    snapshot = snapshot_at(case, NOW_S)
    vectors = np.zeros((len(case.catalogue), 4), dtype=np.float32)
    pool = make_pool(snapshot, case.catalogue, vectors, config)
    age_s = snapshot.as_of_s - case.catalogue.upload_s
    shown = np.bincount(
        case.log.video_idx[case.log.timestamp < snapshot.as_of_s], minlength=len(case.catalogue)
    )
    expected = np.flatnonzero((age_s >= 0) & (age_s < 48 * 3600) & (shown < 5))
    assert pool.videos.tolist() == expected.tolist()
    assert len(expected)


def small_pool(exploration: float) -> FreshPool:
    vectors = np.eye(6, dtype=np.float32)
    return FreshPool(
        900, np.arange(10, 16, dtype=np.int32), vectors, np.zeros(6, np.float32), 4, exploration
    )


def test_fresh_follows_the_vectors_and_a_spent_budget_ends_it():
    pool = small_pool(0.0)
    user = np.array([[0.1, 0.9, 0.2, 0.8, 0.3, 0.7]], dtype=np.float32)
    assert pool.propose(np.array([3]), user, 3).tolist() == [[11, 13, 15]]
    pool.spend(np.array([11, 11, 11, 11, 99]))
    assert pool.propose(np.array([3]), user, 3).tolist() == [[13, 15, 14]]
    assert pool.propose(np.array([3]), user, 8)[0, 5:].tolist() == [-1, -1, -1]


def test_chance_is_repeatable_and_differs_by_user():
    pool = small_pool(5.0)
    users = np.ones((40, 6), dtype=np.float32)
    first = pool.propose(np.arange(40), users, 6)
    np.testing.assert_array_equal(first, pool.propose(np.arange(40), users, 6))
    assert len(np.unique(first[:, 0])) > 3
    assert (np.sort(first, axis=1) == np.arange(10, 16)).all()


def test_an_empty_pool_proposes_nothing():
    pool = small_pool(0.0)
    pool.videos, pool.vectors, pool.shown = pool.videos[:0], pool.vectors[:0], pool.shown[:0]
    assert (pool.propose(np.array([1]), np.ones((1, 6), np.float32), 4) == -1).all()
    pool.spend(np.array([3]))


def test_candidates_know_their_sources():
    candidates = Candidates(
        np.array([[4, 5]]), np.array([[1, 18]], np.uint8), np.zeros((1, 2), np.float32)
    )
    assert candidates.named_by("vectors").tolist() == [[True, False]]
    assert candidates.named_by("fresh").tolist() == [[False, True]]
    assert SOURCES[1] == "collaborative"
    with pytest.raises(ValueError, match="no source 'trend'"):
        candidates.named_by("trend")


def test_a_head_has_its_own_shares_and_the_quotas_stay():
    quotas, head = (400, 250, 200, 100, 50), (45, 0, 0, 45, 10)
    parts = shares(quotas, head)
    assert parts.shape == (ROUNDS, 5)
    assert parts.sum(axis=0).tolist() == list(quotas)
    assert parts[: ROUNDS // 10].sum(axis=0).tolist() == list(head)
    with pytest.raises(ValueError, match="does not fit"):
        shares((400, 250, 200, 10, 50), head)
