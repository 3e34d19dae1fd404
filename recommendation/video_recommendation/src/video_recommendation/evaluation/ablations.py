"""Ablations of the two-tower model: each changes one thing and is trained and judged alike.

In: the configurations under ``configs/ablations``. Out: one row each, trained on the training
window, stopped early on validation, refitted on 90% of time and judged on the test window by the
two-tower list alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml_platform.data.splits import next_event_queries
from video_recommendation.config import Config, TwoTowerConfig, load_config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.baselines import Scorer
from video_recommendation.evaluation.lists import PerQuery, Table, list_metrics
from video_recommendation.evaluation.retrieval import evaluate_scorer
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.training import (
    RequestEncoder,
    best_epoch_count,
    item_vectors,
    train_two_tower,
)
from video_recommendation.retrieval.two_tower import TwoTower


def read_ablations(folder: Path, base: Config) -> dict[str, TwoTowerConfig]:
    """The two-tower settings of every file of the folder, the base's own under "default".

    Raises:
        FileNotFoundError: if the folder holds no configuration.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"no ablation configurations in {folder}")
    settings = {"default": base.two_tower}
    for path in files:
        changed = load_config(path).two_tower.model_dump(exclude_unset=True)
        settings[path.stem] = base.two_tower.model_copy(update=changed)
    return settings


def run_ablations(
    data: SystemData,
    settings: dict[str, TwoTowerConfig],
    seeds: tuple[int, ...],
    on_done: Callable[[str, int], None] = lambda *_: None,
) -> dict[tuple[str, int], PerQuery]:
    """Per-query test metrics of every (setting, seed)."""
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    found = {}
    for name, setting in settings.items():
        for seed in seeds:
            model = train_with_early_stopping(data, setting, seed)
            scorer = two_tower_scorer(RequestEncoder(model, data.users), item_vectors(model))
            found[name, seed] = evaluate_scorer(scorer, data.log, queries)
            on_done(name, seed)
    return found


def two_tower_scorer(encoder: RequestEncoder, vectors: np.ndarray) -> Scorer:
    """Cosines of requests and all items."""
    return lambda batch: encoder.encode(batch) @ vectors.T


def train_with_early_stopping(data: SystemData, setting: TwoTowerConfig, seed: int) -> TwoTower:
    """Epochs chosen on validation, then a refit on everything before the test window."""
    windows = data.windows
    queries = next_event_queries(data.log, windows.train_end, windows.validation_end)
    batch = batch_of_queries(data.log, queries)

    def validate(model: TwoTower) -> float:
        scores = RequestEncoder(model, data.users).encode(batch) @ item_vectors(model).T
        return float(list_metrics(scores, batch, data.log, queries)["recall@100"].mean())

    parts = (data.catalogue, data.users, data.log)
    _, history = train_two_tower(*parts, windows.train_end, setting, seed=seed, validate=validate)
    model, _ = train_two_tower(
        *parts, windows.validation_end, setting, seed=seed, epochs=best_epoch_count(history)
    )
    return model


def ablation_table(
    data: SystemData, found: dict[tuple[str, int], PerQuery], protocol: str, resamples: int
) -> Table:
    """Per-query metrics averaged over seeds, so that the interval is over users."""
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    names = list(dict.fromkeys(name for name, _ in found))
    rows = {}
    for name in names:
        runs = [values for (run, _), values in found.items() if run == name]
        rows[name] = {m: np.mean([run[m] for run in runs], axis=0) for m in runs[0]}
    return Table(rows, queries.user_idx, protocol, resamples)
