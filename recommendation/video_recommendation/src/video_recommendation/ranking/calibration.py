"""From a ranker's score to the probability of a watch: isotonic regression or Platt scaling.

In: scores f[C] and outcomes bool[C] of rows the ranker was not trained on. Out: a monotone map, so
the order of a list never changes (isotonic may merge neighbours into a tie).

Isotonic (Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
Estimates", KDD 2002) fits any monotone shape and wants some thousand positives; Platt scaling fits
two numbers and is the choice for little data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

Method = Literal["isotonic", "platt"]


@dataclass(frozen=True)
class Calibrator:
    """A fitted map.

    Attributes:
        method: Which one.
        knots: f64[2, n]. Isotonic: scores and probabilities between which to interpolate. Platt:
            slope and intercept of the log-odds, n = 1.
    """

    method: Method
    knots: np.ndarray

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """P(watch) f64[C]."""
        if self.method == "isotonic":
            return np.interp(scores, self.knots[0], self.knots[1])
        return logistic(scores * self.knots[0, 0] + self.knots[1, 0])


def fit_calibrator(scores: np.ndarray, watched: np.ndarray, method: Method) -> Calibrator:
    """Fits on held-out rows.

    Raises:
        ValueError: if all outcomes are the same: there is nothing to calibrate to.
    """
    if watched.all() or not watched.any():
        raise ValueError(f"calibration needs both outcomes; all {len(watched)} rows are the same")
    if method == "isotonic":
        fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, watched)
        return Calibrator(method, np.stack([fitted.X_thresholds_, fitted.y_thresholds_]))
    platt = LogisticRegression(C=1e6).fit(scores[:, None], watched)
    return Calibrator(method, np.array([[platt.coef_[0, 0]], [platt.intercept_[0]]]))


def logistic(scores: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-score)): what reading a ranking score as log-odds would claim."""
    return 1.0 / (1.0 + np.exp(-np.asarray(scores, dtype=np.float64)))
