"""What a day was worth, measured by the truth: regret, coverage, concentration, new items.

In: ``DayTruth`` and what was shown so far. Out: plain numbers. Legend: I items of the catalogue.
"""

from __future__ import annotations

import numpy as np

TOP_SHARE = 0.1


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts f[I]: 0 when all are equal, towards 1 when one has all.

    Mean absolute difference of two items over twice the mean, by the sorted-sum form
    sum_i (2i - n - 1) x_(i) / (n sum x), i = 1..n ascending. 0 where nothing was counted.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def top_share(counts: np.ndarray, share: float = TOP_SHARE) -> float:
    """Share of all counts that the most counted ``share`` of the items holds; 0 without any."""
    ordered = -np.sort(-np.asarray(counts, dtype=np.float64))
    n_top = max(1, round(share * len(ordered)))
    return float(ordered[:n_top].sum() / ordered.sum()) if ordered.sum() else 0.0


def break_even_day(saved: np.ndarray) -> int | None:
    """First day from which the running total of ``saved`` f[days] is at least 0 to the end.

    ``saved`` is what an arm gains on the other each day (negative while it pays). None when it
    never comes out even, 0 when it was never behind.
    """
    behind = np.flatnonzero(np.cumsum(saved) < 0)
    if not len(behind):
        return 0
    day = int(behind[-1]) + 1
    return day if day < len(saved) else None
