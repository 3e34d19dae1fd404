"""A few seconds of pictures against a new bundle, at the end of ``e2e``; ``bench`` measures.

In: a ``Run`` that has just published a bundle. Out: ``serving/short/...`` in its results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_search.images.image_set import ImageSet
from image_search.searcher import Searcher
from image_search.serving.command import Loads
from image_search.serving.load_session import measure, serving
from image_search.serving.record import record_session
from ml_platform.evaluation.results import Results

if TYPE_CHECKING:
    from image_search.commands import Run

QUICK_S, FULL_S = 2.0, 10.0
PICTURES = 200


def short_load(run: Run, images: ImageSet, searcher: Searcher, results: Results) -> None:
    """Serves the run's bundle and asks at the configured rate.

    Raises:
        RuntimeError: If the service does not start; with the end of its output.
    """
    config = run.config.serving
    ids = searcher.catalogue.item_id
    loads = Loads(images, ids, text=False, seed=run.config.seed, most=PICTURES)
    seconds = QUICK_S if run.config.quick else FULL_S
    with run.progress.stage("serving: a short load", 1) as step:
        with serving(run.latest_bundle.resolve(), config) as server:
            session = measure(server, loads.image, config.bench_qps, seconds, seed=run.config.seed)
        step(1)
    words = f"image queries; {len(ids):,} items, embedding {searcher.embedder.name}"
    record_session(results, "short", session, words)
