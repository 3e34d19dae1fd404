"""What survives: restarts of server, consumer and store; newcomers without a row."""

from __future__ import annotations

import numpy as np
import pytest
from test_feed_api import event, feed, ids, post, upload
from tiny_feed import N_USERS, TinyRecommender, serving_config

from ml_platform.serving.event_log import StoredEvent
from ml_platform.serving.store import open_store
from shorts_recommendation.serving.stream import Consumer


def arrays(engine):
    """Every state array, of the bundle's users."""
    return {
        name: value[:N_USERS].copy()
        for name, value in vars(engine.users.states).items()
        if isinstance(value, np.ndarray)
    }


def test_a_restart_restores_states_counters_uploads_and_clock(serve_tiny):
    first = serve_tiny()
    rng = np.random.default_rng(0)
    first.client.post("/v1/uploads", json=upload())
    for i in range(60):
        first.clock.now_s += 20
        video_id = 5001 if i == 30 else 10 * int(rng.integers(120)) + 1
        sent = event(f"r{i}", int(rng.integers(1, 6)), video_id, float(rng.uniform(0, 30)))
        sent |= {"like": bool(rng.random() < 0.2), "timestamp": first.engine.clock.now()}
        seq = post(first.client, sent)["events"][0]["seq"]
        # Counted before its period is published: a late one shows a period later, after a restart
        # it does not.
        first.wait_for(lambda seq=seq: first.engine.consumer.applied_seq >= seq)
    assert first.engine.consumer.applied_seq == 61
    want, now_s = arrays(first.engine), first.engine.clock.now()
    snapshot = first.engine.trends.advance(now_s)
    body = feed(first.client, 3, k=8)
    first.close()

    second = serve_tiny()
    assert second.engine.clock.now() == now_s
    for name, value in arrays(second.engine).items():
        np.testing.assert_array_equal(value, want[name], err_msg=name)
    assert second.engine.users.version.max() == 61
    again = second.engine.trends.advance(now_s)
    assert snapshot.as_of_s == again.as_of_s > second.recommender.data_end
    # Shares of one snapshot and of two differ in the last bit of a float32.
    np.testing.assert_allclose(again.counts, snapshot.counts, rtol=1e-5)
    np.testing.assert_array_equal(again.exposures, snapshot.exposures)
    assert ids(feed(second.client, 3, k=8)) == ids(body)
    assert second.client.get("/v1/version").json()["videos"] == 121


def test_states_in_process_are_those_of_one_event_after_the_other(served):
    rng = np.random.default_rng(1)
    users, videos = rng.integers(1, 5, 40), rng.integers(0, 120, 40)
    events = [
        event(f"n{i}", int(u), 10 * int(v) + 1, float(i), timestamp=served.engine.clock.now())
        for i, (u, v) in enumerate(zip(users, videos, strict=True))
    ]
    post(served.client, *events)
    states = TinyRecommender().new_states(N_USERS)
    from shorts_recommendation.state import Outcomes

    for i, (user, video) in enumerate(zip(users - 1, videos, strict=True)):
        watch_s = np.array([float(i)], np.float32)
        no = np.zeros(1, bool)
        outcomes = Outcomes(watch_s, watch_s >= 18, watch_s < 3, no, no, no)
        now = np.array([served.engine.clock.now()])
        states.apply(np.array([user]), np.array([video]), outcomes, now)
    for name, value in arrays(served.engine).items():
        np.testing.assert_array_equal(value, getattr(states, name), err_msg=name)


def test_counters_move_with_the_stream_and_show_after_the_period(served):
    assert ids(feed(served.client, 1, k=1)) == [1]
    post(served.client, *(event(f"p{i}", user_id=100 + i, video_id=1191) for i in range(100)))
    post(served.client, *(event(f"q{i}", user_id=100 + i, video_id=1191) for i in range(100)))
    served.wait_for(lambda: served.engine.consumer.applied_seq == 200)
    assert served.engine.trends.videos[0] == 0
    served.clock.now_s = 1000  # the period is over
    served.wait_for(lambda: served.engine.trends.videos[0] == 119)
    served.wait_for(lambda: served.engine.snapshot is served.engine.trends.snapshot)
    as_of_s = served.engine.snapshot.as_of_s  # 1000 s later: one or two periods
    assert served.recommender.prepared[0] < served.recommender.prepared[-1] == as_of_s
    assert served.engine.trends.snapshot.exposures[119] == 201


def test_the_stream_holds_each_event_once_and_in_order(served):
    posted = [event(f"s{i % 30}", video_id=10 * (i % 30) + 1) for i in range(60)]
    for one in posted:
        post(served.client, one)
    served.wait_for(lambda: served.engine.publisher.published_seq == 30)
    entries = served.engine.store.client.xrange(f"{served.engine.prefix}events")
    assert [name for name, _ in entries] == [f"{seq}-0".encode() for seq in range(1, 31)]
    served.wait_for(lambda: served.engine.consumer.applied_seq == 30)
    pending = served.engine.store.client.xpending(f"{served.engine.prefix}events", "features-0")
    served.wait_for(lambda: pending["pending"] == 0 or not pending)
    assert served.engine.trends._counters._pending  # counted, not yet published


def test_the_packed_state_in_the_store_is_the_state(served):
    post(served.client, event(user_id=7, video_id=31))
    key = f"{served.engine.prefix}user:7"
    served.wait_for(lambda: served.engine.store.client.exists(key))
    assert served.engine.store.client.get(key) == served.engine.users.pack(7)
    assert served.engine.users.pack(12345) is None


def test_newcomers_beyond_the_rows_come_back_from_the_store(serve_tiny):
    served = serve_tiny(config=serving_config(newcomer_rows=2))
    for user_id in (900, 901, 902):  # the third takes the row of the first
        post(
            served.client, event(f"n{user_id}", user_id=user_id, video_id=10 * (user_id - 900) + 1)
        )
        served.wait_for(
            lambda u=user_id: served.engine.store.client.exists(f"{served.engine.prefix}user:{u}")
        )
    assert set(served.engine.users.evicted) == {900}
    body = feed(served.client, 900, k=5)
    assert (body["cold_start"], body["state_version"]) == (False, 1)
    assert 1 not in ids(body)
    assert set(served.engine.users.evicted) == {901}
    post(served.client, event("back", user_id=901, video_id=31))
    assert served.engine.users.states.n_events[served.engine.users.row(901)] == 2


def entry(client, seq):
    client.xadd("s", {"body": b"{}", "received_at": 1}, id=f"{seq}-0")


@pytest.fixture
def stream(tmp_path):
    with open_store(None, tmp_path / "store") as store:
        yield store


def make_consumer(store, handled, name="one", **more):
    return Consumer(
        store, "s", group="g", name=name, handle=lambda e: handled.extend(x.seq for x in e), **more
    )


def test_a_consumer_that_died_before_acknowledging_is_succeeded(stream):
    for seq in range(1, 6):
        entry(stream.client, seq)

    def dies(entries: list[StoredEvent]) -> None:
        raise RuntimeError("killed")

    first = Consumer(stream, "s", group="g", name="one", handle=dies)
    with pytest.raises(RuntimeError):
        first.step()
    assert stream.client.xpending("s", "g")["pending"] == 5
    handled: list[int] = []
    second = make_consumer(stream, handled)
    second.step()
    assert handled == [1, 2, 3, 4, 5]
    assert stream.client.xpending("s", "g")["pending"] == 0


def test_entries_of_a_lost_member_are_claimed(stream):
    handled: list[int] = []
    stream.client.xgroup_create("s", "g", id="0", mkstream=True)
    entry(stream.client, 1)
    stream.client.xreadgroup("g", "lost", {"s": ">"})
    entry(stream.client, 2)
    consumer = make_consumer(stream, handled, claim_idle_ms=0)
    consumer.step()
    consumer.step()
    assert sorted(handled) == [1, 2]
    assert consumer.claimed == 1
    assert stream.client.xpending("s", "g")["pending"] == 0


def test_what_a_replay_has_counted_is_acknowledged_and_skipped(stream):
    for seq in (1, 2, 3):
        entry(stream.client, seq)
    handled: list[int] = []
    consumer = make_consumer(stream, handled)
    consumer.start_at(2)
    assert consumer.step() == 3
    assert handled == [3]
    assert consumer.step(block_ms=1) == 0


def test_a_store_that_went_empty_gets_its_group_and_events_again(served):
    post(served.client, event("a", video_id=1))
    served.wait_for(lambda: served.engine.consumer.applied_seq == 1)
    served.engine.store.client.flushall()
    post(served.client, event("b", video_id=11))
    served.wait_for(lambda: served.engine.consumer.applied_seq == 2, seconds=10)
