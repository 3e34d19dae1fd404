"""Four ways to say "this item, not the others", from the exact one to one negative.

In: the logit of the target s+ [N] and of M sampled items s- [N, M], for N positions (padding
already left out). Out: the mean loss, a scalar. ``-inf`` marks a sampled item that does not count
(it *is* the target).

    full softmax      -log( exp(s+) / sum over all I items exp(s_i) )
    sampled softmax   the same over the target and the M sampled items, each sampled logit lowered
                      by log(M q_i): the sum then estimates the sum over the catalogue
    BCE               -log sigma(s+) - sum log(1 - sigma(s-))
    gBCE              -beta log sigma(s+) - sum log(1 - sigma(s-)),    beta <= 1

BCE with one negative is Kang and McAuley, ICDM 2018, equation 7. gBCE is Petrov and Macdonald,
"gSASRec", RecSys 2023. Why beta: a non-target is shown with the probability alpha = M / (I - 1)
only, so BCE's optimum for an item of true probability p is

    sigma(s) = beta p / (beta p + alpha (1 - p))

which for beta = 1 and alpha = 1/1000 says 0.5 where p = 0.001: overconfidence. beta = alpha makes
it p. ``beta_of`` moves between the two with t: t = 0 is BCE, t = 1 is calibrated.

The losses are means over positions of sums over items, divided by M + 1 as in the paper. The
sampled softmax of ``two_tower_and_contrastive`` shares one set of negatives in the batch; here a
set belongs to a sequence, hence logits come in as [N, M]. A test holds the two equal where they
overlap; the full softmax is theirs.

Legend: N positions, M negatives, I items.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ml_algorithms.two_tower_and_contrastive.loss import full_softmax_loss

__all__ = [
    "bce_loss",
    "beta_of",
    "full_softmax_loss",
    "gbce_loss",
    "prior_logit",
    "sampled_softmax_loss",
]


def sampled_softmax_loss(
    positive: Tensor, negative: Tensor, negative_log_q: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the target among itself and M sampled items.

    Args:
        positive: Logits of the targets [N].
        negative: Logits of the sampled items [N, M]; -inf where one does not count.
        negative_log_q: Log-probability that one draw gives the item, broadcastable to [N, M].
            None: no correction, so the loss learns s - log q(i): with uniform q only a constant.
    """
    if negative_log_q is not None:
        # The target is there with probability one, so only the sampled logits are corrected.
        negative = negative - (negative_log_q + math.log(negative.shape[1]))
    logits = torch.cat([positive[:, None], negative], dim=1)
    target = torch.zeros(len(positive), dtype=torch.long, device=positive.device)
    return functional.cross_entropy(logits, target)


def bce_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of each target and its M sampled items, over M + 1."""
    return gbce_loss(positive, negative, beta=1.0)


def gbce_loss(positive: Tensor, negative: Tensor, *, beta: float) -> Tensor:
    """Generalised BCE: log sigma(s+) weighs ``beta``; log sigma^beta = beta log sigma."""
    # -log sigma(s) = softplus(-s) and -log(1 - sigma(s)) = softplus(s); softplus(-inf) = 0.
    losses = beta * functional.softplus(-positive) + functional.softplus(negative).sum(dim=1)
    return losses.mean() / (negative.shape[1] + 1)


def prior_logit(n_negatives: int, beta: float) -> float:
    """Where a constant model is right: sigma(log(beta / M)) = beta / (beta + M).

    Added to every logit of a binary loss. Without it the scores start at sigma = 1/2, and with many
    negatives the quickest way down is one direction that all item vectors share: everything is
    rejected, the items become alike, and what is left to learn is popularity. (The same start as
    the classification head of Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object
    Detection", ICCV 2017, section 4.1; gSASRec has none and trains long enough to get away.)
    """
    return math.log(beta / n_negatives)


def beta_of(n_negatives: int, n_items: int, t: float) -> float:
    """The weight of the target: beta = alpha (t (1 - 1/alpha) + 1/alpha), with alpha = M / (I - 1).

    Args:
        n_negatives: M.
        n_items: I.
        t: 0 (plain BCE, beta = 1) to 1 (calibrated, beta = alpha).

    Raises:
        ValueError: If t is outside [0, 1] or M outside 1..I-1.
    """
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    if not 1 <= n_negatives <= n_items - 1:
        raise ValueError(f"n_negatives must lie in 1..{n_items - 1}, got {n_negatives}")
    alpha = n_negatives / (n_items - 1)
    return alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha)
