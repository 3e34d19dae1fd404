"""The styles that users had at each moment of a log, and after so many clicks.

In: a click log, directions of the items. Out: style vectors, always from clicks strictly before the
moment that they are used at. A log is replayed page by page in the order of time through the same
``StyleStore`` that serves, so that what is measured is what a server would know.

Legend: n pages, D dimension, U users, m clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_search.clicks.log import ClickLog
from image_search.config import PersonalisationConfig
from image_search.personalisation.styles import StyleStore


@dataclass(frozen=True)
class Replayed:
    """What was known of its user when each page was asked for.

    Attributes:
        styles: f32[n, D].
        clicks: i64[n], clicks of the user before the page.
    """

    styles: np.ndarray
    clicks: np.ndarray


def replay(log: ClickLog, directions: np.ndarray, config: PersonalisationConfig) -> Replayed:
    """Runs a whole log through a store.

    Args:
        log: Pages in the order of time.
        directions: f32[N, D] of the catalogue's rows.
        config: Of the styles.
    """
    store = StyleStore(directions.shape[1], config)
    styles = np.zeros((len(log), directions.shape[1]), dtype=np.float32)
    known = np.zeros(len(log), dtype=np.int64)
    for page in range(len(log)):
        user, now_s = int(log.user_idx[page]), float(log.time_s[page])
        known[page] = store.clicks(user)
        if known[page]:
            styles[page] = store.styles([user], now_s)[0]
        rows = log.shown[page, log.clicked[page]]
        if len(rows):
            store.apply_clicks(user, directions[rows], now_s)
    return Replayed(styles, known)


def remembered(log: ClickLog, directions: np.ndarray, config: PersonalisationConfig) -> StyleStore:
    """What a server knows of every user when the log has ended; its clock is 0 at that moment."""
    store = StyleStore(directions.shape[1], config)
    for user, row, time_s in zip(*log.history(), strict=True):
        store.apply_clicks(int(user), directions[row], float(time_s) - log.windows.end_s)
    return store


@dataclass(frozen=True)
class Histories:
    """Clicks by user, in the order of time.

    Attributes:
        rows: Of each user in ``users`` order, i64[m_u] catalogue rows.
        time_s: Beside them.
        users: i64[U'].
    """

    rows: Sequence[np.ndarray]
    time_s: Sequence[np.ndarray]
    users: np.ndarray

    @classmethod
    def of(cls, log: ClickLog, least: int) -> Histories:
        """Of every user with at least so many clicks in the log."""
        user, row, time_s = log.history()
        order = np.argsort(user, kind="stable")  # keeps the order of time within a user
        names, begin, count = np.unique(user[order], return_index=True, return_counts=True)
        chosen = np.flatnonzero(count >= least)
        spans = [order[begin[k] : begin[k] + count[k]] for k in chosen]
        return cls([row[s] for s in spans], [time_s[s] for s in spans], names[chosen])

    def styles(
        self, directions: np.ndarray, most: int, config: PersonalisationConfig, now_s: float
    ) -> np.ndarray:
        """f32[U', D]: each user's style from the last ``most`` clicks alone, as of ``now_s``."""
        store = StyleStore(directions.shape[1], config)
        if most:
            for user, rows, times in zip(self.users, self.rows, self.time_s, strict=True):
                for row, time_s in zip(rows[-most:], times[-most:], strict=True):
                    store.apply_clicks(int(user), directions[row], float(time_s))
        return store.styles([int(user) for user in self.users], now_s)

    def mixed(self, most: int, seed: int) -> Histories:
        """Every second click of the last ``most`` is another user's: an account that two share."""
        other = shuffled_others(len(self.users), seed)
        rows, times = [], []
        for k, stranger in enumerate(other):
            own = self.rows[k][-most:].copy()
            strange = self.rows[stranger][-most:]
            both = min(len(own), len(strange))
            own[:both:2] = strange[:both:2]
            rows.append(own)
            times.append(self.time_s[k][-most:])
        return Histories(rows, times, self.users)


def shuffled_others(n: int, seed: int) -> np.ndarray:
    """i64[n]: for each of n users another one, each once.

    Raises:
        ValueError: If there is no other.
    """
    if n < 2:
        raise ValueError(f"{n} users: there is no other")
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other
