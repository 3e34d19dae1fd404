"""Evaluation of the embeddings: each alone, on all classes and on classes that no fit has seen.

In: an image set. Out: results under

    retrieval/<embedding>/<metric>            owner's split, all classes
    retrieval_class/<embedding>.<class>/...   the same by the query's class
    fit/<embedding>/wall_s                    seconds of the fit on the gallery
    retrieval_unseen/<embedding>/<metric>     fitted on every second class, judged on the others

Floors learn nothing, so for them the last table only shows how hard those classes are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import numpy as np

from image_search.config import Config
from image_search.embeddings.base import Embedder
from image_search.embeddings.cnn import Cnn
from image_search.embeddings.cnn_with_hog import CnnWithHog
from image_search.embeddings.registry import make_embedder
from image_search.embeddings.vectors import embed_rows
from image_search.evaluation.retrieval import METRICS, RetrievalScores, retrieval_scores
from image_search.images.image_set import (
    ImageSet,
    Rows,
    answerable,
    draw_queries,
    owner_rows,
    restrict,
    unseen_classes,
)
from image_search.pipeline import compared_names, fit_embedder, pictures_at
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results

Show = Callable[[Embedder, Rows, RetrievalScores], None]
"""Draws what an embedding found."""


class NothingToJudgeError(ValueError):
    """The pictures have no classes, so that nobody can say which results are right."""


def evaluate_embeddings(
    images: ImageSet,
    config: Config,
    results: Results,
    progress: Progress,
    show: Show | None = None,
) -> None:
    """Fits and measures every embedding that is compared; see the module for the keys.

    Args:
        images: Labelled.
        config: Which embeddings.
        results: Takes the figures.
        progress: Told of the work.
        show: Draws what each embedding found.

    Raises:
        NothingToJudgeError: As ``judged_rows``.
    """
    rows = judged_rows(images, config)
    for embedder, seconds in fitted(images, rows.gallery, config, progress):
        words = f"{len(rows.gallery):,} pictures"
        results.add(f"fit/{embedder.name}/wall_s", seconds, protocol=words)
        evaluate_embedder(embedder, images, rows, config, results, progress, show)
    _evaluate_unseen(images, rows, config, results, progress)


def fitted(
    images: ImageSet, rows: np.ndarray, config: Config, progress: Progress
) -> Iterator[tuple[Embedder, float]]:
    """Every embedding that is compared, fitted on the pictures at ``rows``, and its seconds.

    A network that stands before its own combination with gradients is not trained twice; the
    seconds of the combination are then those of the gradients.
    """
    networks: dict[str, Cnn] = {}
    for name in compared_names(images, config):
        began = time.perf_counter()
        made = make_embedder(name)
        network = networks.get(name.removesuffix("_hog"))
        if isinstance(made, CnnWithHog) and network is not None:
            embedder: Embedder = made.beside(
                network, pictures_at(images, rows), config.embeddings, progress
            )
        else:
            embedder = fit_embedder(name, images, rows, config, progress)
        if isinstance(embedder, Cnn):
            networks[name] = embedder
        yield embedder, time.perf_counter() - began


def evaluate_embedder(
    embedder: Embedder,
    images: ImageSet,
    rows: Rows,
    config: Config,
    results: Results,
    progress: Progress,
    show: Show | None = None,
) -> RetrievalScores:
    """Measures one fitted embedding on all classes."""
    scores = score(embedder, images, rows, config, progress)
    words = protocol(embedder, images, rows)
    record(results, f"retrieval/{embedder.name}", scores, config, words)
    record_classes(results, embedder.name, scores, images, config, words)
    if show is not None:
        show(embedder, rows, scores)
    return scores


def judged_rows(images: ImageSet, config: Config) -> Rows:
    """The test rows whose results can be called right or wrong; see ``image_set`` for the split.

    Raises:
        NothingToJudgeError: If a picture has no class, or no two share one.
    """
    if not images.labelled:
        raise NothingToJudgeError(
            f"{images.name}: the pictures have no classes. Put each into a folder named by its "
            "class to measure retrieval; without, they can only be searched"
        )
    rows = answerable(owner_rows(images), images)
    if not len(rows.queries):
        raise NothingToJudgeError(f"{images.name}: no two pictures share a class")
    return draw_queries(rows, config.evaluation.max_queries, config.seed)


def _evaluate_unseen(
    images: ImageSet, rows: Rows, config: Config, results: Results, progress: Progress
) -> None:
    """Fits anew without every second class, and judges on those classes alone."""
    unseen = unseen_classes(len(images.label_names), config.evaluation.unseen_share)
    seen = np.setdiff1d(np.arange(len(images.label_names)), unseen)
    if not len(unseen) or not len(seen):
        return  # one class: nothing to keep from training
    judged = restrict(rows, images, unseen, f"classes {', '.join(map(str, unseen))} only, unseen")
    if not len(judged.queries):
        return  # few queries were drawn, and none of an unseen class
    fitted_on = restrict(rows, images, seen, "seen classes")
    for embedder, _ in fitted(images, fitted_on.gallery, config, progress):
        scores = score(embedder, images, judged, config, progress, note=", unseen")
        words = protocol(embedder, images, judged)
        record(results, f"retrieval_unseen/{embedder.name}", scores, config, words)


def score(
    embedder: Embedder,
    images: ImageSet,
    rows: Rows,
    config: Config,
    progress: Progress,
    *,
    note: str = "",
) -> RetrievalScores:
    """Embeds gallery and queries, searches, scores; ``note`` goes into the names of the stages."""
    gallery, queries = (
        embed_rows(embedder, images, part, progress=progress, what=f"{what}{note}")
        for what, part in (("gallery", rows.gallery), ("queries", rows.queries))
    )
    return retrieval_scores(
        gallery,
        images.label[rows.gallery],
        queries,
        images.label[rows.queries],
        self_match=rows.self_match,
        metric=embedder.metric,
        block_bytes=config.evaluation.block_bytes,
        progress=progress,
        name=f"{embedder.name}: search{note}",
    )


def protocol(embedder: Embedder, images: ImageSet, rows: Rows) -> str:
    """Split, sizes, relevance, search and intervals, as every number here carries it."""
    by = "cosine" if embedder.metric == "cosine" else "Euclidean distance"
    return (
        f"{images.name}, {rows.protocol}, gallery {len(rows.gallery):,}, queries "
        f"{len(rows.queries):,}, relevant = same class, own picture excluded, exact search by "
        f"{by}, {embedder.dim} dimensions, 95% bootstrap by query"
        + (", synthetic" if images.synthetic else "")
    )


def record(
    results: Results, prefix: str, scores: RetrievalScores, config: Config, words: str
) -> None:
    """Writes ``<prefix>/<metric>`` for every metric."""
    for metric in METRICS:
        estimate = scores.estimate(metric, resamples=config.evaluation.resamples, seed=config.seed)
        results.add(f"{prefix}/{metric}", estimate, protocol=words)


def record_classes(
    results: Results,
    name: str,
    scores: RetrievalScores,
    images: ImageSet,
    config: Config,
    words: str,
) -> None:
    """Writes ``retrieval_class/<embedding>.<class>/<metric>`` for R@1 and mAP@R."""
    for metric in ("recall@1", "map@r"):
        found = scores.per_class(metric, resamples=config.evaluation.resamples, seed=config.seed)
        for k, estimate in found.items():
            variant = f"{name}.{key_of(images.label_names[k])}"
            results.add(f"retrieval_class/{variant}/{metric}", estimate, protocol=words)


def key_of(class_name: str) -> str:
    """A class's name as it may stand in a key of the results."""
    return re.sub(r"[^a-z0-9_.+=-]", "_", class_name.lower())
