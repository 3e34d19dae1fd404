"""Both ranking protocols on numbers small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.results import Results
from shorts_recommendation.evaluation.duration_study import LabelScores, record_duration_study
from shorts_recommendation.evaluation.logged_metrics import (
    auc_estimate,
    calibration_error,
    mean_reliability,
)
from shorts_recommendation.evaluation.ranking import (
    LoggedRows,
    record_logged,
    record_truth,
    reliability,
    slices,
    truth_table,
)
from shorts_recommendation.ranking.heads import Heads


@pytest.fixture
def results() -> Results:
    return Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="handmade",
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=Path(__file__).parent,
    )


def _rows(n: int = 3000, seed: int = 5) -> tuple[LoggedRows, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.random(n).astype(np.float32)
    long_view = (rng.random(n) < p).astype(np.float32)
    labels = np.stack([long_view, p, long_view * 0, 1 - long_view, p], axis=1)
    labels[::10, 4] = np.nan
    rows = LoggedRows(
        user=np.arange(n) // 30,
        session=np.arange(n) // 10,
        gains=2 * long_view,
        labels=labels,
        position=np.arange(n) % 10,
        strategy=np.where(np.arange(n) % 4 == 0, 3, 0).astype(np.int8),
    )
    return rows, p


def test_truth_by_hand() -> None:
    satisfaction = np.array([[0.9, 0.1, 0.5, 7.0]], dtype=np.float32)
    videos = np.array([[3, 1, 2, -1]], dtype=np.int32)
    table = truth_table(
        satisfaction, videos, {"ours": np.array([[0.0, 2.0, 1.0, 9.0]])}, np.zeros(1)
    )
    discount = 1 / np.log2([2, 3, 4])
    dcg, ideal = np.array([0.1, 0.5, 0.9]) @ discount, np.array([0.9, 0.5, 0.1]) @ discount
    assert table.ndcg["ours"] == pytest.approx([dcg / ideal])
    assert table.ndcg["oracle"] == pytest.approx([1.0])
    assert table.satisfaction["ours"] == pytest.approx([0.5])
    assert table.n_candidates == 3.0


def test_truth_counts_only_the_first_ten_and_what_was_cut_comes_last() -> None:
    satisfaction = np.zeros((1, 30), dtype=np.float32)
    satisfaction[0, 20:] = 1.0
    videos = np.arange(30, dtype=np.int32)[None]
    up = np.arange(30.0)[None]
    cut = np.where(up < 15, up, -np.inf)
    table = truth_table(satisfaction, videos, {"up": up, "down": -up, "cut": cut}, np.zeros(1))
    assert table.satisfaction["up"] == pytest.approx([1.0])
    assert table.satisfaction["down"] == pytest.approx([0.0])
    assert table.satisfaction["cut"] == pytest.approx([0.0])
    assert table.means()["oracle"] == pytest.approx(1.0)


def test_truth_refuses_empty_requests_and_other_shapes() -> None:
    with pytest.raises(ValueError, match="request 1"):
        truth_table(np.ones((2, 2)), np.array([[1, 2], [-1, -1]]), {}, np.zeros(2))
    with pytest.raises(ValueError, match="ours"):
        truth_table(np.ones((1, 2)), np.array([[1, 2]]), {"ours": np.ones((1, 3))}, np.zeros(1))


def test_truth_is_recorded_with_differences(results: Results) -> None:
    rng = np.random.default_rng(0)
    satisfaction = rng.random((40, 60)).astype(np.float32)
    videos = np.tile(np.arange(60, dtype=np.int32), (40, 1))
    scores = {
        "transformer": satisfaction + 0.1 * rng.random((40, 60)),
        "trending": rng.random((40, 60)),
    }
    table = truth_table(satisfaction, videos, scores, np.arange(40))
    record_truth(results, table, protocol="handmade", resamples=200)
    ours, popular = (results[f"ranking/{m}/truth_ndcg@10"] for m in ("transformer", "trending"))
    assert ours.value > popular.value
    assert results["ranking/oracle/share_of_oracle"].value == pytest.approx(1.0)
    gap = results["ranking/transformer_minus_trending/truth_ndcg@10"]
    assert gap.value == pytest.approx(ours.value - popular.value)
    assert gap.low is not None
    assert gap.low > 0
    assert "n = 40" in ours.protocol


def test_logged_protocol_orders_models_and_finds_calibration(results: Results) -> None:
    rows, p = _rows()
    honest = Heads(p, p, p, 1 - p, p)
    boastful = Heads(np.sqrt(p), p, p, 1 - p, p)
    record_logged(
        results,
        rows,
        {"transformer": honest, "lightgbm": boastful},
        {"transformer": p, "lightgbm": p, "trending": -p, "logged": -np.arange(len(rows))},
        protocol="handmade",
        resamples=200,
    )
    best, worst, chance = (
        results[f"ranking/{name}/logged_ndcg@10"].value
        for name in ("transformer", "trending", "random")
    )
    assert best > chance > worst
    assert results["ranking/transformer/ece_long_view"].value < 0.04
    assert results["ranking/lightgbm/ece_long_view"].value > 0.1
    assert results["ranking/transformer/auc_long_view"].value == pytest.approx(
        auc(rows.labels[:, 0], p)
    )
    assert "ranking/transformer/auc_like" not in results  # nobody liked anything: undefined
    assert results["ranking/transformer/correlation_diversity"].value == pytest.approx(1.0)
    assert results["ranking/transformer/auc_long_view_uniform"].n == 750
    same = results["ranking/transformer_minus_lightgbm/logged_ndcg@10"]
    assert same.value == pytest.approx(0.0)


def test_slices_cut_by_place_and_policy() -> None:
    rows, _ = _rows(100)
    found = slices(rows)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "place0": 10, "place1_4": 40, "place5": 50, "uniform": 25,
    }  # fmt: skip


def test_auc_interval_against_a_plain_bootstrap() -> None:
    rows, p = _rows(1500)
    label = rows.labels[:, 0] > 0.5
    found = auc_estimate(label, p, rows.user, resamples=400, seed=0)
    rng, values = np.random.default_rng(1), []
    by_user = [np.flatnonzero(rows.user == u) for u in range(50)]
    for _ in range(300):
        taken = np.concatenate([by_user[u] for u in rng.integers(0, 50, 50)])
        values.append(auc(label[taken], p[taken]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert found.value == auc(label, p)
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_reliability_of_a_quantile_head_by_hand() -> None:
    curve = mean_reliability(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.8, 0.9]), bins=2)
    np.testing.assert_allclose(curve.predicted, [0.15, 0.85])
    np.testing.assert_allclose(curve.observed, [0.5, 1.0])
    assert calibration_error(curve) == pytest.approx((2 * 0.35 + 2 * 0.15) / 4)


def test_reliability_leaves_rows_without_label_out() -> None:
    rows, p = _rows(1000)
    curve = reliability(rows, Heads(p, p, p, p, p), "diversity")
    assert curve.count.sum() == 900
    np.testing.assert_allclose(curve.predicted, curve.observed, atol=1e-6)
    assert reliability(rows, Heads(p, p, p, p, p), "long_view").count.sum() == 1000


def test_duration_study_separates_the_labels(results: Results) -> None:
    rng = np.random.default_rng(0)
    satisfaction = rng.random((50, 80)).astype(np.float32)
    duration = rng.uniform(5, 60, (50, 80)).astype(np.float32)
    noise = 0.1 * rng.random((50, 80))
    scores = LabelScores(
        {"seconds": duration + noise, "ratio": -duration + noise, "d2q": satisfaction + noise}
    )
    videos = np.tile(np.arange(80, dtype=np.int32), (50, 1))
    record_duration_study(
        results, scores, satisfaction, videos, duration, np.arange(50), protocol="p", resamples=200
    )
    assert results["duration/seconds/duration_rank_correlation"].value > 0.99
    assert results["duration/ratio/duration_rank_correlation"].value < -0.99
    assert abs(results["duration/d2q/duration_rank_correlation"].value) < 0.1
    assert results["duration/seconds/top_duration_s"].value > 50
    assert results["duration/d2q_minus_seconds/truth_satisfaction"].low > 0.1
