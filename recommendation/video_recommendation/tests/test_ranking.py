"""Rankers: honest labels, a pre-ranker that is its standardised self, scores that add up."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.classification_metrics import expected_calibration_error
from video_recommendation.config import RankingConfig
from video_recommendation.features import SCHEMA
from video_recommendation.pipeline import candidate_ndcg, time_ordered, train_rankers
from video_recommendation.ranking.calibration import fit_calibrator, logistic
from video_recommendation.ranking.examples import Examples, build_examples
from video_recommendation.ranking.lambdarank import fit_lambdarank
from video_recommendation.ranking.mmoe import fit_mmoe
from video_recommendation.ranking.prerank import fit_prerank, keep_best


@pytest.fixture(scope="module")
def built(tiny_system):
    """Examples of some 150 validation queries, in two blocks' worth of calls."""
    data = tiny_system.data
    queries = time_ordered(
        next_event_queries(data.log, data.windows.train_end, data.windows.validation_end)
    )
    queries = queries.subset(np.arange(0, len(queries), 6))
    done: list[int] = []
    examples = build_examples(
        data.log, queries, tiny_system.trained.selection.propose, on_progress=done.append
    )
    return SimpleNamespace(log=data.log, queries=queries, examples=examples, done=done)


# --- examples -----------------------------------------------------------------------------------


def test_labels_are_those_of_the_loop(built):
    log, queries, examples = built.log, built.queries, built.examples
    assert sum(built.done) == len(queries) == len(examples.ptr) - 1
    n_watched = 0
    for q in range(len(queries)):
        rows = slice(queries.history_end[q], queries.relevant_end[q])
        own = dict(zip(log.item_idx[rows].tolist(), log.rating[rows].tolist(), strict=True))
        for row in range(examples.ptr[q], examples.ptr[q + 1]):
            rating = own.get(int(examples.item_idx[row]), 0.0)
            assert examples.rating[row] == rating
            assert examples.watched[row] == (rating > 0)
            n_watched += rating > 0
    assert n_watched > 50


def test_what_no_source_proposes_is_not_added(built, tiny_system):
    log, queries, examples = built.log, built.queries, built.examples
    ptr, _ = queries.relevant(log)
    found = np.bincount(examples.owner, weights=examples.watched, minlength=len(queries))
    assert (found <= np.diff(ptr)).all()
    assert (found < np.diff(ptr)).any()  # otherwise this would be true for the wrong reason


def test_grades(built):
    examples = built.examples
    grade = examples.grade(4.0)
    assert set(np.unique(grade)) == {0, 1, 2}
    np.testing.assert_array_equal(grade == 2, examples.rating >= 4)
    np.testing.assert_array_equal(grade > 0, examples.watched)


def test_the_queries_of_examples_come_apart_and_together(built):
    examples, cut = built.examples, 40
    first, second = examples.queries(0, cut), examples.queries(cut, len(examples.ptr) - 1)
    assert first.ptr[0] == second.ptr[0] == 0
    for name in ("features", "prerank_features", "watched", "rating", "item_idx", "group"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(joined, getattr(examples, name), err_msg=name)


# --- pre-ranker ---------------------------------------------------------------------------------

SCORES = st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=5)


@given(SCORES, st.integers(1, 4))
def test_keep_best_is_the_loop(requests, keep):
    """Integer scores: many ties, of which the earlier rows are kept."""
    scores = np.array([s for row in requests for s in row], dtype=np.float32)
    ptr = np.concatenate(([0], np.cumsum([len(row) for row in requests]))).astype(np.int64)
    expected = []
    for begin, row in zip(ptr, requests, strict=False):
        best = sorted(range(len(row)), key=lambda place: (-row[place], place))[:keep]
        expected += [int(begin) + place for place in sorted(best)]
    assert keep_best(scores, ptr, keep).tolist() == expected


def test_folded_weights_are_the_standardised_model(built):
    x, watched = built.examples.prerank_features, built.examples.watched
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    model = LogisticRegression(C=1.0, max_iter=200, random_state=0)
    model.fit((x - mean) / scale, watched)
    expected = model.decision_function((x - mean) / scale)
    got = fit_prerank(built.examples, seed=0).score(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


# --- toy examples whose truth is known ------------------------------------------------------------


def toy_examples(n_queries: int = 200, n_rows: int = 10, seed: int = 0) -> Examples:
    """One watched row a query: the one with the largest first feature; liked when the second is."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_queries * n_rows, len(SCHEMA))).astype(np.float32)
    by_query = features[:, 0].reshape(n_queries, n_rows)
    watched = (by_query == by_query.max(axis=1, keepdims=True)).ravel()
    rating = np.where(watched, np.where(features[:, 1] > 0, 5.0, 2.0), 0.0).astype(np.float32)
    return Examples(
        ptr=np.arange(n_queries + 1) * n_rows,
        features=features,
        prerank_features=features[:, :8],
        watched=watched,
        rating=rating,
        item_idx=np.tile(np.arange(n_rows, dtype=np.int32), n_queries),
    )


TOY = toy_examples()
UNSEEN = toy_examples(n_queries=60, seed=1)
CONFIG = RankingConfig(max_trees=60, min_rows_in_leaf=20, mmoe_epochs=2, learning_rate=0.1)


@pytest.fixture(scope="module")
def lambdarank():
    return fit_lambdarank(TOY, CONFIG, seed=0, choose=UNSEEN)


@pytest.fixture(scope="module")
def mmoe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("video_recommendation.ranking.mmoe.BATCH_ROWS", 256)  # few rows, many steps
        return fit_mmoe(toy_examples(n_queries=1000), CONFIG, seed=0, epochs=12)


def test_lambdarank_learns_the_order(lambdarank):
    assert candidate_ndcg(UNSEEN, lambdarank.score(UNSEEN.features)) > 0.9
    assert next(iter(lambdarank.gain())) == SCHEMA.names[0]
    assert sum(lambdarank.gain().values()) == pytest.approx(1.0)


def test_contributions_add_up_to_the_score(lambdarank):
    contributions = lambdarank.contributions(UNSEEN.features)
    assert contributions.shape == (len(UNSEEN.features), len(SCHEMA) + 1)
    np.testing.assert_allclose(
        contributions.sum(axis=1), lambdarank.score(UNSEEN.features), atol=1e-6
    )


def test_the_same_seed_is_the_same_ranker():
    first, second = (fit_lambdarank(TOY, CONFIG, seed=1, n_trees=5) for _ in range(2))
    np.testing.assert_array_equal(first.score(TOY.features), second.score(TOY.features))
    assert first.booster.num_trees() == 5


@pytest.mark.parametrize("both", [False, True])
def test_a_number_of_trees_or_a_way_to_choose_it(both):
    given_too = {"n_trees": 3, "choose": UNSEEN} if both else {}
    with pytest.raises(ValueError, match="either n_trees"):
        fit_lambdarank(TOY, CONFIG, seed=0, **given_too)


def test_queries_without_rows_do_not_disturb():
    ptr = np.insert(TOY.ptr, 5, TOY.ptr[5])  # an empty query
    booster = fit_lambdarank(dataclasses.replace(TOY, ptr=ptr), CONFIG, seed=1, n_trees=5)
    expected = fit_lambdarank(TOY, CONFIG, seed=1, n_trees=5)
    np.testing.assert_array_equal(booster.score(TOY.features), expected.score(TOY.features))


def test_mmoe_learns_both_heads_and_a_like_is_a_watch(mmoe):
    watch, like_given_watch = mmoe.probabilities(UNSEEN.features)
    assert candidate_ndcg(UNSEEN, watch) > 0.9
    assert (watch * like_given_watch <= watch).all()
    assert ((watch >= 0) & (watch <= 1)).all()
    second = UNSEEN.features[:, 1]
    liked, not_liked = like_given_watch[second > 0.5], like_given_watch[second < -0.5]
    assert liked.mean() > not_liked.mean() + 0.1


def test_the_combined_score_is_the_documented_product(mmoe):
    watch, like = mmoe.probabilities(UNSEEN.features)
    expected = watch**CONFIG.watch_weight * like**CONFIG.like_weight
    np.testing.assert_allclose(np.exp(mmoe.score(UNSEEN.features)), expected, rtol=1e-3, atol=1e-9)


def test_mmoe_repeats_itself_and_tells_its_progress():
    seen: list[int] = []
    first = fit_mmoe(TOY, CONFIG, seed=0, epochs=2, on_epoch=lambda n, *_: seen.append(n))
    second = fit_mmoe(TOY, CONFIG, seed=0, epochs=2)
    assert seen == [0, 1]
    np.testing.assert_array_equal(first.score(UNSEEN.features), second.score(UNSEEN.features))


def test_training_chooses_on_the_last_queries_only(tiny_system):
    """What was held out are the rows of the last queries; the refit has the number of trees."""
    config = tiny_system.trained.recommender.config
    parts = train_rankers(TOY, config)
    n_choose = round(200 * config.ranking.choose_fraction)
    assert len(parts.held_out_score) == len(parts.held_out_watched) == n_choose * 10
    np.testing.assert_array_equal(parts.held_out_watched, TOY.watched[-n_choose * 10 :])
    assert parts.rankers["lambdarank"].booster.num_trees() == parts.n_trees


def test_candidate_ndcg_by_hand():
    examples = toy_examples(n_queries=2, n_rows=3)
    examples = dataclasses.replace(examples, watched=np.array([0, 1, 0, 0, 0, 0], dtype=bool))
    # The watched row comes second; the query without a watched row does not count.
    got = candidate_ndcg(examples, np.array([3.0, 2, 1, 0, 0, 0]))
    assert got == pytest.approx(1 / np.log2(3))


# --- calibration --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes():
    """Scores that read as log-odds claim far too much: the truth is sigmoid(score / 3 - 1)."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=3, size=8000)
    return scores, rng.random(8000) < logistic(scores / 3 - 1)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibration_is_monotone_and_lowers_the_error(outcomes, method):
    scores, watched = outcomes
    fitted = fit_calibrator(scores[:4000], watched[:4000], method)
    grid = np.linspace(-20, 20, 500)
    probability = fitted.probability(grid)
    assert (np.diff(probability) >= 0).all()
    assert (probability >= 0).all()
    assert (probability <= 1).all()
    held_out = scores[4000:], watched[4000:]
    raw = expected_calibration_error(held_out[1], logistic(held_out[0]), bins=15)
    now = expected_calibration_error(held_out[1], fitted.probability(held_out[0]), bins=15)
    assert raw > 0.1
    assert now < 0.03


def test_platt_finds_the_two_numbers(outcomes):
    fitted = fit_calibrator(*outcomes, "platt")
    assert fitted.knots[0, 0] == pytest.approx(1 / 3, abs=0.03)
    assert fitted.knots[1, 0] == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("outcome", [True, False])
def test_calibration_needs_both_outcomes(outcome):
    with pytest.raises(ValueError, match="both outcomes; all 3 rows"):
        fit_calibrator(np.arange(3.0), np.full(3, outcome), "platt")


def test_logistic():
    assert logistic(np.array([0.0]))[0] == 0.5
    assert logistic(np.array([np.log(3)]))[0] == pytest.approx(0.75)
