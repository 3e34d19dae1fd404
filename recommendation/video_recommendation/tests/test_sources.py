"""Sources and their merge against loops; nothing seen is proposed, quotas hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_engineering.counters import EventCounter
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.top_k import tie_order
from video_recommendation.pipeline import with_live_counter
from video_recommendation.requests import batch_of_queries, single_request
from video_recommendation.retrieval.sources import (
    DAY_S,
    SOURCES,
    Retriever,
    merge_lists,
)

N_REQUESTS, N_ITEMS, QUOTA = 3, 8, 4
ROW = st.lists(st.integers(0, N_ITEMS - 1), max_size=QUOTA, unique=True)
LISTS = st.lists(ROW, min_size=N_REQUESTS, max_size=N_REQUESTS)


def padded(rows):
    return np.array([row + [-1] * (QUOTA - len(row)) for row in rows], dtype=np.int32)


@given(LISTS, LISTS)
def test_merge_is_the_loop(first, second):
    lists = {"a": padded(first), "b": padded(second)}
    request, item, rank = merge_lists(lists, {"a": QUOTA, "b": QUOTA}, N_ITEMS)
    got = {(q, i): tuple(r) for q, i, r in zip(request, item, rank.tolist(), strict=True)}
    expected = {}
    for q in range(N_REQUESTS):
        for i in {*first[q], *second[q]}:
            places = [row[q].index(i) if i in row[q] else QUOTA for row in (first, second)]
            expected[q, i] = tuple(places)
    assert got == expected
    assert len(request) == len(expected)  # every pair once
    assert (np.diff(request) >= 0).all()


def test_a_pool_is_in_tie_order_and_not_in_item_order():
    everything = np.arange(100, dtype=np.int32)[None]
    _, item, _ = merge_lists({"a": everything}, {"a": 100}, 100)
    np.testing.assert_array_equal(item, tie_order(100)[0])
    assert abs(np.corrcoef(item, np.arange(100))[0, 1]) < 0.3


@pytest.fixture(scope="module")
def asked(tiny_system):
    """200 requests of the test window and their candidates, with live counters."""
    data = tiny_system.data
    proposer = with_live_counter(tiny_system.trained.recommender.proposer, data)
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    batch = batch_of_queries(data.log, queries.subset(np.arange(0, len(queries), 5)[:200]))
    return proposer, batch, proposer.retrieve(batch), proposer.encoder.encode(batch)


def seen_pairs(batch):
    return set(zip(batch.owner.tolist(), batch.item_idx.tolist(), strict=True))


def test_nothing_seen_is_proposed_and_nothing_twice(asked):
    _, batch, candidates, _ = asked
    pairs = list(zip(candidates.owner.tolist(), candidates.item_idx.tolist(), strict=True))
    assert len(pairs) > 10_000
    assert len(set(pairs)) == len(pairs)
    assert not seen_pairs(batch) & set(pairs)


def test_quotas_hold_and_every_source_has_its_say(asked):
    proposer, batch, candidates, _ = asked
    for column, name in enumerate(SOURCES):
        quota = proposer.retriever.quotas[name]
        held, rank = candidates.in_source[:, column], candidates.rank[:, column]
        counts = np.bincount(candidates.owner[held], minlength=len(batch))
        if name == "fresh":  # here all items are older than the window; see the fresh test below
            assert counts.max() <= quota
        else:
            assert counts.max() == quota, name
        assert (rank[~held] == quota).all(), name
        for q in (0, len(batch) - 1):  # ranks of a source are 0, 1, 2, ... each once
            own = rank[held & (candidates.owner == q)]
            assert sorted(own) == list(range(len(own))), name
    assert candidates.in_source.any(axis=1).all()


def test_a_source_that_scores_ranks_by_its_score(asked):
    _, _, candidates, _ = asked
    for column in range(3):
        for q in (3, 50):
            rows = np.flatnonzero((candidates.owner == q) & candidates.in_source[:, column])
            by_rank = rows[np.argsort(candidates.rank[rows, column])]
            assert (np.diff(candidates.score[by_rank, column]) <= 1e-5).all()


def test_two_tower_list_and_scores_are_those_of_brute_force(asked):
    proposer, batch, candidates, vectors = asked
    retriever = proposer.retriever
    scores = vectors @ retriever.item_vectors.T
    scores[batch.owner, batch.item_idx] = -np.inf
    quota = retriever.quotas["two_tower"]
    for q in range(0, len(batch), 20):
        mine = candidates.owner == q
        found = set(candidates.item_idx[mine & candidates.in_source[:, 0]].tolist())
        best = np.argsort(-scores[q])[:quota]
        assert len(found & set(best.tolist())) >= quota - 1  # float ties at the border
        np.testing.assert_allclose(
            candidates.score[mine, 0],
            scores[q, candidates.item_idx[mine]] * retriever.inverse_temperature,
            rtol=1e-4,
            atol=1e-5,
        )


def test_co_visitation_and_ease_scores_are_weighted_sums(asked):
    proposer, batch, candidates, _ = asked
    models = proposer.retriever.item_item
    config = models.config
    dense = models.co_visitation.toarray()
    for q in (0, 77):
        items = batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]][::-1]  # latest first
        mine = candidates.owner == q
        wanted = candidates.item_idx[mine]
        votes = sum(
            np.exp(-n / config.history_decay) * dense[item, wanted]
            for n, item in enumerate(items[: config.history_length])
        )
        taste = sum(
            (np.exp(-n / config.ease_history_decay) + config.ease_floor) * models.ease[item, wanted]
            for n, item in enumerate(items)
        )
        np.testing.assert_allclose(candidates.score[mine, 1], votes, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(candidates.score[mine, 2], taste, rtol=1e-4, atol=1e-6)


def test_the_popular_list_is_that_of_counting_at_the_full_hour(asked, tiny_system):
    proposer, batch, candidates, _ = asked
    log = tiny_system.data.log
    quota = proposer.retriever.quotas["recent_popularity"]
    days = proposer.retriever.config.popular_days
    column = SOURCES.index("recent_popularity")
    for q in range(0, len(batch), 40):
        hour = batch.now[q] // 3600 * 3600
        inside = (log.timestamp < hour) & (log.timestamp >= hour - days * DAY_S)
        counts = np.bincount(log.item_idx[inside], minlength=log.n_items)
        counts[batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]]] = 0
        rows = np.flatnonzero((candidates.owner == q) & candidates.in_source[:, column])
        rows = rows[np.argsort(candidates.rank[rows, column])]
        expected = np.sort(counts)[::-1][:quota]
        assert counts[candidates.item_idx[rows]].tolist() == expected[expected > 0].tolist()


def small_retriever(tiny_system, item, time):
    """The tiny system's models with a counter of these events only."""
    retriever = tiny_system.trained.recommender.proposer.retriever
    counter = EventCounter(
        np.array(item, dtype=np.int32), np.array(time, dtype=np.int64), n_items=retriever.n_items
    )
    return dataclasses.replace(retriever, counter=counter)


def cold_candidates(tiny_system, retriever: Retriever, now: int):
    empty = np.empty(0)
    batch = single_request(-1, now, empty, empty, empty)
    encoder = tiny_system.trained.recommender.proposer.encoder
    return retriever.retrieve(batch, encoder.encode(batch))


def members(candidates, name):
    return sorted(candidates.item_idx[candidates.in_source[:, SOURCES.index(name)]].tolist())


def test_fresh_items_are_those_first_seen_within_the_window(tiny_system):
    now = 1000 * DAY_S + 1800
    hour, window = 1000 * DAY_S, int(30 * DAY_S)
    events = {
        1: [hour - window - 1, hour - 5],  # first seen too long ago, however recent since
        2: [hour - window],  # just inside
        3: [hour - 1],
        4: [hour],  # in the running hour: next list
        5: [now + 5],  # the future
    }
    pairs = [(item, time) for item, times in events.items() for time in times]
    retriever = small_retriever(tiny_system, *zip(*pairs, strict=True))
    found = cold_candidates(tiny_system, retriever, now)
    assert members(found, "fresh") == [2, 3]
    assert members(found, "recent_popularity") == [1, 2, 3]


def test_equal_counts_are_not_listed_by_item_number(tiny_system):
    """40 items with one event each, 20 places: by item number it would be the first 20."""
    now = 1000 * DAY_S
    retriever = small_retriever(tiny_system, np.arange(40), np.full(40, now - 5000))
    found = cold_candidates(tiny_system, retriever, now)
    chosen = members(found, "recent_popularity")
    assert len(chosen) == 20
    assert chosen != list(range(20))
    assert chosen != list(range(20, 40))


def test_without_any_event_there_is_nothing_popular_or_fresh(tiny_system):
    found = cold_candidates(tiny_system, small_retriever(tiny_system, [], []), 1000 * DAY_S)
    assert members(found, "recent_popularity") == members(found, "fresh") == []
    assert members(found, "co_visitation") == []  # no history, no vote
    assert len(members(found, "two_tower")) == 60


def test_window_counts_end_at_the_last_full_minute(tiny_system):
    retriever = small_retriever(tiny_system, [0, 0, 0], [DAY_S, 2 * DAY_S - 61, 2 * DAY_S])
    item = np.array([0])
    for now, expected in ((2 * DAY_S, 2), (2 * DAY_S + 59, 2), (2 * DAY_S + 60, 2)):
        # At +60 the event of second 2 * DAY_S comes in and that of DAY_S drops out.
        assert retriever.window_counts(item, np.array([now]), 1.0).tolist() == [expected]
    assert retriever.window_counts(item, np.array([2 * DAY_S + 60]), 2.0).tolist() == [3]


def test_take_keeps_requests(asked):
    _, batch, candidates, _ = asked
    rows = np.flatnonzero(candidates.owner != 1)[::3]
    part = candidates.take(rows, len(batch))
    assert len(part.ptr) == len(candidates.ptr)
    assert part.ptr[1] == part.ptr[2]  # request 1 stays, empty
    np.testing.assert_array_equal(part.owner, candidates.owner[rows])
    np.testing.assert_array_equal(part.score, candidates.score[rows])
