"""``embedding-choices``: the decisive comparisons behind the trained embeddings, measured again.

In: a ``Run``. Out: ``embedding_choices.json`` with

    embedding_choices/<choice>/<metric>          trained on all classes
    embedding_choices/<choice>/fit_s             seconds of training
    embedding_choices_unseen/<choice>/<metric>   trained on every second class, judged on the others

a plot and two tables. Everything here is read off validation queries: a share of the gallery is
trained on and searched, for few epochs, so the figures compare choices and are no results. A choice
that differs from the one above it in one thing says so by its name; ``_mirror`` and ``_prefix``
come from the same network as the choice that they are named after.

Legend: G gallery, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from image_search.config import CnnConfig, Config
from image_search.embeddings.base import Embedder, unit_rows
from image_search.embeddings.cnn import Cnn
from image_search.embeddings.cnn_with_hog import MOST, principal_axes, side_by_side
from image_search.embeddings.hog import Hog
from image_search.embeddings.pixels import Pixels
from image_search.embeddings.vectors import embed_rows
from image_search.evaluation.retrieval import retrieval_scores
from image_search.evaluation.run import record
from image_search.images.image_set import ImageSet, Rows, restrict, unseen_classes, validation_rows
from image_search.pipeline import pictures_at
from ml_platform.evaluation.plot_style import (
    BLUE,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
    png,
)
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run
    from image_search.embeddings.cnn_training import Method

STAGE, UNSEEN = "embedding_choices", "embedding_choices_unseen"
SHOWN = ("recall@1", "precision@10", "map@r")


@dataclass(frozen=True)
class Choice:
    """One training: what it is called, its loss, and what differs from the defaults."""

    name: str
    method: Method
    changes: dict[str, Any] = field(default_factory=dict)


CHOICES = (
    Choice("supcon", "supcon"),
    Choice("proxy", "proxy"),
    Choice("proxy_smoothing", "proxy", {"label_smoothing": 0.1}),
    Choice("proxy_all_pictures", "proxy", {"hard_share": 1.0, "epochs": 5}),  # about equal time
    Choice("proxy_no_plain_end", "proxy", {"plain_epochs": 0}),
)
UNSEEN_CHOICES = (
    Choice("supcon", "supcon"),
    Choice("proxy", "proxy"),
    Choice("joint", "joint"),
    Choice("simclr", "simclr"),
)


def run(run: Run) -> None:
    """Trains, measures, prints, writes."""
    images, config = run.load(), run.config
    results = run.start_results(images)
    rows = _rows(images, config)
    _all_classes(run, images, rows, results)
    _unseen_classes(run, images, rows, results)
    folder = run.results_folder()
    results.write(folder / "embedding_choices.json")
    write_atomic(folder / "plots" / "embedding_choices.png", png(choices_plot(results)))
    for stage in (STAGE, UNSEEN):
        run.console.print(choices_table(results, stage))
    run.console.print(f"numbers: {folder / 'embedding_choices.json'}", highlight=False)


def _rows(images: ImageSet, config: Config) -> Rows:
    """Validation queries and a share of what remains of the gallery, drawn by the seed."""
    rows = validation_rows(images, config.images.validation_queries, config.seed)
    most = min(config.embeddings.choices.pictures, len(rows.gallery))
    drawn = np.random.default_rng(config.seed).choice(rows.gallery, most, replace=False)
    return Rows(f"{rows.protocol}, {most:,} of the gallery drawn", np.sort(drawn), rows.queries)


def _all_classes(run: Run, images: ImageSet, rows: Rows, results: Results) -> None:
    for choice in CHOICES:
        embedder, words = _trained(run, images, rows, choice, results, STAGE)
        whole = _vectors(run, embedder, images, rows)
        _judge(run, f"{STAGE}/{choice.name}", whole, images, rows, words, results)
        if choice.name != "proxy":
            continue
        gradients = _gradients(run, images, rows, rows)
        _judge_with_hog(run, f"{STAGE}/proxy", whole, gradients, images, rows, words, results)
        for d in embedder.dims[:-1]:
            cut = tuple(unit_rows(part[:, :d]) for part in whole)
            _judge(run, f"{STAGE}/proxy_prefix_{d}", cut, images, rows, words, results)
        one_way = _vectors(run, embedder.without_mirror(), images, rows)
        _judge(run, f"{STAGE}/proxy_no_mirror", one_way, images, rows, words, results)


def _unseen_classes(run: Run, images: ImageSet, rows: Rows, results: Results) -> None:
    """Trains on every second class; the others are searched, by floors and networks and both."""
    unseen = unseen_classes(len(images.label_names), run.config.evaluation.unseen_share)
    seen = np.setdiff1d(np.arange(len(images.label_names)), unseen)
    judged = restrict(rows, images, unseen, f"classes {', '.join(map(str, unseen))} only, unseen")
    fitted_on = restrict(rows, images, seen, "seen classes")
    floors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    floor_embedders: tuple[Embedder, ...] = (Pixels("cosine"), Hog())
    for floor in floor_embedders:
        pictures = pictures_at(images, fitted_on.gallery)
        floor.fit(pictures, None, run.config.embeddings, run.config.seed, run.progress)
        floors[floor.name] = _vectors(run, floor, images, judged)
        words = f"{images.name}, {judged.protocol}" + (", synthetic" if images.synthetic else "")
        _judge(run, f"{UNSEEN}/{floor.name}", floors[floor.name], images, judged, words, results)
    gradients = _gradients(run, images, fitted_on, judged)
    for choice in UNSEEN_CHOICES:
        embedder, words = _trained(run, images, fitted_on, choice, results, UNSEEN)
        made = _vectors(run, embedder, images, judged)
        words = f"{words}; {judged.protocol}"
        _judge(run, f"{UNSEEN}/{choice.name}", made, images, judged, words, results)
        _judge_with_hog(
            run, f"{UNSEEN}/{choice.name}", made, gradients, images, judged, words, results
        )


def _judge_with_hog(
    run: Run,
    key: str,
    network: tuple[np.ndarray, np.ndarray],
    gradients: dict[str, tuple[np.ndarray, np.ndarray]],
    images: ImageSet,
    rows: Rows,
    words: str,
    results: Results,
) -> None:
    """The network beside each of ``_gradients``, weighed as in ``cnn_with_hog``."""
    weight = run.config.embeddings.cnn.hog_weight
    for name, floor in gradients.items():
        both = tuple(side_by_side(a, b, weight) for a, b in zip(network, floor, strict=True))
        _judge(run, f"{key}_with_{name}", both, images, rows, words, results)


def _gradients(
    run: Run, images: ImageSet, fitted_on: Rows, judged: Rows
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of gallery and queries: all gradients, and the principal components of what was fitted on."""
    config = run.config.embeddings
    hog = Hog().fit(pictures_at(images, fitted_on.gallery), None, config, 0, run.progress)
    learnt = embed_rows(hog, images, fitted_on.gallery[:MOST], progress=run.progress)
    mean, axes = principal_axes(learnt, config.cnn.hog_dim)
    gallery, queries = _vectors(run, hog, images, judged)
    return {
        "all_hog": (gallery, queries),
        "hog": ((gallery - mean) @ axes, (queries - mean) @ axes),
    }


def _trained(
    run: Run, images: ImageSet, rows: Rows, choice: Choice, results: Results, stage: str
) -> tuple[Cnn, str]:
    """A network of this choice, and how it was trained in words."""
    config = run.config.embeddings
    few = config.choices.epochs
    plain = min(config.cnn.plain_epochs, few - 1)
    changes = {"epochs": few, "view_epochs": few, "plain_epochs": plain} | choice.changes
    cnn = CnnConfig.model_validate(config.cnn.model_dump() | changes)
    embedder = Cnn(choice.method).fit(
        pictures_at(images, rows.gallery),
        images.label[rows.gallery],
        config.model_copy(update={"cnn": cnn}),
        run.config.seed,
        run.progress,
    )
    took = embedder.training
    epochs = cnn.view_epochs if choice.method in ("joint", "simclr") else cnn.epochs
    words = (
        f"{images.name}, {rows.protocol}, trained on {len(rows.gallery):,} pictures for {epochs} "
        f"epochs, {took['threads']} threads, {took['precision']}"
        + (", synthetic" if images.synthetic else "")
    )
    results.add(f"{stage}/{choice.name}/fit_s", took["seconds"], protocol=words)
    return embedder, words


def _vectors(
    run: Run, embedder: Embedder, images: ImageSet, rows: Rows
) -> tuple[np.ndarray, np.ndarray]:
    """f32[G, D] and f32[Q, D]."""
    gallery, queries = (
        embed_rows(embedder, images, part, progress=run.progress)
        for part in (rows.gallery, rows.queries)
    )
    return gallery, queries


def _judge(
    run: Run,
    key: str,
    vectors: tuple[np.ndarray, ...],
    images: ImageSet,
    rows: Rows,
    words: str,
    results: Results,
) -> None:
    gallery, queries = vectors
    scores = retrieval_scores(
        gallery,
        images.label[rows.gallery],
        queries,
        images.label[rows.queries],
        block_bytes=run.config.evaluation.block_bytes,
        progress=run.progress,
        name=key,
    )
    where = (
        f"{words}; searched {len(gallery):,} by {len(queries):,} queries, {gallery.shape[1]} "
        "dimensions, 95% bootstrap by query"
    )
    record(results, key, scores, run.config, where)


def choices_table(results: Results, stage: str) -> Table:
    """One row a choice."""
    title = (
        "trained on every second class, judged on the others" if stage == UNSEEN else "all classes"
    )
    table = Table("choice", *SHOWN, "seconds", title=f"Validation queries, few epochs: {title}")
    for name in _names(results, stage):
        cells = [f"{results[f'{stage}/{name}/{metric}'].value:.4f}" for metric in SHOWN]
        key = f"{stage}/{name}/fit_s"
        table.add_row(name, *cells, f"{results[key].value:.0f}" if key in results else "")
    return table


def choices_plot(results: Results) -> Figure:
    """Recall@1 with its interval, all classes left, unseen classes right."""
    stages = (STAGE, UNSEEN)
    most = max(len(_names(results, stage)) for stage in stages)
    figure, axes = new_figure(
        "What the trained embeddings were chosen by (validation)",
        panels=2,
        height=1.2 + 0.26 * most,
    )
    for panel, stage, colour in zip(axes, stages, (BLUE, ORANGE), strict=True):
        names = _names(results, stage)
        named_rows(panel, names)
        for place, name in enumerate(names):
            metric = results[f"{stage}/{name}/recall@1"]
            interval_dot(panel, place, (metric.value, metric.low, metric.high), colour=colour)
        panel.set_xlabel("recall@1, " + ("unseen classes" if stage == UNSEEN else "all classes"))
    return figure


def _names(results: Results, stage: str) -> list[str]:
    found = [key.split("/")[1] for key in results if key.startswith(f"{stage}/")]
    return list(dict.fromkeys(found))
