"""Streaming estimate of how often an item is drawn, for the logQ correction.

In: batches of item ids as training sees them. Out: the probability that one draw gives an item.

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
2019, Algorithms 2 and 3. Counting needs a window and a pass over the data; instead keep, for each
hash bucket, the step at which it was last seen (array A) and a moving average of the gap between
sightings (array B):

    B[h(y)] <- (1 - rate) B[h(y)] + rate (t - A[h(y)]);    A[h(y)] <- t;    q(y) = 1 / B[h(y)]

An item of frequency q is seen every 1/q steps on average, and the moving average follows drift. A
collision makes a bucket's gap too short, hence q too high, never too low: with several hash
functions take the largest gap (Algorithm 3).

Departures:
- The paper's step is a batch, so that q is the probability to be *in* a batch, which saturates at
  1 for items that most batches hold. Here a step is one example by default (``per_example``): q is
  the probability of one draw, which is what the importance weight needs. ``per_example=False`` is
  the paper.
- The rate starts at 1 / (sightings + 1) and falls to ``learning_rate``, so that the first gaps
  count fully and the prior ``initial_gap`` is forgotten quickly; ``warm_up=False`` is the paper's
  fixed rate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class StreamingFrequencyEstimator:
    """Arrays A (last step) and B (average gap) for each hash function and bucket.

    Memory: 20 bytes x n_hashes x n_buckets. An update costs O(n_hashes x batch).
    """

    def __init__(
        self,
        n_buckets: int,
        *,
        n_hashes: int = 1,
        learning_rate: float = 0.01,
        initial_gap: float | None = None,
        per_example: bool = True,
        warm_up: bool = True,
        hashed: bool = True,
        seed: int = 0,
    ) -> None:
        """Set up empty arrays.

        Args:
            n_buckets: Size of each hash table; a few times the number of frequent items.
            n_hashes: Hash functions (Algorithm 3 with more than one).
            learning_rate: Weight of the newest gap, in (0, 1). The estimate remembers about 1 /
                rate sightings; its relative standard deviation is about sqrt(rate / 2).
            initial_gap: Average gap before anything is seen (in steps); ``n_buckets`` by default,
                the gap under uniform draws.
            per_example: A step is one example (True) or one batch (False, as in the paper).
            warm_up: Average the first gaps evenly before the fixed rate takes over.
            hashed: False uses the ids themselves as buckets: exact for a dense vocabulary
                0..n_buckets-1.
            seed: Chooses the hash functions.

        Raises:
            ValueError: If a size, the rate or the gap is out of range, or several hashes are asked
                unhashed.
        """
        if n_buckets < 1 or n_hashes < 1:
            raise ValueError(
                f"n_buckets and n_hashes must be at least 1, got {n_buckets} and {n_hashes}"
            )
        if not 0.0 < learning_rate < 1.0:
            raise ValueError(f"learning_rate must lie in (0, 1), got {learning_rate}")
        if not hashed and n_hashes != 1:
            raise ValueError(f"without hashing there is one table, got n_hashes={n_hashes}")
        gap = float(n_buckets) if initial_gap is None else initial_gap
        if not gap >= 1.0:
            raise ValueError(f"initial_gap must be at least one step, got {gap}")
        self.n_buckets, self.n_hashes, self.learning_rate = n_buckets, n_hashes, learning_rate
        self.per_example, self.warm_up, self.hashed = per_example, warm_up, hashed
        self.step = 0
        self.last_step = np.zeros((n_hashes, n_buckets), dtype=np.int64)  # A in the paper
        self.mean_gap = np.full((n_hashes, n_buckets), gap, dtype=np.float64)  # B in the paper
        self.sightings = np.zeros((n_hashes, n_buckets), dtype=np.int32)
        # Multiply-add-shift hashing on 64-bit words: odd multipliers, any offsets.
        rng = np.random.default_rng(seed)
        self._multiplier = rng.integers(1, 2**63, size=n_hashes, dtype=np.uint64) * 2 + 1
        self._offset = rng.integers(0, 2**63, size=n_hashes, dtype=np.uint64)

    def update(self, item_idx: npt.NDArray[np.integer]) -> None:
        """Take in one batch of drawn items [B], in the order in which they were drawn."""
        items = np.asarray(item_idx)
        if items.size == 0:
            return
        if self.per_example:
            steps = self.step + 1 + np.arange(items.size)
            self.step += items.size
        else:
            self.step += 1
            items = np.unique(items)  # in a batch or not: repeats do not count
            steps = np.full(items.size, self.step)
        buckets = self._buckets(items)
        for table in range(self.n_hashes):
            self._update_table(table, buckets[table], steps)

    def probability(self, item_idx: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Estimated probability of each item [B], in (0, 1]: one over the largest average gap."""
        buckets = self._buckets(np.asarray(item_idx))
        gaps = np.take_along_axis(self.mean_gap, buckets, axis=1)  # [hashes, B]
        return 1.0 / np.maximum(gaps.max(axis=0), 1.0)

    def log_probability(self, item_idx: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Log of ``probability`` as float32 [B], ready to be the loss's ``log_q``."""
        return np.log(self.probability(item_idx)).astype(np.float32)

    def _update_table(
        self, table: int, buckets: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
    ) -> None:
        """Apply the gaps of one batch.

        Sightings of one bucket are applied in order: the first of every bucket together, then the
        second of every bucket, and so on, so that each round is one vectorised update.
        """
        order = np.argsort(buckets, kind="stable")
        grouped = buckets[order]
        first = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
        occurrence = np.arange(grouped.size) - np.repeat(first, np.diff(np.r_[first, grouped.size]))
        for nth in range(int(occurrence.max()) + 1):
            chosen = order[occurrence == nth]
            bucket, now = buckets[chosen], steps[chosen]
            gap = now - self.last_step[table, bucket]
            self.sightings[table, bucket] += 1
            rate: npt.NDArray[np.float64] | float = self.learning_rate
            if self.warm_up:
                rate = np.maximum(self.learning_rate, 1.0 / (self.sightings[table, bucket] + 1.0))
            self.mean_gap[table, bucket] += rate * (gap - self.mean_gap[table, bucket])
            self.last_step[table, bucket] = now

    def _buckets(self, items: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Bucket of each item under each hash function, i64[hashes, B]."""
        if not self.hashed:
            if items.size and not (items.min() >= 0 and items.max() < self.n_buckets):
                raise ValueError(
                    f"item ids {items.min()}..{items.max()} outside 0..{self.n_buckets - 1}: "
                    "set n_buckets to the catalogue size or use hashed=True"
                )
            return items.astype(np.int64)[None, :]
        words = items.astype(np.uint64)[None, :] * self._multiplier[:, None] + self._offset[:, None]
        high = words >> np.uint64(32)  # the high bits are the well-mixed ones
        return (high % np.uint64(self.n_buckets)).astype(np.int64)
