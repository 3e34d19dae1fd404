"""A new model over an old index: what breaks, and four ways to mend it.

In: pictures with classes. Out: ``Update``, the values of every query under each way.

The old model is trained on a part of the pictures, the new ones on all. The gallery holds old
vectors and is back-filled with new ones item by item, in random order, while queries come in:

- ``independent``: the new model asks both kinds of items as if nothing had changed;
- ``bct``: the same with a new model trained to be compatible (compatible_training.py);
- ``mapped``: the independent model; old items are asked by its query turned into the old space, by
  the orthogonal map that brings new vectors of the training pictures nearest to the old ones
  (Procrustes). One small matrix, learned after the fact;
- ``both``: two queries, by the old model for old items and by the new one for new items, one merged
  list. Nothing is learned; a query costs two embeddings, and the old model must be kept;
- ``wait``: the old model asks until the last item is done. What back-filling first costs meanwhile.

A way is compatible where, with nothing back-filled, it beats old queries on old items: the paper's
empirical criterion (Y. Shen, Y. Xiong, W. Xia, S. Soatto, "Towards Backward-Compatible
Representation Learning", CVPR 2020). ``gain`` is the share of the new model's whole
improvement that the user has then already.

Legend: Q queries, G gallery, D dimension, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.config import Config
from image_search.embeddings.base import unit_rows
from image_search.images.image_set import GALLERY, QUERY, ImageSet
from image_search.images.preparing import squares
from image_search.retrieval.compatible_training import Model, class_means, train_model
from image_search.retrieval.filtering import best_of
from ml_algorithms.nearest_neighbour.product_quantization import procrustes
from ml_platform.evaluation.progress import Progress

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the gallery, back-filled."""
WAYS = ("wait", "independent", "mapped", "both", "bct")


@dataclass(frozen=True)
class Update:
    """R@1 of one pair of models, or the mean over several.

    Attributes:
        old_old, new_new, bct_new: f64[Q], each model by itself; ``new_new`` is the independent one.
        mixed: (way, share back-filled) -> f64[Q].
    """

    old_old: np.ndarray
    new_new: np.ndarray
    bct_new: np.ndarray
    mixed: dict[tuple[str, float], np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """What trains, is searched, and asks; pictures u8[., S, S, C] and classes i[.]."""

    train: np.ndarray
    train_label: np.ndarray
    gallery: np.ndarray
    gallery_label: np.ndarray
    queries: np.ndarray
    query_label: np.ndarray


def draw_pictures(images: ImageSet, config: Config) -> Pictures:
    """Training pictures and gallery from split 0, disjoint; queries from the test split.

    Raises:
        ValueError: If pictures have no classes, there is no test split, or too few pictures.
    """
    study, side = config.index.study, config.embeddings.cnn.side
    gallery, asks = (np.flatnonzero(images.split == part) for part in (GALLERY, QUERY))
    if not images.labelled or not len(asks):
        raise ValueError(f"{images.name}: needs classes and a test split, has {len(asks)} queries")
    order = np.random.default_rng(config.seed).permutation(gallery)
    n_train = min(study.update_images, len(order) // 2)
    train, searched = order[:n_train], order[n_train : n_train + study.update_gallery]
    asks = np.random.default_rng(config.seed + 1).permutation(asks)[: study.queries]
    known = np.unique(images.label[train])
    channels = np.asarray(images.images[0]).shape[2]

    def taken(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pictures = squares([images.images[int(row)] for row in rows], side, channels)
        return pictures, np.searchsorted(known, images.label[rows])

    return Pictures(*taken(train), *taken(searched), *taken(asks))


def measure_update(pictures: Pictures, config: Config, seed: int, progress: Progress) -> Update:
    """Trains an old model and both new ones, and asks every mixture of the gallery."""
    old, new, bct = three_models(pictures, config, seed, progress)
    train_old, train_new = old(pictures.train), new(pictures.train)
    turn = procrustes(train_new, train_old)
    with progress.stage("update: gallery and queries", 6) as advance:
        made = []
        for model in (old, new, bct):
            for part in (pictures.gallery, pictures.queries):
                made.append(model(part))
                advance(1)
    old_g, old_q, new_g, new_q, bct_g, bct_q = made
    back_filled = np.random.default_rng(seed).permutation(len(old_g))
    # Each way: (old items' vectors, the query that asks them, new items' vectors, their query).
    ways = {
        "independent": (old_g, new_q, new_g, new_q),
        "mapped": (old_g, unit_rows(new_q @ turn), new_g, new_q),
        "both": (old_g, old_q, new_g, new_q),
        "bct": (old_g, bct_q, bct_g, bct_q),
    }
    mixed: dict[tuple[str, float], np.ndarray] = {}
    for way, parts in ways.items():
        for share in SHARES:
            done = np.zeros(len(old_g), dtype=bool)
            done[back_filled[: round(share * len(old_g))]] = True
            mixed[way, share] = first_right(pictures, *parts, done)
    waiting, over = mixed["both", 0.0], mixed["both", 1.0]
    mixed |= {("wait", share): waiting if share < 1 else over for share in SHARES}
    return Update(waiting, over, mixed["bct", 1.0], mixed)


def three_models(
    pictures: Pictures, config: Config, seed: int, progress: Progress
) -> tuple[Model, Model, Model]:
    """The old model, an independent new one, a compatible new one; every one with its own seed."""
    study, cnn = config.index.study, config.embeddings.cnn
    x, y = pictures.train, pictures.train_label
    n_old = max(study.update_batch, round(study.update_old_share * len(x)))

    def trained(n: int, offset: int, what: str, means: np.ndarray | None = None) -> Model:
        return train_model(
            x[:n],
            y[:n],
            cnn,
            epochs=study.update_epochs,
            batch=study.update_batch,
            seed=3 * seed + offset,
            progress=progress,
            old_means=means,
            influence=study.influence,
            what=what,
        )

    old = trained(n_old, 0, "old model")
    means = class_means(old(x[:n_old]), y[:n_old], int(y.max()) + 1)
    return old, trained(len(x), 1, "new, independent"), trained(len(x), 2, "new, compatible", means)


def first_right(
    pictures: Pictures,
    old_items: np.ndarray,
    old_query: np.ndarray,
    new_items: np.ndarray,
    new_query: np.ndarray,
    done: np.ndarray,
) -> np.ndarray:
    """f64[Q]: 1 where the best of old items (not ``done``) and new ones has the query's class."""
    best_row = np.full(len(old_query), -1)
    best = np.full(len(old_query), -np.inf, dtype=np.float32)
    for items, queries, here in ((old_items, old_query, ~done), (new_items, new_query, done)):
        rows = np.flatnonzero(here)
        found, similarity = best_of(queries, rows, items[rows], 1)
        better = similarity[:, 0] > best
        best_row[better], best[better] = found[better, 0], similarity[better, 0]
    right = pictures.gallery_label[best_row] == pictures.query_label
    return np.asarray(right, dtype=np.float64)


def averaged(updates: list[Update]) -> Update:
    """Each query's mean over several pairs of models.

    Raises:
        ValueError: If there is none.
    """
    if not updates:
        raise ValueError("no updates to average")
    return Update(
        np.mean([one.old_old for one in updates], axis=0),
        np.mean([one.new_new for one in updates], axis=0),
        np.mean([one.bct_new for one in updates], axis=0),
        {key: np.mean([one.mixed[key] for one in updates], axis=0) for key in updates[0].mixed},
    )


def gain_of(update: Update, way: str) -> float | None:
    """Share of new/new's improvement over old/old that ``way`` has with nothing back-filled.

    None where the new model is no better than the old: a share of nothing.
    """
    whole = float(update.new_new.mean() - update.old_old.mean())
    had = float(update.mixed[way, 0.0].mean() - update.old_old.mean())
    return had / whole if whole > 0 else None
