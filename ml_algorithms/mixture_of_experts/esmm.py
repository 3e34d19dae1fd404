"""Entire-space factorisation: P(like) = P(watch) P(like | watch), on every impression.

In: two logits per impression, for watch and for like given watch. Out: joint probabilities and
their loss.

Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
Conversion Rate", SIGIR 2018 (there: click and conversion). A like can happen only after a watch. A
like head that is trained on watched items alone sees a biased sample and is then asked about all
candidates; here its only supervision is the product, which has a label on every impression.

Everything is computed from log-sigmoids, because a product of probabilities loses its gradient
when either is small.

Legend: B impressions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class JointProbabilities(NamedTuple):
    """Probabilities per impression."""

    watch: Tensor
    """f[B], P(watch)."""
    like: Tensor
    """f[B], P(watch and like), never above ``watch``."""
    like_given_watch: Tensor
    """f[B], P(like | watch)."""


def joint_probabilities(watch_logit: Tensor, like_given_watch_logit: Tensor) -> JointProbabilities:
    """Turn the two logits f[B] into probabilities; ``like`` is the product of the other two."""
    like = torch.exp(
        functional.logsigmoid(watch_logit) + functional.logsigmoid(like_given_watch_logit)
    )
    return JointProbabilities(
        torch.sigmoid(watch_logit), like, torch.sigmoid(like_given_watch_logit)
    )


def entire_space_loss(
    watch_logit: Tensor,
    like_given_watch_logit: Tensor,
    watched: Tensor,
    liked: Tensor,
    *,
    like_weight: float = 1.0,
) -> Tensor:
    """Mean cross-entropy of watch plus ``like_weight`` times that of the joint watch-and-like.

    Args:
        watch_logit: Logit of P(watch) [B].
        like_given_watch_logit: Logit of P(like | watch) [B].
        watched: 1 where the impression was watched, f[B].
        liked: 1 where it was liked, f[B]; a like without a watch is a labelling error.
        like_weight: Weight of the second term.

    Returns:
        Scalar loss.

    Raises:
        ValueError: If an impression is liked but not watched.
    """
    if bool((liked > watched).any()):
        raise ValueError(f"{int((liked > watched).sum())} impressions are liked but not watched")
    watch_loss = functional.binary_cross_entropy_with_logits(watch_logit, watched)
    log_like = functional.logsigmoid(watch_logit) + functional.logsigmoid(like_given_watch_logit)
    like_loss = -(liked * log_like + (1.0 - liked) * log1m_exp(log_like)).mean()
    return watch_loss + like_weight * like_loss


def log1m_exp(log_probability: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, without cancellation.

    Near 0 expm1 is exact, far below it log1p is; the switch is at p = 1/2. x is kept
    below -1e-7, the last value at which 1 - p is a number in float32.
    """
    x = log_probability.clamp_max(-1e-7)
    return torch.where(
        x > -math.log(2.0),
        torch.log(-torch.expm1(x)),
        torch.log1p(-torch.exp(x.clamp_max(-math.log(2.0)))),
    )
