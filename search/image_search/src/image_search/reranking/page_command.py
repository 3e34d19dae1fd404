"""``page``: what near-duplicate removal and diversity change on a page, and what they cost.

In: a ``Run``. Out: ``results/page.json`` with

    page/diversity_<weight>/<measure>     weight in hundredths; measures of ``trade_off``
    page/with_duplicates/<measure>        weight 0, nothing left out
    page_latency/<the same>/p50_ms, p99_ms   of one page of 200 candidates

and a plot. Test queries; nothing is chosen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.embeddings.vectors import embed_rows
from image_search.evaluation.run import judged_rows
from image_search.images.image_set import ImageSet, draw_queries
from image_search.pipeline import pictures_at
from image_search.reranking.page import Page
from image_search.reranking.plots import trade_off_figure
from image_search.reranking.trade_off import (
    MEASURES,
    Retrieved,
    judged_pages,
    keeping_duplicates,
    pages_at,
)
from image_search.retrieval.index import build_index
from image_search.served import served
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


def run(run: Run) -> None:
    """Makes the pages at every weight, prints, draws, writes."""
    images = run.load()
    judged_rows(images, run.config)  # says so if there are no classes
    results = run.start_results(images)
    found, gallery, label, page = _retrieved(run, images)
    words = (
        f"{images.name}, {len(found):,} test queries, {found.rows.shape[1]} candidates, page of "
        f"{run.config.serving.page}, relevant = same class, score = similarity, 95% bootstrap by "
        "query" + (", synthetic" if images.synthetic else "")
    )
    points: dict[str, dict[str, Estimate]] = {}
    settings = [(f"diversity_{round(100 * w):02d}", page, w) for w in WEIGHTS]
    settings.append(("with_duplicates", keeping_duplicates(page), 0.0))
    with run.progress.stage("pages", len(settings)) as advance:
        for name, how, weight in settings:
            shown, left_out, took_ms = pages_at(
                how, found, gallery, weight, run.config.serving.page
            )
            measured = judged_pages(shown, left_out, found, gallery, label, page.thumbnails)
            points[name] = _record(results, run, name, measured, words)
            _record_time(results, name, took_ms, found.rows.shape[1])
            advance(1)
    folder = run.results_folder()
    suffix = "" if run.config.images.dataset == "fashion-mnist" else f"_{run.config.images.dataset}"
    figure = _figure(points, f" ({images.name}{', SYNTHETIC' if images.synthetic else ''})")
    write_atomic(folder / "plots" / f"page{suffix}.png", figure)
    results.write(folder / f"page{suffix}.json")
    run.console.print(_table(points, results, images))
    run.console.print(f"numbers: {folder / f'page{suffix}.json'}", highlight=False)


def _retrieved(run: Run, images: ImageSet) -> tuple[Retrieved, np.ndarray, np.ndarray, Page]:
    """Candidates of test queries, gallery vectors and classes, the page."""
    config = run.config
    rows = judged_rows(images, config)
    embedder, gallery = served(run, images)
    rows = draw_queries(rows, config.reranking.judged, config.seed)
    asked = embed_rows(embedder, images, rows.queries, progress=run.progress, what="queries")
    index = build_index("flat", gallery, np.arange(len(gallery)))
    # One more than wanted: a query that stands in the gallery loses its own place.
    most = min(config.index.candidates, len(gallery) - 1)
    found, similarity = index.search(asked, most + 1)
    keep = found != rows.self_match[:, None]
    keep &= keep.cumsum(axis=1) <= most
    candidates = Retrieved(
        asked,
        images.label[rows.queries],
        found[keep].reshape(len(found), most),
        similarity[keep].reshape(len(found), most),
    )
    with run.progress.stage("hashes and thumbnails", 1) as advance:
        page = Page.of(config.reranking, pictures_at(images, rows.gallery))
        advance(1)
    return candidates, gallery, images.label[rows.gallery], page


def _record(
    results: Results, run: Run, name: str, measured: dict[str, np.ndarray], words: str
) -> dict[str, Estimate]:
    found = {
        measure: bootstrap_mean(
            measured[measure], resamples=run.config.evaluation.resamples, seed=run.config.seed
        )
        for measure in MEASURES
    }
    for measure, estimate in found.items():
        results.add(f"page/{name}/{measure}", estimate, protocol=words)
    return found


def _record_time(results: Results, name: str, took_ms: np.ndarray, candidates: int) -> None:
    words = f"one page of {candidates} candidates at a time, closed loop, one thread, no errors"
    for percentile in (50, 99):
        value = float(np.percentile(took_ms, percentile))
        key = f"page_latency/{name}/p{percentile}_ms"
        results.add(key, value, protocol=words, n=len(took_ms))


def _figure(points: dict[str, dict[str, Estimate]], note: str) -> bytes:
    names = [name for name in points if name.startswith("diversity")]
    across = ("distance on the page, thumbnails", [points[n]["thumbnail_distance"] for n in names])
    curves = {
        "precision of the page": [points[n]["precision"] for n in names],
        "NDCG of the page": [points[n]["ndcg"] for n in names],
    }
    weights = [int(name.removeprefix("diversity_")) / 100 for name in names]
    # Pages at small weights hardly differ, and their names would lie on each other.
    shown = [f"{w:g}" if w == 0 or w >= 0.7 else "" for w in weights]
    return png(trade_off_figure(f"MMR: weight of diversity{note}", across, curves, shown))


def _table(points: dict[str, dict[str, Estimate]], results: Results, images: ImageSet) -> Table:
    note = ", SYNTHETIC" if images.synthetic else ""
    table = Table(title=f"the page at several weights of diversity, {images.name}{note}")
    for column in ("page", *(m.replace("_", " ") for m in MEASURES), "p99 ms"):
        table.add_column(column, justify="right")
    for name, found in points.items():
        cells = [f"{found[measure].value:.4f}" for measure in MEASURES]
        slow = results[f"page_latency/{name}/p99_ms"].value
        table.add_row(name.replace("_", " "), *cells, f"{slow:.2f}")
    return table
