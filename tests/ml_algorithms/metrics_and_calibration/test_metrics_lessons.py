"""Worked examples by hand, averages by loops, sampled metrics by simulation and by scipy."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml_algorithms.metrics_and_calibration.averaging import (
    average_rank_of_ties,
    gauc,
    macro_values,
    user_aucs,
)
from ml_algorithms.metrics_and_calibration.bench_config import Ranking
from ml_algorithms.metrics_and_calibration.bench_ranking import ranks_of_relevant
from ml_algorithms.metrics_and_calibration.like_task import build_like_task
from ml_algorithms.metrics_and_calibration.sampled import expected_ndcg, expected_recall
from ml_algorithms.metrics_and_calibration.worked import worked_examples
from ml_platform.data.datasets import SyntheticConfig, load_dataset

BY_HAND = {
    # The list 3, 7, 1, 8, 2 with 7, 8, 9 relevant: hits at ranks 2 and 4 of three relevant items.
    "list/precision@5": 2 / 5,
    "list/recall@5": 2 / 3,
    "list/ndcg@5": (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2),
    "list/ndcg@2": (1 / math.log2(3)) / (1 + 1 / math.log2(3)),
    "list/ap@5": (1 / 2 + 2 / 4) / 3,
    "list/rr@5": 1 / 2,
    # Three of four come true at 0.9, one of four at 0.1: 9 pairs right, 6 tied, 1 wrong.
    "rows/auc": (9 + 6 / 2) / 16,
    "rows/log_loss": -(6 * math.log(0.9) + 2 * math.log(0.1)) / 8,
    "rows/ece": 0.15,
    "rows/brier": (3 * 0.01 + 0.81) / 4,
    "rows/reliability": 0.15**2,
    "rows/resolution": 0.25**2,
    "rows/uncertainty": 0.25,
    # Likes at .8 .7 .6 .1, the others at .9 .4 .3 .2: three times three pairs of sixteen.
    "users/auc": 9 / 16,
    "users/gauc": 0.0,
    "users/micro": 3 / 4,
    "users/macro": 1 / 2,
    "pav/second": 1 / 2,
    "down_sampling/corrected": 1 / 11,  # odds of 1 : 1 become 1 : 10
}


def test_the_worked_examples_by_hand() -> None:
    found = worked_examples()
    for name, value in BY_HAND.items():
        assert found[name] == pytest.approx(value), name
    assert set(found) - set(BY_HAND) == {"sampled/ndcg@10"}


def test_the_sampled_example_by_simulation() -> None:
    """Rank 101 of 1,000 negatives, 100 of them sampled, as often as it takes."""
    rng = np.random.default_rng(0)
    better = rng.hypergeometric(100, 900, 100, size=200_000)
    ndcg = np.where(better < 10, 1 / np.log2(better + 2.0), 0.0).mean()
    assert worked_examples()["sampled/ndcg@10"] == pytest.approx(ndcg, abs=0.002)


def test_sampling_everything_is_exact_and_one_negative_is_an_auc() -> None:
    rank = np.array([1, 3, 10, 11, 51])
    exact = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)
    np.testing.assert_allclose(expected_ndcg(rank, 50, 50, 10), exact)
    np.testing.assert_allclose(expected_recall(rank, 50, 50, 10), rank <= 10)
    # With one negative, recall@1 is the chance to beat it: the AUC of this one item.
    np.testing.assert_allclose(expected_recall(rank, 50, 1, 1), 1 - (rank - 1) / 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.array([1]), 5, 6, 1), "sampled"),
        ((np.array([7]), 5, 2, 1), "ranks"),
        ((np.array([1]), 5, 2, 0), "k >= 1"),
    ],
)
def test_impossible_samples_are_refused(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        expected_ndcg(*arguments)


def test_gauc_by_loops_over_users() -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(12, size=300)
    labels, scores = (rng.random(300) < 0.4).astype(int), np.round(rng.random(300), 1)
    labels[users == 3] = 1  # a user of one class has no AUC
    total = weight = 0.0
    for user in range(12):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            total += mine.sum() * roc_auc_score(labels[mine], scores[mine])
            weight += mine.sum()
    assert gauc(labels, scores, users) == pytest.approx(total / weight)
    assert len(user_aucs(labels, scores, users)[0]) == 11
    with pytest.raises(ValueError, match="both classes"):
        gauc(np.ones(3, dtype=int), np.ones(3), np.array([0, 0, 1]))


def test_macro_and_ties() -> None:
    values = macro_values(np.array([1.0, 0.0, 1.0]), np.array([7, 7, 9]))
    np.testing.assert_allclose(values, [0.5, 1.0])
    assert average_rank_of_ties(np.array([2.0, 1.0, 1.0, 1.0, 0.0]), 2) == (3.0, 2, 4)


def test_ranks_of_relevant_items_by_loops() -> None:
    rng = np.random.default_rng(2)
    scores = np.round(rng.random((6, 15)), 1).astype(np.float32)
    relevant = [[1, 4], [0], [7, 8, 9], [14], [3], [2, 5]]
    seen = [[0], [], [1, 2], [3], [], [9]]
    ptr = np.concatenate([[0], np.cumsum([len(r) for r in relevant])])
    flat = np.concatenate(relevant)
    rows = np.repeat(np.arange(6), [len(s) for s in seen])
    items = np.array([i for s in seen for i in s])
    ranking = Ranking({}, (rows, items), (ptr, flat), np.arange(6), np.zeros(15), 1, "")
    found = ranks_of_relevant(ranking, scores)
    place = 0
    for q in range(6):
        negatives = [i for i in range(15) if i not in relevant[q] and i not in seen[q]]
        for item in relevant[q]:
            above = sum(scores[q, n] > scores[q, item] for n in negatives)
            tied = sum(scores[q, n] == scores[q, item] for n in negatives)
            assert found[place] == 1 + above + tied // 2
            place += 1


def test_the_like_task_is_cut_by_time_and_its_counters_are_older() -> None:
    data = load_dataset(
        "synthetic", synthetic=SyntheticConfig(n_users=60, n_items=50, n_interactions=1500)
    )
    task = build_like_task(data)
    assert len(task.train.labels) == 300
    assert len(task.calibration.labels) == len(task.test.labels) == 225
    rows = data.interactions.sort_values(["timestamp", "user_id", "item_id"], kind="stable")
    past = rows.iloc[:750]
    first = rows.iloc[750]
    mine = past[past["item_id"] == first["item_id"]]
    base = (past["rating"] >= 4).mean()
    rate = ((mine["rating"] >= 4).sum() + 5 * base) / (len(mine) + 5)
    assert task.train.features[0, 2] == pytest.approx(rate)
    assert task.train.features[0, 3] == pytest.approx(math.log1p(len(mine)))
    np.testing.assert_array_equal(task.test.users, rows["user_id"].to_numpy()[-225:])
