"""The losses that teach a network which pictures belong together.

In: unit vectors f32[n, D] of a batch, and what belongs together. Out: f32[n], one loss a row.

    supervised contrastive (SupCon), P. Khosla, P. Teterwak, C. Wang and others, "Supervised
    Contrastive Learning", NeurIPS 2020, equation 2 (the sum over positives outside the logarithm):

        L_i = - 1 / |P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) )

    NT-Xent, T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive
    Learning of Visual Representations", ICML 2020, equation 1: the same with one positive, the
    other view of the same picture. So ``supcon`` with the picture's number as its class is NT-Xent,
    and the tests hold it to that.

    cosine softmax (proxy loss): each class has one learned unit vector w_k, and

        L_i = - log( exp(s z_i w_y) / sum_k exp(s z_i w_k) )

    after H. Wang, Y. Wang, Z. Zhou and others, "CosFace: Large Margin Cosine Loss for Deep Face
    Recognition", CVPR 2018, at margin 0. It needs no pairs, so a batch may be small.

``matryoshka`` applies a loss to the leading 16, 32, 64 and 128 numbers of a vector, each brought to
length 1, and averages: A. Kusupati, G. Bhatt, A. Rege and others, "Matryoshka Representation
Learning", NeurIPS 2022, equation 1 with equal weights.

Legend: n rows, D dimension, K classes, t temperature, s scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

RowLoss = Callable[[Tensor, int], Tensor]
"""(unit rows f32[n, d], which prefix) -> f32[n]."""


def supcon(rows: Tensor, group: Tensor, temperature: float) -> Tensor:
    """SupCon by row; a row without another of its group costs 0.

    Args:
        rows: f32[n, D] of length 1.
        group: i64[n]: rows of one group attract each other. Classes make it SupCon, the number of
            the picture makes it NT-Xent.
        temperature: t > 0.

    Returns:
        f32[n].
    """
    itself = torch.eye(len(rows), dtype=torch.bool)
    scores = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    log_share = scores - scores.logsumexp(dim=1, keepdim=True)
    positive = (group[:, None] == group) & ~itself
    pulled = log_share.masked_fill(~positive, 0.0).sum(dim=1)
    return -pulled / positive.sum(dim=1).clamp(min=1)


class Proxies(nn.Module):
    """One learned unit vector a class for every prefix; see the module."""

    def __init__(self, n_classes: int, dims: Sequence[int], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.vectors = nn.ParameterList(
            nn.Parameter(torch.randn(n_classes, d) / d**0.5) for d in dims
        )

    def forward(self, rows: Tensor, label: Tensor, prefix: int, smoothing: float) -> Tensor:
        """f32[n] of unit rows f32[n, d] and classes i64[n]."""
        scores = self.scale * rows @ functional.normalize(self.vectors[prefix]).T
        return functional.cross_entropy(scores, label, label_smoothing=smoothing, reduction="none")


def matryoshka(vectors: Tensor, dims: Sequence[int], loss: RowLoss) -> Tensor:
    """f32[n]: the loss of every prefix, averaged; vectors f32[n, D] need not have length 1."""
    each = [loss(functional.normalize(vectors[:, :d]), number) for number, d in enumerate(dims)]
    return torch.stack(each).mean(dim=0)
