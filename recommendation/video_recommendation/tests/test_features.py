"""Features are what was known at the request's own second: by hand, and when the future changes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from handmade import make_batch, make_catalogue, make_log, make_users

from feature_engineering.counters import TICK_S, EventCounter, as_of
from feature_engineering.schema import Group
from ml_platform.data.interactions import InteractionLog
from ml_platform.data.splits import next_event_queries
from video_recommendation.features import (
    PRERANK_FEATURES,
    SCHEMA,
    FeatureBuilder,
    ItemStatistics,
    fit_item_statistics,
)
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.sources import DAY_S, SOURCES, Candidates

# --- by hand ------------------------------------------------------------------------------------

NOW = 100 * DAY_S + 30  # 30 s into a minute: counters are as of 100 * DAY_S
CATALOGUE = make_catalogue(
    [("Drama",), ("Comedy", "Drama"), (), ("Comedy",)], years=[1990, 1994, 0, 2000]
)
EVENTS = [  # item, second
    (3, NOW - 40 * DAY_S),
    (3, 100 * DAY_S - 3 * DAY_S),
    (3, 100 * DAY_S - 1),
    (3, 100 * DAY_S + 10),  # within the minute: known to the history, not to the counter
    (3, NOW + 500),  # the future
    (2, NOW + 500),
]
VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, -0.6]], dtype=np.float32)


class HandRetriever:
    """What the builder reads of a retriever."""

    item_vectors = VECTORS
    counter = EventCounter(
        np.array([i for i, _ in EVENTS], dtype=np.int32),
        np.array([t for _, t in EVENTS], dtype=np.int64),
        n_items=4,
    )

    def window_counts(self, item_idx, now, days):
        end = as_of(now)
        return self.counter.between(item_idx, end - int(days * DAY_S), end)


@pytest.fixture(scope="module")
def by_hand():
    """Two requests: user 4 after two films, offered items 3 and 2; a cold one, offered 3."""
    batch = make_batch(
        [[(0, 5.0, NOW - 7200), (1, 2.0, NOW - 99)], []], now=[NOW, NOW], user_idx=[4, -1]
    )
    candidates = Candidates(
        ptr=np.array([0, 2, 3]),
        item_idx=np.array([3, 2, 3], dtype=np.int32),
        rank=np.array([[0, 40, 80, 60, 20], [220, 3, 80, 5, 20], [1, 2, 3, 4, 5]], dtype=np.int16),
        in_source=np.array([[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=bool),
        score=np.arange(9, dtype=np.float32).reshape(3, 3),
    )
    statistics = ItemStatistics(
        np.array([3, 3, 3.25, 4], dtype=np.float32), np.array([0, 0, 0.25, 1], dtype=np.float32)
    )
    builder = FeatureBuilder(CATALOGUE, make_users(6), statistics)
    retriever = HandRetriever()
    return SimpleNamespace(
        matrix=builder.matrix(batch, candidates, retriever),
        prerank=builder.prerank_matrix(batch, candidates, retriever),
    )


HAND = {
    "two_tower_score": [0, 3, 6],
    "co_visitation_score": [1, 4, 7],
    "ease_score": [2, 5, 8],
    "two_tower_rank": [0, 220, 1],
    "fresh_rank": [20, 20, 5],
    "n_sources": [1, 2, 5],
    "last_event_similarity": [-0.6, 0.8, 0],
    "recent_similarity": [(0.8 - 0.6) / 2, (0.6 + 0.8) / 2, 0],
    "genre_affinity": [1 / 2, 0, 0],  # one of two films is a comedy; item 2 has no genre
    "recent_genre_affinity": [1 / 2, 0, 0],
    "genre_liking": [(2 - 3.5) / 2, 0, 0],  # the comedy got a 2
    "year_distance": [2000 - 1992, 20, 20],  # unknown year, no history: the default
    "log_count_all": [np.log(4), 0, np.log(4)],
    "log_count_30d": [np.log(3), 0, np.log(3)],
    "log_count_7d": [np.log(3), 0, np.log(3)],
    "log_count_1d": [np.log(2), 0, np.log(2)],
    "trend": [np.log(3 / (14 / 30 + 1)), 0, np.log(3 / (14 / 30 + 1))],
    "age_days": [40, -1, 40],  # item 2 is first seen in the future
    "mean_rating": [4, 3.25, 4],
    "like_share": [1, 0.25, 1],
    "year": [2000, 0, 2000],
    "history_length": [2, 2, 0],
    "user_mean_rating": [(7 + 3.5) / 3, (7 + 3.5) / 3, 3.5],
    "age_group": [4, 4, 0],
    "gender": [1, 1, 0],
    "log_gap_s": [np.log(100), np.log(100), 20],
    "sitting_events": [1, 1, 0],
    "pool_size": [2, 2, 1],
}


@pytest.mark.parametrize("name", HAND)
def test_a_feature_by_hand(by_hand, name):
    column = by_hand.matrix[:, SCHEMA.names.index(name)]
    np.testing.assert_allclose(column, HAND[name], rtol=1e-5, atol=1e-6)


def test_every_feature_is_checked_by_hand():
    ranks = {f"{name}_rank" for name in SOURCES}
    assert set(HAND) | ranks == set(SCHEMA.names)


def test_prerank_features_are_those_of_the_ranker(by_hand):
    columns = [SCHEMA.names.index(name) for name in PRERANK_FEATURES]
    np.testing.assert_allclose(by_hand.prerank, by_hand.matrix[:, columns], rtol=1e-6)


def test_the_schema_declares_what_it_should():
    for spec in SCHEMA.specs:
        assert spec.group in get_args(Group), spec.name
        assert spec.owner == "video_recommendation.features"
        assert spec.freshness in {"bundle", "60 s", "request"}, spec.name


def test_item_statistics_by_hand():
    log = make_log([(0, 0, 5.0, 1), (0, 1, 3.0, 2), (1, 0, 4.0, 3)], n_users=2, n_items=3)
    got = fit_item_statistics(log, 4.0)
    np.testing.assert_allclose(got.mean_rating, [(9 + 40) / 12, (3 + 40) / 11, 4.0], rtol=1e-6)
    prior = 10 * 2 / 3
    np.testing.assert_allclose(got.like_share, [(2 + prior) / 12, prior / 11, 2 / 3], rtol=1e-6)


# --- leakage ------------------------------------------------------------------------------------


def propose(tiny_system, log: InteractionLog, queries):
    """Candidates and features of queries, with live counters over this log."""
    proposer = tiny_system.trained.recommender.proposer
    counter = EventCounter(log.item_idx, log.timestamp, n_items=log.n_items)
    proposer = dataclasses.replace(
        proposer, retriever=dataclasses.replace(proposer.retriever, counter=counter)
    )
    return proposer.propose(batch_of_queries(log, queries))


def assert_same_proposal(got, expected):
    for field in dataclasses.fields(Candidates):
        np.testing.assert_array_equal(
            getattr(got[0], field.name), getattr(expected[0], field.name), err_msg=field.name
        )
    for column, name in enumerate(SCHEMA.names):
        np.testing.assert_array_equal(got[1][:, column], expected[1][:, column], err_msg=name)
    np.testing.assert_array_equal(got[2], expected[2])


@pytest.fixture(scope="module")
def moment(tiny_system):
    """A second of the test window with an event of its own, and its query."""
    log, windows = tiny_system.data.log, tiny_system.data.windows
    queries = next_event_queries(log, windows.validation_end, None)
    # A long history, so that dropped events of the same user would show, and well into a minute.
    length = queries.history_end - queries.history_begin
    number = int(np.argmax(np.where(queries.timestamp % TICK_S > 10, length, -1)))
    return int(queries.timestamp[number]), queries.subset(np.array([number]))


def query_in(log: InteractionLog, time: int, user: int):
    queries = next_event_queries(log, time, time + 1)
    return queries.subset(queries.user_idx == user)


def appended(log: InteractionLog, time: int, user: int) -> InteractionLog:
    """The log with 300 more events from ``time`` on, some of them the user's own."""
    rng = np.random.default_rng(0)
    users = np.append(rng.integers(0, log.n_users, 290), np.full(10, user))
    events = [
        (int(u), int(i), float(r), time + int(s))
        for u, i, r, s in zip(
            users,
            rng.integers(0, log.n_items, 300),
            rng.integers(1, 6, 300),
            np.where(users == user, 1, 0) + rng.integers(0, 10**6, 300),
            strict=True,
        )
    ]
    old = list(zip(log.user_idx, log.item_idx, log.rating, log.timestamp, strict=True))
    merged = make_log(old + events, n_users=log.n_users, n_items=log.n_items)
    return dataclasses.replace(merged, user_ids=log.user_ids, item_ids=log.item_ids)


def test_later_events_of_anyone_change_no_feature(tiny_system, moment):
    log, (time, query) = tiny_system.data.log, moment
    user = int(query.user_idx[0])
    expected = propose(tiny_system, log, query)
    assert len(expected[0].item_idx) > 50
    # Without any event after this second ...
    past = log.select(log.timestamp <= time)
    assert len(past) < len(log)
    assert_same_proposal(propose(tiny_system, past, query_in(past, time, user)), expected)
    # ... without this very second, apart from the event that is asked about ...
    own = (log.user_idx == user) & (log.timestamp == time)
    bare = log.select((log.timestamp < time) | own)
    assert_same_proposal(propose(tiny_system, bare, query_in(bare, time, user)), expected)
    # ... and with many more.
    more = appended(log, time, user)
    assert len(more) == len(log) + 300
    assert_same_proposal(propose(tiny_system, more, query_in(more, time, user)), expected)


def with_others(log: InteractionLog, user: int, items: np.ndarray, time: int) -> InteractionLog:
    """The log with an event of another user for each of the items."""
    old = list(zip(log.user_idx, log.item_idx, log.rating, log.timestamp, strict=True))
    new = [((user + 1) % log.n_users, int(item), 5.0, time) for item in items]
    merged = make_log(old + new, n_users=log.n_users, n_items=log.n_items)
    return dataclasses.replace(merged, user_ids=log.user_ids, item_ids=log.item_ids)


def test_events_of_others_within_the_minute_are_not_counted_yet(tiny_system, moment):
    log, (time, query) = tiny_system.data.log, moment
    user, minute = int(query.user_idx[0]), int(as_of(time))
    assert minute < time
    expected = propose(tiny_system, log, query)
    more = with_others(log, user, expected[0].item_idx, minute)
    assert_same_proposal(propose(tiny_system, more, query_in(more, time, user)), expected)


def test_events_before_the_minute_do_count(tiny_system, moment):
    """The guard of the tests above: what may be known does change the features."""
    log, (time, query) = tiny_system.data.log, moment
    user, minute = int(query.user_idx[0]), int(as_of(time))
    candidates, features, _ = propose(tiny_system, log, query)
    more = with_others(log, user, candidates.item_idx[:1], minute - 1)
    column = SCHEMA.names.index("log_count_all")
    again = propose(tiny_system, more, query_in(more, time, user))
    place = np.flatnonzero(again[0].item_idx == candidates.item_idx[0])
    before, after = np.expm1(features[0, column]), np.expm1(again[1][place, column])
    assert after == pytest.approx(before + 1, rel=1e-5)


def test_dropping_the_test_window_changes_no_training_row(tiny_system):
    """The ranker's rows come from the validation window: nothing of the test window is in them."""
    log, windows = tiny_system.data.log, tiny_system.data.windows
    known = log.select(log.timestamp < windows.validation_end)
    part = slice(0, None, 20)

    def rows(source):
        queries = next_event_queries(source, windows.train_end, windows.validation_end)
        return propose(tiny_system, source, queries.subset(part))

    assert_same_proposal(rows(known), rows(log))


def test_many_requests_give_what_each_gives_alone(tiny_system):
    log, windows = tiny_system.data.log, tiny_system.data.windows
    queries = next_event_queries(log, windows.validation_end, None)
    queries = queries.subset(np.arange(0, len(queries), 40))
    candidates, features, prerank = propose(tiny_system, log, queries)
    assert len(queries) > 15
    for q in range(len(queries)):
        rows = slice(candidates.ptr[q], candidates.ptr[q + 1])
        alone = propose(tiny_system, log, queries.subset(np.array([q])))
        np.testing.assert_array_equal(candidates.item_idx[rows], alone[0].item_idx)
        np.testing.assert_allclose(features[rows], alone[1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(prerank[rows], alone[2], rtol=1e-5, atol=1e-5)
