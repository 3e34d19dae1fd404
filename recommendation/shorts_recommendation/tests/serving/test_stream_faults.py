"""Stores that refuse or forget, and threads that raise: nothing is lost, and somebody says so."""

from __future__ import annotations

import threading

import pytest
from test_feed_api import event, feed, post
from test_log_order import metric

from ml_platform.serving.event_log import EventLog, LoggedEvent, StoredEvent
from ml_platform.serving.store import StoreUnavailableError, open_store
from shorts_recommendation.serving.stream import Consumer, Publisher
from shorts_recommendation.serving.write_behind import WriteBehind


@pytest.fixture
def log(tmp_path):
    with EventLog(tmp_path / "events.sqlite") as log:
        log.submit([LoggedEvent(f"e:{i}", b"{}", i) for i in range(5)]).result(5)
        yield log


@pytest.fixture
def store(tmp_path):
    with open_store(None, tmp_path / "store", retry_after_s=0.0) as store:
        yield store


def seqs(store):
    return [int(name.split(b"-")[0]) for name, _ in store.client.xrange("s")]


def test_a_store_without_memory_is_a_failure_and_gets_the_entries_later(log, store):
    publisher = Publisher(log, store, "s", floor=lambda: 0)
    store.client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        publisher.publish()
    assert publisher.published_seq == 0
    store.client.config_set("maxmemory", 0)
    assert publisher.publish() == 5
    assert seqs(store) == [1, 2, 3, 4, 5]


def test_a_key_of_another_type_is_a_failure(log, store):
    publisher = Publisher(log, store, "s", floor=lambda: 0)
    publisher._known = True
    store.client.set("s", "text")
    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        publisher.publish()


def test_entries_that_are_there_already_are_none(log, store):
    Publisher(log, store, "s", floor=lambda: 0).publish()
    again = Publisher(log, store, "s", floor=lambda: 0)
    again._known = True  # as after an answer that was lost
    assert again.publish() == 5
    assert seqs(store) == [1, 2, 3, 4, 5]


def test_an_idle_publisher_notices_a_store_that_forgot(log, store):
    publisher = Publisher(log, store, "s", floor=lambda: 2)
    publisher._known = True
    publisher.publish()
    publisher.look_again()
    assert publisher.published_seq == 5
    store.client.flushall()
    publisher.look_again()
    assert publisher.published_seq == 2
    publisher.publish()
    assert seqs(store) == [3, 4, 5]


def test_a_store_emptied_between_publishing_and_counting_loses_no_count(served):
    gate, handle = threading.Event(), served.engine.consumer._handle

    def held(entries):
        gate.wait(10)
        handle(entries)

    served.engine.consumer._handle = held
    post(served.client, event("a", video_id=1191))
    served.wait_for(lambda: served.engine.publisher.published_seq == 1)
    post(served.client, event("b", video_id=1191))
    served.wait_for(lambda: served.engine.publisher.published_seq == 2)
    served.engine.store.client.flushall()
    gate.set()  # nobody posts any more
    served.wait_for(lambda: served.engine.consumer.applied_seq == 2, seconds=10)
    counted = served.engine.trends._counters._pending
    assert sum((video == 119).sum() for video, _, _ in counted) == 2


def test_what_the_stream_has_dropped_comes_from_the_log_once(log, store):
    handled: list[int] = []
    Publisher(log, store, "s", floor=lambda: 0).publish()
    store.client.xdel("s", "2-0", "3-0")

    def fill(after: int, before: int) -> list[StoredEvent]:
        return [e for e in log.read(after, 100) if e.seq < before]

    consumer = Consumer(
        *(store, "s"),
        group="g",
        name="one",
        handle=lambda entries: handled.extend(e.seq for e in entries),
        fill=fill,
    )
    consumer.step()
    assert handled == [1, 2, 3, 4, 5]


def test_entries_whose_handling_failed_are_read_again(served):
    handle, failures = served.engine.consumer._handle, []

    def fails_once(entries):
        if not failures:
            failures.append(1)
            raise KeyError("counter 7")
        handle(entries)

    served.engine.consumer._handle = fails_once
    post(served.client, event("a"))
    served.wait_for(lambda: served.engine.consumer.applied_seq == 1)
    assert metric(served, 'thread_failures_total{thread="consumer"}') == 1


# --- threads -------------------------------------------------------------------------------------


def test_the_keeper_outlives_an_error_and_readiness_names_it(served):
    revive = served.engine.store.revive
    served.engine.store.revive = lambda: (_ for _ in ()).throw(OSError("disk gone"))
    served.wait_for(lambda: served.client.get("/readyz").status_code == 503)
    assert "keeper: OSError: disk gone" in served.client.get("/readyz").json()["reasons"]
    assert feed(served.client, 1)["degraded"] is False  # who asks is still answered
    served.engine.store.revive = revive
    served.wait_for(lambda: served.client.get("/readyz").status_code == 200)
    assert metric(served, 'thread_failures_total{thread="keeper"}') >= 1


def test_the_publisher_outlives_an_error(served):
    read, errors = served.engine.log.read, []

    def fails_once(*args):
        if threading.current_thread().name == "publisher" and not errors:
            errors.append(1)
            raise RuntimeError("disk I/O error")
        return read(*args)

    served.engine.log.read = fails_once
    post(served.client, event("a"))
    served.wait_for(lambda: served.engine.publisher.published_seq == 1)
    assert metric(served, 'thread_failures_total{thread="publisher"}') == 1


def test_the_computing_thread_outlives_an_error_outside_of_the_models(served):
    spare, errors = served.engine.computer.batcher._spare, []

    def fails_once():
        if not errors:
            errors.append(1)
            raise ZeroDivisionError
        return spare()

    served.engine.computer.batcher._spare = fails_once
    served.engine.computer.batcher.nudge()
    served.wait_for(lambda: errors)
    assert feed(served.client, 1)["answered_by"] == "computed"
    assert metric(served, 'thread_failures_total{thread="compute"}') == 1


def test_the_writer_behind_outlives_an_error(store):
    failed = []
    behind = WriteBehind(store, thread_failed=failed.append)
    behind.put("a", b"1", written=lambda: 1 / 0)
    end = threading.Event()
    while not failed:
        assert not end.wait(0.01)
    behind.put("b", b"2")
    behind.close()
    assert store.client.get("b") == b"2"
    assert failed == ["write-behind"]


@pytest.mark.parametrize("name", ["consumer", "publisher", "compute", "write-behind"])
def test_readiness_names_a_thread_that_has_ended(served, name):
    ended = threading.Thread(target=lambda: None, name=name)
    ended.start()
    ended.join()
    engine = served.engine
    owners = {
        "consumer": engine.consumer,
        "publisher": engine.publisher,
        "compute": engine.computer.batcher,
        "write-behind": engine.behind,
    }
    thread, owners[name].thread = owners[name].thread, ended
    assert served.client.get("/readyz").json()["reasons"] == [f"thread {name} has ended"]
    owners[name].thread = thread
