"""The people of the simulated log: what each likes, pays, looks for. SYNTHETIC.

In: numbers, a seed. Out: ``Audience``, arrays over U users. Nothing of it changes over the days:
a person's taste is there to be learnt.

- taste: a direction in the space of styles (``truth``), uniform on the sphere;
- price level: standard normal, in the units of a price's place within its class;
- interest: a share of every class, Dirichlet(0.5): most people look for a few classes;
- activity: log-normal, so that a tenth of the people make half of the searches.

Legend: U users, S directions of style, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.embeddings.base import unit_rows

CONCENTRATION = 0.5
ACTIVITY_SPREAD = 1.2


@dataclass(frozen=True)
class Audience:
    """Users by index.

    Attributes:
        taste: f32[U, S], rows of length 1.
        price_level: f32[U].
        interest: f32[U, C], rows that add up to 1.
        activity: f32[U], shares of the searches; they add up to 1.
    """

    taste: np.ndarray
    price_level: np.ndarray
    interest: np.ndarray
    activity: np.ndarray

    def __len__(self) -> int:
        return len(self.taste)


def draw_audience(users: int, classes: int, style_dim: int, seed: int) -> Audience:
    """Draws ``users`` people over ``classes`` classes (one at least)."""
    rng = np.random.default_rng((seed, 1))
    activity = rng.lognormal(sigma=ACTIVITY_SPREAD, size=users)
    return Audience(
        taste=unit_rows(rng.standard_normal((users, style_dim))),
        price_level=rng.standard_normal(users).astype(np.float32),
        interest=rng.dirichlet(np.full(classes, CONCENTRATION), size=users).astype(np.float32),
        activity=(activity / activity.sum()).astype(np.float32),
    )
