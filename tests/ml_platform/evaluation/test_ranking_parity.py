"""Ranking metrics against ir-measures (trec_eval's own code behind it) on random runs."""

import ir_measures
import numpy as np
import pytest

from ml_platform.evaluation import ranking_metrics as rm

N_QUERIES, N_ITEMS = 80, 60


def scorers(relevant):
    """Score blocks by name: ties, nothing but ties, the truth, its opposite, noise."""
    rng = np.random.default_rng(11)
    return {
        "random": rng.random(relevant.shape),
        "ties": rng.integers(0, 4, relevant.shape).astype(float),
        "constant": np.zeros(relevant.shape),
        "perfect": relevant.astype(float),
        "reversed": -relevant.astype(float),
    }


@pytest.fixture(scope="module")
def grades():
    """Grades 0..3 [Q, I]; from 1 relevant item to far more than k of them."""
    rng = np.random.default_rng(10)
    share = rng.uniform(0.02, 0.6, (N_QUERIES, 1))
    grades = rng.integers(1, 4, (N_QUERIES, N_ITEMS)) * (rng.random((N_QUERIES, N_ITEMS)) < share)
    grades[:, 0] = np.maximum(grades[:, 0], grades.max(axis=1) == 0)
    return grades


def reference(measure, grades, recommended):
    """ir-measures' value per query, from our lists written as a run without ties. f64[Q]"""
    qrels = [
        ir_measures.Qrel(str(q), str(i), int(grades[q, i])) for q, i in np.argwhere(grades > 0)
    ]
    run = [
        ir_measures.ScoredDoc(str(q), str(item), float(-rank))
        for q, row in enumerate(recommended)
        for rank, item in enumerate(row)
        if item >= 0
    ]
    values = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
    return np.array([values[str(q)] for q in range(len(recommended))])


@pytest.mark.parametrize("name", ["random", "ties", "constant", "perfect", "reversed"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_parity(grades, name, k):
    relevant = grades > 0
    n = relevant.sum(axis=1)
    ptr = np.concatenate([[0], np.cumsum(n)])
    items = np.nonzero(relevant)[1]
    recommended, _ = rm.top_k(scorers(relevant)[name], 20)
    hits = rm.hit_matrix(recommended, ptr, items)
    m = ir_measures
    pairs = {
        "Success": (rm.hit_rate_at(hits, k), m.Success @ k),
        "R": (rm.recall_at(hits, n, k), m.R @ k),
        "P": (rm.precision_at(hits, k), m.P @ k),
        "RR": (rm.reciprocal_rank_at(hits, k), m.RR @ k),
        # trec_eval divides by n where we divide by min(k, n)
        "AP": (rm.average_precision_at(hits, n, k) * np.minimum(k, n) / n, m.AP @ k),
    }
    for label, (ours, measure) in pairs.items():
        np.testing.assert_allclose(
            ours, reference(measure, grades, recommended), atol=1e-9, err_msg=label
        )


@pytest.mark.parametrize("k", [1, 5, 20])
def test_ndcg_parity_binary_and_graded(grades, k):
    relevant = grades > 0
    ptr = np.concatenate([[0], np.cumsum(relevant.sum(axis=1))])
    items = np.nonzero(relevant)[1]
    for scores in scorers(relevant).values():
        recommended, _ = rm.top_k(scores, 20)
        hits = rm.hit_matrix(recommended, ptr, items)
        np.testing.assert_allclose(
            rm.ndcg_at(hits, np.diff(ptr), k),
            reference(ir_measures.nDCG @ k, relevant.astype(int), recommended),
            atol=1e-9,
        )
        gain = grades[relevant].astype(float)
        graded = rm.graded_ndcg_at(
            rm.gain_matrix(recommended, ptr, items, gain), rm.ideal_gain_matrix(ptr, gain, k), k
        )
        np.testing.assert_allclose(
            graded, reference(ir_measures.nDCG @ k, grades, recommended), atol=1e-9
        )
