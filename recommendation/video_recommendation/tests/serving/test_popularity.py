"""Live item counts: exact, of all workers, and never twice."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from test_api import event
from tiny_recommender import DATA_END, N_ITEMS

from video_recommendation.serving import popularity, state


def totals(served):
    counter = served.engine.production.popularity.counter
    return counter.before(np.arange(N_ITEMS), DATA_END + 10**6)


def trained():
    return np.arange(N_ITEMS, 0, -1)


def post(served, n, item_id, name="e"):
    batch = [event(f"{name}{i}", user_id=100 + i, item_id=item_id) for i in range(n)]
    response = served.client.post("/v1/events", json={"events": batch})
    assert response.json()["applied"] is True


def test_counter_holds_training_and_live_events(served):
    post(served, 7, item_id=31)
    served.wait_for(lambda: totals(served)[3] == trained()[3] + 7)
    expected = trained()
    expected[3] += 7
    np.testing.assert_array_equal(totals(served), expected)


def test_no_new_event_no_new_counter(served):
    post(served, 1, item_id=31)
    served.wait_for(lambda: totals(served)[3] == trained()[3] + 1)
    counter = served.engine.production.popularity.counter
    time.sleep(0.2)  # a few refreshes
    assert served.engine.production.popularity.counter is counter


def test_a_store_that_lost_everything_counts_nothing_twice(served):
    post(served, 5, item_id=31)
    served.wait_for(lambda: totals(served)[3] == trained()[3] + 5)
    for _ in range(3):
        served.engine.store.client.flushall()
        served.wait_for(
            lambda: served.engine.store.client.exists(
                f"{served.engine.production.state.prefix}events"
            )
        )
    post(served, 2, item_id=41, name="f")
    served.wait_for(lambda: totals(served)[4] == trained()[4] + 2)
    assert totals(served)[3] == trained()[3] + 5


def test_a_shorter_list_starts_again_from_the_training_events(served):
    """The view between an empty store and its replay: nothing is kept that the store lacks."""
    served.engine.close()  # no keeper in between
    view = popularity.LivePopularity(served.recommender, FakeStore(), "p:", DATA_END)
    view._store.events = records(3, 3, 3)
    view.refresh(DATA_END)
    assert view.counter.before(np.array([3]), DATA_END + 1) == trained()[3] + 3
    view._store.events = records(4)
    view.refresh(DATA_END)
    counts = view.counter.before(np.array([3, 4]), DATA_END + 1)
    assert counts.tolist() == [trained()[3], trained()[4] + 1]


class RefreshedInBetween(popularity.LivePopularity):
    """A second thread refreshes at the moment between the new counter and its position."""

    @property
    def counter(self):
        return self._counter

    @counter.setter
    def counter(self, value):
        first = "_counter" not in vars(self)
        self._counter = value
        if not first and self.second is None:
            self.second = threading.Thread(target=self.refresh, args=(DATA_END,))
            self.second.start()
            self.second.join(0.2)  # it waits for the first, or it has counted the same again

    second = None


def test_two_threads_that_refresh_count_nothing_twice(served):
    view = RefreshedInBetween(served.recommender, FakeStore(), "p:", DATA_END)
    view._store.events = records(3, 3, 3)
    view.refresh(DATA_END)
    view.second.join()
    assert view.counter.before(np.array([3]), DATA_END + 1) == trained()[3] + 3


def test_long_lists_are_read_in_chunks(served, monkeypatch):
    monkeypatch.setattr(popularity, "CHUNK_EVENTS", 4)
    for n in (3, 4, 5, 8, 9):
        view = popularity.LivePopularity(served.recommender, FakeStore(), "p:", DATA_END)
        view._store.events = records(*[7] * n)
        view.refresh(DATA_END)
        view.refresh(DATA_END)
        assert view.counter.before(np.array([7]), DATA_END + 1) == trained()[7] + n
        view._store.events = records(*[7] * (n + 6))
        view.refresh(DATA_END)
        assert view.counter.before(np.array([7]), DATA_END + 1) == trained()[7] + n + 6


def test_window_counts_are_of_thirty_days_and_include_this_second(served):
    view = popularity.LivePopularity(served.recommender, FakeStore(), "p:", DATA_END)
    events = records(1, 1, 1)
    events["timestamp"] = [DATA_END - 30 * 86_400, DATA_END - 30 * 86_400 + 1, DATA_END]
    view._store.events = events
    view.refresh(DATA_END)
    assert view.counts[1] == trained()[1] + 2


@pytest.mark.parametrize("n_live", [0, 1000])
def test_a_refresh_of_a_hundred_thousand_events_is_quick(served, n_live):
    rng = np.random.default_rng(0)
    items = rng.integers(0, N_ITEMS, 100_000).astype(np.int32)
    when = np.sort(rng.integers(0, DATA_END, 100_000))
    served.recommender.training_events = lambda: (items, when)
    times = []
    for _ in range(5):
        view = popularity.LivePopularity(served.recommender, FakeStore(), "p:", DATA_END)
        view._store.events = records(*[7] * n_live)
        begin = time.thread_time()
        view.refresh(DATA_END)
        times.append(time.thread_time() - begin)
    assert min(times) < 0.015


def records(*items):
    values = np.zeros(len(items), state.RECORD)
    values["item_idx"], values["timestamp"] = items, DATA_END
    return values


class FakeStore:
    """STRLEN and GETRANGE over an array."""

    def __init__(self):
        self.events = records()

    def call(self, function):
        return function(self)

    def pipeline(self, transaction):
        assert transaction
        self.results = []
        return self

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *_: None  # noqa: E731

    def strlen(self, key):
        self.results.append(self.events.nbytes)
        return self

    def getrange(self, key, begin, end):
        self.results.append(self.events.tobytes()[begin : end + 1])
        return self

    def execute(self):
        return self.results
