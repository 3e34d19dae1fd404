"""Clicks of every item, corrected for the places it was shown at, as of the beginning of a day.

In: a ``ClickLog``. Out: ``DailyCounters``, cumulative counts by day; of one day, ``Counters``. An
impression at place k counts as ``examination[k]`` looks, so that a rate is clicks over looks and an
item is not called poor because it stood at place 20. The rate is divided by that of all items
together and shrunk to 1:

    coec = (clicks / rate of all + prior) / (looks + prior)

Such a statistic is known as clicks over expected clicks (COEC). The usual one expects the mean
click rate of a position, which also holds that better items stand higher; here looks are known.

A page of day d reads what had happened before that day began, in training as in serving: a counter
that holds the click it is to predict is the commonest leak of all.

Legend: N items, T days, n pages, K places.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_search.clicks.log import DAY_S, ClickLog

FILE = "counters.npz"


@dataclass(frozen=True)
class Counters:
    """Of one moment.

    Attributes:
        clicks: f32[N].
        looks: f32[N], impressions weighted by the chance of a look.
        rate: Clicks a look, of all items; 0 before the first click.
    """

    clicks: np.ndarray
    looks: np.ndarray
    rate: float

    def save(self, folder: Path) -> None:
        """Writes ``counters.npz`` into an existing folder."""
        np.savez(folder / FILE, clicks=self.clicks, looks=self.looks, rate=self.rate)

    @classmethod
    def load(cls, folder: Path) -> Counters:
        """Reads what ``save`` wrote."""
        with np.load(folder / FILE, allow_pickle=False) as kept:
            return cls(kept["clicks"], kept["looks"], float(kept["rate"]))


@dataclass(frozen=True)
class DailyCounters:
    """Cumulative counts at the beginning of every day.

    Attributes:
        clicks: f32[T + 1, N]; row d holds what was clicked before day d.
        looks: f32[T + 1, N].
    """

    clicks: np.ndarray
    looks: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """f64[T + 1]: clicks a look of all items; 0 where nobody had clicked."""
        looks = self.looks.sum(axis=1, dtype=np.float64)
        clicks = self.clicks.sum(axis=1, dtype=np.float64)
        return np.divide(clicks, looks, out=np.zeros_like(clicks), where=looks > 0)

    def day_of(self, time_s: np.ndarray) -> np.ndarray:
        """i64: the row that a moment reads."""
        day = (np.asarray(time_s) // DAY_S).astype(np.int64)
        return np.clip(day, 0, len(self.clicks) - 1)

    def at(self, time_s: float) -> Counters:
        """What is known when the day of ``time_s`` begins."""
        day = int(self.day_of(np.array([time_s]))[0])
        return Counters(self.clicks[day].copy(), self.looks[day].copy(), float(self.rate[day]))


def count_daily(log: ClickLog, n_items: int, *, corrected: bool = True) -> DailyCounters:
    """Counts a log.

    Args:
        log: In the order of time.
        n_items: N.
        corrected: False counts every impression as a look, as one does who forgets the places.

    Returns:
        Counters for every day of the log and for the moment of its end.
    """
    days = int(np.ceil(log.windows.end_s / DAY_S))
    day = np.minimum(log.time_s // DAY_S, days - 1).astype(np.int64)
    place = (day[:, None] * n_items + log.shown).ravel()
    weight = log.examination if corrected else np.ones_like(log.examination)
    kinds = (log.clicked.ravel(), np.broadcast_to(weight, log.shown.shape).ravel())
    tables = []
    for values in kinds:
        counts = np.bincount(place, weights=values, minlength=days * n_items)
        upto = counts.reshape(days, n_items).cumsum(axis=0).astype(np.float32)
        tables.append(np.concatenate([np.zeros((1, n_items), dtype=np.float32), upto]))
    return DailyCounters(*tables)


def coec(
    clicks: np.ndarray, looks: np.ndarray, rate: np.ndarray | float, prior: float
) -> np.ndarray:
    """f32: clicks over expected clicks, shrunk to 1 by ``prior`` looks; see the module."""
    rate = np.asarray(rate, dtype=np.float32)
    expected = np.divide(clicks, rate, out=np.array(looks, dtype=np.float32), where=rate > 0)
    value: np.ndarray = (expected + np.float32(prior)) / (looks + np.float32(prior))
    return value.astype(np.float32)
