"""The online home on a real (embedded) server: rows, ages, identity, and a store that is gone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from feature_engineering.feature_sets import NO_ROW, FeatureSetChangedError
from feature_engineering.online_store import BATCH, OnlineStore, read_together
from ml_platform.serving.store import StoreUnavailableError, open_store

sys.path.insert(0, str(Path(__file__).parent))
from sets import AGELESS, CHANGED, SET


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with open_store(None, tmp_path_factory.mktemp("store"), retry_after_s=0.0) as store:
        yield store


@pytest.fixture
def store(server):
    server.client.flushall()
    return server


@pytest.fixture
def counted():
    return Counter()


@pytest.fixture
def online(store, counted):
    return OnlineStore(
        SET, store, count=lambda name, outcome, n: counted.update({(name, outcome): n})
    )


def test_what_was_written_is_read(online, counted):
    assert online.write_many([10, 20], [60, 120], [[1, 2], [3, 4]]) == 2
    rows = online.read_many([20, 99, 10], now=240)
    assert rows.values.tolist() == [[3, 4], [-1, 0.5], [1, 2]]
    assert rows.timestamp.tolist() == [120, NO_ROW, 60]
    assert rows.age_s.tolist() == [120, -1, 180]
    assert counted == {("activity", "hit"): 2, ("activity", "missing"): 1}


def test_a_stale_row_becomes_the_defaults_and_is_counted_apart(online, counted):
    online.write_many([10], 60, [[1, 2]])
    rows = online.read_many(np.array([10, 11]), now=241)
    assert rows.values.tolist() == [[-1, 0.5]] * 2
    assert rows.stale.tolist() == [True, False]
    assert counted == {("activity", "stale"): 1, ("activity", "missing"): 1}


def test_values_survive_to_the_bit(online):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=(4000, 2), dtype=np.uint32).view(np.float32)
    bits = np.where(np.isfinite(bits), bits, np.float32(-0.0))
    ids = np.arange(len(bits))
    assert len(bits) > BATCH
    assert online.write_many(ids, 60, bits) == len(bits)
    read = online.read_many(ids[::-1], now=60).values[::-1]
    np.testing.assert_array_equal(
        np.ascontiguousarray(read).view(np.uint32), np.ascontiguousarray(bits).view(np.uint32)
    )


def test_a_newer_row_is_not_overwritten_by_an_older_one(online):
    online.write_many([1, 2], [120, 60], [[1, 1], [2, 2]])
    assert online.write_many([1, 2, 3], 60, [[9, 9]] * 3) == 2  # the same moment may be corrected
    assert online.read_many([1, 2, 3], now=120).values[:, 0].tolist() == [1, 9, 9]


def test_times_of_any_size_and_sign_are_compared_as_numbers(online):
    online.write_many([1], -5, [[1, 1]])
    assert online.write_many([1], 2**40, [[2, 2]]) == 1
    assert online.write_many([1], 255, [[3, 3]]) == 0  # as bytes it would be the larger


def test_rows_of_dead_versions_clean_themselves_up(store, online):
    ageless = OnlineStore(AGELESS, store)
    for home in (online, ageless):
        home.write_many([1], 60, [[1, 1]])
    assert store.client.ttl("fs:activity:v1:1") > SET.ttl_s
    assert store.client.ttl("fs:profile:v1:1") == -1


def test_two_sets_in_one_round_trip(store, online):
    ageless = OnlineStore(AGELESS, store)
    online.write_many([1], 60, [[1, 1]])
    ageless.write_many([7], 0, [[7, 7]])
    mget, calls = store.client.mget, []
    store.client.mget = lambda keys: calls.append(len(keys)) or mget(keys)
    try:
        first, second = read_together([(online, [1, 2]), (ageless, [7])], now=100)
    finally:
        store.client.mget = mget
    assert calls == [3 + 2]
    assert first.missing.tolist() == [False, True]
    assert second.values.tolist() == [[7, 7]]
    with pytest.raises(ValueError, match="sets of one store"):
        read_together([], now=0)


def test_a_reader_or_writer_of_another_content_is_refused(store, online):
    changed = OnlineStore(CHANGED, store)
    assert changed.read_many([1], now=60).missing.all()  # nobody has written yet
    online.write_many([1], 60, [[1, 1]])
    with pytest.raises(FeatureSetChangedError, match="needs version 2"):
        changed.read_many([1], now=60)
    with pytest.raises(FeatureSetChangedError, match="needs version 2"):
        changed.write_many([1], 60, [[1, 1]])


def test_something_else_under_our_keys_is_named(store, online):
    online.write_many([1], 60, [[1, 1]])
    store.client.set("fs:activity:v1:1", b"short")
    with pytest.raises(FeatureSetChangedError, match="not 16 bytes"):
        online.read_many([1], now=60)


def test_namespaces_do_not_meet(store, online):
    other = OnlineStore(SET, store, namespace="elsewhere:")
    online.write_many([1], 60, [[1, 1]])
    assert other.read_many([1], now=60).missing.all()


def test_a_store_that_is_down_is_said_to_be_down(tmp_path, counted):
    with open_store(None, tmp_path, retry_after_s=0.0) as store:
        online = OnlineStore(SET, store, count=lambda *c: counted.update([c]))
        online.write_many([1], 60, [[1, 1]])
        assert store.server is not None
        store.server.stop()
        with pytest.raises(StoreUnavailableError):
            online.read_many([1], now=60)
        with pytest.raises(StoreUnavailableError):
            online.write_many([1], 60, [[1, 1]])
        assert not counted
        assert store.revive()  # comes back empty: missing, not wrong
        assert online.read_many([1], now=60).missing.all()
