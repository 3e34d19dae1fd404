"""Encodings that are fitted on the training window or need no fitting at all.

- ``hash_bucket``: the hashing trick (Weinberger et al., "Feature Hashing for Large Scale Multitask
  Learning", ICML 2009): any id, known or not, to one of B buckets. Nothing to store, nothing to
  fit; the price is collisions.
- ``hashed_words``: a title as a bag of hashed words.
- ``smoothed_mean``: a mean per category drawn towards the prior where there is little data
  (additive smoothing; the empirical-Bayes form is Micci-Barreca, SIGKDD Explorations 2001). It is
  a target encoding, so it must be fitted on rows strictly older than those it is used on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[a-z0-9']+")


def hash_bucket(ids: npt.NDArray[np.integer], n_buckets: int) -> npt.NDArray[np.int64]:
    """Bucket of each id, i64 in 0..n_buckets - 1, the same on every machine and in every process.

    Python's own ``hash`` is salted per process and must never be used for this.
    """
    if n_buckets < 1:
        raise ValueError(f"n_buckets must be at least 1, got {n_buckets}")
    mixed = ids.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)  # Fibonacci hashing
    return ((mixed >> np.uint64(32)) % np.uint64(n_buckets)).astype(np.int64)


def hashed_words(texts: Sequence[str], *, n_buckets: int, max_words: int) -> npt.NDArray[np.int64]:
    """Bags of hashed lower-case words, i64[len(texts), max_words].

    Bucket 0 is padding; words take buckets 1..n_buckets - 1. Years in brackets are words too and
    are left out, because the year is a feature of its own.
    """
    if n_buckets < 2:
        raise ValueError(f"n_buckets must be at least 2 (one is padding), got {n_buckets}")
    bags = np.zeros((len(texts), max_words), dtype=np.int64)
    for row, text in enumerate(texts):
        words = _WORD.findall(re.sub(r"\(\d{4}\)", " ", text.lower()))[:max_words]
        bags[row, : len(words)] = [1 + crc32(w.encode()) % (n_buckets - 1) for w in words]
    return bags


def smoothed_mean(
    category: npt.NDArray[np.integer],
    value: npt.NDArray[np.floating],
    *,
    n_categories: int,
    prior_weight: float,
) -> npt.NDArray[np.float32]:
    """Mean of ``value`` per category, with ``prior_weight`` pseudo-observations of the global mean.

        m_c = (sum of values of c + w * global mean) / (n_c + w)

    Args:
        category: Category of each row [N], 0..n_categories - 1.
        value: f[N].
        n_categories: Categories without rows get the global mean (0 where there are no rows).
        prior_weight: w > 0, in rows.
    """
    if prior_weight <= 0:
        raise ValueError(f"prior_weight must be positive, got {prior_weight}")
    overall = float(value.mean()) if len(value) else 0.0
    total = np.bincount(category, weights=value, minlength=n_categories)
    count = np.bincount(category, minlength=n_categories)
    return ((total + prior_weight * overall) / (count + prior_weight)).astype(np.float32)
