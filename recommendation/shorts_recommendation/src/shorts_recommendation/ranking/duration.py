"""Watch time freed of duration: the D2Q label, and the two labels that it replaces.

In: watch_s f32[N] and duration_s f32[N]. Out: labels f32[N] in [0, 1], and back to seconds.

A long video is watched for more seconds, whoever watches; a short one for a larger share. A ranker
trained on seconds therefore prefers long videos, one trained on the ratio short ones, and neither
preference is the viewer's. Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for
Video Recommendation" (KDD 2022) treat duration as a confounder: cut the impressions into groups of
equal size by duration, and learn the quantile of a watch time within its group,

    label = Phi_k(watch_s),    Phi_k: empirical distribution of watch_s in duration group k

with one model over all groups; a prediction goes back to seconds through the inverse of Phi_k.

Departures: equal watch times (everybody who watched to the end of one 15 s video) share the middle
of their quantiles instead of the upper end, so the mean label of every group is 1/2; Phi_k is kept
as 1,001 knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Label = Literal["d2q", "ratio", "seconds"]
KNOTS = 1001
MOST_REPLAYS = 2.0
"""A ratio counts up to here: a loop that plays while nobody looks says nothing more."""
MOST_QUANTILE = 0.99
"""Seconds count up to this quantile of the training log."""


@dataclass(frozen=True)
class WatchLabel:
    """A fitted label.

    Attributes:
        kind: Which.
        edges: f64[K - 1], durations between groups (d2q).
        knots: f64[K, 1001], quantiles of watch_s in each group (d2q).
        most_s: Seconds that count as 1 (seconds).
    """

    kind: Label
    edges: np.ndarray
    knots: np.ndarray
    most_s: float

    def group(self, duration_s: np.ndarray) -> np.ndarray:
        """Duration group 0..K-1, i64 of the shape given."""
        return np.searchsorted(self.edges, duration_s, side="left")

    def transform(self, watch_s: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
        """Labels in [0, 1], f32 of the shape given."""
        watch_s, duration_s = np.broadcast_arrays(watch_s, duration_s)
        if self.kind == "ratio":
            ratio = watch_s / np.maximum(duration_s, 1e-6)
            return (np.clip(ratio, 0, MOST_REPLAYS) / MOST_REPLAYS).astype(np.float32)
        if self.kind == "seconds":
            return (np.clip(watch_s, 0, self.most_s) / self.most_s).astype(np.float32)
        return self._by_group(watch_s, duration_s, _quantile)

    def seconds(self, label: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
        """The watch time that a label stands for, f32 of the shape given."""
        label, duration_s = np.broadcast_arrays(label, duration_s)
        if self.kind == "ratio":
            return (label * MOST_REPLAYS * duration_s).astype(np.float32)
        if self.kind == "seconds":
            return (label * self.most_s).astype(np.float32)
        return self._by_group(label, duration_s, _inverse)

    def _by_group(self, values, duration_s, function) -> np.ndarray:  # type: ignore[no-untyped-def]
        out = np.empty(values.shape, dtype=np.float32)
        group = self.group(duration_s)
        for k in np.unique(group):
            here = group == k
            out[here] = function(values[here], self.knots[k])
        return out


def fit_watch_label(
    watch_s: np.ndarray, duration_s: np.ndarray, *, kind: Label, groups: int = 20
) -> WatchLabel:
    """Fits on training rows.

    Args:
        watch_s: f32[N].
        duration_s: f32[N], of the video of each row.
        kind: "d2q", "ratio" or "seconds".
        groups: Duration groups; fewer where durations repeat.

    Raises:
        ValueError: On no rows, or a duration that is not positive.
    """
    if not len(watch_s):
        raise ValueError("no rows to fit the watch label on: is the training window empty?")
    if not (np.asarray(duration_s) > 0).all():
        raise ValueError(f"durations must be positive, got {np.min(duration_s)}")
    inner = np.linspace(0, 1, groups + 1)[1:-1]
    # Edges are durations that occur, so that no group is empty.
    edges = np.unique(np.quantile(duration_s, inner, method="lower"))
    edges = edges[edges < np.max(duration_s)]  # an edge at the maximum leaves an empty group
    group = np.searchsorted(edges, duration_s, side="left")
    share = np.linspace(0, 1, KNOTS)
    knots = np.stack([np.quantile(watch_s[group == k], share) for k in range(len(edges) + 1)])
    most_s = max(float(np.quantile(watch_s, MOST_QUANTILE)), 1e-6)
    return WatchLabel(kind, edges, knots, most_s)


def _quantile(watch_s: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Middle of the knots' quantiles that a watch time equals, or lies between."""
    below = np.searchsorted(knots, watch_s, side="left")
    up_to = np.searchsorted(knots, watch_s, side="right")
    return (below + up_to) / (2.0 * len(knots))


def _inverse(quantile: np.ndarray, knots: np.ndarray) -> np.ndarray:
    return np.interp(quantile, (np.arange(len(knots)) + 0.5) / len(knots), knots)
