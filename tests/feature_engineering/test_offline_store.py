"""The point-in-time join against a loop, against pandas, and against the future."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_engineering.feature_sets import NO_ROW, FeatureSetChangedError
from feature_engineering.offline_store import OfflineStore, latest_rows

sys.path.insert(0, str(Path(__file__).parent))
from sets import AGELESS, CHANGED, SET

TIME = st.integers(-300, 300) | st.sampled_from([-(2**62), 2**62])
ROWS = st.lists(st.tuples(st.integers(-3, 3), TIME), max_size=30)
PAIRS = st.lists(st.tuples(st.integers(-4, 4), TIME), max_size=15)


def naive(rows, entity, moment):
    """Position of the latest row at or before the moment; the later one of equals."""
    fitting = [(t, place) for place, (e, t) in enumerate(rows) if e == entity and t <= moment]
    return max(fitting)[1] if fitting else -1


@given(ROWS, PAIRS)
def test_the_join_is_the_loop(rows, pairs):
    rows = sorted(rows)
    ids, times = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    wanted, moments = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    found = latest_rows(ids, times, wanted, moments)
    expected = [naive(rows, entity, moment) for entity, moment in pairs]
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine < 0) == (theirs < 0)
        if mine >= 0:
            assert (ids[mine], times[mine]) == rows[theirs]


@settings(max_examples=25, deadline=None)
@given(ROWS, PAIRS, st.integers(0, 29))
def test_no_value_comes_from_the_future(rows, pairs, cut):
    """Rows after the last moment change nothing: with or without them the join is the same."""
    moments = [moment for _, moment in pairs]
    past = [row for row in rows if row[1] <= max(moments, default=0)]
    with tempfile.TemporaryDirectory() as all_of_it, tempfile.TemporaryDirectory() as known:
        joined = []
        for folder, content in ((all_of_it, rows), (known, past)):
            store = OfflineStore(Path(folder), SET)
            for part in (content[:cut], content[cut:]):
                if part:
                    values = [[position, e] for position, (e, _) in enumerate(part)]
                    store.append([e for e, _ in part], [t for _, t in part], values)
            joined.append(store.point_in_time_join([e for e, _ in pairs], moments))
        np.testing.assert_array_equal(joined[0].timestamp, joined[1].timestamp)
        np.testing.assert_array_equal(joined[0].filled, joined[1].filled)
        assert (joined[0].timestamp <= np.array(moments, dtype=np.int64)).all()


def test_against_pandas(tmp_path):
    rng = np.random.default_rng(0)
    store = OfflineStore(tmp_path, SET)
    ids, times = rng.integers(0, 50, 3000), rng.permutation(100_000)[:3000]
    values = rng.normal(size=(3000, 2)).astype(np.float32)
    for part in np.array_split(np.arange(3000), 4):
        store.append(ids[part], times[part], values[part])
    wanted, moments = rng.integers(-2, 53, 2000), rng.integers(-500, 101_000, 2000)
    mine = store.point_in_time_join(wanted, moments)
    rows = pd.DataFrame({"id": ids, "t": times, "found": times, "x": values[:, 0]})
    pairs = pd.DataFrame({"id": wanted, "t": moments, "place": np.arange(2000)})
    theirs = pd.merge_asof(
        pairs.sort_values("t"), rows.sort_values("t"), on="t", by="id", tolerance=SET.ttl_s
    ).sort_values("place")
    fresh = ~mine.filled
    np.testing.assert_array_equal(fresh, theirs["found"].notna())
    np.testing.assert_array_equal(mine.timestamp[fresh], theirs["found"].to_numpy()[fresh])
    np.testing.assert_array_equal(mine.values[fresh, 0], theirs["x"].to_numpy()[fresh])
    assert 0.05 < fresh.mean() < 0.95
    assert mine.stale.sum() > 100
    assert mine.missing.sum() > 100


def test_by_hand(tmp_path):
    store = OfflineStore(tmp_path, SET)
    store.append([1, 2, 1], [60, 60, 120], [[1, 10], [2, 20], [3, 30]])
    pairs = [(1, 59), (1, 60), (1, 119), (1, 120), (1, 301), (2, 240), (2, 241), (9, 100)]
    rows = store.point_in_time_join([e for e, _ in pairs], [t for _, t in pairs])
    assert rows.values[:, 0].tolist() == [-1, 1, 1, 3, -1, 2, -1, -1]
    assert rows.timestamp.tolist() == [NO_ROW, 60, 60, 120, 120, 60, 60, NO_ROW]
    assert rows.stale.tolist() == [False, False, False, False, True, False, True, False]
    assert rows.age_s.tolist() == [-1, 0, 59, 0, 181, 180, 181, -1]
    held = store.point_in_time_join([1, 2], 10**9, apply_ttl=False)
    assert held.values.tolist() == [[3, 30], [2, 20]]


def test_of_two_rows_for_one_moment_the_one_written_last_wins(tmp_path):
    store = OfflineStore(tmp_path, SET)
    store.append([1, 1], [60, 60], [[1, 1], [2, 2]])
    store.append([1], [60], [[3, 3]])
    assert store.point_in_time_join([1], 60).values.tolist() == [[3, 3]]
    assert [len(part) for part in store.rows()] == [1, 1, 1]


def test_without_rows_everything_is_missing(tmp_path):
    store = OfflineStore(tmp_path, SET)
    assert store.point_in_time_join([1, 2], 60).values.tolist() == [[-1, 0.5]] * 2
    store.append([1], [100], [[1, 1]])
    assert store.point_in_time_join([1], 99).missing.all()
    assert len(store.point_in_time_join([], [])) == 0


def test_files_are_whole_named_and_readable_by_others(tmp_path):
    store = OfflineStore(tmp_path, SET)
    path = store.append([5], 60, [[1.5, 2.5]])
    assert pq.read_table(path, partitioning=None).to_pylist() == [
        {"entity_id": 5, "timestamp": 60, "count": 1.5, "trend": 2.5}
    ]
    names = sorted(file.name for file in store.folder.iterdir())
    assert names == sorted([path.name, "feature_set.json"])  # no draft is left behind
    assert json.loads((store.folder / "feature_set.json").read_text())["columns"] == [
        "count",
        "trend",
    ]


def test_a_failed_append_leaves_nothing(tmp_path, monkeypatch):
    store = OfflineStore(tmp_path, SET)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.append([5], 60, [[1, 2]])
    assert [file.name for file in store.folder.iterdir()] == ["feature_set.json"]


def test_the_folder_remembers_the_content_of_a_version(tmp_path):
    OfflineStore(tmp_path, SET)
    OfflineStore(tmp_path, SET)
    OfflineStore(tmp_path, AGELESS)
    with pytest.raises(FeatureSetChangedError, match="needs version 2"):
        OfflineStore(tmp_path, CHANGED)
