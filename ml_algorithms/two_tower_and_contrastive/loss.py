"""Softmax over the catalogue from in-batch and uniform negatives, logQ corrected.

In: query embeddings and positive item embeddings of B training pairs, optionally M more negatives
drawn uniformly. Out: a scalar loss (or one per row).

The logits are one product [B, B + M]: row b is a query, its positive is column b, every other
column is a negative. In-batch negatives are drawn in proportion to popularity, so a popular item
is pushed down far more often than a full softmax would; subtracting ``log q(item)`` from the logit
undoes that:

    s_corrected(x, y) = s(x, y) / temperature - log q(y)

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
2019; the importance-sampling origin is Bengio and Senecal, "Quick Training of
Probabilistic Neural Nets by Importance Sampling", AISTATS 2003, and IEEE TNN 2008. Uniform
negatives beside in-batch ones: Yang et al., "Mixed Negative Sampling for Learning Two-tower Neural
Networks in Recommendations", WWW Companion 2020. ``log q`` is for training only: at serving the
logits are used as they are.

Departures: accidental hits (the same item in another column, or another positive of the same user)
are removed from the row; weights are normalised by their sum, not by B.

Legend: B batch, M extra negatives, D embedding dim, I items.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def sampled_softmax_loss(
    query: Tensor,
    positive: Tensor,
    item_idx: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    log_q: Tensor | None = None,
    negative: Tensor | None = None,
    negative_idx: Tensor | None = None,
    negative_log_q: Tensor | None = None,
    in_batch: bool = True,
    user_idx: Tensor | None = None,
    exclude: Tensor | None = None,
    weight: Tensor | None = None,
    correct_positive: bool = True,
    n_draws: int | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Cross-entropy of the positive among sampled items, corrected for how they were sampled.

    Time O(B (B + M) D), memory 4 B (B + M) bytes for the logits.

    Args:
        query: Query (user) embeddings [B, D].
        positive: Embedding of each row's positive item [B, D].
        item_idx: Item of each positive, int64 [B]; finds accidental hits.
        temperature: Divides the dot products; a learned scalar tensor is fine. Must be positive.
        log_q: Log-probability that one draw gives this row's item [B]. With extra negatives give
            the mixture's (``mixed_log_q``), since an item can come from either source. None: no
            correction for in-batch columns.
        negative: Embeddings of extra negatives shared by all rows [M, D].
        negative_idx: Their items, int64 [M].
        negative_log_q: Their log-probabilities [M]; required exactly when ``log_q`` is given.
        in_batch: False uses the extra negatives only.
        user_idx: User of each row, int64 [B]: in-batch columns of the same user are positives of
            that user, and are removed from the row.
        exclude: bool [B, B + M] (or [B, M] without in-batch negatives), True where a column must
            not count as a negative for the row, for example other known positives.
        weight: Weight of each row [B] (rating, recency); the mean is sum(w l) / sum(w).
        correct_positive: True subtracts log q from the positive's logit too, as Yi et al. do.
            False treats the positive as what it is, present with probability one (the point of
            Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025): negatives are
            divided by their expected counts n q (n draws), and exp(loss) is unbiased.
        n_draws: n, where it is not the number of columns (less the row's own positive with
            in-batch negatives): for columns gathered from several processes. Matters only with
            ``correct_positive=False``; otherwise log n cancels.
        reduction: "mean" for a scalar, "none" for [B] unweighted losses.

    Returns:
        Loss: scalar, or [B].

    Raises:
        ValueError: If an argument that another one needs is missing, or no negative is given.
    """
    _check(query, positive, item_idx, in_batch, log_q, negative, negative_idx, negative_log_q)
    batch = query.shape[0]
    positive_logit = (query * positive).sum(dim=1) / temperature  # [B]
    columns, column_idx, column_log_q = _columns(
        positive, item_idx, log_q, negative, negative_idx, negative_log_q, in_batch
    )
    logits = query @ columns.T / temperature  # [B, B + M]
    if log_q is not None and column_log_q is not None:
        if n_draws is None:  # a row does not draw its own positive
            n_draws = columns.shape[0] - (1 if in_batch else 0)
        log_draws = torch.log(torch.tensor(float(max(n_draws, 1)), device=query.device))
        logits = logits - (column_log_q + log_draws)
        if correct_positive:
            positive_logit = positive_logit - (log_q + log_draws)
    hit = item_idx[:, None] == column_idx[None, :]  # the row's own positive among them
    if user_idx is not None and in_batch:
        hit[:, :batch] |= user_idx[:, None] == user_idx[None, :]
    if exclude is not None:
        hit = hit | exclude
    logits = logits.masked_fill(hit, float("-inf"))
    # Column 0 is the positive. Cross-entropy is fused, hence faster than a log-sum-exp by hand.
    candidates = torch.cat([positive_logit[:, None], logits], dim=1)
    losses = functional.cross_entropy(candidates, torch.zeros_like(item_idx), reduction="none")
    if reduction == "none":
        return losses
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def mixed_log_q(
    batch_probability: Tensor, *, n_in_batch: int, n_uniform: int, n_items: int
) -> Tensor:
    """Log-probability of an item under the mixture of in-batch and uniform draws.

    ``q = (B q_batch + M / I) / (B + M)``: Yang et al. 2020. A popular item is hardly touched by
    the uniform part; an item that never occurs as a positive gets ``M / (I (B + M))`` instead of
    0.

    Args:
        batch_probability: Probability that one in-batch draw gives the item, any shape, in [0, 1].
        n_in_batch: In-batch draws: the batch size B, or B - 1 to leave out the row's own positive.
        n_uniform: Uniform draws M; with 0 this is the plain log (of at least 1e-12).
        n_items: Catalogue size I.

    Returns:
        log q of the same shape.
    """
    total = n_in_batch + n_uniform
    mixture = (n_in_batch * batch_probability + n_uniform / n_items) / total
    return torch.log(mixture.clamp_min(1e-12))


def full_softmax_loss(
    query: Tensor, items: Tensor, item_idx: Tensor, *, temperature: float | Tensor = 1.0
) -> Tensor:
    """The exact loss over the catalogue, for small catalogues and as the reference of the tests.

    Args:
        query: [B, D].
        items: Every item's embedding [I, D].
        item_idx: Positive of each row, int64 [B].
        temperature: Divides the dot products.

    Returns:
        Mean cross-entropy, a scalar. Time O(B I D).
    """
    return functional.cross_entropy(query @ items.T / temperature, item_idx)


def _columns(
    positive: Tensor,
    item_idx: Tensor,
    log_q: Tensor | None,
    negative: Tensor | None,
    negative_idx: Tensor | None,
    negative_log_q: Tensor | None,
    in_batch: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Join in-batch and extra negatives: embeddings [C, D], items [C], log q [C] or None."""
    if negative is None or negative_idx is None:
        return positive, item_idx, log_q
    if not in_batch:
        return negative, negative_idx, negative_log_q
    joined_log_q = None
    if log_q is not None and negative_log_q is not None:
        joined_log_q = torch.cat([log_q, negative_log_q])
    return torch.cat([positive, negative]), torch.cat([item_idx, negative_idx]), joined_log_q


def _check(
    query: Tensor,
    positive: Tensor,
    item_idx: Tensor,
    in_batch: bool,
    log_q: Tensor | None,
    negative: Tensor | None,
    negative_idx: Tensor | None,
    negative_log_q: Tensor | None,
) -> None:
    if query.shape != positive.shape or item_idx.shape != query.shape[:1]:
        raise ValueError(
            "query, positive and item_idx must be [B, D], [B, D] and [B], got "
            f"{tuple(query.shape)}, {tuple(positive.shape)} and {tuple(item_idx.shape)}"
        )
    if (negative is None) != (negative_idx is None):
        raise ValueError("negative and negative_idx come together: the ids find accidental hits")
    if not in_batch and negative is None:
        raise ValueError("in_batch=False needs extra negatives")
    if negative is not None and (log_q is None) != (negative_log_q is None):
        raise ValueError(
            "log_q and negative_log_q come together: correcting one source only is biased"
        )
