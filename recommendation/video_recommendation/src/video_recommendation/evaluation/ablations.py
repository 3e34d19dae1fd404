"""Ablations of the two-tower model: each changes one thing and is trained and judged alike.

In: the configurations under ``configs/ablations``. Out: one row each, trained on the training
window, stopped early on validation, refitted on 90% of time and judged on the test window by the
two-tower list alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ml_platform.data.splits import next_event_queries
from video_recommendation.config import Config, DataConfig, TwoTowerConfig, load_config
from video_recommendation.data import SystemData, load_data
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
    config: DataConfig,
    settings: dict[str, TwoTowerConfig],
    seeds: tuple[int, ...],
    *,
    workers: int,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[tuple[str, int], PerQuery]:
    """Per-query test metrics of every (setting, seed).

    Runs in ``workers`` processes of one thread each: training steps this small gain little from a
    second thread, and everything from a second process.
    """
    tasks = [(name, seed) for seed in seeds for name in settings]
    found = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(_train_and_judge, config, settings[name], seed): (name, seed)
            for name, seed in tasks
        }
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            on_done(1)
    return {task: found[task] for task in tasks}


def _train_and_judge(config: DataConfig, setting: TwoTowerConfig, seed: int) -> PerQuery:
    """One task, in a process of its own."""
    torch.set_num_threads(1)
    data = load_data(config)
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    model = train_with_early_stopping(data, setting, seed)
    scorer = two_tower_scorer(RequestEncoder(model, data.users), item_vectors(model))
    return evaluate_scorer(scorer, data.log, queries)


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
