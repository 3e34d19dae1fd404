"""Parts ``balancing`` and ``capacity``: who works, what is dropped, and what it costs in quality.

Regimes of unequal frequency (Zipf), so that an even load is *not* what the data asks for; top-1
with a capacity, so that an uneven load drops rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ml_algorithms.mixture_of_experts.balancing import effective_experts
from ml_algorithms.mixture_of_experts.bench_config import (
    BALANCE_LOOKS,
    Config,
    generated,
    over_seeds,
)
from ml_algorithms.mixture_of_experts.counting import padded_multiply_adds
from ml_algorithms.mixture_of_experts.regimes import RegimeTask
from ml_algorithms.mixture_of_experts.sparse import SparseMoE, capacity
from ml_algorithms.mixture_of_experts.training import Balance, Outcome, Recipe, Student, train
from ml_platform.evaluation.plot_style import BLUE, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

# Weight of the auxiliary loss (0.01 is the usual one), or the step of the bias.
WEIGHTS: dict[Balance, float] = {
    "none": 0.0,
    "switch": 1e-2,
    "switch_z": 1e-2,
    "importance_load": 1e-2,
    "bias": 1e-3,
}
CAPACITY = 1.25
DEAD = 0.1  # an expert with less than a tenth of its even share is counted as dead


def task_of(config: Config, seed: int) -> RegimeTask:
    """Regimes in Zipf's proportions."""
    return RegimeTask(n_regimes=config.regimes, width=config.width, skew=config.skew, seed=seed)


def fit(
    config: Config,
    balance: Balance,
    factor: float | None,
    seed: int,
    task: RegimeTask,
    step: Callable[[int], None],
) -> Outcome:
    """One top-1 layer with this remedy and capacity."""
    torch.manual_seed(seed)
    noisy = balance == "importance_load"
    block = SparseMoE(
        width=config.width, hidden=config.hidden, n_experts=config.experts, k=1,
        capacity_factor=factor, noisy=noisy,
    )  # fmt: skip
    recipe = Recipe(
        steps=config.balance_steps, batch=config.batch, balance=balance,
        balance_weight=WEIGHTS[balance], test_rows=config.test_rows,
    )  # fmt: skip
    outcome = train(Student(block, config.width), task, recipe, seed=seed)
    step(1)
    return outcome


def _protocol(config: Config, rest: str) -> str:
    return (
        f"synthetic: {config.regimes} regimes, frequency (g+1)^-{config.skew:g}; top-1 of "
        f"{config.experts} experts, {config.balance_steps} steps of {config.batch} rows, learning "
        f"rate 0.01, {rest}; {len(config.seeds)} seeds, Student interval; {config.threads} thread"
    )


def run_balancing(study: StudyRun[Config]) -> None:
    """Every remedy, with utilisation over training."""
    config = study.config
    torch.set_num_threads(config.threads)
    results = study.results(
        dataset_name="generated regimes, skewed",
        dataset_sha256=generated(config),
        synthetic=True,
    )
    task = task_of(config, study.seed)
    found: dict[Balance, list[Outcome]] = {}
    with study.progress.stage("remedies", len(WEIGHTS) * len(config.seeds)) as step:
        for balance in WEIGHTS:
            found[balance] = [
                fit(config, balance, CAPACITY, seed, task, step) for seed in config.seeds
            ]
            _record_balance(results, balance, found[balance], config)
    _draw_balancing(study, found)


def _record_balance(
    results: Results, balance: Balance, outcomes: list[Outcome], config: Config
) -> None:
    how = _protocol(config, f"capacity factor {CAPACITY}")
    even = 1.0 / config.experts
    late = [outcome.loads[len(outcome.loads) // 2 :] for outcome in outcomes]
    first = [outcome.loads[0] for outcome in outcomes]
    columns = {
        "error": [outcome.error for outcome in outcomes],
        "rare_error": [outcome.rare_error for outcome in outcomes],
        "dropped": [outcome.dropped for outcome in outcomes],
        "effective_experts": [float(effective_experts(outcome.load)) for outcome in outcomes],
        "busiest_share": [float(outcome.load.max()) / even for outcome in outcomes],
        "dead_experts": [float((outcome.load < DEAD * even).sum()) for outcome in outcomes],
        "logit_size": [outcome.logit_size for outcome in outcomes],
        "effective_at_start": [float(effective_experts(load)) for load in first],
        "effective_second_half": [
            float(np.mean([float(effective_experts(load)) for load in loads])) for loads in late
        ],
    }
    for metric, values in columns.items():
        results.add(f"balancing/{balance}/{metric}", over_seeds(values), protocol=how)


def _draw_balancing(study: StudyRun[Config], found: dict[Balance, list[Outcome]]) -> None:
    """Effective experts and the busiest expert's load over training."""
    figure, (left, right) = new_figure("Who works, over training", panels=2, height=4.0)
    n = study.config.experts
    for balance, outcomes in found.items():
        label, colour = BALANCE_LOOKS[balance]
        steps = outcomes[0].steps
        effective = np.array(
            [[float(effective_experts(load)) for load in one.loads] for one in outcomes]
        )
        busiest = np.array([[float(load.max()) * n for load in one.loads] for one in outcomes])
        for axes, values in ((left, effective), (right, busiest)):
            axes.plot(steps, values.mean(axis=0), color=colour, label=label, linewidth=1.6)
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0
            )
    left.set(xlabel="training step", ylabel=f"effective experts (of {n})", ylim=(0, n + 0.5))
    right.set(xlabel="training step", ylabel="load of the busiest, in even shares")
    right.axhline(CAPACITY, color="0.3", linewidth=1, linestyle=":")
    right.annotate(
        "capacity", (1, CAPACITY), xycoords=("axes fraction", "data"), ha="right",
        xytext=(0, -11), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    right.set_ylim(bottom=0)
    left.legend(fontsize=8, frameon=False, loc="lower left")
    study.picture("utilisation", figure)


def run_capacity(study: StudyRun[Config]) -> None:
    """Capacity factor against dropped share, error and padded work."""
    config = study.config
    torch.set_num_threads(config.threads)
    results = study.results(
        dataset_name="generated regimes, skewed",
        dataset_sha256=generated(config),
        synthetic=True,
    )
    task = task_of(config, study.seed)
    remedies: tuple[Balance, ...] = ("none", "bias")
    n_fits = len(remedies) * (len(config.capacity_factors) + 1) * len(config.seeds)
    with study.progress.stage("capacity factors", n_fits) as step:
        for balance in remedies:
            for factor in (*config.capacity_factors, None):
                found = [fit(config, balance, factor, seed, task, step) for seed in config.seeds]
                _record_capacity(results, balance, factor, found, config)
    _draw_capacity(study, results)


def _record_capacity(
    results: Results,
    balance: Balance,
    factor: float | None,
    found: list[Outcome],
    config: Config,
) -> None:
    name = f"{balance}_{'unlimited' if factor is None else f'{factor:g}'}"
    how = _protocol(config, f"capacity factor {factor or 'unlimited'}")
    error = over_seeds([outcome.error for outcome in found])
    results.add(f"capacity/{name}/error", error, protocol=how)
    results.add(
        f"capacity/{name}/dropped", over_seeds([one.dropped for one in found]), protocol=how
    )
    if factor is not None:
        places = capacity(config.batch, config.experts, 1, factor)
        work = padded_multiply_adds(
            width=config.width, hidden=config.hidden, n_experts=config.experts,
            places=places, n_rows=config.batch,
        )  # fmt: skip
        results.add(f"capacity/{name}/padded_multiply_adds", work, protocol="counted, per row")


def _draw_capacity(study: StudyRun[Config], results: Results) -> None:
    """Dropped share and error along the factor; unlimited as a line."""
    figure, (left, right) = new_figure("What a place costs, and saves", panels=2, height=3.8)
    factors = study.config.capacity_factors
    for balance, label, colour, marker in (
        ("none", "no balancing", ORANGE, "s"),
        ("bias", "selection bias", BLUE, "^"),
    ):
        for axes, metric in ((left, "dropped"), (right, "error")):
            metrics = [results[f"capacity/{balance}_{f:g}/{metric}"] for f in factors]
            axes.plot(factors, [m.value for m in metrics], color=colour, marker=marker, label=label)
            if metrics[0].low is not None:
                low = [max(0.0, m.low or 0.0) for m in metrics]
                axes.fill_between(
                    factors, low, [m.high or 0.0 for m in metrics], color=colour, alpha=0.12,
                    linewidth=0,
                )  # fmt: skip
        unlimited = results[f"capacity/{balance}_unlimited/error"].value
        right.axhline(unlimited, color=colour, linewidth=1, linestyle=":")
    left.set(xlabel="capacity factor", ylabel="share of rows dropped", ylim=(0, None))
    right.set(
        xlabel="capacity factor (dotted: no limit)",
        ylabel="unexplained share of the variance",
        ylim=(0, None),
    )
    left.legend(fontsize=8, frameon=False)
    study.picture("factor", figure)
