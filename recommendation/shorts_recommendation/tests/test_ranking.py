"""Trees, pre-ranker, calibration, value, and the models as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from handmade_ranking import Handmade, handmade, handmade_config

from ml_platform.evaluation.classification_metrics import auc, log_loss
from shorts_recommendation.config import Config
from shorts_recommendation.counters import CounterSnapshot, counters_until
from shorts_recommendation.features import cross_features
from shorts_recommendation.ranking.bundle import Ranking, load_ranking, save_ranking
from shorts_recommendation.ranking.calibration import Line, Platt, fit_calibration
from shorts_recommendation.ranking.fitting import Fit, fit_transformer
from shorts_recommendation.ranking.heads import TASKS, Heads
from shorts_recommendation.ranking.prerank import (
    PreRanker,
    fit_prerank,
    recall_of_top,
    soft_targets,
)
from shorts_recommendation.ranking.trees import TreeRanker, fit_trees, row_columns
from shorts_recommendation.ranking.value import choose_weights, grades, session_ndcg, value
from shorts_recommendation.requests import RequestBatch

WEIGHTS = {"long_view": 1.0, "watch": 1.0, "like": 2.0, "skip": -1.0}


@dataclass(frozen=True)
class Trained:
    made: Handmade
    config: Config
    fit: Fit
    trees: TreeRanker
    student: PreRanker
    batch: RequestBatch
    videos: np.ndarray
    cross: np.ndarray
    snapshot: CounterSnapshot


@pytest.fixture(scope="module")
def trained() -> Trained:
    made, config = handmade(seed=3), handmade_config(epochs=3, trees=40)
    fit = fit_transformer(
        made.catalogue, made.log, made.rows, made.windows, config, seed=0, threads=1
    )
    learn = fit.sequences.time_s < made.windows.train_end
    check = ~learn & (fit.sequences.time_s < made.windows.validation_end)
    trees = fit_trees(fit.sequences, learn, check, config.ranking, seed=0, threads=1)
    snapshot = counters_until(
        made.catalogue,
        made.log,
        made.windows.end,
        half_lives_h=config.state.counter_half_lives_h,
        period_s=config.state.counter_period_s,
    ).snapshot
    rng = np.random.default_rng(0)
    users = np.arange(len(made.users), dtype=np.int32)
    batch = made.states.batch(users, np.full(len(users), made.windows.end))
    videos = np.stack([rng.permutation(300)[:100] for _ in users]).astype(np.int32)
    videos[:, -5:] = -1
    cross = cross_features(batch, videos, snapshot, made.items)
    student = fit_prerank(fit.ranker, batch, videos, cross, snapshot.features, WEIGHTS, seed=0)
    return Trained(made, config, fit, trees, student, batch, videos, cross, snapshot)


def _teacher(t: Trained) -> np.ndarray:
    encoded = t.fit.ranker.encode(t.batch)
    heads = t.fit.ranker.score(encoded, t.batch.user, t.batch.context, t.videos, t.cross)
    return np.where(t.videos >= 0, value(heads, WEIGHTS), -np.inf)


def _student(t: Trained, student: PreRanker) -> np.ndarray:
    return np.where(t.videos >= 0, student.score(t.fit.ranker.encode(t.batch), t.videos), -np.inf)


# --- trees ----------------------------------------------------------------------------------------


def test_trees_learn_more_than_the_base_rate(trained: Trained) -> None:
    sequences = trained.fit.sequences
    wanted = sequences.time_s >= trained.made.windows.validation_end
    heads = trained.trees.score_rows(sequences, wanted)
    assert auc(sequences.labels[wanted, 0] > 0.5, heads.long_view) > 0.6
    assert np.corrcoef(sequences.labels[wanted, 1], heads.watch)[0, 1] > 0.15


def test_candidates_and_logged_rows_read_the_same_columns(trained: Trained) -> None:
    rows = np.array([5, 700, 1500])
    source = trained.fit.sequences.rows
    direct = trained.trees.calibration.heads(
        trained.trees.outputs(row_columns(trained.fit.sequences, rows))
    )
    asked = trained.trees.score(
        np.zeros((3, 0)),
        source.user[rows].astype(np.float32),
        source.context[rows].astype(np.float32),
        np.zeros((3, 1), dtype=np.int32),
        source.cross[rows][:, None],
    )
    for task in TASKS:
        np.testing.assert_allclose(getattr(asked, task)[:, 0], getattr(direct, task), atol=1e-6)


def test_trees_encode_nothing_and_refuse_no_rows(trained: Trained) -> None:
    assert trained.trees.encode(trained.batch).shape == (len(trained.batch), 0)
    sequences = trained.fit.sequences
    none = np.zeros(len(sequences), dtype=bool)
    with pytest.raises(ValueError, match="0 training"):
        fit_trees(sequences, none, ~none, trained.config.ranking, seed=0)


def test_tree_rows_are_capped_and_repeatable(trained: Trained) -> None:
    ranking = trained.config.ranking.model_copy(update={"tree_rows": 1500, "trees": 5})
    sequences = trained.fit.sequences
    learn = sequences.time_s < trained.made.windows.train_end
    twice = [fit_trees(sequences, learn, ~learn, ranking, seed=4, threads=1) for _ in range(2)]
    texts = [ranker.boosters["skip"].model_to_string() for ranker in twice]
    assert texts[0] == texts[1]
    dumped: lgb.Booster = twice[0].boosters["skip"]
    assert dumped.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] <= 1500


# --- pre-ranker -----------------------------------------------------------------------------------


def test_student_keeps_what_the_teacher_would_show(trained: Trained) -> None:
    teacher, student = _teacher(trained), _student(trained, trained.student)
    recall = recall_of_top(teacher, student, top=10, keep=30).mean()
    popular = np.where(trained.videos >= 0, trained.snapshot.counts[1, 1][trained.videos], -np.inf)
    assert recall > 0.5  # 30 of 95 at random: 0.32
    assert recall > recall_of_top(teacher, popular, top=10, keep=30).mean()


def test_student_score_by_hand(trained: Trained) -> None:
    student = trained.student
    encoded = trained.fit.ranker.encode(trained.batch)
    tables = trained.fit.ranker.tables
    video = int(trained.videos[4, 7])
    item = np.concatenate([tables.key[video], tables.first[video]])
    query = encoded[4] @ student.request + student.request_bias
    expected = query @ (item @ student.item) + item @ student.bias
    expected += trained.snapshot.features[video] @ student.counter
    found = student.score(encoded, trained.videos)[4, 7]
    assert found == pytest.approx(float(expected), abs=1e-3)


def test_refresh_moves_the_bias_with_the_counters(trained: Trained) -> None:
    student = trained.student
    encoded = trained.fit.ranker.encode(trained.batch)
    before = student.score(encoded, trained.videos)
    moved = trained.snapshot.features + np.float32(1.0)
    student.refresh(moved)
    after = student.score(encoded, trained.videos)
    np.testing.assert_allclose(after - before, student.counter.sum(), atol=1e-3)
    student.refresh(moved[:250])  # fewer rows than videos: the rest are uploads of this minute
    assert np.isfinite(student.score(encoded, trained.videos)).all()
    student.refresh(trained.snapshot.features)
    np.testing.assert_allclose(student.score(encoded, trained.videos), before, atol=1e-5)


def test_recall_of_top_by_hand() -> None:
    teacher = np.array([[4.0, 3.0, 2.0, 1.0, -np.inf]])
    student = np.array([[0.0, 5.0, 9.0, 1.0, -np.inf]])
    # Top 2 of the teacher: 0 and 1. The student's best two are 2 and 1, its best three 2, 1, 3.
    assert recall_of_top(teacher, student, top=2, keep=2) == pytest.approx([0.5])
    assert recall_of_top(teacher, student, top=2, keep=3) == pytest.approx([0.5])
    assert recall_of_top(teacher, student, top=2, keep=4) == pytest.approx([1.0])


def test_soft_targets_sum_to_one_without_paddings() -> None:
    found = soft_targets(np.array([[0.0, np.log(3) / 2, -np.inf]]), 1.0)
    np.testing.assert_allclose(found, [[0.25, 0.75, 0.0]], atol=1e-6)


def test_no_requests_are_refused(trained: Trained) -> None:
    with pytest.raises(ValueError, match="no requests"):
        fit_prerank(
            trained.fit.ranker,
            trained.batch.take(slice(0, 0)),
            trained.videos[:0],
            trained.cross[:0],
            trained.snapshot.features,
            WEIGHTS,
            seed=0,
        )


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_repairs_an_overconfident_head() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=6000)
    label = (rng.random(6000) < 1 / (1 + np.exp(-logit))).astype(float)
    sure = 1 / (1 + np.exp(-3 * logit - 1))
    outputs = np.tile(sure[:, None], (1, 5)).astype(np.float32)
    labels = np.tile(label[:, None], (1, 5)).astype(np.float32)
    labels[::7, 4] = np.nan
    found = fit_calibration(outputs, labels, np.arange(6000) % 100)
    heads = found.heads(outputs)
    assert log_loss(label, heads.long_view) < log_loss(label, sure) - 0.1
    assert heads.long_view.mean() == pytest.approx(label.mean(), abs=0.01)
    assert found.kinds["watch"] == "line"
    order = np.argsort(sure)
    assert (np.diff(heads.skip[order]) >= -1e-7).all()


def test_platt_is_found_where_platt_is_true() -> None:
    assert Platt(1.0, 0.0).probability(np.array([0.2, 0.7])) == pytest.approx([0.2, 0.7])
    # logit 0.5 -> 0; 2 * 0 + log 3 -> 3 / 4.
    assert Platt(2.0, np.log(3)).probability(np.array([0.5])) == pytest.approx([0.75])
    assert Line(2.0, 0.1, 1.0).probability(np.array([0.2, 0.9])) == pytest.approx([0.5, 1.0])


def test_rare_or_constant_heads_keep_their_own_numbers() -> None:
    outputs = np.full((300, 5), 0.2, dtype=np.float32)
    labels = np.zeros((300, 5), dtype=np.float32)
    labels[:3, 2] = 1.0
    found = fit_calibration(outputs, labels, np.arange(300))
    assert found.kinds["like"] == "none"
    np.testing.assert_allclose(found.heads(outputs).like, 0.2, rtol=1e-6)
    np.testing.assert_allclose(found.heads(outputs).diversity, 0.2, rtol=1e-6)


# --- value ----------------------------------------------------------------------------------------


def _heads(*columns: list[float]) -> Heads:
    return Heads(*(np.array(column, dtype=np.float32) for column in columns))


def test_value_by_hand() -> None:
    heads = _heads([0.5], [0.4], [0.1], [0.2], [0.9])
    assert value(heads, WEIGHTS) == pytest.approx([0.5 + 0.4 + 0.2 - 0.2])
    assert value(heads, {"diversity": 2.0, "skip": 0.0}) == pytest.approx([1.8])
    with pytest.raises(ValueError, match="clicks"):
        value(heads, {"clicks": 1.0})


def test_grades_by_hand() -> None:
    yes, no = True, False
    found = grades(
        np.array([no, no, yes, no, yes]),
        np.array([yes, no, no, yes, no]),
        np.array([no, no, no, yes, yes]),
    )
    assert found.tolist() == [0, 1, 2, 3, 3]


def test_session_ndcg_by_hand() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.3, 0.2])
    gains = np.array([2.0, 0.0, 1.0, 1.0, 1.0])
    session = np.array([0, 0, 0, 8, 8])  # the second session's gains are equal: not judged
    ndcg, first = session_ndcg(scores, gains, session)
    dcg = 0 / 1 + 1 / np.log2(3) + 2 / np.log2(4)
    ideal = 2 / 1 + 1 / np.log2(3)
    assert ndcg == pytest.approx([dcg / ideal])
    assert first.tolist() == [0]


def test_session_ndcg_does_not_reward_the_order_shown() -> None:
    """All scores equal: gains that fall with the place must not look like a good ranking."""
    session = np.repeat(np.arange(400), 5)
    gains = np.tile([3.0, 2.0, 1.0, 0.0, 0.0], 400)
    tied, _ = session_ndcg(np.zeros(2000), gains, session)
    shuffled, _ = session_ndcg(np.random.default_rng(1).random(2000), gains, session)
    assert tied.mean() == pytest.approx(shuffled.mean(), abs=0.03)


def test_weights_follow_what_orders_sessions_and_stay_put_without_evidence() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    like, noise = rng.random(n), rng.random(n)
    heads = Heads(*(x.astype(np.float32) for x in (noise, noise, like, noise, noise)))
    gains = 3.0 * (rng.random(n) < like)
    weights, ndcg = choose_weights(heads, gains, np.arange(n) // 8, {**WEIGHTS, "like": 0.0})
    assert weights["like"] > 0
    assert ndcg > session_ndcg(noise, gains, np.arange(n) // 8)[0].mean()
    few, _ = choose_weights(heads.select(slice(0, 0)), gains[:0], np.zeros(0, int), WEIGHTS)
    assert few == WEIGHTS
    luck = 3.0 * (rng.random(n) < 0.5)
    stayed, _ = choose_weights(heads, luck, np.arange(n) // 8, WEIGHTS)
    assert sum(abs(stayed[t] - WEIGHTS[t]) for t in WEIGHTS) <= 2.0


# --- files ----------------------------------------------------------------------------------------


def test_saved_models_score_the_same(trained: Trained, tmp_path: Path) -> None:
    ranker = trained.fit.ranker
    whole = Ranking(ranker, {"transformer": ranker, "lightgbm": trained.trees}, trained.student)
    save_ranking(whole, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".npz", ".txt", ".json"}
    back = load_ranking(tmp_path, trained.made.catalogue, trained.config)
    encoded = ranker.encode(trained.batch)
    np.testing.assert_array_equal(back.encoder.encode(trained.batch), encoded)
    for name, model in whole.rankers.items():
        inputs = (encoded, trained.batch.user, trained.batch.context, trained.videos, trained.cross)
        a, b = model.score(*inputs), back.rankers[name].score(*inputs)
        for task in TASKS:
            np.testing.assert_allclose(getattr(a, task), getattr(b, task), atol=1e-6)
    np.testing.assert_array_equal(
        _student(trained, back.preranker), _student(trained, whole.preranker)
    )


def test_another_history_length_is_refused(trained: Trained, tmp_path: Path) -> None:
    ranker = trained.fit.ranker
    save_ranking(Ranking(ranker, {"transformer": ranker}, trained.student), tmp_path)
    state = trained.config.state.model_copy(update={"history_length": 32})
    with pytest.raises(ValueError, match="reads 16 events"):
        load_ranking(
            tmp_path, trained.made.catalogue, trained.config.model_copy(update={"state": state})
        )
    assert list(load_ranking(tmp_path, trained.made.catalogue, trained.config).rankers) == [
        "transformer"
    ]
