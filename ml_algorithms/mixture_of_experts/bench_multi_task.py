"""Part ``multi_task``: shared bottom, MMoE, PLE and single tasks at one parameter budget.

First on two generated tasks of set correlation, with the cosine between the tasks' gradients as the
measured conflict; then on movie ratings with two labels. Last, what MMoE computes beside a shared
bottom: the numbers against "mixture of experts saves compute".
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_algorithms.mixture_of_experts.bench_config import TASK_LOOKS, Config, over_seeds
from ml_algorithms.mixture_of_experts.bench_movies import load_movies, run_movies
from ml_algorithms.mixture_of_experts.conflict import gate_distance, gradient_cosine
from ml_algorithms.mixture_of_experts.counting import parameters
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_algorithms.mixture_of_experts.regimes import PairTask
from ml_algorithms.mixture_of_experts.task_models import (
    EXPERTS,
    TOWER,
    Kind,
    models_of,
    multiply_adds,
    shared_parameters,
)
from ml_platform.evaluation.plot_style import new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

COSINE_EVERY = 10
EXPERT_WIDTH = 64  # for the comparison of work: one expert of the shared bottom's width


@dataclass(frozen=True)
class PairOutcome:
    """One run on generated tasks."""

    error: float
    """Mean over the two tasks of test MSE over variance."""
    cosine: float
    """Mean over the second half of training; 0 where nothing is shared."""
    conflicts: float
    """Share of those looks with a negative cosine."""
    gate_distance: float


def run(study: StudyRun[Config]) -> None:
    """Generated tasks, movies, and the count of work, into one file."""
    config = study.config
    torch.set_num_threads(config.threads)
    dataset = load_movies(config)
    results = study.results_of(dataset)
    models = models_of(config.task_features, config.task_budget)
    total = len(models) * len(config.correlations) * len(config.seeds)
    with study.progress.stage("tasks of known correlation", total) as step:
        for kind, build in models.items():
            results.add(
                f"pair/{kind}/parameters", parameters(build()), protocol="counted, towers included"
            )
            results.add(f"pair/{kind}/multiply_adds", multiply_adds(build()), protocol="per row")
            for correlation in config.correlations:
                found = [fit_pair(build, correlation, config, seed, step) for seed in config.seeds]
                _record_pair(results, kind, correlation, found, config)
    run_movies(study, dataset, results)
    measure_work(results, config)
    _draw(study, results)


def fit_pair(
    build: Callable[[], nn.Module],
    correlation: float,
    config: Config,
    seed: int,
    step: Callable[[int], None],
) -> PairOutcome:
    """Train on fresh rows with the sum of two mean squared errors."""
    task = PairTask(correlation, n_features=config.task_features, seed=seed)
    rows = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.task_steps)
    shared = shared_parameters(model)
    cosines = []
    for number in range(config.task_steps):
        x, y = task.draw(config.task_batch, rows)
        losses = _losses(model(x)[0], y)
        late = number >= config.task_steps // 2 and number % COSINE_EVERY == 0
        if shared and late:
            cosines.append(gradient_cosine(losses, shared))
        optimiser.zero_grad()
        (losses[0] + losses[1]).backward()
        optimiser.step()
        schedule.step()
    step(1)
    return _tested(model, task, rows, cosines)


def _losses(predicted: Tensor, y: Tensor) -> list[Tensor]:
    return [functional.mse_loss(predicted[:, t], y[:, t]) for t in range(2)]


@torch.no_grad()
def _tested(
    model: nn.Module, task: PairTask, rows: torch.Generator, cosines: list[float]
) -> PairOutcome:
    x, y = task.draw(8192, rows)
    model.eval()
    predicted, gates = model(x)
    error = ((predicted - y).square().mean(dim=0) / y.var(dim=0)).mean()
    return PairOutcome(
        error=float(error),
        cosine=statistics.fmean(cosines) if cosines else 0.0,
        conflicts=statistics.fmean(c < 0 for c in cosines) if cosines else 0.0,
        gate_distance=gate_distance(gates),
    )


def _record_pair(
    results: Results, kind: Kind, correlation: float, found: list[PairOutcome], config: Config
) -> None:
    how = (
        f"synthetic tasks of Ma et al. 2018 with weight cosine {correlation:g}, "
        f"{config.task_features} features, {config.task_steps} steps of {config.task_batch} fresh "
        f"rows, Adam 0.01, budget {config.task_budget} parameters; {len(config.seeds)} seeds, "
        f"Student interval; conflict: every {COSINE_EVERY}th step of the second half, over the "
        f"shared experts"
    )
    metrics = ["error"] + (["cosine", "conflicts"] if kind != "single_task" else [])
    metrics += ["gate_distance"] if kind in ("mmoe", "ple") else []
    for metric in metrics:
        values = [float(getattr(outcome, metric)) for outcome in found]
        key = f"pair/{kind}/{metric}@{correlation:g}"
        results.add(key, over_seeds(values), protocol=how)


def measure_work(results: Results, config: Config) -> None:
    """Multiply-adds and milliseconds: MMoE of E experts against a shared bottom of one of them."""
    rows = torch.randn(512, config.task_features)
    for name, n_experts in (("shared_bottom", 1), ("mmoe", EXPERTS)):
        model = MMoE(
            n_features=config.task_features, n_tasks=2, n_experts=n_experts,
            expert_dims=(EXPERT_WIDTH,), tower_dims=TOWER,
        ).eval()  # fmt: skip
        how = f"experts of width {EXPERT_WIDTH}, 2 tasks, {EXPERTS} experts in MMoE"
        results.add(f"work/{name}/multiply_adds", multiply_adds(model), protocol=how + ", per row")
        results.add(f"work/{name}/parameters", parameters(model), protocol=how)
        milliseconds = _median_ms(model, rows)
        results.add(
            f"work/{name}/ms", milliseconds,
            protocol=how + "; forward of 512 rows, 1 thread, median of 50 after 5",
        )  # fmt: skip
    slower = (
        results["work/mmoe/multiply_adds"].value / results["work/shared_bottom/multiply_adds"].value
    )
    results.add("work/mmoe/times_shared_bottom", slower, protocol="quotient of the multiply-adds")


@torch.no_grad()
def _median_ms(model: nn.Module, rows: Tensor) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    elapsed = []
    for number in range(55):
        started = time.perf_counter()
        model(rows)
        if number >= 5:
            elapsed.append(1e3 * (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return statistics.median(elapsed)


def _draw(study: StudyRun[Config], results: Results) -> None:
    """Error and conflict along the correlation."""
    figure, (left, right) = new_figure(
        "Two tasks, one parameter budget (synthetic)", panels=2, height=4.0
    )
    x = study.config.correlations
    for kind, (label, colour, marker) in TASK_LOOKS.items():
        _line(left, x, [results[f"pair/{kind}/error@{c:g}"] for c in x], colour, marker, label)
        if kind != "single_task":
            metrics = [results[f"pair/{kind}/cosine@{c:g}"] for c in x]
            _line(right, x, metrics, colour, marker, label)
    left.set(
        xlabel="cosine of the tasks' weights",
        ylabel="unexplained share of the variance",
        ylim=(0, None),
    )
    right.axhline(0.0, color="0.3", linewidth=1, linestyle=":")
    right.set(xlabel="cosine of the tasks' weights", ylabel="cosine of the tasks' gradients")
    left.legend(fontsize=8, frameon=False)
    study.picture("conflict", figure)


def _line(axes: Any, x: Any, metrics: list[Any], colour: str, marker: str, label: str) -> None:
    axes.plot(x, [m.value for m in metrics], color=colour, marker=marker, label=label)
    for place, metric in zip(x, metrics, strict=True):
        if metric.low is not None:
            axes.plot([place, place], [metric.low, metric.high], color=colour, alpha=0.4)
