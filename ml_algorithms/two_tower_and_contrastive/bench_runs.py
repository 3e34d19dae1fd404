"""Runs of the study: a task is a recipe and a seed, its outcome the quality of the trained model.

In: tasks. Out: outcomes in their order, whoever computed them: this process, or a pool of processes
that each load the data once. One thread each, so that a run is the same in both.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ml_algorithms.two_tower_and_contrastive.bench_data import (
    Quality,
    StudyData,
    evaluate,
    load_study_data,
    two_tower_scores,
    validator,
)
from ml_algorithms.two_tower_and_contrastive.objective import Recipe
from ml_algorithms.two_tower_and_contrastive.training import train
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results


@dataclass(frozen=True)
class DataKey:
    """What identifies a cut data set: a worker loads it by this."""

    dataset: str
    history_length: int
    max_queries: int


@dataclass(frozen=True)
class Task:
    """One training."""

    name: str
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    task: Task
    quality: Quality
    validation: float
    temperature: float


@lru_cache(maxsize=1)
def study_data(key: DataKey) -> StudyData:
    """The data, loaded once per process."""
    return load_study_data(
        key.dataset, history_length=key.history_length, max_queries=key.max_queries
    )


def run_task(key: DataKey, task: Task) -> Outcome:
    """Trains, keeps the epoch with the best validation recall@100, and measures on the test."""
    torch.set_num_threads(1)
    data = study_data(key)
    fit = train(data.pairs, task.recipe, seed=task.seed, validate=validator(data))
    quality = evaluate(data, data.test, two_tower_scores(fit.model, data.test))
    return Outcome(task, quality, max(fit.validation), fit.temperature)


def run_tasks(
    key: DataKey, tasks: Sequence[Task], *, workers: int, step: Callable[[int], None]
) -> list[Outcome]:
    """All outcomes in the order of the tasks.

    Args:
        key: The data.
        tasks: What to train.
        workers: Processes; 1 stays in this one.
        step: Told of each finished task.
    """
    outcomes = []
    if workers == 1:
        for task in tasks:
            outcomes.append(run_task(key, task))
            step(1)
        return outcomes
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads' locks
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for outcome in pool.map(run_task, [key] * len(tasks), tasks):
            outcomes.append(outcome)
            step(1)
    return outcomes


def tuned(outcomes: Sequence[Outcome]) -> dict[str, Recipe]:
    """By name, the recipe with the best validation recall@100."""
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        held = best.get(outcome.task.name)
        if held is None or outcome.validation > held.validation:
            best[outcome.task.name] = outcome
    return {name: outcome.task.recipe for name, outcome in best.items()}


PER_QUERY = {
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "ndcg@10": "ndcg_10",
    "popularity@10": "popularity",
}


def by_name(outcomes: Sequence[Outcome]) -> dict[str, list[Quality]]:
    """Qualities of all seeds of a name, names in order of appearance."""
    grouped: dict[str, list[Quality]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.task.name, []).append(outcome.quality)
    return grouped


EPOCH_CHOSEN = "epoch chosen on the middle part"


def protocol_of(data: StudyData, qualities: Sequence[Quality], choice: str) -> str:
    """The protocol of one row: what was measured, and what was chosen where."""
    fits = "one fit" if len(qualities) == 1 else f"mean of {len(qualities)} seeds"
    return f"{data.protocol}, {choice}, {fits}, 95% over users"


def record(
    results: Results,
    stage: str,
    data: StudyData,
    grouped: dict[str, list[Quality]],
    choices: Mapping[str, str],
) -> None:
    """Writes the metrics of every name: per-query ones are means over seeds and queries.

    ``choices`` says for each name what was chosen on the validation window and goes into its
    protocol; a name that is not in it had its epoch chosen there.

    Their interval resamples users; what the seeds add is ``recall@100_seed_range``, the highest
    less the lowest seed.
    """
    for name, qualities in grouped.items():
        protocol = protocol_of(data, qualities, choices.get(name, EPOCH_CHOSEN))
        for metric, field in PER_QUERY.items():
            results.add(
                f"{stage}/{name}/{metric}", estimate(data, qualities, field), protocol=protocol
            )
        for metric, values in (
            ("coverage@10", [one.coverage for one in qualities]),
            ("gini@10", [one.gini for one in qualities]),
        ):
            results.add(
                f"{stage}/{name}/{metric}", float(np.mean(values)), n=len(values),
                protocol=protocol,
            )  # fmt: skip
        recalls = [one.recall_100.mean() for one in qualities]
        results.add(
            f"{stage}/{name}/recall@100_seed_range", float(max(recalls) - min(recalls)),
            n=len(recalls), protocol=protocol,
        )  # fmt: skip


def record_differences(
    results: Results,
    stage: str,
    data: StudyData,
    grouped: dict[str, list[Quality]],
    reference: str,
    choices: Mapping[str, str],
) -> None:
    """Paired differences of every name to the reference, in ``<stage>_difference``."""
    for name, qualities in grouped.items():
        if name == reference:
            continue
        choice = choices.get(name, EPOCH_CHOSEN)
        for metric, field in PER_QUERY.items():
            difference = bootstrap_difference(
                _over_seeds(qualities, field), _over_seeds(grouped[reference], field),
                data.test.queries.user_idx,
            )  # fmt: skip
            results.add(
                f"{stage}_difference/{name}/{metric}", difference,
                protocol=f"less {reference}, same queries; {protocol_of(data, qualities, choice)}",
            )  # fmt: skip


def estimate(data: StudyData, qualities: Sequence[Quality], field: str) -> Estimate:
    """Mean over seeds and queries with users resampled whole."""
    return bootstrap_mean(_over_seeds(qualities, field), data.test.queries.user_idx)


def _over_seeds(qualities: Sequence[Quality], field: str) -> np.ndarray:
    return np.mean([getattr(one, field) for one in qualities], axis=0)
