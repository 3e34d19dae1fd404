"""The two-tower model: what it reads, what it must not read, and that training teaches it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import make_batch, make_catalogue, make_log, make_users

from ml_platform.data.splits import next_event_queries
from video_recommendation.config import TwoTowerConfig
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.training import (
    RequestEncoder,
    TrainingPairs,
    best_epoch_count,
    build_two_tower,
    item_vectors,
    train_two_tower,
    training_pairs,
)
from video_recommendation.retrieval.two_tower import history_window

N_ITEMS = 40
GENRES = [("Left",) if item < N_ITEMS // 2 else ("Right",) for item in range(N_ITEMS)]
CATALOGUE = make_catalogue(GENRES)
N_USERS = 60
USERS = make_users(N_USERS)
CONFIG = TwoTowerConfig(
    embedding_dim=8,
    history_length=5,
    n_uniform=16,
    batch_size=64,
    max_epochs=3,
    learning_rate=0.02,
    n_hashed_ids=4,
)
NOW = 10_000


def cluster_log(seed: int = 0):
    """Users watch 12 items of one half of the catalogue: the other half is never the answer.

    The last two items of each half are never watched.
    """
    rng = np.random.default_rng(seed)
    events = []
    for user in range(N_USERS):
        half = user % 2 * (N_ITEMS // 2)
        items = half + rng.permutation(N_ITEMS // 2 - 2)[:12]
        times = np.sort(rng.choice(NOW, 12, replace=False))
        events += [(user, int(i), 4.0, int(t)) for i, t in zip(items, times, strict=True)]
    return make_log(events, n_users=N_USERS, n_items=N_ITEMS)


LOG = cluster_log()


def model_with(**changes):
    torch.manual_seed(0)
    return build_two_tower(CATALOGUE, USERS, LOG, NOW, CONFIG.model_copy(update=changes)).eval()


def user_vector(model, history, now=NOW, user_idx=-1):
    batch = make_batch([history], [now], [user_idx])
    return RequestEncoder(model, USERS).encode(batch)[0]


HISTORY = [(1, 4.0, 9000), (2, 3.0, 9100), (25, 5.0, 9200)]


def test_vectors_have_unit_length():
    model = model_with()
    batch = batch_of_queries(LOG, next_event_queries(LOG, 0, None))
    for vectors in (item_vectors(model), RequestEncoder(model, USERS).encode(batch)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_a_batch_gives_what_single_requests_give():
    model = model_with()
    histories = [HISTORY, [], HISTORY[:1]]
    together = RequestEncoder(model, USERS).encode(make_batch(histories, [NOW] * 3))
    for vector, history in zip(together, histories, strict=True):
        np.testing.assert_allclose(vector, user_vector(model, history), atol=1e-6)


# --- items --------------------------------------------------------------------------------------


def test_items_that_training_did_not_see_share_hashed_rows_and_differ_by_content():
    inputs = model_with().item_inputs
    unseen = [18, 19, 38, 39]
    assert (inputs.id_row.numpy()[unseen] >= N_ITEMS).all()
    assert (np.delete(inputs.id_row.numpy(), unseen) == np.delete(np.arange(N_ITEMS), unseen)).all()
    # One hashed row for all: what is left to tell them apart is the content.
    vectors = item_vectors(model_with(n_hashed_ids=1))
    assert np.abs(vectors[18] - vectors[38]).max() > 1e-3


def test_id_only_cannot_tell_unseen_items_apart_and_content_only_ignores_ids():
    ids = item_vectors(model_with(n_hashed_ids=1, item_inputs="id"))
    np.testing.assert_array_equal(ids[18], ids[38])
    model = model_with(item_inputs="content")
    before = item_vectors(model).copy()
    with torch.no_grad():
        model.item_inputs.id_embedding.weight.add_(1.0)
    np.testing.assert_array_equal(item_vectors(model), before)


def test_id_dropout_takes_hashed_rows():
    inputs = model_with().item_inputs
    torch.manual_seed(0)
    dropped = (inputs.table(id_dropout=0.5) != inputs.table()).any(dim=1)[:18]
    assert 0 < dropped.sum() < 18
    assert not (inputs.table(id_dropout=0.0) != inputs.table()).any()


# --- requests -----------------------------------------------------------------------------------


def test_the_window_by_hand():
    batch = make_batch([[(7, 4.0, 70), (8, 3.5, 80), (9, 5.0, 90)], [], [(3, 1.0, 5)]], [100] * 3)
    items, rating, age = history_window(batch, 2)
    assert items.tolist() == [[9, 8], [-1, -1], [3, -1]]
    assert rating.tolist() == [[5, 3.5], [0, 0], [1, 0]]
    assert age.tolist() == [[10, 20], [0, 0], [95, 0]]
    nothing = history_window(make_batch([[], []], [100, 100]), 2)
    assert nothing[0].tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("pooling", ["mean", "recency", "attention"])
def test_a_new_event_changes_the_user(pooling):
    model = model_with(pooling=pooling)
    before, after = user_vector(model, HISTORY), user_vector(model, [*HISTORY, (30, 4.0, 9300)])
    assert np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize(("pooling", "matters"), [("mean", 0), ("recency", 1), ("attention", 1)])
def test_the_order_of_events_matters_where_it_should(pooling, matters):
    model = model_with(pooling=pooling)
    # The same items, ratings and times; only which item came when differs.
    swapped = [(25, 4.0, 9000), (2, 4.0, 9100), (1, 4.0, 9200)]
    plain = [(item, 4.0, time) for item, _, time in HISTORY]
    difference = np.abs(user_vector(model, plain) - user_vector(model, swapped)).max()
    assert (difference > 1e-4) == bool(matters)


@pytest.mark.parametrize("pooling", ["mean", "recency", "attention"])
def test_what_lies_beyond_the_window_is_not_read(pooling):
    model = model_with(pooling=pooling)
    old = [(item, 4.0, 100 + item) for item in range(10, 15)]
    window = [(item, 4.0, 9000 + item) for item in range(5)]
    np.testing.assert_array_equal(
        user_vector(model, old + window), user_vector(model, old[:2] + window)
    )


def test_a_user_without_history_has_a_vector_and_the_user_id_is_not_read():
    model = model_with()
    assert np.isfinite(user_vector(model, [])).all()
    # Users 0 and 6 are alike in age group and gender: another id is no other user.
    same = [user_vector(model, HISTORY, user_idx=u) for u in (0, 6)]
    np.testing.assert_array_equal(*same)
    assert np.abs(user_vector(model, HISTORY, user_idx=1) - same[0]).max() > 1e-5


# --- training -----------------------------------------------------------------------------------


def test_pairs_by_hand():
    """Tied events share the history before their second and are not each other's history."""
    log = make_log(
        [(0, 1, 4.0, 10), (0, 2, 4.0, 20), (0, 3, 4.0, 20), (1, 4, 4.0, 20), (1, 5, 4.0, 40)],
        n_users=2,
        n_items=6,
    )
    pairs = training_pairs(log, 40)
    assert isinstance(pairs, TrainingPairs)
    assert pairs.item_idx.tolist() == [1, 2, 3, 4]
    batch = batch_of_queries(log, pairs.queries)
    histories = np.split(batch.item_idx, batch.ptr[1:-1])
    assert [history.tolist() for history in histories] == [[], [1], [1], []]


def recall_at_5(model, log, queries):
    batch = batch_of_queries(log, queries)
    scores = RequestEncoder(model, USERS).encode(batch) @ item_vectors(model).T
    scores[batch.owner, batch.item_idx] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :5]
    ptr, items = queries.relevant(log)
    relevant = np.split(items, ptr[1:-1])
    return float(
        np.mean([np.isin(own, row).mean() for row, own in zip(top, relevant, strict=True)])
    )


@pytest.fixture(scope="module")
def trained():
    return train_two_tower(
        CATALOGUE, USERS, LOG, 8000, CONFIG.model_copy(update={"max_epochs": 10}), seed=0, epochs=10
    )


def test_training_lowers_the_loss_and_finds_the_clusters(trained):
    model, history = trained
    assert history[-1].loss < history[0].loss - 0.3
    vectors, half = item_vectors(model), N_ITEMS // 2
    cosine = vectors @ vectors.T
    within = (cosine[:18, :18].mean() + cosine[half:38, half:38].mean()) / 2
    assert within > cosine[:18, half:38].mean() + 0.3
    queries = next_event_queries(LOG, 8000, None)
    batch = batch_of_queries(LOG, queries)
    warm = batch.lengths > 2
    best = (RequestEncoder(model, USERS).encode(batch) @ vectors.T).argmax(axis=1)
    assert (best // half == queries.user_idx % 2)[warm].mean() > 0.95
    untrained = build_two_tower(CATALOGUE, USERS, LOG, 8000, CONFIG)
    assert recall_at_5(model, LOG, queries) > recall_at_5(untrained, LOG, queries) + 0.05


def test_an_unseen_item_lies_with_its_genre(trained):
    """Items 18 and 38 were never watched: only their genre can say where they belong."""
    vectors = item_vectors(trained[0])
    left, right = vectors[:18].mean(axis=0), vectors[20:38].mean(axis=0)
    assert vectors[18] @ left > vectors[18] @ right
    assert vectors[38] @ right > vectors[38] @ left


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(got, expected):
    assert got.keys() == expected.keys()
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def test_early_stopping_returns_the_best_state_and_a_refit_repeats_it():
    config = CONFIG.model_copy(update={"max_epochs": 6, "patience": 2})
    recalls, states = iter([0.1, 0.5, 0.3, 0.4, 0.9]), []

    def validate(model):
        item_vectors(model)  # as the real one does: leaves the model in eval mode
        states.append(state_of(model))
        return next(recalls)

    parts = (CATALOGUE, USERS, LOG, 8000, config)
    model, history = train_two_tower(*parts, seed=3, validate=validate)
    assert [epoch.validation_recall for epoch in history] == [0.1, 0.5, 0.3, 0.4]
    assert best_epoch_count(history) == 2
    assert_same_state(state_of(model), states[1])
    refit, epochs = train_two_tower(*parts, seed=3, epochs=2)
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in history[:2]]
    assert_same_state(state_of(refit), states[1])


def test_another_seed_is_another_model():
    parts = (CATALOGUE, USERS, LOG, 8000, CONFIG)
    first, second = (train_two_tower(*parts, seed=s, epochs=1)[0] for s in (0, 1))
    assert np.abs(item_vectors(first) - item_vectors(second)).max() > 0.01


def test_events_from_the_cut_on_change_nothing():
    before = LOG.timestamp < 8000
    parts = (8000, CONFIG)
    whole, _ = train_two_tower(CATALOGUE, USERS, LOG, *parts, seed=0, epochs=1)
    cut, _ = train_two_tower(CATALOGUE, USERS, LOG.select(before), *parts, seed=0, epochs=1)
    assert_same_state(state_of(whole), state_of(cut))


@pytest.mark.parametrize("changes", [{"negatives": "in_batch"}, {"log_q": False}])
def test_the_other_ways_of_training_learn_too(changes):
    config = CONFIG.model_copy(update=changes)
    _, history = train_two_tower(CATALOGUE, USERS, LOG, 8000, config, seed=0, epochs=3)
    assert history[-1].loss < history[0].loss


def test_other_positives_of_the_same_user_are_not_negatives(monkeypatch):
    """A batch of one user's three tied events has no in-batch negative at all: the loss is zero."""
    log = make_log([(0, 1, 4.0, 10), (0, 2, 4.0, 10), (0, 3, 4.0, 10)], n_users=2, n_items=6)
    config = CONFIG.model_copy(update={"negatives": "in_batch", "log_q": False, "batch_size": 3})
    catalogue = make_catalogue([("Left",)] * 3 + [("Right",)] * 3)
    _, one = train_two_tower(catalogue, make_users(2), log, 100, config, seed=0, epochs=1)
    assert one[0].loss == pytest.approx(0.0, abs=1e-6)
    other = make_log([(0, 1, 4.0, 10), (1, 2, 4.0, 10), (1, 3, 4.0, 10)], n_users=2, n_items=6)
    _, two = train_two_tower(catalogue, make_users(2), other, 100, config, seed=0, epochs=1)
    assert two[0].loss > 0.1
