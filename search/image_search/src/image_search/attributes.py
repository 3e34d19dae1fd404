"""What a shop knows of an item beside its picture: price, quality, popularity, age. SYNTHETIC.

In: external ids i64[N], classes i16[N], a seed. Out: ``Attributes``, arrays over the items. No data
set here has any of this, so it is drawn: ranking needs features, filters need a price. What is
measured with it shows mechanics, never the worth of a feature.

Every value is a function of (seed, item_id, class) alone, by ``seeded_hash``: an item keeps its
values when others come or go, and two processes agree without a file.

- price: log-normal around the class's own median, so that classes overlap and differ;
- quality: Beta(4, 2), what a rater would give, in (0, 1);
- popularity: a Pareto tail whose scale grows with quality (correlation, not identity): views a day;
- age: exponential, 90 days in the mean; ``freshness`` halves every 30 days.

Legend: N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.data.interactions import seeded_hash

MEDIAN_PRICE = (12.0, 90.0)
"""Range of the classes' medians, in units of money."""
PRICE_SPREAD = 0.45
"""Standard deviation of the price's logarithm within a class."""
PARETO_SHAPE = 1.2
MEAN_AGE_DAYS = 90.0
HALF_LIFE_DAYS = 30.0
_COLUMNS = ("price", "quality", "popularity", "age", "class price")


@dataclass(frozen=True)
class Attributes:
    """Synthetic columns over N items.

    Attributes:
        price: f32[N], positive, in cents' precision.
        quality: f32[N] in (0, 1).
        popularity: f32[N], views a day, positive.
        age_days: f32[N], since the item was listed.
        synthetic: Always true; tables that use these say so.
    """

    price: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    age_days: np.ndarray
    synthetic: bool = True

    def __len__(self) -> int:
        return len(self.price)

    @property
    def freshness(self) -> np.ndarray:
        """f32[N] in (0, 1]: 1 for an item of today, half of it every HALF_LIFE_DAYS."""
        return np.exp2(-self.age_days / HALF_LIFE_DAYS).astype(np.float32)


def draw_attributes(item_id: np.ndarray, label: np.ndarray, seed: int) -> Attributes:
    """Draws the attributes of these items.

    Args:
        item_id: i64[N].
        label: i16[N]; UNLABELLED (-1) is a class like any other here.
        seed: Another seed, other attributes.

    Raises:
        ValueError: If ids and classes differ in number.
    """
    ids, classes = np.asarray(item_id, dtype=np.int64), np.asarray(label, dtype=np.int64)
    if ids.shape != classes.shape or ids.ndim != 1:
        raise ValueError(f"{ids.shape} ids and {classes.shape} classes: expected one each an item")
    low, high = np.log(MEDIAN_PRICE)
    log_median = low + (high - low) * _uniform(seed, "class price", classes)
    price = np.exp(log_median + PRICE_SPREAD * stats.norm.ppf(_uniform(seed, "price", ids)))
    quality = stats.beta.ppf(_uniform(seed, "quality", ids), 4, 2)
    tail = (1 - _uniform(seed, "popularity", ids)) ** (-1 / PARETO_SHAPE)
    age = -MEAN_AGE_DAYS * np.log1p(-_uniform(seed, "age", ids))
    return Attributes(
        price=np.round(price, 2).astype(np.float32),
        quality=quality.astype(np.float32),
        popularity=(tail * np.exp(2 * quality)).astype(np.float32),
        age_days=age.astype(np.float32),
    )


def _uniform(seed: int, column: str, number: np.ndarray) -> np.ndarray:
    """f64[N] in the open interval (0, 1), by (seed, column, number)."""
    columns = np.full(len(number), _COLUMNS.index(column), dtype=np.int64)
    bits = seeded_hash(seed, columns, number) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) / 2.0**52
