"""From what a head says to a probability, per head, fitted on the validation days.

In: outputs f[N] and labels f[N] of rows that the ranker was not trained on. Out: ``Calibration``,
one monotone map per head, evaluated with numpy.

A value that adds heads up (value.py) needs them in one unit: a like head that is twice too sure
would count double. Binary heads take Platt's line or the isotonic steps, whichever has the smaller
log loss on users it was not fitted on; quantile and distance take a straight line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_algorithms.metrics_and_calibration.calibration import (
    Calibrator,
    fit_isotonic,
    fit_platt,
)
from ml_platform.evaluation.classification_metrics import log_loss
from shorts_recommendation.ranking.heads import BINARY, TASKS, Heads

FEWEST = 50
"""Positives (and negatives) below which a head keeps its own probabilities."""


@dataclass(frozen=True)
class Line:
    """slope * x + intercept, clipped to [0, most]."""

    slope: float
    intercept: float
    most: float

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Of scores f[M]."""
        return np.clip(self.slope * scores + self.intercept, 0.0, self.most)


@dataclass(frozen=True)
class Platt:
    """sigmoid(slope * logit + intercept), for arrays of any shape in their own precision."""

    slope: float
    intercept: float

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Of probabilities f[...]."""
        p = np.clip(scores, 1e-6, 1 - 1e-6)
        logit = self.slope * np.log(p / (1 - p)) + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)))


@dataclass(frozen=True)
class Calibration:
    """Task -> map, and how each was chosen."""

    maps: dict[str, Calibrator]
    kinds: dict[str, str]

    def heads(self, outputs: np.ndarray) -> Heads:
        """Heads of raw outputs f32[..., 5] in the order of TASKS."""
        columns = {
            task: np.asarray(self.maps[task].probability(outputs[..., i]), dtype=np.float32)
            for i, task in enumerate(TASKS)
        }
        return Heads(**columns)


def fit_calibration(outputs: np.ndarray, labels: np.ndarray, users: np.ndarray) -> Calibration:
    """Fits every head.

    Args:
        outputs: f32[N, 5], in the order of TASKS.
        labels: f32[N, 5]; NaN where there is none.
        users: [N]; the choice between maps is made across users.
    """
    maps: dict[str, Calibrator] = {}
    kinds: dict[str, str] = {}
    for i, task in enumerate(TASKS):
        has = np.isfinite(labels[:, i])
        score, label = outputs[has, i].astype(np.float64), labels[has, i].astype(np.float64)
        if task not in BINARY:
            maps[task], kinds[task] = (
                _line(score, label, 2.0 if task == "diversity" else 1.0),
                "line",
            )
        elif min(label.sum(), len(label) - label.sum()) < FEWEST:
            maps[task], kinds[task] = Line(1.0, 0.0, 1.0), "none"
        else:
            maps[task], kinds[task] = _binary(score, label, users[has])
    return Calibration(maps, kinds)


def _binary(score: np.ndarray, label: np.ndarray, users: np.ndarray) -> tuple[Calibrator, str]:
    fits: dict[str, Callable[[np.ndarray, np.ndarray], Calibrator]] = {
        "platt": _platt,
        "isotonic": fit_isotonic,
    }
    odd = users % 2 == 1
    if (
        min(label[odd].sum(), label[~odd].sum(), (1 - label[odd]).sum(), (1 - label[~odd]).sum())
        < 1
    ):
        return _platt(score, label), "platt"
    losses = {}
    for name, fit in fits.items():
        parts = [
            log_loss(
                label[b], np.clip(fit(score[a], label[a]).probability(score[b]), 1e-6, 1 - 1e-6)
            )
            for a, b in ((odd, ~odd), (~odd, odd))
        ]
        losses[name] = float(np.mean(parts))
    best = min(losses, key=lambda name: losses[name])
    return fits[best](score, label), best


def _platt(score: np.ndarray, label: np.ndarray) -> Platt:
    slope, intercept = fit_platt(score, label).weights.tolist()
    return Platt(slope, intercept)


def _line(score: np.ndarray, label: np.ndarray, most: float) -> Line:
    """Least squares; a head without variance, or turned around, keeps its own numbers."""
    spread = float(score.var()) if len(score) > 1 else 0.0
    if spread < 1e-12:
        return Line(1.0, 0.0, most)
    slope = float(np.mean((score - score.mean()) * (label - label.mean())) / spread)
    if slope <= 0:
        return Line(1.0, 0.0, most)
    return Line(slope, float(label.mean() - slope * score.mean()), most)
