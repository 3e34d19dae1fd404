"""``make duration``: three watch labels on the same trees and the same requests.

In: a run. Out: ``duration.json`` and a picture. Trains no transformer: what differs is the label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.duration_study import (
    ROWS,
    fit_label_scores,
    record_duration_study,
)
from shorts_recommendation.evaluation.retrieval_queries import (
    Queries,
    session_queries,
    snapshots_of,
)
from shorts_recommendation.features import cross_features, replay
from shorts_recommendation.items import ItemTable, items_known_at
from shorts_recommendation.ranking.fitting import training_label
from shorts_recommendation.ranking.sequences import make_sequences

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

CANDIDATES = 300
"""Videos drawn at random for each request: every duration stands in them as in the catalogue."""


def main(run: Run) -> None:
    """Trains trees on seconds, ratio and D2Q, judges their order by the world's truth."""
    data, config = run.load(), run.config
    results = run.start_results(data)
    windows, seed = data.windows, config.seed
    items = items_known_at(data.catalogue, windows.train_end, seed=seed)
    with run.progress.stage("features, point in time", len(data.log)) as step:
        rows, _ = replay(
            data.catalogue, data.users, items, data.log, config.state, on_progress=step
        )
    label = training_label(data.catalogue, data.log, windows, config)
    sequences = make_sequences(
        data.catalogue, data.log, rows, label, session_gap_s=config.state.session_gap_s
    )
    queries = session_queries(
        data,
        items,
        config,
        windows.validation_end,
        windows.end,
        most=config.evaluation.queries,
    )
    videos, cross = _candidates(data, items, queries, run)
    with run.progress.stage("trees on three labels", 1):
        found = fit_label_scores(
            sequences,
            sequences.time_s < windows.train_end,
            data.catalogue,
            data.log,
            queries.batch,
            cross,
            config.ranking,
            seed=seed,
        )
    batch = queries.batch
    truth = data.world.expected(batch.user_idx, np.maximum(videos, 0), batch.now_s)
    record_duration_study(
        results,
        found,
        truth.satisfaction,
        videos,
        data.catalogue.duration_s[np.maximum(videos, 0)],
        batch.user_idx,
        protocol=f"simulated world, first requests of {len(queries)} test-day sessions with a long "
        f"view, {CANDIDATES} random existing videos each, trees on "
        f"at most {ROWS:,} impressions of the training days, seed {seed}",
        resamples=config.evaluation.resamples,
    )
    folder = run.results_folder()
    results.write(folder / "duration.json")
    run.console.print(f"numbers: {folder / 'duration.json'}", highlight=False)


def _candidates(
    data: ShortsData, items: ItemTable, queries: Queries, run: Run
) -> tuple[np.ndarray, np.ndarray]:
    """Random existing videos i32[Q, C] of each request, and their features."""
    rng, batch = np.random.default_rng(run.config.seed), queries.batch
    order = np.argsort(data.catalogue.upload_s, kind="stable").astype(np.int32)
    exists = np.searchsorted(data.catalogue.upload_s[order], batch.now_s, side="right")
    draws = rng.random((len(queries), CANDIDATES)) * exists[:, None]
    videos = order[draws.astype(np.int64)]
    parts = [
        (places, cross_features(batch.take(places), videos[places], snapshot, items))
        for snapshot, places in snapshots_of(data.log, len(data.catalogue), run.config, batch.now_s)
    ]
    cross = np.concatenate([part for _, part in parts])
    return videos, cross[np.argsort(np.concatenate([places for places, _ in parts]))]
