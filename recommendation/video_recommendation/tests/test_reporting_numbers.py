"""Numbers as the report writes them, and the verdicts on the aims."""

from __future__ import annotations

import pytest
from handmade_evaluation import make_evaluation

from ml_platform.evaluation.intervals import Estimate
from video_recommendation.reporting.aims import Aim, aims, aims_grid
from video_recommendation.reporting.grid import Cell, Grid, difference, estimate, ordered, short

# --- numbers as text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (0.1434, False, ".143"),
        (-0.02, True, "-.020"),
        (0.02, True, "+.020"),
        (-0.0001, True, ".000"),
        (1.0, False, "1.000"),
        (10.5, False, "10.500"),
        (float("nan"), False, "–"),
    ],
)
def test_short_numbers(value: float, signed: bool, expected: str) -> None:
    assert short(value, signed=signed) == expected


def test_an_estimate_carries_both_spreads() -> None:
    assert estimate(Estimate(0.14, 0.13, 0.16, 9)) == Cell(".140", " ±.015", " [.130, .160]")
    assert estimate(Estimate(0.14, None, None, 9)) == Cell(".140")


@pytest.mark.parametrize(
    ("low", "high", "tone"), [(0.01, 0.05, "good"), (-0.05, -0.01, "bad"), (-0.01, 0.05, "dim")]
)
def test_only_a_difference_that_excludes_zero_is_toned(low: float, high: float, tone: str) -> None:
    assert difference(Estimate((low + high) / 2, low, high, 9)).tone == tone


def test_a_row_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells, 2 heads"):
        Grid("t", ("a", "b"), ((Cell("x"),),), "")


def test_unknown_rows_are_not_lost() -> None:
    assert ordered(["x", "merged", "ease"], ("ease", "merged")) == ["ease", "x", "merged"]


# --- the aims ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.08, 0.06, 0.10, "reached"),
        (0.08, 0.03, 0.13, "reached, within the interval"),
        (0.04, 0.02, 0.045, "not reached"),
        (0.04, 0.02, 0.06, "not reached, within the interval"),
    ],
)
def test_verdicts(value: float, low: float, high: float, verdict: str) -> None:
    assert Aim("merged", "recall@100", 0.05, Estimate(value, low, high, 9)).verdict == verdict


def test_aims_follow_the_numbers() -> None:
    good = aims(make_evaluation(two_tower=0.6, merged=0.6, final=0.6))
    assert [aim.reached for aim in good] == [True, True, True]
    poor = aims(make_evaluation(two_tower=0.4, merged=0.52, final=0.55))
    assert [aim.verdict for aim in poor] == ["not reached"] * 3
    assert poor[1].found.value == pytest.approx(0.02, abs=0.01)
    assert "wanted ≥ +.05: not reached" in poor[1].sentence


def test_aims_of_a_flagged_run_say_what_they_were_set_for() -> None:
    evaluation = make_evaluation()
    assert "MovieLens-100K" in aims_grid(evaluation, "QUICK RUN, not a result.").caption
    assert "MovieLens-100K" not in aims_grid(evaluation, "").caption
