"""The skew report finds what was changed, and only that."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from feature_engineering.parity import skew_report

sys.path.insert(0, str(Path(__file__).parent))
from sets import SET

IDS = ["r1/10", "r1/20", "r2/10", "r2/30"]
ROWS = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)


def test_equal_rows_are_equal():
    report = skew_report(ROWS, ROWS.copy(), SET.schema, IDS)
    assert report.is_equal
    assert report.verdict() == "EQUAL: 4 rows, 2 features, to the bit"
    assert report.markdown() == report.verdict()


def test_the_feature_the_share_and_the_worst_row_are_named():
    offline = ROWS.copy()
    offline[1, 1], offline[3, 1] = 4.5, 10
    report = skew_report(ROWS, offline, SET.schema, IDS, n_examples=1)
    assert not report.is_equal
    (feature,) = report.different
    assert (feature.name, feature.owner, feature.n_different) == ("trend", "tests", 2)
    assert feature.share_different == 0.5
    assert feature.max_abs_difference == 2.0
    (example,) = feature.examples
    assert (example.row_id, example.online, example.offline) == ("r2/30", 8.0, 10.0)
    assert report.verdict() == "SKEW in 1 of 2 features over 4 rows (1 equal): trend (50.0%)"
    assert "| `trend` | 50.0% | 2 | r2/30: 8 served, 10 rebuilt |" in report.markdown()


def test_the_last_bit_counts():
    offline = ROWS.copy()
    offline[0, 0] = np.nextafter(np.float32(1), np.float32(2))
    (feature,) = skew_report(ROWS, offline, SET.schema, IDS).different
    assert 0 < feature.max_abs_difference < 1.3e-7


def test_signed_zero_differs_and_not_a_number_equals_itself():
    online = np.array([[0.0, np.nan], [np.nan, 1]], dtype=np.float32)
    offline = np.array([[-0.0, np.nan], [1, 1]], dtype=np.float32)
    count, trend = skew_report(online, offline, SET.schema, ["a", "b"]).features
    assert (count.n_different, count.max_abs_difference) == (2, np.inf)
    assert trend.n_different == 0


def test_most_different_comes_first():
    offline = ROWS + np.array([[0, 1]], dtype=np.float32)
    offline[0, 0] += 1
    names = [f.name for f in skew_report(ROWS, offline, SET.schema, IDS).different]
    assert names == ["trend", "count"]


def test_no_rows_prove_nothing():
    none = np.empty((0, 2), dtype=np.float32)
    report = skew_report(none, none, SET.schema, [])
    assert not report.is_equal
    assert report.verdict().startswith("NO VERDICT")
    assert report.features[0].share_different == 0


@pytest.mark.parametrize("wrong", [ROWS.astype(np.float64), ROWS[:, :1], ROWS[:2]])
def test_matrices_of_another_shape_or_type_are_refused(wrong):
    with pytest.raises(ValueError, match="offline is"):
        skew_report(ROWS, wrong, SET.schema, IDS)
