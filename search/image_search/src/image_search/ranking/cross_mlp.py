"""Option B: a network that crosses the query's vector with the item's, and the features among them.

In: features f32[B, C, F], query vectors f32[B, D], item vectors f32[B, C, D]. Out: logits of the
attraction f32[B, C].

    q, v = P x query, P x item                            one projection of both, to W numbers
    x0   = [standardised features; q * v; |q - v|]
    x'   = x0 * (A x + b) + x                             L times: a cross layer
    logit = w . [x_L; MLP(x0)] + c

The cross layer with a full matrix is that of DCN-V2 (R. Wang, R. Shivanna, D. Z. Cheng and others,
"DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems", WWW 2021), and cross and deep part stand side by side, its parallel structure.
Ours are the products and differences of the projected vectors in front of it: one similarity says
how near two pictures are, these say in which respects, and each can be worth something else.

Training is in torch, scoring in numpy (the net is small, and a server without torch's threads is
simpler); a test holds the two together.

Legend: B queries, C candidates, F features, D dimension, W width, R impressions, J of x0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from image_search.config import RankingConfig
from image_search.ranking.learning import Lessons
from image_search.ranking.positions import Correction
from ml_platform.evaluation.progress import Progress

FILE = "cross_mlp.npz"
CLIP = 6.0
"""Standard deviations, beyond which a feature is cut: no request can throw the net far out."""


@dataclass(frozen=True)
class CrossRanker:
    """The weights of the net; a ``base.Ranker``.

    Attributes:
        weights: Name -> f32 array, see ``_layers``.
        columns: i64[F'], the features that it reads.
    """

    weights: dict[str, np.ndarray]
    columns: np.ndarray
    name: str = "cross_mlp"

    def score(
        self, features: np.ndarray, query_vectors: np.ndarray, item_vectors: np.ndarray
    ) -> np.ndarray:
        """See ``base.Ranker``."""
        w = self.weights
        plain = (features[..., self.columns] - w["mean"]) / w["spread"]
        query, item = query_vectors @ w["project"].T, item_vectors @ w["project"].T
        product, apart = query[:, None] * item, np.abs(query[:, None] - item)
        start = np.concatenate([np.clip(plain, -CLIP, CLIP), product, apart], axis=-1)
        start = start.reshape(-1, start.shape[-1])
        crossed = start
        for n in range(_layers(w, "cross")):
            crossed = start * (crossed @ w[f"cross.{n}.weight"].T + w[f"cross.{n}.bias"]) + crossed
        deep = start
        for n in range(_layers(w, "deep")):
            deep = np.maximum(deep @ w[f"deep.{n}.weight"].T + w[f"deep.{n}.bias"], 0)
        both = np.concatenate([crossed, deep], axis=1)
        logits = both @ w["out.weight"][0] + w["out.bias"][0]
        return logits.astype(np.float32).reshape(features.shape[:-1])

    def save(self, folder: Path) -> None:
        """See ``base.Ranker``."""
        arrays: dict[str, Any] = {"columns": self.columns, **self.weights}
        np.savez(folder / FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``base.Ranker``."""
        with np.load(folder / FILE, allow_pickle=False) as kept:
            weights = {name: kept[name] for name in kept.files if name != "columns"}
            return cls(weights, kept["columns"])


def _layers(weights: dict[str, np.ndarray], part: str) -> int:
    """How many layers of a part there are: ``cross.0.weight``, ``cross.1.weight``, ..."""
    return sum(name.startswith(f"{part}.") and name.endswith(".weight") for name in weights)


def fit_cross_mlp(
    learn: Lessons,
    check: Lessons,
    config: RankingConfig,
    *,
    correction: Correction,
    columns: np.ndarray,
    seed: int,
    threads: int,
    progress: Progress,
) -> CrossRanker:
    """Fits the net on ``learn``; of its epochs the best on ``check`` is kept.

    Args:
        learn: Pages of the training days.
        check: Pages of the validation days.
        config: Sizes.
        correction: Of the places; with ``feature`` every place has a logit of its own, which
            scoring leaves out.
        columns: i64[F'], the features to read.
        seed: Of weights and batches.
        threads: Of torch.
        progress: Told of every batch.
    """
    from image_search.ranking.cross_network import train_network

    return CrossRanker(
        train_network(
            learn,
            check,
            config,
            correction=correction,
            columns=columns,
            seed=seed,
            threads=threads,
            progress=progress,
        ),
        columns,
    )
