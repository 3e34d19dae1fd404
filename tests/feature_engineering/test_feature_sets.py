"""Identity, and what a missing or stale row becomes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_engineering.feature_sets import NO_ROW, FeatureSetChangedError, resolved

sys.path.insert(0, str(Path(__file__).parent))
from sets import AGELESS, CHANGED, SET, spec


def test_identity_follows_what_changes_a_value():
    different = [
        CHANGED,
        dataclasses.replace(SET, ttl_s=181),
        dataclasses.replace(SET, tick_s=30),
        dataclasses.replace(SET, specs=SET.specs[::-1]),
        dataclasses.replace(SET, specs=(SET.specs[0], spec("trend", 0.5, description="other"))),
    ]
    assert len({SET.sha256, *(one.sha256 for one in different)}) == 6


def test_identity_ignores_who_owns_it_and_which_version_it_is():
    moved = dataclasses.replace(SET, owner="another team", version=2, description="reworded")
    assert moved.sha256 == SET.sha256


def test_another_content_is_refused_with_what_to_do():
    with pytest.raises(FeatureSetChangedError, match=r"the shelf holds activity:v1.*version 2"):
        CHANGED.check_identity(SET.sha256, "the shelf")
    SET.check_identity(SET.sha256, "the shelf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Item Activity"}, "lower case"),
        ({"version": 0}, ">= 1"),
        ({"tick_s": 0}, ">= 1"),
        ({"ttl_s": 59}, "stale before the"),
        ({"entity": "user"}, "rows of a user; not of one: .*count"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SET, **change)


def test_ticks():
    assert [SET.tick(now) for now in (0, 59, 60, 119, 120)] == [0, 0, 60, 60, 120]


def test_rows_are_checked():
    ids, times, matrix = SET.checked_rows([1, 2], 60, [[1, 2], [3, 4]])
    assert times.tolist() == [60, 60]
    assert matrix.dtype == np.float32
    assert ids.dtype == np.int64
    with pytest.raises(ValueError, match=r"expected \(N,\) and \(N, 2\)"):
        SET.checked_rows([1, 2], 60, [[1, 2]])
    with pytest.raises(ValueError, match=r"not finite in \['trend'\]; leave rows out"):
        SET.checked_rows([1], 60, [[1, np.nan]])


def test_a_row_is_fresh_up_to_and_including_its_time_to_live():
    values = np.array([[7, 7]] * 4, dtype=np.float32)
    timestamp = np.array([1000, 1000, NO_ROW, 1000])
    moment = np.array([1180, 1181, 1000, 990])  # the last one: written after it was asked for
    rows = resolved(SET, values, timestamp, moment)
    assert rows.values.tolist() == [[7, 7], [-1, 0.5], [-1, 0.5], [7, 7]]
    assert rows.stale.tolist() == [False, True, False, False]
    assert rows.missing.tolist() == [False, False, True, False]
    assert rows.age_s.tolist() == [180, 181, -1, -10]
    assert rows.filled.tolist() == [False, True, True, False]


def test_without_a_time_to_live_nothing_is_stale():
    values, timestamp = np.array([[7, 7]], dtype=np.float32), np.array([0])
    assert not resolved(AGELESS, values, timestamp, 10**9).stale.any()
    assert not resolved(SET, values, timestamp, 10**9, apply_ttl=False).stale.any()
    assert values.tolist() == [[7, 7]]
