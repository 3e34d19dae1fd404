"""The fallback ladder, each rung on purpose: late, failing and overloaded models; dead stores."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from test_feed_api import event, feed, ids, post
from tiny_feed import TinyRecommender, serving_config


def reasons(body):
    return [(d["stage"], d["reason"]) for d in body["degradations"]]


def hold(served):
    """Make the models wait until the returned event is set."""
    gate = threading.Event()
    recommend = served.recommender.recommend

    def waits(*args, **more):
        gate.wait(10)
        return recommend(*args, **more)

    served.recommender.recommend = waits
    return gate


def test_models_that_fail_leave_the_stale_slate_without_what_was_watched(served, caplog):
    before = feed(served.client, 1, k=5)
    post(served.client, event(video_id=11))
    served.wait_for(lambda: not served.engine.ahead)  # nothing is computed ahead behind our back
    served.engine.slates.put(0, served.engine.slates.any(0))
    served.recommender.fail = ValueError("corrupt matrix row 17")
    post(served.client, event("e2", video_id=21))
    body = feed(served.client, 1, k=5)
    assert reasons(body) == [("recommend", "error")]
    assert (body["answered_by"], body["degraded"], body["cached"]) == ("stale", True, False)
    assert {11, 21} & set(ids(before))
    assert not {11, 21} & set(ids(body))
    assert "corrupt" not in str(body)  # the inside stays inside ...
    assert "corrupt matrix row 17" in caplog.text  # ... and the log has it, with the traceback
    counted = 'degraded_total{reason="error",stage="recommend"} 1.0'
    assert counted in served.client.get("/metrics").text


def test_without_a_slate_the_trending_list_answers_without_the_seen(serve_tiny):
    served = serve_tiny(TinyRecommender(fail=KeyError("towers")))
    post(served.client, event(video_id=1))
    body = feed(served.client, 1, k=3, holding=[21])
    assert (body["answered_by"], body["state_version"]) == ("trending", 1)
    assert ids(body) == [11, 31, 41]  # by long views of late; 1 is seen, 21 is held
    assert body["items"][0]["sources"] == ["trending"]
    assert 'feed_answers_total{by="trending"} 1.0' in served.client.get("/metrics").text
    served.recommender.fail = None
    assert feed(served.client, 1, k=3)["answered_by"] == "computed"


def test_trending_takes_five_of_a_creator_at_most(served):
    creators = served.recommender.catalogue.creator_idx[served.engine.trends.videos]
    assert len(creators) == 50  # ten creators
    assert max(map(list(creators).count, range(10))) == 5


def test_a_late_slate_is_answered_by_the_ladder_and_serves_the_next_request(serve_tiny):
    served = serve_tiny(config=serving_config(deadline_ms=80.0))
    gate = hold(served)
    begin = time.perf_counter()
    body = feed(served.client, 1, k=3)
    assert reasons(body) == [("recommend", "timeout")]
    assert body["answered_by"] == "trending"
    assert 0.05 < time.perf_counter() - begin < 0.5
    gate.set()
    served.wait_for(lambda: served.engine.slates.peek(0) is not None)
    assert feed(served.client, 1, k=3)["answered_by"] == "cache"


def test_a_line_that_is_too_long_is_not_joined(serve_tiny):
    served = serve_tiny(config=serving_config(deadline_ms=150.0, max_waiting=3))
    gate = hold(served)
    with ThreadPoolExecutor(12) as pool:
        bodies = list(pool.map(lambda u: feed(served.client, u, k=3), range(1, 13)))
    gate.set()
    kinds = {reasons(body)[0] for body in bodies}
    assert kinds == {("recommend", "timeout"), ("recommend", "budget")}
    assert sum(reasons(b) == [("recommend", "budget")] for b in bodies) >= 6


def test_requests_that_wait_share_a_batch_and_equal_ones_a_job(serve_tiny):
    served = serve_tiny(config=serving_config(max_batch=8))
    gate = hold(served)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(feed, served.client, u, k=3) for u in (1, 2, 3, 4, 5, 5, 5, 5)]
        served.wait_for(lambda: len(served.engine.computer._inflight) == 5)
        gate.set()
        bodies = [a.result() for a in answers]
    assert len({b["slate_id"] for b in bodies[4:]}) == 1
    assert sum(served.recommender.batches) == 5  # user 5 asked four times and was computed once
    assert len(served.recommender.batches) < 5


def test_a_dead_store_costs_nothing_but_its_own_work_and_is_caught_up(served):
    post(served.client, event("before", video_id=31))
    store = served.engine.store
    start = store.server.start
    store.server.start = lambda: None  # hold the keeper back
    store.server.stop()
    post(served.client, event("during", video_id=41))
    body = feed(served.client, 1, k=5)
    assert (body["degraded"], body["state_version"]) == (False, 2)
    assert not {31, 41} & set(ids(body))
    served.wait_for(lambda: 'store_failures_total{work="publish"}' in metrics_above_zero(served))
    assert served.client.get("/readyz").status_code == 200

    store.server.start = start  # the keeper brings up a new, empty one
    served.wait_for(lambda: served.engine.publisher.published_seq == 2)
    served.wait_for(lambda: served.engine.consumer.applied_seq == 2)
    key = f"{served.engine.prefix}user:1"  # written again, though nobody has sent an event since
    served.wait_for(lambda: store.client.get(key) == served.engine.users.pack(1))


def metrics_above_zero(served):
    lines = served.client.get("/metrics").text.splitlines()
    return "\n".join(line for line in lines if not line.endswith(" 0.0"))


def test_a_hanging_store_delays_no_request(serve_tiny):
    served = serve_tiny(store_timeout_s=0.3)
    feed(served.client, 1)
    pid = int(served.engine.store.client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        spent = []
        for i in range(20):
            begin = time.perf_counter()
            post(served.client, event(f"h{i}", video_id=10 * i + 1))
            assert feed(served.client, 1, k=3)["degraded"] is False
            spent.append(time.perf_counter() - begin)
        assert sorted(spent)[10] < 0.25  # one wait for the store would be 0.3
    finally:
        with contextlib.suppress(ProcessLookupError):  # the keeper has replaced it meanwhile
            os.kill(pid, signal.SIGCONT)
    served.wait_for(lambda: served.engine.consumer.applied_seq == 20, seconds=10)


def test_a_slate_is_read_from_the_store_where_this_process_let_it_go(served):
    first = feed(served.client, 1, k=5)
    served.wait_for(lambda: served.engine.store.client.exists(f"{served.engine.prefix}slate:1"))
    served.engine.slates.clear()
    body = feed(served.client, 1, k=5)
    assert (body["answered_by"], body["cached"]) == ("store", True)
    assert ids(body) == ids(first)
    assert feed(served.client, 1, k=5)["answered_by"] == "cache"


def test_a_slate_in_the_store_from_before_an_event_is_not_used(served):
    feed(served.client, 1)
    key = f"{served.engine.prefix}slate:1"
    served.wait_for(lambda: served.engine.store.client.exists(key))
    blob = served.engine.store.client.get(key)
    post(served.client, event(video_id=1))
    feed(served.client, 1)
    served.wait_for(lambda: served.engine.store.client.get(key) != blob)
    served.engine.store.client.set(key, blob)
    served.engine.slates.clear()
    body = feed(served.client, 1)
    assert body["answered_by"] == "computed"
    assert 1 not in ids(body)


def test_rubbish_and_a_dead_store_behind_the_cache_fall_through_to_the_models(served):
    for damage in (
        lambda store: store.client.set(f"{served.engine.prefix}slate:1", b"junk"),
        lambda store: store.server.stop(),
    ):
        feed(served.client, 1)
        served.engine.behind.flush()
        served.engine.slates.clear()
        served.engine.computer._stored.add(0)
        served.engine.store.server.start = lambda: None
        damage(served.engine.store)
        body = feed(served.client, 1, k=3)
        assert (body["answered_by"], reasons(body)) == ("computed", [("store", "error")])


def test_who_has_watched_most_of_an_answer_gets_the_next_slate_made_ahead(serve_tiny):
    served = serve_tiny(config=serving_config(ahead_after=3))
    feed(served.client, 1)
    for i, video in enumerate((1, 11)):
        post(served.client, event(f"a{i}", video_id=video))
    assert len(served.engine.ahead) == 0  # one more to watch
    post(served.client, event("a2", video_id=21))
    served.wait_for(lambda: served.engine.slates.peek(0).version == 3)
    body = feed(served.client, 1)
    assert (body["answered_by"], body["state_version"]) == ("cache", 3)
    for i, video in enumerate((31, 41)):
        post(served.client, event(f"b{i}", video_id=video))
    assert len(served.engine.ahead) == 0  # the answer began a new count
    for i, video in enumerate((1, 11, 21, 31)):
        post(served.client, event(f"c{i}", user_id=2, video_id=video))
    assert served.engine.slates.peek(1) is None  # never asked: nothing to renew
    assert "feed_computed_ahead_total 1.0" in served.client.get("/metrics").text


def test_the_slates_of_the_busiest_are_made_at_the_start(serve_tiny):
    served = serve_tiny(config=serving_config(ahead_at_start=30))
    served.wait_for(lambda: served.client.get("/v1/version").json()["slates_to_start"] == 0)
    served.wait_for(lambda: len(served.engine.slates) == 30)
    events = served.engine.users.states.n_events[: served.engine.users.n_known]
    busiest = np.argsort(-events, kind="stable")[:30].tolist()
    assert {row for row in range(40) if served.engine.slates.peek(row)} == set(busiest)
    user_id = served.engine.users.user_of(busiest[0])
    assert feed(served.client, user_id)["answered_by"] == "cache"
    assert "feed_computed_ahead_total 30.0" in served.client.get("/metrics").text
    assert max(served.recommender.batches) > 1


def test_the_history_is_encoded_once_for_each_event(serve_tiny):
    served = serve_tiny(config=serving_config(compute_ahead=False))
    for _ in range(3):
        feed(served.client, 1, cache="off")
    assert served.recommender.encoded == 1
    post(served.client, event(video_id=1))
    for _ in range(2):
        feed(served.client, 1, cache="off")
    assert served.recommender.encoded == served.engine.computer.encoded() == 2
