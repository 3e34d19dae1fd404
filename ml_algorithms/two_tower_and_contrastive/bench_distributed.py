"""The part of the study that trains on one process and on two.

In: the study's data and one recipe. Out: quality, seconds and bytes of each layout, and how far a
few plain gradient steps of two processes are from those of one.

Plain steps, and not AdamW's: those hardly change when every gradient is twice too large, so that
agreement under AdamW would say nothing about sums taken for averages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.bench_data import (
    Quality,
    StudyData,
    evaluate,
    two_tower_scores,
)
from ml_algorithms.two_tower_and_contrastive.bench_runs import record, record_differences
from ml_algorithms.two_tower_and_contrastive.distributed import (
    Job,
    Run,
    launch,
)
from ml_algorithms.two_tower_and_contrastive.objective import Recipe
from ml_algorithms.two_tower_and_contrastive.sharded_table import all_reduce_bytes, sharded_bytes
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower
from ml_algorithms.two_tower_and_contrastive.training import batches, train
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results

PROCESSES = 2
SGD_RATE = 0.1  # of the exact comparison only
VARIANTS = {
    "two_replicated": Run("replicated", 0),
    "two_sharded": Run("sharded", 0),
    "two_local_negatives": Run("replicated", 0, share_negatives=False),
}


def run_distributed(
    results: Results,
    data: StudyData,
    recipe: Recipe,
    *,
    seeds: tuple[int, ...],
    exact_steps: int,
    scratch: Path,
    progress: Progress,
) -> None:
    """Trains every variant with every seed and records what came of it."""
    torch.set_num_threads(1)
    names = list(VARIANTS)
    runs = [_again(VARIANTS[name], seed, None) for name in names for seed in seeds]
    exact = [_again(VARIANTS[name], seeds[0], exact_steps, SGD_RATE) for name in names]
    with progress.stage("one process, then two", 2) as step:
        single, seconds = _single(data, recipe, seeds)
        reference = train(
            data.pairs, recipe, seed=seeds[0], max_steps=exact_steps, sgd_rate=SGD_RATE
        ).model.state_dict()
        step(1)
        done = launch(
            Job(data.pairs, recipe, (*runs, *exact)), scratch / "distributed", processes=PROCESSES
        )
        step(1)
    grouped = {"one": single}
    _add_seconds(results, "one", seconds)
    for number, name in enumerate(names):
        mine = done[number * len(seeds) : (number + 1) * len(seeds)]
        grouped[name] = [_quality(data, recipe, one["state"]) for one in mine]
        _add_seconds(results, name, [one["seconds"] / one["steps"] for one in mine])
        results.add(
            f"distributed/{name}/table_bytes_per_step", mine[0]["table_bytes_per_step"],
            protocol="bytes that one of two processes sends for the table, forward and backward: "
            "counted for sharded, a ring all-reduce by arithmetic for replicated",
        )  # fmt: skip
        state = done[len(runs) + number]["state"]
        results.add(
            f"distributed/{name}/sgd_update_difference",
            update_difference(state, reference, _model(data, recipe, seeds[0]).state_dict()),
            protocol=f"change of the weights over {exact_steps} plain gradient steps (rate "
            f"{SGD_RATE}, no AdamW) less one process's on the same global batches, relative to "
            "the latter, by norm; the largest over the parameter tensors, float32",
        )  # fmt: skip
    choices = dict.fromkeys(grouped, f"all {recipe.epochs} epochs, nothing chosen")
    record(results, "distributed", data, grouped, choices)
    record_differences(results, "distributed", data, grouped, "one", choices)
    _add_arithmetic(results, data, recipe, seeds[0])


def _again(run: Run, seed: int, max_steps: int | None, sgd_rate: float | None = None) -> Run:
    return replace(run, seed=seed, max_steps=max_steps, sgd_rate=sgd_rate)


def _single(
    data: StudyData, recipe: Recipe, seeds: tuple[int, ...]
) -> tuple[list[Quality], list[float]]:
    """Qualities and seconds per step of one process; the clock holds nothing but the steps."""
    qualities, seconds = [], []
    n_steps = recipe.epochs * (len(data.pairs) // min(recipe.batch_size, len(data.pairs)))
    for seed in seeds:
        started = time.perf_counter()
        model = train(data.pairs, recipe, seed=seed).model
        seconds.append((time.perf_counter() - started) / n_steps)
        qualities.append(evaluate(data, data.test, two_tower_scores(model, data.test)))
    return qualities, seconds


def _quality(data: StudyData, recipe: Recipe, state: dict[str, Tensor]) -> Quality:
    model = _model(data, recipe, 0)
    model.load_state_dict(state)
    return evaluate(data, data.test, two_tower_scores(model, data.test))


def _model(data: StudyData, recipe: Recipe, seed: int) -> TwoTower:
    return build_two_tower(
        data.pairs.genres, dim=recipe.dim, hidden=recipe.hidden, normalise=recipe.normalise,
        seed=seed,
    )  # fmt: skip


def update_difference(
    state: Mapping[str, Tensor], reference: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> float:
    """Norm of (state - reference) over that of (reference - start), the largest of the tensors.

    0 for the same steps, 1 for steps that are all twice too long.
    """
    return max(
        float((state[name] - value).norm() / (value - start[name]).norm())
        for name, value in reference.items()
    )


def _add_seconds(results: Results, name: str, seconds: list[float]) -> None:
    results.add(
        f"distributed/{name}/step_ms", 1000 * float(np.median(seconds)), n=len(seconds),
        protocol="median over seeds of the mean step, one thread a process, gloo on one machine",
    )  # fmt: skip


def _add_arithmetic(results: Results, data: StudyData, recipe: Recipe, seed: int) -> None:
    """What the layouts move at any catalogue size, from the distinct rows that a step asks for."""
    distinct = []
    for _, batch in batches(data.pairs, recipe, seed):
        half = slice(0, len(batch.item_idx) // PROCESSES)
        history = batch.history[half]
        extra = batch.uniform[: len(batch.uniform) // PROCESSES]
        wanted = torch.cat([history[history < data.pairs.n_items], batch.item_idx[half], extra])
        distinct.append(len(wanted.unique()))
        if len(distinct) == 50:
            break
    rows = float(np.mean(distinct))
    asked = recipe.batch_size / PROCESSES * (data.pairs.history.shape[1] + 1)
    asked += recipe.n_negatives / PROCESSES
    crossover = sharded_bytes(rows, recipe.dim, PROCESSES) / all_reduce_bytes(recipe.dim, PROCESSES)
    most = sharded_bytes(asked, recipe.dim, PROCESSES) / all_reduce_bytes(recipe.dim, PROCESSES)
    for name, value, protocol in (
        ("distinct_rows", rows, "distinct table rows that one of two processes asks for in a step"),
        ("asked_rows", asked, "table rows that one of two processes asks for, repeats included"),
        ("crossover_items", crossover, "catalogue above which sharding sends less, at these rows"),
        ("crossover_items_no_repeats", most, "the same if no row were asked for twice"),
    ):
        results.add(f"distributed/arithmetic/{name}", value, protocol=protocol)
