"""What a ranker would learn that style is worth: option (b) in its smallest form.

In: logged pages: a base score and a liking for every shown item, what was clicked. Out: the weight
of the liking in units of the base score. The clicks of the log are explained by the position-based
model with the known chance of a look e_k,

    P(click on place k) = e_k sigmoid(b_0 + b_1 score + b_2 liking),

and the three numbers found by maximum likelihood; b_2 / b_1 is what is asked for. A boosted ranker
(ranking/) reads the same liking as one feature of many; here it stands alone beside the score, so
that what personalisation adds is not mixed with what a larger model adds.

Legend: n pages, K places.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

CERTAIN = 1e-9


def fit_weights(
    score: np.ndarray, liking: np.ndarray, clicked: np.ndarray, examination: np.ndarray
) -> np.ndarray:
    """f64[3]: b_0, b_1, b_2.

    Args:
        score: f[n, K] of the shown items, finite.
        liking: f[n, K].
        clicked: bool[n, K].
        examination: f64[K], the chance of a look at each place.

    Raises:
        ValueError: If shapes differ, nothing was clicked, or the search for the maximum fails.
    """
    if not score.shape == liking.shape == clicked.shape or examination.shape != score.shape[1:]:
        raise ValueError(
            f"scores {score.shape}, likings {liking.shape}, clicks {clicked.shape}, "
            f"{len(examination)} places"
        )
    if not clicked.any():
        raise ValueError(f"no click on {len(clicked)} pages: there is nothing to learn from")
    centre, spread = float(score.mean()), max(float(score.std()), CERTAIN)
    scaled = (score - centre) / spread
    table = np.stack([np.ones_like(scaled), scaled, liking], axis=-1).reshape(-1, 3)
    look = np.broadcast_to(examination, score.shape).reshape(-1)
    hit = clicked.reshape(-1)

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        liked = expit(table @ b)
        chance = np.clip(look * liked, CERTAIN, 1 - CERTAIN)
        value = -np.where(hit, np.log(chance), np.log1p(-chance)).mean()
        # d log P / d logit: 1 - liked for a click, -P (1 - liked) / (1 - P) for none.
        slope = (1 - liked) * np.where(hit, 1.0, -chance / (1 - chance))
        return float(value), -(slope[:, None] * table).mean(axis=0)

    best = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B")
    if not best.success:
        raise ValueError(f"the weights of score and style were not found: {best.message}")
    b0, b1, b2 = best.x
    return np.array([b0 - b1 * centre / spread, b1 / spread, b2])
