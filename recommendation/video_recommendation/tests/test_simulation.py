"""The simulated world: its probabilities are what it says, its best list is the best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ml_platform.data.schema import canonical_tables
from video_recommendation.config import DataConfig
from video_recommendation.data import system_data
from video_recommendation.simulation.history import items_table
from video_recommendation.simulation.world import World, WorldConfig

SMALL = WorldConfig(n_users=30, n_items=60, n_sessions=300, n_new_items_per_day=5, n_days=3, seed=7)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL)


def test_watch_probability_of_one_pair_by_hand(world: World) -> None:
    taste = float(world.user_factors[3] @ world.item_factors[11]) / np.sqrt(6)
    logit = 1.5 * taste + float(world.quality[11]) - 2.0

    found = world.watch_probability(3, np.array([11]))

    assert found[0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_examination_falls_with_the_position(world: World) -> None:
    np.testing.assert_allclose(world.examine_probability(4), [1, 2**-0.5, 3**-0.5, 0.5])
    flat = World(WorldConfig(**{**vars(SMALL), "position_bias": 0.0}))
    np.testing.assert_allclose(flat.examine_probability(4), 1.0)


def test_answers_come_with_the_stated_probabilities(world: World) -> None:
    items, rng, n = np.arange(5), np.random.default_rng(0), 4_000
    answers = [world.respond(2, items, rng) for _ in range(n)]
    examined = np.mean([a.examined for a in answers], axis=0)
    watched = np.mean([a.watched for a in answers], axis=0)

    examine, watch = world.examine_probability(5), world.watch_probability(2, items)
    error = 4 * np.sqrt(0.25 / n)  # four standard errors of a share, at most
    np.testing.assert_allclose(examined, examine, atol=error)
    np.testing.assert_allclose(watched, examine * watch, atol=error)
    assert not any((a.watched & ~a.examined).any() for a in answers)

    delay = np.concatenate([a.delay_s[a.watched] for a in answers])
    assert (delay > 0).all()
    for hours in (1, 4, 24):
        share = (delay <= hours * 3600).mean()
        assert share == pytest.approx(world.known_within(hours * 3600), abs=0.04)
    rated = np.concatenate([a.rating[a.watched] > 0 for a in answers])
    assert rated.mean() == pytest.approx(0.5, abs=0.05)
    assert all((a.rating[~a.watched] == 0).all() for a in answers)


def test_known_within_has_the_median_and_the_quoted_tail(world: World) -> None:
    assert world.known_within(1_800) == pytest.approx(0.5)
    assert world.known_within(0) == 0.0
    assert 1 - world.known_within(4 * 3600) == pytest.approx(1 / 8, abs=0.01)
    assert 1 - world.known_within(24 * 3600) == pytest.approx(1 / 60, abs=0.002)
    exact = World(WorldConfig(**{**vars(SMALL), "delay_log_sd": 0.0}))
    assert (exact.known_within(1_799), exact.known_within(1_800)) == (0.0, 1.0)


def test_best_value_equals_the_best_of_all_lists(world: World) -> None:
    few = np.array([4, 9, 17, 30, 41])
    by_trial = max(
        world.expected_value(6, np.array(order)) for order in itertools.permutations(few, 3)
    )

    assert world.best_value(6, few, 3) == pytest.approx(by_trial)
    assert world.best_value(6, few, 10) == pytest.approx(world.best_value(6, few, 5))
    assert world.best_value(6, few[:0], 3) == 0.0


def test_what_was_watched_before_is_not_watched_again(world: World) -> None:
    items, again = np.arange(8), np.arange(8) < 4
    answers = [
        world.respond(1, items, np.random.default_rng(seed), already_watched=again)
        for seed in range(300)
    ]
    free = [world.respond(1, items, np.random.default_rng(seed)) for seed in range(300)]

    assert not any(a.watched[:4].any() for a in answers)
    assert any(a.watched[:4].any() for a in free)
    # The luck of the other positions is untouched.
    assert all((a.watched[4:] == b.watched[4:]).all() for a, b in zip(answers, free, strict=True))


def test_two_lists_meet_the_same_luck(world: World) -> None:
    one = world.respond(1, np.array([3, 5, 8]), np.random.default_rng(5))
    two = world.respond(1, np.array([9, 5, 2]), np.random.default_rng(5))

    np.testing.assert_array_equal(one.examined, two.examined)
    assert one.watched[1] == two.watched[1]


def test_same_seed_same_world_other_seed_another(world: World) -> None:
    twin, other = World(SMALL), World(WorldConfig(**{**vars(SMALL), "seed": 8}))

    assert twin.dataset().sha256 == world.dataset().sha256
    assert other.dataset().sha256 != world.dataset().sha256
    np.testing.assert_array_equal(twin.quality, world.quality)


def test_items_are_published_day_by_day(world: World) -> None:
    assert [len(world.available(day)) for day in (-1, 0, 1, 2, 9)] == [60, 65, 70, 75, 75]
    np.testing.assert_array_equal(world.available(1), np.arange(70))
    assert world.day_start(1) - world.day_start(0) == 86_400


def test_the_history_is_a_valid_dataset_before_day_0(world: World) -> None:
    dataset = world.dataset()
    canonical_tables(dataset.interactions, dataset.items, dataset.users)

    times = dataset.interactions["timestamp"]
    assert times.max() < world.day_start(0)
    assert times.min() >= world.day_start(-SMALL.history_days)
    published = world.published_day[dataset.interactions["item_id"] - 1]
    # A session that starts before midnight may go on after it, never the other way round.
    assert (times.to_numpy() >= [world.day_start(int(day)) for day in published]).all()
    assert dataset.synthetic
    data = system_data(dataset, DataConfig())
    np.testing.assert_array_equal(data.catalogue.item_ids, world.item_ids[:60])
    assert data.windows.train_end < data.windows.validation_end < world.day_start(0)


def test_what_the_history_watched_is_wanted_more_than_the_rest(world: World) -> None:
    table = world.dataset().interactions
    users, items = table["user_id"].to_numpy() - 1, table["item_id"].to_numpy() - 1
    watched = np.mean([
        world.watch_probability(u, np.array([i]))[0] for u, i in zip(users, items, strict=True)
    ])  # fmt: skip
    everything = np.mean([world.watch_probability(u, np.arange(60)).mean() for u in range(30)])

    assert watched > 1.5 * everything


def test_an_item_row_says_taste_but_not_quality(world: World) -> None:
    better = World(SMALL)
    better.quality = better.quality + 1.0
    rows = items_table(world, np.arange(75))

    assert rows.equals(items_table(better, np.arange(75)))
    assert (rows["genres"] != "").all()
    assert rows["genres"].nunique() > 5


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_users", 0, "n_users must be above 0, got 0"),
        ("position_bias", -1.0, "position_bias must be at least 0, got -1.0"),
        ("slate_size", 61, "slate_size 61 is more than n_items 60"),
        ("rating_share", 1.5, "rating_share must be at most 1, got 1.5"),
    ],
)
def test_an_impossible_config_is_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**{**vars(SMALL), field: value})
