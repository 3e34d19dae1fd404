"""Negatives mined from the model's own index, and the masks that keep false ones out.

In: scores [B, I] of B queries against the catalogue (or the top of an index), and what is known to
be positive. Out: items i64[B, H] to train against, and which of them are valid.

A uniform negative is soon far from every query: its softmax weight is near zero and it teaches
nothing. What the model ranks high and nobody wanted teaches most. It is also where unlabelled
positives are: the better the model, the more of its top ranks are things the user would take. So a
miner has a window and a mask:

- a rank window: skip the very top, where false negatives are densest. Huang et al.,
  "Embedding-based Retrieval in Facebook Search", KDD 2020, sample from deeper ranks and
  blend with random negatives.
- semi-hard: nearer than a margin, but further than the positive: Schroff, Kalenichenko, Philbin,
  "FaceNet", CVPR 2015, section 3.2. Harder than the positive is, early on, a recipe for collapse.
- a mask of known positives: whatever this user took at another time.
- a mask by the positive's score: drop what scores above a share of it. Moreira et al.,
  "NV-Retriever", 2024, for text embeddings, where unlabelled positives are the rule.

Departure: scores here are exact and of this step's weights. At scale they come from an index that
is minutes or hours old (Xiong et al., ANCE, ICLR 2021, refresh it while training).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEVER = float("-inf")


def mine_hard_negatives(
    scores: Tensor,
    n_mined: int,
    *,
    ranks: tuple[int, int],
    forbidden: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw ``n_mined`` different items per row from a window of ranks.

    Time O(B I + B end log end).

    Args:
        scores: [B, I], higher is nearer.
        n_mined: H, items per row.
        ranks: (begin, end), 0-based: of the items that are not forbidden, ranks begin..end-1.
        forbidden: bool[B, I], True for the row's positive, known positives, and what a score mask
            takes out. Forbidden items do not take a rank.
        generator: Of the draw within the window.

    Returns:
        Items i64[B, H], and bool[B, H]: False where a row has fewer than H allowed items.

    Raises:
        ValueError: If the window is empty, beyond the catalogue or smaller than ``n_mined``.
    """
    begin, end = ranks
    if not 0 <= begin < end <= scores.shape[1]:
        raise ValueError(f"ranks {ranks} must be a window within 0..{scores.shape[1]}")
    if not 1 <= n_mined <= end - begin:
        raise ValueError(f"n_mined must lie in 1..{end - begin} (the window), got {n_mined}")
    allowed = scores if forbidden is None else scores.masked_fill(forbidden, NEVER)
    top = allowed.topk(end, dim=1)
    order = torch.rand(len(scores), end - begin, generator=generator)
    in_window = top.values[:, begin:] > NEVER
    # Invalid places go last, so that a short row gives all that it has.
    chosen = begin + order.masked_fill(~in_window, 2.0).topk(n_mined, largest=False).indices
    return top.indices.gather(1, chosen), top.values.gather(1, chosen) > NEVER


def semi_hard_mask(positive_score: Tensor, scores: Tensor, *, margin: float) -> Tensor:
    """bool[B, C]: scores in (positive - margin, positive), FaceNet's window.

    Args:
        positive_score: [B].
        scores: [B, C].
        margin: Width of the window, > 0.
    """
    if not margin > 0.0:
        raise ValueError(f"margin must be positive, got {margin}")
    positive = positive_score[:, None]
    return (scores < positive) & (scores > positive - margin)


def above_positive_mask(positive_score: Tensor, scores: Tensor, *, share: float) -> Tensor:
    """bool[B, C]: candidates above ``share`` of the positive's score, likely unlabelled positives.

    Args:
        positive_score: [B], cosine or another score whose zero means something.
        scores: [B, C].
        share: In (0, 1]; NV-Retriever's perc. The threshold of a positive below 0 is the positive
            itself, since a share of a negative number lies above it.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    threshold = torch.where(positive_score > 0, share * positive_score, positive_score)
    return scores > threshold[:, None]


def own_negatives_loss(
    query: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    valid: Tensor | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Mean cross-entropy of the positive among each row's own negatives, uncorrected.

    Args:
        query: [B, D].
        positive: [B, D].
        negative: Each row's own negatives [B, H, D].
        valid: bool[B, H]; False leaves a negative out. A row without any costs 0.
        temperature: Divides the dot products.

    Returns:
        A scalar. Time and memory O(B H D): own negatives cost a gather that shared ones do not.
    """
    if negative.ndim != 3 or negative.shape[0] != query.shape[0]:
        raise ValueError(
            f"negative must be [B, H, D] with B={len(query)}, got shape {tuple(negative.shape)}"
        )
    logits = torch.einsum("bd,bhd->bh", query, negative) / temperature
    if valid is not None:
        logits = logits.masked_fill(~valid, NEVER)
    first = (query * positive).sum(dim=1, keepdim=True) / temperature
    target = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    return functional.cross_entropy(torch.cat([first, logits], dim=1), target)
