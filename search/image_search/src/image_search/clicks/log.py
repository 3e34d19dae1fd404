"""The click log: pages that were shown, and what was clicked and bought. SYNTHETIC.

``ClickLog`` holds n pages of K places in the order of time. A query is a picture of the image set,
an item a row of the catalogue. The split is by time: what is learnt is learnt from days before
those that judge it.

Legend: n pages, K places of a page, m clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

DAY_S = 86_400.0


@dataclass(frozen=True)
class Windows:
    """Ends of the three parts of the log, in seconds from its start."""

    train_end_s: float
    validation_end_s: float
    end_s: float


@dataclass(frozen=True)
class ClickLog:
    """Pages in the order of time.

    Attributes:
        query_row: i64[n], rows of the image set.
        user_idx: i64[n].
        session: i64[n]; pages of one session share a number.
        time_s: f64[n], ascending.
        shown: i64[n, K], rows of the catalogue by place.
        clicked: bool[n, K].
        purchased: bool[n, K], some of the clicked.
        examination: f64[K], probability that a place is looked at. It is known here; a real log
            estimates it from pages whose places were swapped at random.
        windows: Of training, validation, test.
        synthetic: Always true.
    """

    query_row: np.ndarray
    user_idx: np.ndarray
    session: np.ndarray
    time_s: np.ndarray
    shown: np.ndarray
    clicked: np.ndarray
    purchased: np.ndarray
    examination: np.ndarray
    windows: Windows
    synthetic: bool = True

    def __post_init__(self) -> None:
        if len(self.time_s) and (np.diff(self.time_s) < 0).any():
            raise ValueError("the pages of a click log must stand in the order of time")
        if self.shown.shape != self.clicked.shape or len(self.shown) != len(self.time_s):
            raise ValueError(f"{self.shown.shape} items shown, {self.clicked.shape} clicks")
        if self.examination.shape != self.shown.shape[1:]:
            raise ValueError(f"{len(self.examination)} places for pages of {self.shown.shape[1]}")

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def train(self) -> np.ndarray:
        """i64: pages before ``windows.train_end_s``."""
        return np.flatnonzero(self.time_s < self.windows.train_end_s)

    @property
    def validation(self) -> np.ndarray:
        """i64: pages of the days to validate."""
        begin, end = self.windows.train_end_s, self.windows.validation_end_s
        return np.flatnonzero((self.time_s >= begin) & (self.time_s < end))

    @property
    def test(self) -> np.ndarray:
        """i64: pages of the days to test."""
        return np.flatnonzero(self.time_s >= self.windows.validation_end_s)

    def take(self, pages: np.ndarray) -> ClickLog:
        """Only these pages, i64[n'] ascending."""
        whole = ("examination", "windows", "synthetic")
        columns = [column.name for column in fields(self) if column.name not in whole]
        return replace(self, **{name: getattr(self, name)[pages] for name in columns})

    def before(self, time_s: float) -> ClickLog:
        """Pages strictly before a moment."""
        return self.take(np.arange(np.searchsorted(self.time_s, time_s, side="left")))

    def history(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All clicks in the order of time: user i64[m], catalogue row i64[m], time f64[m]."""
        page, place = np.nonzero(self.clicked)
        return self.user_idx[page], self.shown[page, place], self.time_s[page]

    def save(self, path: Path) -> None:
        """Writes everything into one ``.npz`` file."""
        columns = {
            column.name: getattr(self, column.name)
            for column in fields(self)
            if column.name not in ("windows", "synthetic")
        }
        ends = (self.windows.train_end_s, self.windows.validation_end_s, self.windows.end_s)
        np.savez(path, windows=np.array(ends), **columns)

    @classmethod
    def load(cls, path: Path) -> ClickLog:
        """Reads what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            columns = {name: kept[name] for name in kept.files if name != "windows"}
            return cls(windows=Windows(*(float(end) for end in kept["windows"])), **columns)
