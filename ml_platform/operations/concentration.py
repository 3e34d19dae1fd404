"""Do a few items suddenly get most of the events? A popularity shift, seen where it happens.

In: the items of the events so far, in the order of time; later the items of the last events. Out: a
`Finding` when the most watched items hold a larger share of the events than they ever used to.

Why not leave it to the drift of features: a ranker that reads the person may hardly show what the
crowd has discovered, so its lists look the same, while the counters behind it, the popularity
fallback and the next training set fill up with five items. The lists do not show it, the events do.

The reference is made of consecutive blocks as long as the window. Their spread holds all that makes
one thousand events differ from the next without a shift: sittings of single users, weekends, the
catalogue's own fashion. A window is unusual beyond the prediction interval of a further block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.operations.drift_causes import Finding

TOP_ITEMS = 10
LEVEL = 0.001
"""Of one look. Looks overlap, so they are many; a shift of this kind can wait for certainty."""
EFFECT = 1.5
"""Times the usual share, below which a shift is not worth a person's time."""
MIN_BLOCKS = 5


@dataclass(frozen=True)
class Concentration:
    """What share of `block` consecutive events the `TOP_ITEMS` most frequent items hold.

    Attributes:
        mean: Over the reference's blocks.
        deviation: Standard deviation over them.
        n_blocks: Their number.
        block: Events in each, and in a window.
    """

    mean: float
    deviation: float
    n_blocks: int
    block: int

    @property
    def limit(self) -> float:
        """The share that a further block exceeds with probability `LEVEL`, or the effect's size."""
        wide = float(stats.t.isf(LEVEL, self.n_blocks - 1)) * np.sqrt(1 + 1 / self.n_blocks)
        return float(max(self.mean + wide * self.deviation, EFFECT * self.mean))


def measure_concentration(items: np.ndarray, block: int) -> Concentration:
    """The reference of a log.

    Args:
        items: i64[N], item of each event, in the order of time.
        block: Events in a block.

    Raises:
        ValueError: if there are fewer than `MIN_BLOCKS` blocks: their spread would be a guess.
    """
    n_blocks = len(items) // block
    if n_blocks < MIN_BLOCKS:
        raise ValueError(f"{len(items)} events are {n_blocks} blocks of {block}, not {MIN_BLOCKS}")
    # The last blocks: the oldest events may be a warm-up unlike anything later.
    blocks = items[len(items) - n_blocks * block :].reshape(n_blocks, block)
    shares = np.array([top_share(one) for one in blocks])
    return Concentration(float(shares.mean()), float(shares.std(ddof=1)), n_blocks, block)


def top_share(items: np.ndarray) -> float:
    """Share of the events that fall on the `TOP_ITEMS` most frequent items."""
    _, counts = np.unique(items, return_counts=True)
    return float(np.sort(counts)[-TOP_ITEMS:].sum() / max(1, len(items)))


def concentration_drift(reference: Concentration, items: np.ndarray, owner: str) -> Finding | None:
    """Whether the last events crowd on a few items.

    Args:
        reference: Of the training log.
        items: Items of the last events; fewer than a block say nothing.
        owner: Whom to ask.
    """
    if len(items) < reference.block:
        return None
    recent = items[-reference.block :]
    share = top_share(recent)
    if share <= reference.limit:
        return None
    names, counts = np.unique(recent, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    worst = ", ".join(f"{names[i]} ({counts[i] / len(recent):.0%})" for i in order)
    return Finding(
        feature="events",
        group="events",
        owner=owner,
        family="",
        kind="popularity",
        severity="alert" if share > 2 * reference.limit else "warning",
        psi=0.0,
        noise=0.0,
        ks=share - reference.mean,
        direction="up",
        sentence=(
            f"{TOP_ITEMS} items got {share:.0%} of the last {len(recent):,} events, "
            f"{reference.mean:.0%} is usual (limit {reference.limit:.0%}); most: items {worst}: "
            "popularity shift: a campaign, a hit, or robots"
        ),
    )
