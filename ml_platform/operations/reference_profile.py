"""What a model was trained on, small enough to travel with it, and how a window differs from that.

In: the reference rows f[N, F] with their clusters. Out: a `ReferenceProfile`: of every column the
bins, their shares with covariance, and a sketch of equally likely quantiles; no raw row is kept,
and the whole is some KB a column. `compare` holds a window against it; what the numbers mean
stands in `drift`. Legend: N reference rows, n window rows, F columns, B bins, S sketch.

Bins: one for NaN, one for the schema's default (which stands for a missing value once the matrix
is assembled), then the deciles of what is left, the outer ones open; a column of few distinct
values is compared value by value, with a bin for values never seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ml_platform.operations.drift import (
    KS_EFFECT,
    PSI_ALERT,
    PSI_WARNING,
    Shares,
    cluster_shares,
    kolmogorov_smirnov,
    ks_without_drift,
    population_stability_index,
    psi_without_drift,
)

N_BINS = 10
MAX_VALUES = 12
"""A column with at most so many distinct values is compared value by value."""
SKETCH_SIZE = 512
"""Quantiles kept of a column: KS from them is off by at most 1 / 512."""
MISSING, DEFAULT, FIRST = 0, 1, 2
"""Bins of every column: NaN; the default; from 2 on the ordinary values."""
FALSE_ALARM_RATE = 0.01
"""Of one report over all columns together; split among them by Bonferroni."""


@dataclass(frozen=True)
class Monitored:
    """What the monitor knows of a column beside its numbers.

    Attributes:
        name: Column name.
        group: Whose property it is.
        owner: The module or team to ask.
        family: Columns that one upstream feeds; they break together.
        default: What stands for a missing value; NaN for none.
    """

    name: str
    group: str = ""
    owner: str = ""
    family: str = ""
    default: float = float("nan")


@dataclass(frozen=True)
class Column:
    """The reference of one column.

    Attributes:
        info: Name, owner, default.
        discrete: Whether `cuts` are values (compared by equality) or inner edges of bins.
        cuts: f64, ascending.
        shares: Of the B bins.
        sketch: f64[S], equally likely quantiles of the values that are not NaN.
    """

    info: Monitored
    discrete: bool
    cuts: np.ndarray
    shares: Shares
    sketch: np.ndarray

    @property
    def n_bins(self) -> int:
        """B: missing, default, then the values and one for unseen ones, or the intervals."""
        return FIRST + len(self.cuts) + 1

    def bins(self, values: np.ndarray) -> np.ndarray:
        """Bin i64[n] of each value. The outer intervals are open: no value falls out."""
        place = np.searchsorted(self.cuts, values, side="left" if self.discrete else "right")
        if self.discrete:
            known = self.cuts[np.minimum(place, len(self.cuts) - 1)] == values
            place = np.where(known, place, len(self.cuts))
        place = np.where(values == self.info.default, DEFAULT, place + FIRST)
        return np.where(np.isnan(values), MISSING, place)

    def ordinary(self) -> np.ndarray:
        """The sketch without the default."""
        return self.sketch[self.sketch != self.info.default]


@dataclass(frozen=True)
class Comparison:
    """One column, now against its reference.

    Attributes:
        column: The reference.
        values: f64[n], the window's.
        shares: The window's, over the column's bins.
        psi: As measured.
        noise: What it is expected to be without drift.
        psi_limit: What it exceeds without drift once in `FALSE_ALARM_RATE` reports.
        ks: Largest distance of the distribution functions.
        ks_limit: What counts as large at this sample size.
    """

    column: Column
    values: np.ndarray
    shares: Shares
    psi: float
    noise: float
    psi_limit: float
    ks: float
    ks_limit: float

    @property
    def excess(self) -> float:
        """PSI less its expectation without drift."""
        return self.psi - self.noise

    @property
    def moved(self) -> bool:
        """Whether the column drifted, by size and by probability."""
        by_psi = self.excess >= PSI_WARNING and self.psi > self.psi_limit
        return bool(by_psi or self.ks > self.ks_limit)

    @property
    def severe(self) -> bool:
        """Whether PSI alone would be called a significant shift."""
        return bool(self.excess >= PSI_ALERT and self.psi > self.psi_limit)


def compare(column: Column, values: np.ndarray, clusters: np.ndarray, level: float) -> Comparison:
    """Window against reference for one column; `level` is the false alarm rate of this column."""
    values = np.asarray(values, dtype=np.float64)
    now, then = cluster_shares(column.bins(values), clusters, column.n_bins), column.shares
    psi = population_stability_index(then, now)
    noise, limit = psi_without_drift(then, now, level)
    finite = values[~np.isnan(values)]
    ks = kolmogorov_smirnov(column.sketch, finite) if len(finite) and len(column.sketch) else 0.0
    ks_limit = max(KS_EFFECT, ks_without_drift(then, now, level))
    return Comparison(column, values, now, psi, noise, limit, ks, ks_limit)


@dataclass(frozen=True)
class ReferenceProfile:
    """The reference of all columns; see the module's docstring."""

    columns: tuple[Column, ...]

    @property
    def level(self) -> float:
        """False alarm rate of one column."""
        return FALSE_ALARM_RATE / len(self.columns)

    def compare(self, rows: np.ndarray, clusters: np.ndarray) -> list[Comparison]:
        """A window f[n, F] with its clusters i64[n] against the reference, column by column."""
        return [
            compare(column, rows[:, place], clusters, self.level)
            for place, column in enumerate(self.columns)
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays, for one npz file; about 6 KB a column."""
        arrays: dict[str, np.ndarray] = {}
        heads = []
        for place, column in enumerate(self.columns):
            shares = column.shares
            heads.append([asdict(column.info), column.discrete, shares.n_rows, shares.n_clusters])
            parts = (column.cuts, column.sketch, shares.share, shares.covariance)
            arrays |= {f"{place}.{i}": part for i, part in enumerate(parts)}
        return {"heads": np.array(json.dumps(heads))} | arrays

    @staticmethod
    def of_arrays(arrays: Mapping[str, np.ndarray]) -> ReferenceProfile:
        """The profile that ``arrays`` described; other names are left alone."""
        columns = []
        for place, (info, discrete, *sizes) in enumerate(json.loads(str(arrays["heads"]))):
            cuts, sketch, share, covariance = (arrays[f"{place}.{i}"] for i in range(4))
            shares = Shares(share, covariance, *sizes)
            columns.append(Column(Monitored(**info), discrete, cuts, shares, sketch))
        return ReferenceProfile(tuple(columns))


def build_profile(
    rows: np.ndarray, clusters: np.ndarray, columns: Sequence[Monitored]
) -> ReferenceProfile:
    """Sums up the reference.

    Args:
        rows: f[N, F].
        clusters: i64[N], whose rows are not independent of each other (users).
        columns: F descriptions.

    Raises:
        ValueError: if the shapes differ or there are no rows.
    """
    if rows.shape != (len(clusters), len(columns)) or not len(rows):
        raise ValueError(f"rows {rows.shape}, {len(clusters)} clusters, {len(columns)} columns")
    return ReferenceProfile(
        tuple(_column(rows[:, f], clusters, info) for f, info in enumerate(columns))
    )


def _column(raw: np.ndarray, clusters: np.ndarray, info: Monitored) -> Column:
    values = np.asarray(raw, dtype=np.float64)
    finite = values[~np.isnan(values)]
    ordinary = finite[finite != info.default]
    distinct = np.unique(ordinary)
    discrete = len(distinct) <= MAX_VALUES
    cuts = distinct if discrete else np.unique(np.quantile(ordinary, np.arange(1, N_BINS) / N_BINS))
    middles = (np.arange(SKETCH_SIZE) + 0.5) / SKETCH_SIZE
    sketch = np.quantile(finite, middles, method="inverted_cdf") if len(finite) else finite
    if discrete and not len(cuts):
        cuts, discrete = np.zeros(0), False  # nothing but defaults: one open interval
    bare = Column(info, discrete, cuts, Shares(np.zeros(0), np.zeros(0), 0, 0), sketch)
    return Column(
        info, discrete, cuts, cluster_shares(bare.bins(values), clusters, bare.n_bins), sketch
    )
