"""What each stage of a search does to the page, judged by class and by what an item is.

In: a searcher and the queries' pictures. Out: results under

    funnel/<stage>/recall@1       share of queries whose first result has the query's class
    funnel/<stage>/precision@10   share of the ten shown that have the query's class
    funnel/<stage>/quality        mean of the ten shown (SYNTHETIC attribute)
    funnel/<stage>/ms             of one search, queries one by one, one thread

for ``retrieved`` (by similarity alone), ``ranked`` and ``page`` (near-duplicates out, diversified).
Ranking trades likeness for what people click; this table says how much likeness. What it gains is
measured with the truth of the log (``rankers``).

Legend: Q queries, D dimension.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from threadpoolctl import threadpool_limits

from image_search.images.image_set import ImageSet, Rows
from image_search.pipeline import pictures_at
from image_search.searcher import Ask, Searcher
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results

SHOWN = 10
MOST = 1_000
"""Queries; the interval of a share is then at most three points either way."""


def stages_of(searcher: Searcher) -> dict[str, Searcher]:
    """The searcher cut off behind each of its stages; a stage that it lacks is absent."""
    bare = dataclasses.replace(searcher, ranker=None, personalise=None, rerank=None)
    found = {"retrieved": bare}
    if searcher.ranker is not None:
        found["ranked"] = dataclasses.replace(bare, ranker=searcher.ranker)
    if searcher.rerank is not None:
        found["page"] = dataclasses.replace(searcher, personalise=None)
    return found


def measure_funnel(
    searcher: Searcher,
    images: ImageSet,
    rows: Rows,
    results: Results,
    seed: int,
    progress: Progress,
) -> None:
    """Searches with up to MOST queries behind every stage and records the pages."""
    asked = np.random.default_rng(seed).permutation(rows.queries)[:MOST]
    vectors = searcher.embed_images(pictures_at(images, asked))
    own = [searcher.catalogue.row_of.get(int(item), -1) for item in images.item_id[asked]]
    asks = [
        Ask(vector=vector, k=SHOWN, own_row=row) for vector, row in zip(vectors, own, strict=True)
    ]
    words = f"{images.name}, {rows.protocol}, {len(asks)} queries, {SHOWN} shown"
    for stage, cut in stages_of(searcher).items():
        first, precision, quality = (np.zeros(len(asks)) for _ in range(3))
        began = time.perf_counter()
        # Threads that wait for each other over matrices so small cost more than the work itself.
        with threadpool_limits(1), progress.stage(f"funnel: {stage}", len(asks)) as advance:
            for n, ask in enumerate(asks):
                shown = cut.search([ask])[0].rows
                right = cut.catalogue.label[shown] == images.label[asked[n]]
                first[n], precision[n] = right[0], right.mean()
                quality[n] = cut.catalogue.attributes.quality[shown].mean()
                advance(1)
        seconds = time.perf_counter() - began
        measured = {"recall@1": first, "precision@10": precision, "quality": quality}
        for metric, values in measured.items():
            note = ", synthetic" if metric == "quality" or images.synthetic else ""
            estimate = bootstrap_mean(values, seed=seed)
            results.add(f"funnel/{stage}/{metric}", estimate, protocol=words + note)
        each_ms = 1e3 * seconds / len(asks)
        results.add(f"funnel/{stage}/ms", each_ms, protocol=f"{words}, one by one, in the mean")
