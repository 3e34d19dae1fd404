"""Calibration by hand, its intervals by simulation; concentration of events."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ml_platform.evaluation.classification_metrics import expected_calibration_error
from ml_platform.operations.concentration import (
    Concentration,
    concentration_drift,
    measure_concentration,
    top_share,
)
from ml_platform.operations.health import (
    Calibration,
    calibration_drift,
    calibration_edges,
    measure_calibration,
)

RNG = np.random.default_rng(0)


def sample(n_users: int, *, factor: float = 1.0, rows: int = 20, seed: int = 0) -> Calibration:
    """Predictions of mean 0.1; outcomes come `factor` times as often."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 18, n_users * rows)
    outcomes = rng.random(len(p)) < p * factor
    edges = calibration_edges(np.random.default_rng(9).beta(2, 18, 100_000))
    return measure_calibration(p, outcomes, np.repeat(np.arange(n_users), rows), edges)


def test_by_hand():
    # Bins below and above 0.5: predicted 0.2 and 0.8, observed 1/2 and 1/2, two rows each.
    found = measure_calibration(
        np.array([0.1, 0.3, 0.7, 0.9]),
        np.array([1, 0, 0, 1]),
        np.array([0, 1, 2, 3]),
        np.array([0.5]),
    )
    np.testing.assert_allclose(found.predicted, [0.2, 0.8])
    np.testing.assert_allclose(found.observed, [0.5, 0.5])
    assert found.error[0] == pytest.approx(0.3)
    assert found.ratio[0] == pytest.approx(2 / 2.0)
    assert found.base_rate == 0.5


def test_the_error_is_the_evaluations_on_the_same_bins():
    p = RNG.beta(2, 5, 5000)
    outcomes = RNG.random(5000) < p**1.3
    found = measure_calibration(p, outcomes, np.arange(5000), calibration_edges(p))
    assert found.error[0] == pytest.approx(
        expected_calibration_error(outcomes.astype(int), p, bins=10), abs=1e-3
    )


def test_the_excess_of_calibrated_predictions_is_nearly_nothing():
    found = [sample(100, seed=seed) for seed in range(30)]
    plain = np.mean([one.error[0] for one in found])
    assert plain > 0.01  # that is what a sample of 2,000 shows for nothing
    assert np.mean([one.excess for one in found]) < plain / 4


def test_intervals_cover_the_truth():
    covered = [one.ratio[1] <= 1 <= one.ratio[2] for one in (sample(60, seed=s) for s in range(80))]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_calibrated_windows_give_no_finding():
    reference = sample(1000)
    assert all(calibration_drift(reference, sample(60, seed=s), "o") is None for s in range(40))


@pytest.mark.parametrize(
    ("factor", "words", "severity"),
    [(0.4, "too high", "alert"), (1.5, "too low", "warning")],
)
def test_a_moved_base_rate_is_found(factor, words, severity):
    finding = calibration_drift(sample(1000), sample(150, factor=factor, seed=1), "ranking")
    assert finding is not None
    assert (finding.kind, finding.severity, finding.owner) == ("calibration", severity, "ranking")
    assert words in finding.sentence


def test_a_wrong_shape_with_the_right_level_is_found():
    """Every prediction becomes its mirror: the ratio stays 1, the order is upside down."""
    rng = np.random.default_rng(3)
    p = rng.uniform(0.02, 0.38, 6000)
    outcomes = rng.random(6000) < 0.4 - p
    edges = calibration_edges(p)
    users = np.repeat(np.arange(300), 20)
    reference = measure_calibration(p, rng.random(6000) < p, users, edges)
    now = measure_calibration(p, outcomes, users, edges)
    assert now.ratio[0] == pytest.approx(1, abs=0.06)
    assert calibration_drift(reference, now, "o") is not None


def test_a_calibration_survives_its_file():
    found = sample(30)
    file = io.BytesIO()
    np.savez(file, **found.arrays())
    file.seek(0)
    with np.load(file) as stored:
        again = Calibration.of_arrays(stored)
    assert (again.ratio, again.error, again.n) == (found.ratio, found.error, found.n)
    np.testing.assert_array_equal(again.count, found.count)


def test_rows_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="rows of equal number"):
        measure_calibration(np.zeros(2), np.zeros(3), np.zeros(2), np.zeros(0))


def test_top_share_by_hand():
    # 12 items; the ten largest of 12 counts 1..12 are 3..12: 75 of 78
    assert top_share(np.repeat(np.arange(12), np.arange(1, 13))) == pytest.approx(75 / 78)
    assert top_share(np.zeros(0)) == 0


def test_concentration_by_hand():
    # Blocks of 20 different items and blocks of one: top ten hold 0.5 and 1.0.
    spread, single = np.arange(20), np.zeros(20, dtype=int)
    found = measure_concentration(np.concatenate([spread, single] * 3), block=20)
    assert (found.n_blocks, found.mean) == (6, pytest.approx(0.75))
    assert found.deviation == pytest.approx(np.std([0.5, 1.0] * 3, ddof=1))


def test_a_burst_is_named_and_ordinary_events_are_not():
    popularity = 1 / np.arange(1, 501) ** 0.6
    items = RNG.choice(500, 40_000, p=popularity / popularity.sum())
    reference = measure_concentration(items[:30_000], block=500)
    sound = [items[end - 500 : end] for end in range(30_500, 40_001, 500)]
    assert all(concentration_drift(reference, block, "o") is None for block in sound)
    burst = items[-500:].copy()
    burst[::2] = 477
    finding = concentration_drift(reference, burst, "events team")
    assert finding is not None
    assert (finding.kind, finding.owner) == ("popularity", "events team")
    assert "items 477 (50%)" in finding.sentence


def test_too_few_events_say_nothing():
    usual = Concentration(0.1, 0.01, 20, block=100)
    assert concentration_drift(usual, np.zeros(99, dtype=int), "o") is None
    assert concentration_drift(usual, np.zeros(100, dtype=int), "o") is not None
    with pytest.raises(ValueError, match="4 blocks of 100, not 5"):
        measure_concentration(np.zeros(499), block=100)
