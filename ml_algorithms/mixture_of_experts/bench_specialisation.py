"""Part ``specialisation``: quality against active and total parameters, at counted compute.

Sixteen regimes with a rule each (synthetic). All blocks see the same number of fresh rows; the
learning rate of each is the best of a small grid on a seed that is not among those reported.
The control has the same inputs and one rule for all regimes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ml_algorithms.mixture_of_experts.bench_config import LOOKS, Config, generated, over_seeds
from ml_algorithms.mixture_of_experts.counting import Work, moe_work
from ml_algorithms.mixture_of_experts.dense import SoftMoE
from ml_algorithms.mixture_of_experts.expert_choice import ExpertChoiceMoE
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.regimes import RegimeTask
from ml_algorithms.mixture_of_experts.sparse import SparseMoE
from ml_algorithms.mixture_of_experts.training import Block, Outcome, Recipe, Student, train
from ml_platform.evaluation.plot_style import BLUE, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

TUNING_SEED = 10_007


@dataclass(frozen=True)
class Variant:
    """A block: how it is built and what it costs."""

    build: Callable[[], Block]
    work: Work
    balance: str = "none"


def variants(config: Config) -> dict[str, Variant]:
    """Six blocks; the sparse ones have the active width of ``dense_active``."""
    width, hidden, n = config.width, config.hidden, config.experts
    half = max(1, hidden // 2)
    return {
        "dense_active": _dense(width, hidden),
        "dense_total": _dense(width, hidden * n),
        "soft": Variant(
            lambda: SoftMoE(width=width, hidden=hidden, n_experts=n),
            moe_work(width=width, hidden=hidden, n_experts=n, active=n),
        ),
        "top1": _top_1(width, hidden, n),
        "top2": Variant(
            lambda: SparseMoE(width=width, hidden=half, n_experts=2 * n, k=2, gating="chosen"),
            moe_work(width=width, hidden=half, n_experts=2 * n, active=2),
            balance="bias",
        ),
        "expert_choice": Variant(
            lambda: ExpertChoiceMoE(width=width, hidden=hidden, n_experts=n),
            moe_work(width=width, hidden=hidden, n_experts=n, active=1),
        ),
    }


def _dense(width: int, hidden: int) -> Variant:
    return Variant(
        lambda: ExpertBank(n_experts=1, width=width, hidden=hidden),
        moe_work(width=width, hidden=hidden, n_experts=1, active=1),
    )


def _top_1(width: int, hidden: int, n_experts: int) -> Variant:
    return Variant(
        lambda: SparseMoE(width=width, hidden=hidden, n_experts=n_experts, k=1),
        moe_work(width=width, hidden=hidden, n_experts=n_experts, active=1),
        balance="bias",
    )


def run(study: StudyRun[Config]) -> None:
    """Train every variant on the regimes and on the control, and the sweep over experts."""
    config = study.config
    torch.set_num_threads(config.threads)
    results = study.results(
        dataset_name="generated regimes", dataset_sha256=generated(config), synthetic=True
    )
    blocks = variants(config)
    regimes = RegimeTask(n_regimes=config.regimes, width=config.width, seed=study.seed)
    control = RegimeTask(
        n_regimes=config.regimes, width=config.width, seed=study.seed, shared_rule=True
    )
    sweep = {n: _top_1(config.width, config.hidden, n) for n in config.expert_counts}
    n_fits = len(blocks) * (len(config.learning_rates) + 2 * len(config.seeds)) + len(sweep) * len(
        config.seeds
    )
    with study.progress.stage("blocks", n_fits) as step:
        for name, variant in blocks.items():
            rate = best_rate(variant, regimes, config, step)
            results.add(f"tuning/{name}/learning_rate", rate, protocol=protocol(config))
            _record_work(results, f"specialisation/{name}", variant.work)
            for stage, task in (("specialisation", regimes), ("control", control)):
                found = [fit(variant, task, config, rate, seed, step) for seed in config.seeds]
                _record(results, f"{stage}/{name}", found, config)
        rate = results["tuning/top1/learning_rate"].value
        for n, variant in sweep.items():
            found = [fit(variant, regimes, config, rate, seed, step) for seed in config.seeds]
            _record(results, f"experts/top1_{n}", found, config)
            _record_work(results, f"experts/top1_{n}", variant.work)
    draw(study, results)


def best_rate(
    variant: Variant, task: RegimeTask, config: Config, step: Callable[[int], None]
) -> float:
    """The learning rate with the least error on the tuning seed."""
    errors = {
        rate: fit(variant, task, config, rate, TUNING_SEED, step).error
        for rate in config.learning_rates
    }
    return min(errors, key=lambda rate: errors[rate])


def fit(
    variant: Variant,
    task: RegimeTask,
    config: Config,
    rate: float,
    seed: int,
    step: Callable[[int], None],
) -> Outcome:
    """One training run from fresh weights."""
    torch.manual_seed(seed)
    student = Student(variant.build(), config.width)
    recipe = Recipe(
        steps=config.steps,
        batch=config.batch,
        learning_rate=rate,
        balance="bias" if variant.balance == "bias" else "none",
        balance_weight=1e-3,
        test_rows=config.test_rows,
    )
    outcome = train(student, task, recipe, seed=seed)
    step(1)
    return outcome


def protocol(config: Config) -> str:
    """How these numbers came about."""
    return (
        f"synthetic: {config.regimes} regimes, one residual block of width {config.width}, "
        f"{config.steps} steps of {config.batch} fresh rows, Adam; error = test MSE / variance on "
        f"{config.test_rows} rows; {len(config.seeds)} seeds, Student interval; learning rate from "
        f"{list(config.learning_rates)} by another seed; {config.threads} thread"
    )


def _record(results: Results, prefix: str, found: list[Outcome], config: Config) -> None:
    estimate = over_seeds([outcome.error for outcome in found])
    results.add(f"{prefix}/error", estimate, protocol=protocol(config))


def _record_work(results: Results, prefix: str, work: Work) -> None:
    for name, value in work._asdict().items():
        results.add(f"{prefix}/{name}", value, protocol="counted: the block alone, per row")


def draw(study: StudyRun[Config], results: Results) -> None:
    """Error against multiply-adds, and against the number of experts at equal compute."""
    config = study.config
    figure, (left, right) = new_figure(
        "Sparse: total parameters without their compute", panels=2, height=4.0
    )
    for name, (label, colour, marker) in LOOKS.items():
        metric = results[f"specialisation/{name}/error"]
        work = results[f"specialisation/{name}/multiply_adds"].value
        _dot(left, work, metric, colour, marker, label)
    left.set(
        xscale="log",
        xlabel="multiply-adds per row (block)",
        ylabel="unexplained share of the variance",
    )
    left.legend(fontsize=7.5, frameon=False)
    counts = sorted({*config.expert_counts, config.experts})
    keys = ["specialisation/top1" if n == config.experts else f"experts/top1_{n}" for n in counts]
    dense = results["specialisation/dense_active/error"].value
    right.axhline(dense, color=ORANGE, linewidth=1.2)
    right.annotate(
        "dense, same active", (counts[0], dense), xytext=(0, -12), textcoords="offset points",
        color=ORANGE, fontsize=8,
    )  # fmt: skip
    right.plot(counts, [results[f"{key}/error"].value for key in keys], color=BLUE, linewidth=1)
    for n, key in zip(counts, keys, strict=True):
        _dot(right, n, results[f"{key}/error"], BLUE, "^", None)
    right.set(xscale="log", xlabel=f"experts, top-1 ({config.regimes} regimes)")
    right.set_xticks(counts, [str(n) for n in counts], minor=False)
    right.minorticks_off()
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    study.picture("error", figure)


def _dot(axes: Any, x: float, metric: Any, colour: str, marker: str, label: str | None) -> None:
    """A marker with its interval, upright."""
    if metric.low is not None:
        axes.plot([x, x], [max(0.0, metric.low), metric.high], color=colour, alpha=0.55)
    axes.plot([x], [metric.value], marker=marker, color=colour, linestyle="none", label=label)
