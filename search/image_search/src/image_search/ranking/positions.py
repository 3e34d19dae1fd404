r"""What is done about the place that an item was shown at: four losses of a click.

In: logits f64[R] of the attraction, clicks, the chance theta of a look at each place. Out: loss,
gradient and curvature. With p = sigmoid(logit) and c the click:

- ``none``: P(c) = p. Who stands at place 20 is called poor because nobody looked.
- ``feature``: the place is one more input, and serving sets it to the first. H. Guo, J. Yu, Q. Liu
  and others ("PAL: A Position-bias Aware Learning Framework for CTR Prediction in Live Recommender
  Systems", RecSys 2019) call it widely used, and warn that another default place gives another
  order. The loss is that of ``none``. It needs no theta.
- ``ips``: the loss  softplus(logit) - (c / theta) logit, whose mean over looks is the loss of
  knowing the attraction itself: inverse propensity scoring (T. Joachims, A. Swaminathan,
  T. Schnabel, "Unbiased Learning-to-Rank with Biased Feedback", WSDM 2017), here for a pointwise
  loss. A click at place 20 weighs twenty times one at place 1: no bias, much variance.
- ``examination``: the likelihood of the position-based model itself, P(c) = theta p. It uses the
  same theta with less variance, as a click at any place weighs the same.

Both of the last need to know theta. Here it is the truth's; a real system estimates it from pages
whose places were swapped at random.

The curvature for trees is the expected one (Fisher's), which is positive where the second
derivative of ``examination`` need not be.

Legend: R impressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import expit

Correction = Literal["none", "feature", "ips", "examination"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
TINY = 1e-7


@dataclass(frozen=True)
class ClickLoss:
    """The loss of R impressions as a function of their logits.

    Attributes:
        correction: Which of the four.
        clicked: f64[R], 0 or 1.
        theta: f64[R], chance of a look.
    """

    correction: Correction
    clicked: np.ndarray
    theta: np.ndarray

    def __post_init__(self) -> None:
        if self.correction not in CORRECTIONS:
            raise ValueError(f"correction {self.correction!r}: one of {', '.join(CORRECTIONS)}")
        if len(self.theta) and not 0 < self.theta.min() <= self.theta.max() <= 1:
            raise ValueError(
                f"chances of a look must lie in (0, 1], got {self.theta.min()}..{self.theta.max()}"
            )

    @property
    def base(self) -> float:
        """The constant logit with the least loss, but for ``examination`` nearly."""
        looks = self.theta.sum() if self.correction == "examination" else len(self.clicked)
        weight = 1 / self.theta if self.correction == "ips" else np.ones_like(self.theta)
        rate = np.clip((self.clicked * weight).sum() / max(looks, 1), 1e-4, 1 - 1e-4)
        return float(np.log(rate / (1 - rate)))

    def value(self, logits: np.ndarray) -> float:
        """Mean loss."""
        if self.correction == "ips":
            terms = np.logaddexp(0, logits) - self.clicked / self.theta * logits
            return float(terms.mean())
        chance = np.clip(self._looked * expit(logits), TINY, 1 - TINY)
        return float(-np.where(self.clicked > 0, np.log(chance), np.log1p(-chance)).mean())

    def gradient(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First derivative and expected curvature of every term, f64[R] each."""
        p = expit(logits)
        if self.correction == "ips":
            return p - self.clicked / self.theta, np.maximum(p * (1 - p), TINY)
        looked = self._looked
        missed = np.maximum(1 - looked * p, TINY)
        first = np.where(self.clicked > 0, p - 1, looked * p * (1 - p) / missed)
        return first, np.maximum(looked * p * (1 - p) ** 2 / missed, TINY)

    @property
    def _looked(self) -> np.ndarray:
        return self.theta if self.correction == "examination" else np.ones_like(self.theta)
