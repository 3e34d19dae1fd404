"""The published protocol: what a model may see, what is measured, and what the table says."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.datasets import load_dataset
from ml_platform.data.interactions import InteractionLog, build_interaction_log
from ml_platform.data.splits import stratified_random_split
from ml_platform.data.synthetic import SyntheticConfig
from video_recommendation.published_table import scorers, stack, table, time_scorers
from video_recommendation.published_table.context import Side, time_context_features
from video_recommendation.published_table.train_part import TrainPart, inner_folds, standardise

SMOKE = table.PublishedTableConfig(
    dataset="synthetic", seeds=(1,), candidates=20, epochs=2, workers=1
)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(
        "synthetic", synthetic=SyntheticConfig(n_users=50, n_items=60, n_interactions=1500)
    )


@pytest.fixture(scope="module")
def log(dataset):
    return build_interaction_log(dataset)


@pytest.fixture(scope="module")
def split(log):
    test = stratified_random_split(log, seed=1)
    return log.select(~test), log.select(test)


@pytest.fixture(scope="module")
def lists(dataset, split):
    return table.recommend(split[0], Side.of(dataset), SMOKE, seed=1)


def tiny_part(rated, timestamp=None):
    rated = np.asarray(rated, np.float32)
    at = np.zeros(rated.shape) if timestamp is None else np.asarray(timestamp, np.float64)
    return TrainPart(rated, 3.0 * rated, at)


def pairs(log: InteractionLog) -> set[tuple[int, int]]:
    return set(zip(log.user_idx.tolist(), log.item_idx.tolist(), strict=True))


# --- the protocol -------------------------------------------------------------------------------


def test_no_test_row_is_trained_on_and_none_is_lost(log, split):
    train, test = split
    assert not pairs(train) & pairs(test)
    assert pairs(train) | pairs(test) == pairs(log)
    assert len(test) / len(log) == pytest.approx(0.25, abs=0.02)


def test_folds_hide_each_train_row_once_and_nothing_else(split):
    train, _ = split
    hidden = np.zeros((train.n_users, train.n_items))
    for part, labels in inner_folds(train, n_folds=4, seed=3):
        assert not np.any(part.rated * labels)
        np.testing.assert_array_equal(part.rated + labels, TrainPart.of(train).rated)
        hidden += labels
        # Spread evenly within a user: no fold takes more than one row above its share.
        share = np.diff(train.user_ptr) / 4
        assert np.all(np.abs(labels.sum(axis=1) - share) < 1)
    np.testing.assert_array_equal(hidden, TrainPart.of(train).rated)


def test_lists_and_choices_do_not_depend_on_the_test_part(dataset, log, split, lists):
    # Another world, in which the same users went on to other items, with the same train rows.
    _, test = split
    moved = replace(test, item_idx=(test.item_idx + 1) % test.n_items)
    assert pairs(moved) != pairs(test)
    mask = ~stratified_random_split(log, seed=1)
    other = replace(log, item_idx=log.item_idx.copy(), rating=log.rating.copy())
    other.item_idx[~mask] = moved.item_idx
    other.rating[~mask] = 1.0
    again = table.recommend(other.select(mask), Side.of(dataset), SMOKE, seed=1)
    assert again.keys() == lists.keys() == table.LABELS.keys()
    for model, items in lists.items():
        np.testing.assert_array_equal(items, again[model], err_msg=model)


def test_lists_are_ten_unseen_items_of_the_whole_catalogue(split, lists):
    seen = TrainPart.of(split[0]).rated
    for items in lists.values():
        assert items.shape == (seen.shape[0], 10)
        assert items.min() >= 0
        assert items.max() < seen.shape[1]
        assert not np.take_along_axis(seen, items, axis=1).any()
        assert all(len(set(row)) == 10 for row in items.tolist())


def test_metrics_equal_a_plain_computation(split, lists):
    test = split[1]
    users, values = table.measure(lists, test)
    for place, user in enumerate(users.tolist()):
        relevant = set(test.item_idx[test.user_ptr[user] : test.user_ptr[user + 1]].tolist())
        for model, items in lists.items():
            hit, gain, precisions = 0, 0.0, 0.0
            for rank, item in enumerate(items[user].tolist(), start=1):
                if item in relevant:
                    hit += 1
                    gain += 1 / np.log2(rank + 1)
                    precisions += hit / rank
            ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(10, len(relevant)) + 1))
            expected = (precisions / len(relevant), gain / ideal, hit / 10, hit / len(relevant))
            measured = [values[model][metric][place] for metric in table.METRICS]
            assert measured == pytest.approx(expected), (model, user)


def test_a_user_without_test_rows_is_not_counted():
    none = np.zeros(1, np.int64)
    test = InteractionLog(
        user_ptr=np.array([0, 0, 2]), item_idx=np.array([3, 4], np.int32),
        rating=np.ones(2, np.float32), timestamp=np.repeat(none, 2),
        user_ids=np.arange(2), item_ids=np.arange(20),
    )  # fmt: skip
    users, values = table.measure({"m": np.tile(np.arange(10, dtype=np.int32), (2, 1))}, test)
    assert users.tolist() == [1]
    assert values["m"]["recall@10"].tolist() == [1.0]


# --- the pieces ---------------------------------------------------------------------------------


def test_z_scores_look_at_unseen_items_only():
    part = tiny_part([[1, 0, 0, 0]])
    z = standardise(np.array([[1e6, 1.0, 2.0, 3.0]]), part)
    np.testing.assert_allclose(z[0, 1:], [-1.2247449, 0.0, 1.2247449], rtol=1e-5)


def test_ease_of_a_gram_matrix_is_ease(split):
    part = TrainPart.of(split[0])
    ours = scorers.ease_of_gram(part.rated.T @ part.rated, reg=20.0)
    np.testing.assert_allclose(ours, fit_ease(part.matrix, reg=20.0), atol=1e-5)


def test_near_gram_without_decay_counts_common_users(split):
    part = TrainPart.of(split[0])
    gram = time_scorers.near_gram(
        part, time_scorers.pair_gaps(part), lambda dt, dr: np.ones_like(dt)
    )
    np.testing.assert_array_equal(gram, part.rated.T @ part.rated)


def test_pair_gaps_share_the_place_of_ties():
    part = tiny_part([[1, 1, 1, 1]], timestamp=[[50, 10, 10, 20]])
    ((items, seconds, ratings),) = time_scorers.pair_gaps(part)
    assert items.tolist() == [0, 1, 2, 3]
    assert seconds[0].tolist() == [0, 40, 40, 30]
    # In time order items 1 and 2 share places 0 and 1, item 3 is at 2 and item 0 at 3.
    assert ratings[0].tolist() == [0, 2.5, 2.5, 1]
    assert ratings[1].tolist() == [2.5, 0, 0, 1.5]


def test_in_season_prefers_what_is_rated_on_the_users_days():
    day = time_scorers.SECONDS_PER_DAY
    rated = np.zeros((21, 3))
    at = np.zeros((21, 3))
    rated[:10, 0], rated[10:20, 1], rated[20, 2] = 1, 1, 1  # item 0 early, item 1 late
    at[10:20, 1], at[20, 2] = 100 * day, 100 * day  # the last user comes late
    scores = time_scorers.in_season(tiny_part(rated, at), 2.0)
    assert scores[20, 1] > 0 > scores[20, 0]


def test_an_item_without_train_rows_has_no_dates():
    facts = time_context_features(tiny_part([[1, 0], [1, 0]], [[5, 0], [7, 0]]))
    assert np.isnan(facts["since_item_first_days"][:, 1]).all()
    assert np.isfinite(facts["since_item_first_days"][:, 0]).all()


def test_strongest_votes_takes_the_largest():
    similarity = np.array([[0, 5, 1], [5, 0, 2], [1, 2, 0]], np.float32)
    part = tiny_part([[1, 1, 0], [0, 0, 0]])
    assert scorers.strongest_votes(similarity, part, 1)[0].tolist() == [5, 5, 2]
    assert scorers.strongest_votes(similarity, part, 9)[0].tolist() == [5, 5, 3]
    assert scorers.strongest_votes(similarity, part, 1)[1].tolist() == [0, 0, 0]


def test_the_stack_learns_which_scorer_to_trust(split):
    rng = np.random.default_rng(0)
    part = TrainPart.of(split[0])
    truth = (rng.random(part.shape) < 0.3).astype(np.float32) * (1 - part.rated)
    items = np.tile(np.arange(part.shape[1], dtype=np.int32), (part.shape[0], 1))
    features = np.stack([rng.random(part.shape), truth + 0.1 * rng.random(part.shape)], axis=2)
    candidates = stack.CandidateTable(items, features.astype(np.float32), ("noise", "truth"))
    settings = stack.StackSettings(networks=2, lists_per_step=4)
    fitted = stack.fit_stack([candidates], [truth], settings)
    scores = stack.stack_scores(fitted, candidates, part.shape)
    for row, hidden in zip(scores, truth, strict=True):
        assert row[hidden == 1].min() > row[hidden == 0].max()


def test_a_stack_without_anything_to_learn_from_is_refused(split):
    part = TrainPart.of(split[0])
    items = np.full((part.shape[0], 3), -1, np.int32)
    empty = stack.CandidateTable(items, np.zeros((*items.shape, 1), np.float32), ("x",))
    with pytest.raises(ValueError, match="raise the number of candidates"):
        stack.fit_stack([empty], [np.ones(part.shape, np.float32)], stack.StackSettings())


def test_a_part_that_is_too_large_to_be_dense_is_refused(log):
    many = replace(log, item_ids=np.arange(10**6))
    with pytest.raises(ValueError, match="50 users x 1000000 items"):
        TrainPart.of(many)


# --- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(dataset):
    return table.reproduce_table(SMOKE, dataset=dataset)


def test_smoke_run_writes_every_row(dataset, measured, tmp_path):
    results = table.to_results(measured, dataset, root=tmp_path)
    results.write(tmp_path / "published_table.json")
    written = json.loads((tmp_path / "published_table.json").read_text())["metrics"]
    for model in table.LABELS:
        for metric in table.METRICS:
            key = f"published_table/{model}/{metric}"
            assert written[key]["value"] == pytest.approx(
                measured.per_seed(model, metric).mean(), abs=1e-5
            )
            assert ("timestamps" in written[key]["protocol"]) == (model in table.USES_TIME)
    assert written["published_table/stack/ndcg@10_over_ials"]["low"] is not None


def test_published_figures_stand_only_beside_the_data_they_belong_to(measured):
    assert "SYNTHETIC" in printed(measured)
    assert "BiVAE" not in printed(measured)
    real = replace(
        measured,
        config=SMOKE.model_copy(update={"dataset": "movielens-100k"}),
        synthetic=False,
    )
    assert "0.4751" in printed(real)
    assert "SYNTHETIC" not in printed(real)


def printed(measured: table.Table) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(table.render(measured))
    return capture.get()
