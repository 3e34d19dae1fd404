"""Newcomers without a row: states leave for the store and come back, or the answer says so."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from test_feed_api import event, feed, ids, post
from test_log_order import metric
from tiny_feed import TinyRecommender, serving_config

from shorts_recommendation.serving.users import LiveUsers, WatchEvent, _rounds


def watched(seq, user_id, video_idx):
    return WatchEvent(seq, user_id, video_idx, 1_700_000_000 + seq, 20.0, False, False, False)


def away(served, user_id=900):
    """Users 900, 901, 902 in two rows: 900 is in the store alone."""
    for i in range(3):
        post(served.client, event(f"n{i}", user_id=900 + i, video_id=10 * i + 1))
    served.engine.behind.flush()
    post(served.client, event("known", user_id=1, video_id=91))  # what is written is let go
    served.wait_for(lambda: not served.engine.users.leaving)
    assert served.engine.users.absent({900, 901, 902}) == {user_id}


@pytest.fixture
def small(serve_tiny):
    return serve_tiny(config=serving_config(newcomer_rows=2), store_read_ms=100.0)


def slow_reads(served, seconds):
    """Every read of a state takes so long; returns the number of reads so far."""
    read, calls = served.engine.newcomers._read, []

    def slow(user_id):
        import time

        calls.append(user_id)
        time.sleep(seconds)
        return read(user_id)

    served.engine.newcomers._read = slow
    return calls


def test_a_slow_store_makes_the_answer_degraded_once_and_loses_nothing(small):
    away(small)
    calls = slow_reads(small, 0.3)
    body = feed(small.client, 900, k=5)
    assert (body["degraded"], body["cold_start"]) == (True, True)
    assert [(d["stage"], d["reason"]) for d in body["degradations"]] == [("state", "timeout")]
    small.wait_for(lambda: not small.engine.users.absent({900}))  # the reading went on
    body = feed(small.client, 900, k=5)
    assert (body["degraded"], body["cold_start"], body["state_version"]) == (False, False, 1)
    assert 1 not in ids(body)
    assert calls == [900]


def test_an_event_of_a_newcomer_whose_state_is_away_waits_or_is_refused(small):
    away(small)
    slow_reads(small, 0.3)
    refused = small.client.post("/v1/events", json=event("back", user_id=900, video_id=31))
    assert refused.status_code == 503
    last = small.engine.log.last_seq()
    assert last == 4  # nothing was stored
    small.wait_for(lambda: not small.engine.users.absent({900}))
    post(small.client, event("back", user_id=900, video_id=31))
    row = small.engine.users.row(900)
    assert small.engine.users.states.n_events[row] == 2


def test_requests_at_the_same_time_share_one_reading(small):
    away(small)
    calls = slow_reads(small, 0.02)

    async def both():
        bring = small.engine.newcomers.bring_back
        return await asyncio.gather(bring(900), bring(900), bring(900))

    assert asyncio.run_coroutine_threadsafe(both(), small.engine.loop).result(5) == [True] * 3
    assert calls == [900]


def test_a_state_that_the_store_has_lost_is_counted_and_its_user_a_stranger(small):
    away(small)
    small.engine.store.client.flushall()
    body = feed(small.client, 900, k=3)
    assert (body["cold_start"], body["degraded"]) == (True, False)
    assert metric(small, "newcomer_states_lost_total") == 1
    assert 900 not in small.engine.users.evicted  # asked once


def test_states_that_made_room_come_back_while_the_store_is_down(small):
    small.engine.store.server.start = lambda: None
    small.engine.store.server.stop()
    for i in range(4):
        post(small.client, event(f"n{i}", user_id=900 + i, video_id=10 * i + 1))
    assert set(small.engine.users.evicted) == {900, 901}
    body = feed(small.client, 900, k=5)
    assert (body["degraded"], body["state_version"]) == (False, 1)


def test_a_replay_with_an_empty_store_ends_with_every_state(serve_tiny):
    config = serving_config(newcomer_rows=2)
    first = serve_tiny(config=config)
    for i in range(30):  # five users in two rows, round and round
        sent = event(f"r{i}", user_id=900 + i % 5, video_id=10 * i + 1)
        post(first.client, sent)
    first.close()
    second = serve_tiny(config=config)
    for user_id in range(900, 905):
        body = feed(second.client, user_id, k=20)
        assert (body["cold_start"], body["degraded"]) == (False, False)
        assert not {10 * i + 1 for i in range(user_id - 900, 30, 5)} & set(ids(body))
        row = second.engine.users.row(user_id)
        assert second.engine.users.states.n_events[row] == 6


def test_a_copy_older_than_what_made_room_is_not_taken():
    users = LiveUsers(TinyRecommender(), 1)
    users.apply([watched(1, 900, 0)])
    old = users.pack(900)
    users.apply([watched(2, 900, 1), watched(3, 901, 2)])
    (_, blob) = users.packed[0]
    users.stored(900, blob)
    assert users.absent({900}) == {900}
    assert users.unpack(900, old) is False
    assert users.unpack(900, blob) is True
    assert users.states.n_events[users.row(900)] == 2


def test_an_event_that_a_state_has_seen_is_not_applied_again():
    users = LiveUsers(TinyRecommender(), 2)
    users.apply([watched(1, 900, 0), watched(2, 900, 1)])
    users.apply([watched(2, 900, 1), watched(3, 900, 2)])
    assert users.states.n_events[users.row(900)] == 3


def test_more_newcomers_in_one_batch_than_there_are_rows():
    users = LiveUsers(TinyRecommender(), 2)
    users.apply([watched(i + 1, 900 + i % 5, i) for i in range(20)])
    want = LiveUsers(TinyRecommender(), 5)
    want.apply([watched(i + 1, 900 + i % 5, i) for i in range(20)])
    for user_id in range(900, 905):
        users.come_back(user_id)
        assert users.pack(user_id) == want.pack(user_id)
    with pytest.raises(ValueError, match="newcomer_rows"):
        LiveUsers(TinyRecommender(), 0)


def test_rounds_by_hand():
    assert _rounds([], 3) == []
    assert _rounds([1, 2, 1, 3], 3) == [(0, 2), (2, 4)]
    assert _rounds([1, 2, 3, 4, 5], 2) == [(0, 2), (2, 4), (4, 5)]


def test_a_row_that_changes_hands_while_its_slate_is_computed_gives_it_to_nobody(small):
    post(small.client, event("a", user_id=900, video_id=1))
    row = small.engine.users.row(900)
    computer = small.engine.computer
    task = type("Task", (), {"row": row, "user_id": 77, "holding": (), "keep": True})()
    slates = computer.batcher.run_alone(lambda: computer._compute([task])).result(5)
    assert slates == [None]
    assert np.isin(row, list(computer._stored)) == False  # noqa: E712
