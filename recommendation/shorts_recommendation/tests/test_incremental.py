"""Online learning between two trainings: what it may know, what it changes, what it must gain."""

from __future__ import annotations

import numpy as np
import pytest
from retrieval_case import START_S, items_of, make_case, small_config

from shorts_recommendation.evaluation.retrieval_queries import session_queries
from shorts_recommendation.log import DAY_S
from shorts_recommendation.retrieval.fitting import fit_with_tower
from shorts_recommendation.retrieval.incremental import OnlineTrainer, make_ways, replay_ways
from shorts_recommendation.retrieval.incremental_command import only_new
from shorts_recommendation.retrieval.pairs import training_pairs

UNTIL_S, END_S = START_S + 6 * DAY_S, START_S + 8 * DAY_S


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture(scope="module")
def config():
    return small_config()


@pytest.fixture(scope="module")
def fitted(case, config):
    return fit_with_tower(case, UNTIL_S, config, 0)


@pytest.fixture(scope="module")
def pairs(case, config):
    return training_pairs(
        case.log, case.catalogue, until_s=END_S, since_s=UNTIL_S - DAY_S, length=20, decay=0.95
    )


def test_an_update_moves_id_rows_that_it_read_and_nothing_else(case, config, fitted, pairs):
    _, tower = fitted
    trainer = OnlineTrainer(tower, case.catalogue, config.two_tower, pairs, seed=0)
    changed = trainer.update(UNTIL_S, UNTIL_S + 6 * 3600)
    moved = (trainer.tower.ids.value != tower.ids.value).any(dim=1).numpy()
    assert moved.any()
    assert not moved[np.setdiff1d(np.arange(len(case.catalogue)), changed)].any()
    assert (trainer.tower.creators.value == tower.creators.value).all()
    for mine, before in zip(
        trainer.tower.model.parameters(), tower.model.parameters(), strict=True
    ):
        assert (mine == before).all()


def test_a_period_without_a_long_view_changes_nothing(case, config, fitted, pairs):
    trainer = OnlineTrainer(fitted[1], case.catalogue, config.two_tower, pairs, seed=0)
    assert len(trainer.update(END_S + DAY_S, END_S + 2 * DAY_S)) == 0


def test_learning_raises_the_score_of_what_was_watched(case, config, fitted, pairs):
    """Several passes over one day pull its videos towards the users who watched them."""
    _, tower = fitted
    trainer = OnlineTrainer(tower, case.catalogue, config.two_tower, pairs, seed=0)
    day = pairs.take((pairs.timestamp >= UNTIL_S) & (pairs.timestamp < UNTIL_S + DAY_S))
    before = _loss(case, config, tower, day)
    for _ in range(5):
        trainer.update(UNTIL_S, UNTIL_S + DAY_S)
    assert _loss(case, config, trainer.tower, day) < before


def test_ways_know_only_what_came_before(case, config, fitted, pairs):
    retriever, tower = fitted
    ways = make_ways(
        tower,
        retriever.encoder,
        retriever.vectors,
        case.catalogue,
        config.two_tower,
        pairs,
        start_s=UNTIL_S,
        periods_s=(DAY_S, 3600),
        seed=0,
    )
    assert [way.name for way in ways] == ["frozen", "uploads", "online_1440m", "online_60m"]
    queries = session_queries(case, items_of(case), config, UNTIL_S, END_S, most=60)
    lists = replay_ways(ways, queries.batch, case.catalogue, grid_s=3600, k=20)
    upload_s, now_s = case.catalogue.upload_s, queries.batch.now_s
    assert (upload_s[lists["frozen"]] < UNTIL_S).all()
    for name in ("uploads", "online_60m"):
        assert (upload_s[lists[name]] <= now_s[:, None]).all()
        assert (upload_s[lists[name]] >= UNTIL_S).any()
    for b in range(len(now_s)):
        for name in lists:
            assert not np.isin(lists[name][b], queries.batch.seen[b]).any()
    daily, hourly = ways[2], ways[3]
    assert len(hourly.update_s) == (now_s[-1] // 3600 * 3600 - UNTIL_S) // 3600
    assert hourly.learnt_until_s <= now_s[-1]
    assert len(daily.update_s) == (now_s[-1] - UNTIL_S) // DAY_S
    # Until its first update a learning way is the one that only takes uploads.
    early = now_s < UNTIL_S + DAY_S
    np.testing.assert_array_equal(lists["online_1440m"][early], lists["uploads"][early])
    assert (lists["online_60m"] != lists["uploads"]).any()


def test_a_synchronised_retriever_holds_the_new_vectors(case, config, fitted, pairs):
    retriever, tower = fitted
    mine = retriever.resized(retriever.config)
    trainer = OnlineTrainer(tower, case.catalogue, config.two_tower, pairs, seed=0)
    changed = trainer.update(UNTIL_S, UNTIL_S + DAY_S)
    old = changed[case.catalogue.upload_s[changed] < UNTIL_S][:50]
    before = mine.vectors[old].copy()
    mine.sync(trainer.tower, old)
    assert (np.abs(mine.vectors[old] - before).max(axis=1) > 0).any()
    exact = mine.index.videos[np.argsort(-(mine.vectors[mine.index.videos] @ before[0]))[:5]]
    assert mine.index.search(before[:1], 5)[0].tolist() == exact.tolist()


def test_only_new_keeps_queries_about_new_videos(case, config):
    queries = session_queries(case, items_of(case), config, UNTIL_S, END_S, most=60)
    found = only_new(queries, case.catalogue.upload_s, UNTIL_S)
    assert found is not None
    rows, part = found
    assert (case.catalogue.upload_s[part.relevant] >= UNTIL_S).all()
    assert len(part) == len(rows)
    assert part.n_relevant.min() >= 1
    assert only_new(queries, case.catalogue.upload_s, END_S + 1) is None


def _loss(case, config, tower, pairs):
    from shorts_recommendation.retrieval.training import TowerBatches

    still = config.two_tower.model_copy(update={"id_dropout": 0.0})
    batches = TowerBatches(
        pairs, case.catalogue, tower, still, UNTIL_S + DAY_S, np.random.default_rng(1)
    )
    return batches.train(np.arange(len(pairs)), None, 0.0)
