"""Ranking metrics against hand-computed numbers, degenerate scorers and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.evaluation import ranking_metrics as rm

LOG2_3 = np.log2(3)


def ragged(*rows):
    ptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return ptr, np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])


@pytest.fixture
def two_queries():
    """Query 0: hits at ranks 1 and 3 of n = 3. Query 1: a hit at rank 2 of n = 1."""
    recommended = np.array([[7, 1, 4, 0], [2, 5, 3, -1]], dtype=np.int32)
    ptr, items = ragged([4, 7, 9], [5])
    return rm.hit_matrix(recommended, ptr, items), np.diff(ptr)


def test_hit_matrix(two_queries):
    hits, _ = two_queries
    assert hits.tolist() == [[True, False, True, False], [False, True, False, False]]


def test_hand_computed(two_queries):
    hits, n = two_queries
    idcg_3 = 1 + 1 / LOG2_3 + 1 / 2
    np.testing.assert_allclose(rm.hit_rate_at(hits, 1), [1, 0])
    np.testing.assert_allclose(rm.recall_at(hits, n, 3), [2 / 3, 1])
    np.testing.assert_allclose(rm.precision_at(hits, 4), [2 / 4, 1 / 4])
    np.testing.assert_allclose(rm.ndcg_at(hits, n, 4), [(1 + 1 / 2) / idcg_3, 1 / LOG2_3])
    np.testing.assert_allclose(rm.ndcg_at(hits, n, 2), [1 / (1 + 1 / LOG2_3), 1 / LOG2_3])
    np.testing.assert_allclose(rm.average_precision_at(hits, n, 4), [(1 + 2 / 3) / 3, 1 / 2])
    np.testing.assert_allclose(rm.average_precision_at(hits, n, 2), [1 / 2, 1 / 2])
    np.testing.assert_allclose(rm.reciprocal_rank_at(hits, 4), [1, 1 / 2])
    np.testing.assert_allclose(rm.reciprocal_rank_at(hits, 1), [1, 0])


def test_perfect_list_scores_one_even_where_k_is_below_n():
    hits, n = np.ones((1, 2), dtype=bool), np.array([5])
    assert rm.ndcg_at(hits, n, 2) == pytest.approx(1)
    assert rm.average_precision_at(hits, n, 2) == pytest.approx(1)
    assert rm.recall_at(hits, n, 2) == pytest.approx(2 / 5)


def test_no_hit_scores_zero_everywhere():
    hits, n = np.zeros((3, 4), dtype=bool), np.array([1, 2, 9])
    for value in (
        rm.hit_rate_at(hits, 4),
        rm.recall_at(hits, n, 4),
        rm.precision_at(hits, 4),
        rm.ndcg_at(hits, n, 4),
        rm.average_precision_at(hits, n, 4),
        rm.reciprocal_rank_at(hits, 4),
    ):
        assert value.tolist() == [0, 0, 0]


def test_graded_ndcg_by_hand_counts_what_was_not_recommended():
    recommended = np.array([[3, 8, 5]], dtype=np.int32)
    ptr, items = ragged([5, 3, 6])
    grades = np.array([3.0, 1.0, 2.0])
    gains = rm.gain_matrix(recommended, ptr, items, grades)
    assert gains.tolist() == [[1, 0, 3]]
    ideal = rm.ideal_gain_matrix(ptr, grades, 3)
    assert ideal.tolist() == [[3, 2, 1]]
    expected = (1 + 3 / 2) / (3 + 2 / LOG2_3 + 1 / 2)
    assert rm.graded_ndcg_at(gains, ideal, 3) == pytest.approx(expected)


def test_graded_ndcg_equals_binary_ndcg_for_equal_gains():
    rng = np.random.default_rng(0)
    recommended, ptr, items = random_run(rng, n_queries=60, n_items=40, width=12)
    gains = rm.gain_matrix(recommended, ptr, items, np.full(len(items), 2.5))
    graded = rm.graded_ndcg_at(gains, rm.ideal_gain_matrix(ptr, np.full(len(items), 2.5), 12), 12)
    hits = rm.hit_matrix(recommended, ptr, items)
    np.testing.assert_allclose(graded, rm.ndcg_at(hits, np.diff(ptr), 12))


def test_padding_is_a_miss_even_where_the_last_item_is_relevant():
    ptr, items = ragged([5])
    assert not rm.hit_matrix(np.array([[0, -1, -1]]), ptr, items).any()


def test_hit_matrix_equals_sets_across_table_blocks(monkeypatch):
    recommended, ptr, items = random_run(np.random.default_rng(1), 200, 50, 15)
    expected = [
        [item in set(items[ptr[q] : ptr[q + 1]].tolist()) for item in row]
        for q, row in enumerate(recommended.tolist())
    ]
    assert rm.hit_matrix(recommended, ptr, items).tolist() == expected
    monkeypatch.setattr(rm, "TABLE_CELLS", 7 * 51)  # seven queries to a block
    assert rm.hit_matrix(recommended, ptr, items).tolist() == expected


def random_run(rng, n_queries, n_items, width):
    recommended = np.argsort(rng.random((n_queries, n_items)), axis=1)[:, :width].astype(np.int32)
    rows = [
        rng.choice(n_items, size=rng.integers(1, n_items // 2), replace=False)
        for _ in range(n_queries)
    ]
    return recommended, *ragged(*rows)


@pytest.mark.parametrize(
    ("recommended", "rows", "message"),
    [
        ([[1, 2], [3, 4]], [[1], []], "1 of 2 queries have no relevant item .first: query 1"),
        ([[1, 2]], [[5, 5]], "item 5 is relevant twice to query 0"),
        ([[4, 4]], [[4]], "query 0 recommends item 4 more than once"),
        ([[1, -2]], [[1]], "got -2"),
        ([[1, 2]], [[-1]], "item indices must be"),
        ([[1, 2], [3, 4]], [[1]], "relevant_ptr .Q . 1. is"),
    ],
)
def test_malformed_lists_are_refused(recommended, rows, message):
    ptr, items = ragged(*rows)
    with pytest.raises(ValueError, match=message):
        rm.hit_matrix(np.array(recommended, dtype=np.int32), ptr, items)


def test_pointer_that_does_not_span_the_items_is_refused():
    with pytest.raises(ValueError, match="must ascend from 0 to 3"):
        rm.hit_matrix(np.array([[1]]), np.array([0, 2]), np.array([1, 2, 3]))


@pytest.mark.parametrize("metric", [rm.recall_at, rm.ndcg_at, rm.average_precision_at])
def test_query_without_relevant_items_is_refused(metric):
    with pytest.raises(ValueError, match="1 of 2 queries have no relevant item"):
        metric(np.zeros((2, 3), dtype=bool), np.array([1, 0]), 3)
    with pytest.raises(ValueError, match="n_relevant has shape"):
        metric(np.zeros((2, 3), dtype=bool), np.array([1]), 3)


@pytest.mark.parametrize("k", [0, 4])
def test_k_beyond_the_lists_is_refused(k):
    with pytest.raises(ValueError, match=rf"k must lie in 1\.\.3 .*got {k}"):
        rm.hit_rate_at(np.zeros((2, 3), dtype=bool), k)


def test_graded_errors():
    ptr, items = ragged([1, 2])
    recommended = np.array([[1, 2]])
    with pytest.raises(ValueError, match="positive and finite"):
        rm.gain_matrix(recommended, ptr, items, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="1 gains for 2"):
        rm.gain_matrix(recommended, ptr, items, np.array([1.0]))
    with pytest.raises(ValueError, match="query 0 has no item with gain"):
        rm.graded_ndcg_at(np.zeros((1, 2)), np.zeros((1, 2)), 2)
    with pytest.raises(ValueError, match="gains more than its ideal"):
        rm.graded_ndcg_at(np.ones((1, 2)), np.array([[1.0, 0.0]]), 2)


def test_random_scorer_has_the_expected_recall_and_precision():
    """A random permutation finds k / I of the relevant items, within 4 standard errors."""
    rng = np.random.default_rng(3)
    n_queries, n_items, k = 4000, 100, 10
    ptr, items = ragged(*(rng.choice(n_items, size=5, replace=False) for _ in range(n_queries)))
    recommended, _ = rm.top_k(rng.random((n_queries, n_items)), k)
    hits = rm.hit_matrix(recommended, ptr, items)
    recall = rm.recall_at(hits, np.diff(ptr), k)
    assert recall.mean() == pytest.approx(0.1, abs=4 * recall.std() / np.sqrt(n_queries))
    assert rm.precision_at(hits, k).mean() == pytest.approx(recall.mean() * 5 / k)


def test_constant_scorer_scores_like_a_random_one_not_like_the_item_order():
    """Relevance falls with the item id; breaking ties by id would score far above chance."""
    n_queries, n_items, k = 500, 200, 20
    rng = np.random.default_rng(4)
    weight = 1 / np.arange(1, n_items + 1)
    rows = [rng.choice(n_items, 1, p=weight / weight.sum()) for _ in range(n_queries)]
    ptr, items = ragged(*rows)
    by_id = np.tile(np.arange(k, dtype=np.int32), (n_queries, 1))
    constant, _ = rm.top_k(np.zeros((n_queries, n_items)), k)
    recall_by_id = rm.recall_at(rm.hit_matrix(by_id, ptr, items), np.diff(ptr), k).mean()
    recall = rm.recall_at(rm.hit_matrix(constant, ptr, items), np.diff(ptr), k).mean()
    assert recall_by_id > 0.5
    assert recall < 0.3


def test_perfect_and_reversed_scorers_are_the_extremes():
    n_items, k = 30, 10
    relevant = np.arange(5)
    ptr, items = ragged(relevant)
    perfect = np.isin(np.arange(n_items), relevant).astype(np.float32)[None]
    for scores, expected in ((perfect, 1.0), (-perfect, 0.0)):
        hits = rm.hit_matrix(rm.top_k(scores, k)[0], ptr, items)
        assert rm.ndcg_at(hits, np.diff(ptr), k) == pytest.approx(expected)
        assert rm.average_precision_at(hits, np.diff(ptr), k) == pytest.approx(expected)


hit_lists = st.lists(st.booleans(), min_size=2, max_size=30).filter(any)


@given(hit_lists, st.data())
def test_moving_a_relevant_item_up_never_lowers_a_metric(row, data):
    rank = data.draw(st.sampled_from([i for i, hit in enumerate(row) if hit]))
    target = data.draw(st.integers(0, rank))
    better = [*row[:target], True, *row[target:rank], *row[rank + 1 :]]
    missing = data.draw(st.integers(0, 3))
    k = data.draw(st.integers(1, len(row)))
    hits, n = np.array([row, better]), np.full(2, sum(row) + missing)
    for metric in (rm.ndcg_at, rm.average_precision_at, rm.recall_at):
        before, after = metric(hits, n, k)
        assert after >= before - 1e-12
    before, after = rm.reciprocal_rank_at(hits, k)
    assert after >= before


@given(hit_lists, st.integers(0, 5), st.data())
def test_metrics_lie_in_the_unit_interval(row, missing, data):
    k = data.draw(st.integers(1, len(row)))
    hits, n = np.array([row]), np.array([sum(row) + missing])
    for metric in (rm.ndcg_at, rm.average_precision_at, rm.recall_at):
        assert 0 <= metric(hits, n, k)[0] <= 1 + 1e-12


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_metrics_do_not_depend_on_the_items_names(seed):
    """Relabelling the items of lists and relevant sets alike changes nothing."""
    rng = np.random.default_rng(seed)
    recommended, ptr, items = random_run(rng, n_queries=5, n_items=20, width=8)
    new_name = rng.permutation(20).astype(np.int32)
    hits = rm.hit_matrix(recommended, ptr, items)
    renamed = rm.hit_matrix(new_name[recommended], ptr, new_name[items])
    assert (hits == renamed).all()
