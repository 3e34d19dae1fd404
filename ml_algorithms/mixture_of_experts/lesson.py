"""What notebook.ipynb calls: small experiments, each fast enough to stand behind a slider.

All data is generated. Out: figures, or a line of text.

Legend: N rows, E experts.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from ml_algorithms.mixture_of_experts.balancing import effective_experts
from ml_algorithms.mixture_of_experts.bench_balancing import WEIGHTS
from ml_algorithms.mixture_of_experts.communication import Cluster, Layer, communication_ratio
from ml_algorithms.mixture_of_experts.conflict import gate_distance, gradient_cosine
from ml_algorithms.mixture_of_experts.counting import MIXTRAL_8X7B, moe_work, padded_multiply_adds
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.regimes import PairTask, RegimeTask
from ml_algorithms.mixture_of_experts.sparse import (
    SparseMoE,
    capacity,
    expert_load,
    within_capacity,
)
from ml_algorithms.mixture_of_experts.task_models import Kind, build, shared_parameters
from ml_algorithms.mixture_of_experts.training import Balance, Outcome, Recipe, Student, train
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure

EXPERTS, WIDTH, HIDDEN = 8, 16, 32


def counts(n_experts: int, k: int) -> str:
    """Total against active of one layer, in words."""
    work = moe_work(width=WIDTH, hidden=HIDDEN, n_experts=n_experts, active=k)
    return (
        f"{n_experts} experts, top-{k}: {work.total_parameters:,} parameters stored, "
        f"{work.active_parameters:,} touched by a row, {work.multiply_adds:,} multiply-adds"
    )


def mixtral() -> str:
    """Mixtral's two numbers, from its dimensions."""
    total, active = MIXTRAL_8X7B.total / 1e9, MIXTRAL_8X7B.active / 1e9
    return f"Mixtral 8x7B: {total:.1f} billion stored, {active:.1f} billion active for a token"


def figure_places(factor: float, skew: float, *, n_rows: int = 400, seed: int = 0) -> Figure:
    """Rows that each expert was sent, the places it has, and what is dropped."""
    generator = torch.Generator().manual_seed(seed)
    wanted = (torch.arange(EXPERTS) + 1.0) ** -skew
    choices = torch.multinomial(wanted, n_rows, replacement=True, generator=generator)[:, None]
    places = capacity(n_rows, EXPERTS, 1, factor)
    kept = within_capacity(choices, EXPERTS, places)
    sent = torch.bincount(choices[:, 0], minlength=EXPERTS).numpy()
    served = torch.bincount(choices[kept], minlength=EXPERTS).numpy()
    idle = EXPERTS * places - int(served.sum())
    work = padded_multiply_adds(
        width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, places=places, n_rows=n_rows
    )
    figure, (axes,) = new_figure(
        f"Dropped {1 - served.sum() / n_rows:.0%}, places idle {idle / (EXPERTS * places):.0%}, "
        f"{work:,.0f} multiply-adds per row",
        height=3.0,
    )
    axes.bar(range(EXPERTS), served, color=BLUE, label="served")
    axes.bar(range(EXPERTS), sent - served, bottom=served, color=ORANGE, label="dropped")
    axes.axhline(places, color="0.3", linestyle=":", label="places")
    axes.set(xlabel="expert", ylabel="rows")
    axes.legend(frameon=False, fontsize=8)
    return figure


def watch(balance: Balance, *, skew: float = 0.0, steps: int = 200, seed: int = 0) -> Outcome:
    """Trains a top-1 layer on eight regimes and keeps the loads."""
    torch.manual_seed(seed)
    block = SparseMoE(
        width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, k=1, noisy=balance == "importance_load"
    )
    recipe = Recipe(
        steps=steps, batch=256, balance=balance, balance_weight=WEIGHTS[balance],
        watch_every=5, test_rows=2048,
    )  # fmt: skip
    task = RegimeTask(n_regimes=EXPERTS, width=WIDTH, skew=skew, seed=seed)
    return train(Student(block, WIDTH), task, recipe, seed=seed)


def figure_watch(balance: Balance, skew: float = 0.0, steps: int = 200) -> Figure:
    """Shares of the experts over training, stacked: a collapse is a picture of few bands."""
    outcome = watch(balance, skew=skew, steps=steps)
    shares = torch.stack(outcome.loads).numpy().T
    figure, (axes,) = new_figure(
        f"{balance}: error {outcome.error:.2f}, "
        f"{float(effective_experts(outcome.load)):.1f} of {EXPERTS} experts at work",
        height=3.0,
    )
    colours = [str(0.25 + 0.6 * i / EXPERTS) if i % 2 else BLUE for i in range(EXPERTS)]
    axes.stackplot(outcome.steps, shares, colors=colours, edgecolor="white", linewidth=0.5)
    axes.set(xlabel="training step", ylabel="share of the rows", ylim=(0, 1))
    axes.grid(visible=False)
    return figure


def compare_at_equal_compute(*, shared_rule: bool, steps: int = 200, seed: int = 0) -> str:
    """A dense block and a top-1 layer of the same active width, in words."""
    task = RegimeTask(n_regimes=EXPERTS, width=WIDTH, shared_rule=shared_rule, seed=seed)
    recipe = Recipe(steps=steps, batch=256, test_rows=2048)
    torch.manual_seed(seed)
    dense = Student(ExpertBank(n_experts=1, width=WIDTH, hidden=HIDDEN), WIDTH)
    torch.manual_seed(seed)
    sparse = Student(SparseMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, k=1), WIDTH)
    errors = [train(one, task, recipe, seed=seed).error for one in (dense, sparse)]
    world = "one rule for all regimes" if shared_rule else "a rule for each regime"
    return f"{world}: dense leaves {errors[0]:.2f} unexplained, top-1 {errors[1]:.2f}"


def task_conflict(
    kind: Kind, correlation: float, *, steps: int = 120, seed: int = 0
) -> tuple[float, float]:
    """Mean gradient cosine over the second half of a short training, and the gates' distance."""
    task = PairTask(correlation, n_features=16, seed=seed)
    rows = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build(kind, 16, 32 if kind == "shared_bottom" else 8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    cosines, distance = [], 0.0
    for step in range(steps):
        x, y = task.draw(128, rows)
        predicted, gates = model(x)
        losses = [(predicted[:, t] - y[:, t]).square().mean() for t in range(2)]
        if step >= steps // 2 and step % 5 == 0:
            cosines.append(gradient_cosine(losses, shared_parameters(model)))
            distance = gate_distance(gates.detach())
        optimiser.zero_grad()
        (losses[0] + losses[1]).backward()
        optimiser.step()
    return float(np.mean(cosines)), distance


def figure_conflict(correlations: tuple[float, ...] = (-1.0, 0.0, 1.0)) -> Figure:
    """Gradient cosine along the tasks' correlation, shared bottom beside MMoE."""
    figure, (axes,) = new_figure("Do two tasks pull together?", height=3.2)
    looks: tuple[tuple[Kind, str, str], ...] = (
        ("shared_bottom", "shared bottom", GREY),
        ("mmoe", "MMoE", BLUE),
    )
    for kind, label, colour in looks:
        cosines = [task_conflict(kind, c)[0] for c in correlations]
        axes.plot(correlations, cosines, color=colour, marker="o", label=label)
    axes.axhline(0.0, color="0.3", linewidth=1, linestyle=":")
    axes.set(xlabel="cosine of the tasks' weights", ylabel="cosine of their gradients")
    axes.legend(frameon=False, fontsize=8)
    return figure


def wire(hidden: int, gigabytes_per_s: float) -> str:
    """How long the wire takes for what the experts take one second for, in words."""
    cluster = Cluster(8, gigabytes_per_s * 1e9, 0.0, 4e14)
    ratio = communication_ratio(Layer(4096, hidden, 8, 2, matrices=3), cluster, 8192)
    return f"experts of width {hidden}, {gigabytes_per_s:g} GB/s: wire / compute = {ratio:.2f}"


def load_of(choices: list[int]) -> float:
    """Effective experts of a list of choices, for the exercises."""
    return float(effective_experts(expert_load(torch.tensor(choices)[:, None], max(choices) + 1)))
