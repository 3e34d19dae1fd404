"""InfoNCE and its symmetric form, and what either has to do with the sampled softmax.

In: B pairs of vectors, query [B, D] and key [B, D]. Out: a scalar loss: which of the B keys belongs
to this query?

    L = mean_b  - log( exp(q_b k_b / t) / sum_c exp(q_b k_c / t) )

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
section 2.3; the symmetric form and the learned temperature: Radford et al. (CLIP), ICML 2021. The
sum over B keys is a softmax over B sampled classes: InfoNCE *is* the sampled softmax with in-batch
negatives and without the logQ correction (``loss.sampled_softmax_loss``; the tests show the
equality). What differs is what one wants. Keys are drawn from the marginal p(y), so
the optimal score is

    InfoNCE:                  s(x, y) = log p(y | x) - log p(y) + c(x)     (pointwise mutual inf.)
    sampled softmax + logQ:   s(x, y) = log p(y | x) + c(x)                (what a ranking wants)

For image and caption, or question and passage, the marginal is a nuisance and its removal is
welcome. For a catalogue the marginal is the popularity, and removing it is a decision.

``info_nce_loss`` masks nothing, as in the papers: the same item twice in a batch is then its own
negative. ``optimal_scores`` finds both optima on a known joint distribution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def info_nce_loss(query: Tensor, key: Tensor, *, temperature: float | Tensor = 1.0) -> Tensor:
    """Mean cross-entropy of the matching key among the batch's keys; a scalar.

    Args:
        query: [B, D].
        key: [B, D]; row b belongs to query b.
        temperature: Divides the dot products, > 0. Time O(B^2 D), memory 4 B^2 bytes.

    Raises:
        ValueError: If the shapes differ or a fixed temperature is not positive.
    """
    return functional.cross_entropy(
        _logits(query, key, temperature), torch.arange(len(query), device=query.device)
    )


def symmetric_info_nce_loss(
    query: Tensor, key: Tensor, *, temperature: float | Tensor = 1.0
) -> Tensor:
    """CLIP's loss: the mean of "which key for this query" and "which query for this key".

    Arguments as ``info_nce_loss``. The second half asks for the right rows of the same matrix, so
    it costs no product. It matters where both directions are served (text to image and back).
    """
    logits = _logits(query, key, temperature)
    target = torch.arange(len(query), device=query.device)
    forward = functional.cross_entropy(logits, target)
    return (forward + functional.cross_entropy(logits.T, target)) / 2


class LearnedTemperature(nn.Module):
    """A temperature that is trained: t = exp(-log_scale), never below ``lowest``.

    The logarithm is learned, so that a step is relative; the clamp (CLIP's: logits are never scaled
    by more than 100) keeps an easy batch from driving t to 0, where the loss sees one negative.
    """

    def __init__(self, initial: float = 0.07, lowest: float = 0.01) -> None:
        super().__init__()
        if not 0.0 < lowest <= initial:
            raise ValueError(f"need 0 < lowest <= initial, got {lowest} and {initial}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(initial)))
        self.highest_log_scale = -math.log(lowest)

    def forward(self) -> Tensor:
        """The temperature, a scalar that carries a gradient."""
        return torch.exp(-self.log_scale.clamp(max=self.highest_log_scale))


def mutual_information_bound(loss: float, n_keys: int) -> float:
    """log(n_keys) - loss, in nats: a lower bound on the mutual information of query and key.

    It cannot exceed log(n_keys) whatever the truth is (van den Oord et al., section 2.3): a batch
    of 512 can certify 6.2 nats. The loss of another batch size is therefore another scale.

    Raises:
        ValueError: If there is no negative among the keys.
    """
    if n_keys < 2:
        raise ValueError(f"a bound needs at least 2 keys, got {n_keys}")
    return math.log(n_keys) - loss


def negative_weights(scores: Tensor, temperature: float) -> Tensor:
    """Share of the push that each negative gets [..., N]: softmax(scores / temperature).

    The gradient of the loss in the score of negative n is its softmax probability over t; among the
    negatives alone that is this share. A low temperature gives nearly all of it to the hardest
    (Wang and Liu, "Understanding the Behaviour of Contrastive Loss", CVPR 2021).
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return torch.softmax(scores / temperature, dim=-1)


def optimal_scores(
    joint: Tensor, *, log_q_weight: float, n_keys: int = 2, steps: int = 400, seed: int = 0
) -> Tensor:
    """The scores that minimise the loss on a known joint distribution, found by gradient descent.

    A free score per pair, batches drawn from ``joint``, ``n_keys - 1`` negatives from its marginal,
    and ``log_q_weight`` times log p(y) subtracted from every logit. 0 is InfoNCE, 1 the logQ
    correction, 2 a correction applied twice.

    Args:
        joint: p(x, y) [X, Y], positive, sums to 1.
        log_q_weight: How much of log p(y) is subtracted from the logits.
        n_keys: Keys per query. The optimum does not depend on it.
        steps: Steps of Adam on batches of 4,096 queries.
        seed: Of the draws.

    Returns:
        Scores [X, Y], each row shifted to mean 0: the optimum is defined up to a constant by row.
    """
    generator = torch.Generator().manual_seed(seed)
    marginal, batch = joint.sum(dim=0), 4096
    scores = torch.zeros_like(joint, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        pair = torch.multinomial(joint.flatten(), batch, True, generator=generator)
        x, positive = pair // joint.shape[1], pair % joint.shape[1]
        others = torch.multinomial(marginal, batch * (n_keys - 1), True, generator=generator)
        keys = torch.cat([positive[:, None], others.view(batch, -1)], dim=1)
        logits = scores[x[:, None], keys] - log_q_weight * marginal.log()[keys]
        optimiser.zero_grad()
        functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64)).backward()
        optimiser.step()
        schedule.step()
    found = scores.detach()
    return found - found.mean(dim=1, keepdim=True)


def _logits(query: Tensor, key: Tensor, temperature: float | Tensor) -> Tensor:
    if query.shape != key.shape or query.ndim != 2:
        raise ValueError(
            f"query and key must both be [B, D], got {tuple(query.shape)} and {tuple(key.shape)}"
        )
    if not isinstance(temperature, Tensor) and not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return query @ key.T / temperature
