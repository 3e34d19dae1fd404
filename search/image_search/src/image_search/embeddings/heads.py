"""A frozen network with a small head that was trained on the classes of our photographs.

In: pictures with classes. Out: f32[n, D] of length 1. The network's features (``frozen``) stay;
what is learnt is one linear map of them, in seconds. Two kinds:

- ``supcon``: the map to ``width`` numbers that makes pictures of one class neighbours, by the
  supervised contrastive loss (``contrastive.supcon``) with dropout on the features;
- ``lda``: linear discriminant analysis in closed form, K - 1 numbers: the directions in which
  classes differ most compared with their spread (R. A. Fisher, "The Use of Multiple Measurements in
  Taxonomic Problems", Annals of Eugenics, 1936). With hardly more pictures than features the
  covariance within classes is nearly singular, so it is drawn towards a multiple of the identity:
  (1 - s) S + s tr(S)/F I, of O. Ledoit and M. Wolf, "A Well-Conditioned Estimator for
  Large-Dimensional Covariance Matrices", Journal of Multivariate Analysis, 2004, with s chosen on
  validation pictures.

A head forgets what its classes did not need, and knows nothing of a class that it has not seen.
``frozen_share`` gives it a memory: principal components of the frozen features are put beside its
output, both of length 1 and weighted so that a similarity is

    (1 - share) head similarity + share frozen similarity.

Legend: n pictures, F features, K classes, D = head's width (+ components), s shrinkage.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from image_search.config import EmbeddingsConfig, HeadConfig
from image_search.embeddings.base import (
    Metric,
    NotFittedError,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.embeddings.frozen import FrozenFeatures
from image_search.images.preparing import Images
from ml_platform.data.sources import default_cache_dir
from ml_platform.evaluation.progress import Progress

WEIGHTS_FILE = "head.npz"
FIELDS = ("mean", "spread", "learnt", "frozen", "share")
EPSILON = 1e-4
"""Added to every feature's spread: some features hardly ever answer."""


@dataclass(frozen=True)
class Head:
    """Features to vectors.

    Attributes:
        mean: f32[F] of the features fitted on.
        spread: f32[F], their standard deviation.
        learnt: f32[F, H], of standardised features.
        frozen: f32[F, C], of centred features; C = 0 for none.
        share: Of a similarity that ``frozen`` decides.
    """

    mean: np.ndarray
    spread: np.ndarray
    learnt: np.ndarray
    frozen: np.ndarray
    share: float

    @property
    def dim(self) -> int:
        """H + C."""
        return self.learnt.shape[1] + self.frozen.shape[1]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """f32[n, H + C] of length 1, of features f32[n, F]."""
        centred = features - self.mean
        learnt = unit_rows((centred / self.spread) @ self.learnt)
        if not self.frozen.shape[1]:
            return learnt
        kept = unit_rows(centred @ self.frozen)
        parts = [np.float32((1 - self.share) ** 0.5) * learnt, np.float32(self.share**0.5) * kept]
        return unit_rows(np.hstack(parts))


def fit_head(features: np.ndarray, labels: np.ndarray, config: HeadConfig, seed: int) -> Head:
    """Learns a head.

    Args:
        features: f32[n, F].
        labels: i[n]; every class needs two pictures for the loss to have a positive.
        config: Which kind, and its knobs.
        seed: Of supcon's first weights, order and dropout; LDA has no chance in it.

    Returns:
        The head.

    Raises:
        ValueError: If there are fewer than two classes or a label is unknown (-1).
    """
    classes, known = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or classes[0] < 0:
        raise ValueError(
            f"a head needs pictures of two classes or more, each with its class; got {classes}"
        )
    mean, spread = features.mean(axis=0), features.std(axis=0) + np.float32(EPSILON)
    standard = (features - mean) / spread
    if config.kind == "lda":
        learnt = lda(standard, known, config.shrinkage)
    else:
        learnt = supcon_map(standard, known, config, seed)
    frozen = components(features - mean, config.frozen_width if config.frozen_share else 0)
    return Head(mean, spread, learnt.astype(np.float32), frozen, config.frozen_share)


def lda(standard: np.ndarray, labels: np.ndarray, shrinkage: float) -> np.ndarray:
    """The discriminant directions.

    Args:
        standard: f32[n, F], centred.
        labels: i64[n], 0..K-1, each class present.
        shrinkage: s, 0 < s <= 1.

    Returns:
        f64[F, min(K - 1, F)], strongest first; the common covariance of the classes, shrunk, is the
        identity there.
    """
    count = np.bincount(labels)
    means = np.stack([standard[labels == k].mean(axis=0) for k in range(len(count))])
    share = count / count.sum()
    apart = np.sqrt(share)[:, None] * (means - share @ means)
    within = (standard - means[labels]).astype(np.float64)
    _, _, directions = np.linalg.svd(_whitened(apart, within, shrinkage), full_matrices=False)
    return _whitened(directions[: len(count) - 1], within, shrinkage).T


def _whitened(rows: np.ndarray, within: np.ndarray, shrinkage: float) -> np.ndarray:
    """``rows`` f64[k, F] times the inverse root of the shrunk covariance of ``within`` f64[n, F].

    The covariance has at most n axes of energy; along all others the root is one number, so the
    F x F matrix is never made.
    """
    n, width = within.shape
    _, strength, axes = np.linalg.svd(within, full_matrices=False)
    energy = strength**2 / n
    floor = shrinkage * energy.sum() / width
    elsewhere = floor**-0.5
    along = ((1 - shrinkage) * energy + floor) ** -0.5 - elsewhere
    return np.asarray(rows * elsewhere + ((rows @ axes.T) * along) @ axes)


def components(centred: np.ndarray, most: int) -> np.ndarray:
    """f32[F, min(most, n, F)]: the directions of most energy, of centred features f32[n, F]."""
    if not most:
        return np.zeros((centred.shape[1], 0), dtype=np.float32)
    rows = centred.astype(np.float64)
    if len(rows) < rows.shape[1]:  # the small one of the two products
        energy, places = np.linalg.eigh(rows @ rows.T)
        axes = rows.T @ places / np.sqrt(np.maximum(energy, 1e-12))
    else:
        _, axes = np.linalg.eigh(rows.T @ rows)
    return axes[:, ::-1][:, :most].astype(np.float32)


def supcon_map(
    standard: np.ndarray, labels: np.ndarray, config: HeadConfig, seed: int
) -> np.ndarray:
    """The linear map that the supervised contrastive loss finds.

    Args:
        standard: f32[n, F].
        labels: i64[n], 0..K-1.
        config: Knobs.
        seed: See ``fit_head``.

    Returns:
        f32[F, width].
    """
    import torch
    from torch.nn import functional

    from image_search.embeddings.contrastive import supcon

    chance = torch.Generator().manual_seed(seed)
    rows, classes = torch.from_numpy(standard), torch.from_numpy(labels.astype(np.int64))
    bound = standard.shape[1] ** -0.5
    weight = (torch.rand(standard.shape[1], config.width, generator=chance) * 2 - 1) * bound
    weight.requires_grad_()
    optimiser = torch.optim.AdamW([weight], lr=config.rate, weight_decay=config.decay)
    size = min(config.batch, len(rows))
    steps = config.epochs * (len(rows) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, total_steps=steps)
    for _ in range(config.epochs):
        order = torch.randperm(len(rows), generator=chance)
        for begin in range(0, len(rows) - size + 1, size):
            batch = order[begin : begin + size]
            there = torch.rand(size, rows.shape[1], generator=chance) >= config.dropout
            seen = rows[batch] * there / (1 - config.dropout)
            made = functional.normalize(seen @ weight)
            loss = supcon(made, classes[batch], config.temperature).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return weight.detach().numpy()


class EfficientNetHead:
    """See the module."""

    name = "efficientnet_head"
    metric: Metric = "cosine"

    def __init__(self) -> None:
        self._features: FrozenFeatures | None = None
        self._head: Head | None = None

    @property
    def dim(self) -> int:
        """D."""
        return self._fitted()[1].dim

    @property
    def fingerprint(self) -> str:
        """By the frozen features and the head's numbers."""
        features, head = self._fitted()
        digest = hashlib.sha256(str(head.share).encode())
        for part in (head.mean, head.spread, head.learnt, head.frozen):
            digest.update(np.ascontiguousarray(part).tobytes())
        return f"{self.name} {features.fingerprint} {digest.hexdigest()}"

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Computes or reads the features, then learns the head.

        Raises:
            EmbedderUnavailableError: If a package is missing.
            ValueError: If there are no labels, or those of one class only.
        """
        if labels is None:
            raise ValueError(f"{self.name} is trained on classes, and these pictures have none")
        shelf = default_cache_dir() / "image_search" / "features"
        frozen = FrozenFeatures(config.head.views, config.pretrained_batch, shelf)
        rows = np.empty((len(images), frozen.dim), dtype=np.float32)
        with progress.stage(f"{self.name}: features", len(images)) as advance:
            for begin in range(0, len(images), config.pretrained_batch):
                part = images[begin : begin + config.pretrained_batch]
                rows[begin : begin + len(part)] = frozen.of(part)
                advance(len(part))
        with progress.stage(f"{self.name}: head", 1) as advance:
            self._head = fit_head(rows, labels, config.head, seed)
            advance(1)
        self._features = frozen
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D].

        Raises:
            NotFittedError: Before ``fit`` or ``load``.
        """
        features, head = self._fitted()
        return head(features.of(images))

    def save(self, folder: Path) -> None:
        """The head, and how its features are made; the network's weights stay in their package."""
        features, head = self._fitted()
        np.savez(
            folder / WEIGHTS_FILE,
            mean=head.mean,
            spread=head.spread,
            learnt=head.learnt,
            frozen=head.frozen,
            share=np.float64(head.share),
        )
        write_settings(
            folder,
            self.name,
            views=list(features.views),
            batch_size=features.batch_size,
            features=features.fingerprint,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved; what it embeds is not kept.

        Raises:
            EmbedderUnavailableError: If the network's package is missing.
            ValueError: If the network's weights or preparation are others than at ``save``.
        """
        settings = read_settings(folder, cls.name)
        made = cls()
        made._features = FrozenFeatures(settings["views"], settings["batch_size"])
        if made._features.fingerprint != settings["features"]:
            raise ValueError(
                f"{folder} was made with features {settings['features']!r}, here they are "
                f"{made._features.fingerprint!r}: train again"
            )
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as kept:
            mean, spread, learnt, frozen, share = (kept[field] for field in FIELDS)
            made._head = Head(mean, spread, learnt, frozen, float(share))
        return made

    def _fitted(self) -> tuple[FrozenFeatures, Head]:
        if self._features is None or self._head is None:
            raise NotFittedError(f"{self.name} has no head yet: call fit or load first")
        return self._features, self._head
