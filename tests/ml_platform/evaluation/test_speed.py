"""The speed claim: all ranking metrics for 100,000 users x top 100 in under 5 s.

The bound is one-sided and generous (a quiet core needs about a tenth of it). Run it alone for the
figures: pytest tests/ml_platform/evaluation/test_speed.py -s
"""

import time

import numpy as np
import pytest

from ml_platform.evaluation import ranking_metrics as rm

N_USERS, K, LIMIT_S = 100_000, 100, 5.0


@pytest.mark.parametrize("n_items", [1_682, 50_000])
def test_metrics_for_100_000_lists_of_100(n_items, capsys):
    rng = np.random.default_rng(0)
    start = rng.integers(n_items, size=(N_USERS, 1))
    recommended = ((start + np.arange(K) * 13) % n_items).astype(np.int32)
    ptr = np.arange(N_USERS + 1, dtype=np.int64) * 10
    items = ((start + np.arange(10) * 39) % n_items).astype(np.int32).ravel()

    begin = time.perf_counter()
    hits = rm.hit_matrix(recommended, ptr, items)
    n_relevant = np.diff(ptr)
    values = [
        rm.hit_rate_at(hits, K),
        rm.recall_at(hits, n_relevant, K),
        rm.precision_at(hits, K),
        rm.ndcg_at(hits, n_relevant, K),
        rm.average_precision_at(hits, n_relevant, K),
        rm.reciprocal_rank_at(hits, K),
    ]
    elapsed_s = time.perf_counter() - begin

    with capsys.disabled():
        print(f"\n{N_USERS:,} lists x top {K}, {n_items:,} items: {elapsed_s:.2f} s")
    # Every third recommended item is relevant until the ten are found.
    assert all(value.shape == (N_USERS,) for value in values)
    assert values[1].mean() == pytest.approx(1.0)
    assert elapsed_s < LIMIT_S
