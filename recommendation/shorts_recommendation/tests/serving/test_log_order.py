"""The log moves the states in its order: bad records, retries, uploads on their way, time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest
from test_feed_api import event, feed, ids, post, upload
from tiny_feed import DATA_END, TinyRecommender

from ml_platform.serving.event_log import AppendResult, LoggedEvent


def metric(served, name):
    lines = served.client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).split()[-1])


def run_on_loop(served, function):
    """The result of a function that is called on the engine's loop."""

    async def call():
        return function()

    return asyncio.run_coroutine_threadsafe(call(), served.engine.loop).result(5)


# --- bad uploads ---------------------------------------------------------------------------------


def test_creators_are_numbered_without_gaps_however_many_are_uploaded(served):
    assert served.client.post("/v1/uploads", json=upload(creator=11)).status_code == 422
    for i in range(3):  # the next free number each time, and no further
        answer = served.client.post("/v1/uploads", json=upload(6000 + i, creator=10 + i))
        assert answer.status_code == 200, answer.text
    refused = served.client.post("/v1/uploads", json=upload(6009, creator=14))
    assert refused.status_code == 422
    assert "the next new one is 13" in refused.json()["detail"][0]["reason"]


def test_an_upload_that_breaks_the_index_is_no_success_no_poison_and_no_obstacle(serve_tiny):
    served = serve_tiny(TinyRecommender(poison={5001}))
    first = served.client.post("/v1/uploads", json=upload(5001))
    again = served.client.post("/v1/uploads", json=upload(5001))
    assert (first.status_code, again.status_code) == (503, 503)
    assert served.client.post("/v1/uploads", json=upload(5002)).status_code == 200
    assert 5002 in ids(feed(served.client, 1, k=3, cache="off"))
    refused = served.client.post("/v1/events", json=event(video_id=5001))
    assert refused.status_code == 422
    assert metric(served, 'log_records_skipped_total{reason="bad_upload"}') == 1
    served.close()

    second = serve_tiny(TinyRecommender(poison={5001}))  # ready: the keeper came through
    assert metric(second, 'log_records_skipped_total{reason="bad_upload"}') == 1
    assert 5002 in ids(feed(second.client, 1, k=3))
    assert second.engine.applied_seq == 2


def test_rubbish_in_the_log_is_counted_and_skipped_at_every_start(serve_tiny):
    served = serve_tiny()
    post(served.client, event("a", video_id=31))
    served.close()
    second = serve_tiny()
    log = second.engine.log
    for name, body in (("e:x", b"{"), ("e:y", b'{"kind":"watch"}'), ("u:7", b'{"kind":"upload"}')):
        log.submit([LoggedEvent(name, body, DATA_END)]).result(5)
    post(second.client, event("b", video_id=41))  # the log's others stand before it
    assert second.engine.applied_seq == 5
    assert metric(second, 'log_records_skipped_total{reason="unreadable"}') >= 3
    second.close()
    third = serve_tiny()
    assert third.engine.applied_seq == 5
    assert not {31, 41} & set(ids(feed(third.client, 1, k=20)))


def test_the_id_of_a_video_of_the_bundle_cannot_be_uploaded(served):
    refused = served.client.post("/v1/uploads", json=upload(31))
    assert refused.status_code == 409
    assert served.engine.log.last_seq() == 0


def test_a_bundle_trained_after_an_upload_acknowledges_its_retry(serve_tiny):
    first = serve_tiny()
    assert first.client.post("/v1/uploads", json=upload(5001)).status_code == 200
    first.close()
    trained = TinyRecommender()
    trained.add_video(
        video_id=5001, creator_idx=3, tags=trained.catalogue.tags[0], language=0, duration_s=15.0,
        content=trained.catalogue.content[0], upload_s=DATA_END,
    )  # fmt: skip
    counters = trained.new_counters

    def grown():
        made = counters()
        made.grow(121)
        return made

    trained.new_counters = grown
    second = serve_tiny(trained)
    again = second.client.post("/v1/uploads", json=upload(5001))
    assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    assert second.engine.recommender.added_at_once == []


# --- commits -------------------------------------------------------------------------------------


def commit(served, records, results, done):
    future: Future = Future()
    future.set_result(results)
    served.engine.applier._committed(future, records, done)


def test_an_error_while_applying_reaches_who_posted_and_the_next_post_goes_on(served, monkeypatch):
    users = served.engine.users
    monkeypatch.setattr(users, "apply", lambda events: (_ for _ in ()).throw(RuntimeError("row")))
    served.client._transport.raise_server_exceptions = False
    assert served.client.post("/v1/events", json=event("a")).status_code == 500
    assert "cannot be applied" in served.client.get("/readyz").json()["reasons"][0]
    monkeypatch.undo()
    post(served.client, event("b", video_id=41))  # takes the first one from the log
    assert served.engine.applied_seq == 2
    assert served.engine.users.states.n_events[0] == 2
    assert served.client.get("/readyz").json() == {"ready": True, "reasons": []}


def test_a_request_that_was_given_up_disturbs_nobody(served):
    async def given_up():
        done = served.engine.loop.create_future()
        done.cancel()
        record = LoggedEvent("e:z", b"{}", DATA_END)
        commit(served, [record], [AppendResult(1, duplicate=True)], done)

    asyncio.run_coroutine_threadsafe(given_up(), served.engine.loop).result(5)
    post(served.client, event("a"))
    assert served.engine.applied_seq == 1


def test_a_duplicate_reads_nothing_and_one_that_is_not_applied_is_applied_first(served):
    post(served.client, event("a", video_id=31))
    reads = []
    read = served.engine.log.read
    served.engine.log.read = lambda *args: (
        reads.append(threading.current_thread().name) or read(*args)
    )
    post(served.client, event("a", video_id=31))
    assert not [name for name in reads if "publisher" not in name]

    from shorts_recommendation.serving.records import logged_event
    from shorts_recommendation.serving.schemas import Event

    body = event("b", video_id=41)
    record = logged_event(Event(**body), served.engine.clock.now())
    served.engine.log.submit([record]).result(5)  # another worker has logged it
    assert post(served.client, body)["duplicates"] == 1
    assert served.engine.applied_seq == 2
    assert served.engine.users.version[0] == 2
    assert [name for name in reads if name.startswith("log-reader")]
    assert "MainThread" not in reads
    assert not [name for name in reads if "asyncio" in name]


# --- events on a video that is on its way --------------------------------------------------------


def test_an_event_on_an_upload_waits_for_it_and_is_applied_and_counted(served):
    """Another worker has taken both: this one reads them together, and its models are busy."""
    from shorts_recommendation.serving.records import logged_event, logged_upload
    from shorts_recommendation.serving.schemas import Event, Upload

    engine, gate = served.engine, threading.Event()
    engine.computer.batcher.run_alone(lambda: gate.wait(10))
    now_s = engine.clock.now()
    engine.log.submit([logged_upload(Upload(**upload(5001)), now_s)]).result(5)
    watched = Event(**event("a", user_id=3, video_id=5001))
    engine.log.submit([logged_event(watched, now_s)]).result(5)
    run_on_loop(served, lambda: engine.applier.catch_up())
    served.wait_for(lambda: engine.uploads.pending)
    post_done = threading.Thread(target=post, args=(served.client, event("b", 4, 31)))
    post_done.start()
    post_done.join(0.3)
    assert engine.applied_seq == 1  # stopped before the event, whose number is 2
    assert engine.consumer.applied_seq == 0  # and neither is counted
    gate.set()
    post_done.join(5)
    served.wait_for(lambda: engine.applied_seq == 3)
    assert engine.users.states.n_events[[2, 3]].tolist() == [1, 1]
    assert 5001 not in ids(feed(served.client, 3, k=5))
    served.wait_for(lambda: engine.consumer.applied_seq == 3)
    counted = engine.trends._counters._pending
    assert sum((video == 120).sum() for video, _, _ in counted) == 1
    assert metric(served, 'log_records_skipped_total{reason="unknown_video"}') == 0


def test_uploads_that_wait_are_added_together(served):
    gate = threading.Event()
    served.engine.computer.batcher.run_alone(lambda: gate.wait(10))
    posts = [
        threading.Thread(
            target=served.client.post, args=("/v1/uploads",), kwargs={"json": upload(5001 + i)}
        )
        for i in range(4)
    ]
    for one in posts:
        one.start()
    served.wait_for(lambda: len(served.engine.uploads.pending) == 4)
    gate.set()
    for one in posts:
        one.join(5)
    assert served.recommender.added_at_once == [1, 3]  # the first had begun to wait alone
    assert len(served.engine.video_idx) == 124


# --- time ----------------------------------------------------------------------------------------


def test_a_client_moves_nobodys_clock(served):
    before = served.engine.clock.now()
    for i in range(2):
        lead = served.engine.clock.now() + 60
        post(served.client, event(f"t{i}", timestamp=lead, video_id=10 * i + 1))
    assert served.engine.clock.now() == before
    assert served.engine.users.states.last_s[0] == before  # taken as now
    late = event("far", timestamp=before + 61)
    response = served.client.post("/v1/events", json=late)
    assert response.status_code == 422
    assert response.json()["detail"][0]["field"] == "timestamp"


@pytest.mark.parametrize("passed", [0, 500])
def test_the_clock_goes_on_after_a_restart_from_what_the_server_stamped(serve_tiny, passed):
    served = serve_tiny()
    served.clock.now_s += passed
    post(served.client, event(timestamp=DATA_END - 1000))
    served.close()
    assert serve_tiny().engine.clock.now() == DATA_END + passed
