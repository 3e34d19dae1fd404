"""Training pairs against a loop, the towers against their numpy form, what training must learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retrieval_case import START_S, items_of, make_case, small_config

from shorts_recommendation.features import requests_at
from shorts_recommendation.log import DAY_S
from shorts_recommendation.retrieval.encoder import make_encoder
from shorts_recommendation.retrieval.pairs import training_pairs
from shorts_recommendation.retrieval.training import TowerBatches, train_two_tower
from shorts_recommendation.retrieval.two_tower import (
    RowTable,
    attribute_columns,
    duration_group,
    unit_profile,
)

UNTIL_S = START_S + 6 * DAY_S


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture(scope="module")
def pairs(case):
    return training_pairs(case.log, case.catalogue, until_s=UNTIL_S, length=5, decay=0.95)


@pytest.fixture(scope="module")
def config():
    return small_config().two_tower


@pytest.fixture(scope="module")
def tower(case, config):
    pairs = training_pairs(case.log, case.catalogue, until_s=UNTIL_S, length=20, decay=0.95)
    return train_two_tower(pairs, case.catalogue, case.users, config, until_s=UNTIL_S, seed=0)


def test_pairs_are_what_a_loop_over_the_log_finds(case, pairs):
    log = case.log
    rows = np.flatnonzero(log.long_view & (log.timestamp < UNTIL_S))
    assert len(pairs) == len(rows)
    for at in (0, 7, len(rows) // 2, len(rows) - 1):
        row = rows[at]
        mine = np.flatnonzero((log.user_idx == log.user_idx[row]) & (log.timestamp < UNTIL_S))
        before = [log.video_idx[r] for r in mine if r < row and log.long_view[r]][::-1][:5]
        expected = before + [-1] * (5 - len(before))
        assert pairs.history[at].tolist() == expected
        after = [log.video_idx[r] for r in mine if r > row and not log.long_view[r]]
        assert pairs.rejected[at] == (after[0] if after else -1)
        refused = [log.timestamp[r] for r in mine if r > row and not log.long_view[r]]
        assert pairs.rejected_s[at] == (refused[0] if refused else -1)


def test_who_learns_before_a_refusal_does_not_know_of_it(pairs):
    at = int(np.flatnonzero(pairs.rejected >= 0)[10])
    refused_s = int(pairs.rejected_s[at])
    assert refused_s > pairs.timestamp[at]
    assert pairs.known_at(refused_s).rejected[at] == -1
    assert pairs.known_at(refused_s + 1).rejected[at] == pairs.rejected[at]
    assert (pairs.known_at(0).rejected == -1).all()


def test_history_and_profile_of_a_pair_are_those_of_the_request(case, pairs):
    """Train and serve read one state: the replay of ``UserStates`` gives the same numbers."""
    rows = np.flatnonzero(case.log.long_view & (case.log.timestamp < UNTIL_S))
    at = np.array([3, 400, len(rows) - 5])
    config = small_config().state
    batch = requests_at(case.users, items_of(case), case.log, config, rows[at])
    np.testing.assert_array_equal(batch.recent_positive[:, :5], pairs.history[at])
    np.testing.assert_allclose(batch.tag_profile, pairs.tag_profile[at], rtol=1e-4, atol=1e-5)


def test_only_the_latest_pairs_are_kept_and_earlier_ones_stay_history(case, pairs):
    few = training_pairs(case.log, case.catalogue, until_s=UNTIL_S, length=5, decay=0.95, most=50)
    np.testing.assert_array_equal(few.history, pairs.history[-50:])
    late = training_pairs(
        case.log, case.catalogue, until_s=UNTIL_S, length=5, decay=0.95, since_s=UNTIL_S - DAY_S
    )
    assert late.timestamp.min() >= UNTIL_S - DAY_S
    np.testing.assert_array_equal(late.history, pairs.history[-len(late) :])


def test_without_a_long_view_there_is_nothing_to_train_on(case):
    with pytest.raises(ValueError, match="nothing to train on"):
        training_pairs(case.log, case.catalogue, until_s=START_S, length=5, decay=0.95)


def test_a_row_step_by_hand():
    table = RowTable(3, 2)
    rows = torch.tensor([2])
    table.step(rows, torch.tensor([[3.0, 4.0]]), learning_rate=0.1)
    # The mean square is 12.5: a step of 0.1 / sqrt(12.5) times the gradient.
    expected = -0.1 * np.array([3.0, 4.0]) / np.sqrt(12.5)
    np.testing.assert_allclose(table.value[2].numpy(), expected, rtol=1e-6)
    assert not table.value[:2].any()
    table.step(rows, torch.tensor([[3.0, 4.0]]), learning_rate=0.1)
    np.testing.assert_allclose(table.square[2].item(), 25.0)


def test_duration_groups_are_half_octaves():
    assert duration_group(np.array([1.0, 4.0, 5.6, 5.7, 8.0, 1e6])).tolist() == [0, 0, 0, 1, 2, 11]


def test_loss_falls_and_taste_is_learnt(case, tower, config):
    assert tower.losses[-1] < tower.losses[0]
    encoder = make_encoder(tower, len(case.catalogue))
    old = np.flatnonzero(case.catalogue.upload_s < UNTIL_S)
    vectors = encoder.update(tower, old)
    rows = np.flatnonzero(case.log.timestamp >= UNTIL_S)[:100]
    batch = requests_at(case.users, items_of(case), case.log, small_config().state, rows)
    best = old[np.argsort(-(encoder.user_vectors(batch) @ vectors.T), axis=1)[:, :20]]
    right = case.kind_of_video[best] == case.kind_of_user[batch.user_idx][:, None]
    assert right.mean() > 0.6  # a quarter by chance


def test_an_upload_is_placed_by_its_content(case, tower):
    encoder = make_encoder(tower, len(case.catalogue))
    every = np.arange(len(case.catalogue))
    encoder.update(tower, every[case.catalogue.upload_s < UNTIL_S])
    new = every[case.catalogue.upload_s >= UNTIL_S]
    vectors = encoder.add_uploads(new, case.catalogue)
    rows = np.flatnonzero(case.log.timestamp >= UNTIL_S)[:100]
    batch = requests_at(case.users, items_of(case), case.log, small_config().state, rows)
    best = new[np.argsort(-(encoder.user_vectors(batch) @ vectors.T), axis=1)[:, :5]]
    right = case.kind_of_video[best] == case.kind_of_user[batch.user_idx][:, None]
    assert right.mean() > 0.5


def test_numpy_towers_equal_the_torch_module(case, tower):
    encoder = make_encoder(tower, len(case.catalogue))
    videos = np.arange(len(case.catalogue))
    vectors = encoder.update(tower, videos)
    with torch.inference_mode():
        inputs, bias = tower.encode_inputs(torch.from_numpy(videos))
        np.testing.assert_allclose(
            vectors, tower.model.items(inputs, bias).numpy(), rtol=1e-4, atol=1e-5
        )
        rows = np.flatnonzero(case.log.timestamp >= UNTIL_S)[:30]
        batch = requests_at(case.users, items_of(case), case.log, small_config().state, rows)
        history = batch.recent_positive.astype(np.int64)
        expected = tower.model.users(
            inputs[np.maximum(history, 0)],
            torch.from_numpy(history >= 0),
            torch.from_numpy(attribute_columns(case.users)[batch.user_idx]),
            torch.from_numpy(unit_profile(batch.tag_profile)),
        )
    np.testing.assert_allclose(encoder.user_vectors(batch), expected, rtol=1e-4, atol=1e-5)


def test_an_upload_is_a_video_whose_id_row_is_zero(case, tower):
    encoder = make_encoder(tower, len(case.catalogue))
    never = np.flatnonzero(tower.ids.value.abs().sum(dim=1).numpy() == 0)
    assert len(never)
    np.testing.assert_allclose(
        encoder.add_uploads(never, case.catalogue), encoder.update(tower, never), atol=1e-4
    )


def test_vectors_are_a_unit_direction_and_a_bias(case, tower):
    encoder = make_encoder(tower, len(case.catalogue))
    vectors = encoder.update(tower, np.arange(len(case.catalogue)))
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :-1], axis=1), 1.0, rtol=1e-5)
    assert vectors[:, -1].std() > 0


def test_a_user_without_history_or_account_has_a_vector(case, tower):
    encoder = make_encoder(tower, len(case.catalogue))
    encoder.update(tower, np.arange(len(case.catalogue)))
    batch = requests_at(case.users, items_of(case), case.log, small_config().state, np.array([0]))
    guest = type(batch)(**{**vars(batch), "user_idx": np.array([-1], dtype=np.int32)})
    assert (batch.recent_positive == -1).all()
    for one in (batch, guest):
        vector = encoder.user_vectors(one)
        assert np.isfinite(vector).all()
        assert vector[0, -1] == 1


def test_a_video_that_did_not_exist_is_no_negative(case, config, monkeypatch):
    from shorts_recommendation.retrieval import training

    pairs = training_pairs(case.log, case.catalogue, until_s=UNTIL_S, length=20, decay=0.95)
    tower = train_two_tower(
        pairs,
        case.catalogue,
        case.users,
        config.model_copy(update={"epochs": 1}),
        until_s=UNTIL_S,
        seed=0,
    )
    batches = TowerBatches(pairs, case.catalogue, tower, config, UNTIL_S, np.random.default_rng(0))
    asked = {}

    def spy(*args, **kwargs):
        asked.update(kwargs, item_idx=args[2])
        return real(*args, **kwargs)

    real = training.sampled_softmax_loss
    monkeypatch.setattr(training, "sampled_softmax_loss", spy)
    rows = np.arange(64)
    batches.train(rows, None, 0.01)
    columns = torch.cat([asked["item_idx"], asked["negative_idx"]]).numpy()
    later = case.catalogue.upload_s[columns][None] > pairs.timestamp[rows][:, None]
    np.testing.assert_array_equal(asked["exclude"].numpy(), later)
    assert later.any()
    assert not later[np.arange(64), np.arange(64)].any()
