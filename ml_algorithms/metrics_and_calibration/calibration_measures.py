"""Is a probability right? Brier score and its parts, and how much of an ECE is noise.

In: labels [N] of 0 and 1, probabilities f[N] in [0, 1]. Out: one number, or the parts of one.
The calibration error itself and the log loss are ``ml_platform.evaluation.classification_metrics``.

Legend: N rows, M bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.classification_metrics import (
    expected_calibration_error,
    reliability_curve,
)


@dataclass(frozen=True)
class BrierParts:
    """Murphy, "A New Vector Partition of the Probability Score", J. Applied Meteorology 1973.

    score = reliability - resolution + uncertainty + within, where ``within`` is what binning left
    out (0 if all predictions of a bin are equal).

    Attributes:
        score: Mean of (p - y)^2.
        reliability: Squared gap between prediction and frequency, by bin: miscalibration, 0 is
            best.
        resolution: Squared distance of the bins' frequencies from the base rate: what the model
            knows, larger is better.
        uncertainty: base (1 - base): how hard the task is; no model changes it.
        within: The rest.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of (p - y)^2: 0 is best, base (1 - base) is what the base rate alone gets."""
    return float(np.mean(np.square(np.asarray(probabilities, dtype=np.float64) - labels)))


def brier_parts(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10) -> BrierParts:
    """The score and its parts over bins of equal mass."""
    curve = reliability_curve(labels, probabilities, bins=bins)
    share = curve.count / curve.count.sum()
    base = float(np.mean(labels))
    score = brier_score(labels, probabilities)
    reliability = float((share * np.square(curve.predicted - curve.observed)).sum())
    resolution = float((share * np.square(curve.observed - base)).sum())
    uncertainty = base * (1.0 - base)
    within = score - (reliability - resolution + uncertainty)
    return BrierParts(score, reliability, resolution, uncertainty, within)


def ece_of_the_calibrated(
    probabilities: np.ndarray, *, bins: int = 10, draws: int = 50, seed: int = 0
) -> float:
    """The ECE that these predictions would show if every one of them were right.

    Labels are drawn from the probabilities themselves, so the model is calibrated by construction;
    what is left is the noise of N rows in M bins, of the order sqrt(M / N). An ECE near this value
    says nothing against the model.
    """
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        labels = rng.random(len(probabilities)) < probabilities
        values.append(expected_calibration_error(labels, probabilities, bins=bins))
    return float(np.mean(values))
