"""What the notebook draws: beliefs as they narrow, regret with a knob, late rewards.

In: knobs. Out: figures. All arms are generated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ml_algorithms.bandits.environment import BernoulliWorld, ContextualWorld, Policy, simulate
from ml_algorithms.bandits.epsilon_greedy import EpsilonGreedy
from ml_algorithms.bandits.linucb import LinUCB
from ml_algorithms.bandits.thompson import BetaThompson, LinearThompson
from ml_algorithms.bandits.ucb import UCB1, lai_robbins
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, ORANGE, PINK, new_figure

MEANS = np.array([0.10, 0.05, 0.02])
RUNS = 60


def draw_beliefs(steps: int = 200, seed: int = 0) -> Figure:
    """One run of Thompson sampling: its three Beta beliefs after some steps."""
    policy = BetaThompson(1, 3)
    outcome = simulate(policy, BernoulliWorld(MEANS, runs=1), horizon=steps, seed=seed)
    grid = np.linspace(0, 0.3, 400)
    figure, (axes,) = new_figure(f"What is believed after {steps} steps", height=3.4)
    for arm, colour in enumerate((BLUE, ORANGE, GREEN)):
        belief = stats.beta(1 + policy.ones[0, arm], 1 + policy.zeros[0, arm])
        played = int((outcome.arms == arm).sum())
        axes.plot(grid, belief.pdf(grid), color=colour, label=f"arm {arm}: {played} plays")
        axes.axvline(MEANS[arm], color=colour, linestyle=":")
    axes.set_xlabel("click rate (dotted: the truth)")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    return figure


def draw_regret(epsilon: float = 0.1, width: float = 0.2, horizon: int = 1500) -> Figure:
    """Mean regret of three policies, beside Lai and Robbins' slope."""
    makers: dict[tuple[str, str], Callable[[], Policy]] = {
        (f"ε-greedy {epsilon:g}", ORANGE): lambda: EpsilonGreedy(RUNS, 3, epsilon=epsilon),
        (f"UCB, width {width:g}", BLUE): lambda: UCB1(RUNS, 3, width=width),
        ("Thompson", GREEN): lambda: BetaThompson(RUNS, 3),
    }
    figure, (axes,) = new_figure(f"Regret over {horizon:,} steps, {RUNS} runs", height=3.8)
    steps = np.arange(1, horizon + 1)
    for (name, colour), make in makers.items():
        outcome = simulate(make(), BernoulliWorld(MEANS, runs=RUNS), horizon=horizon)
        axes.plot(steps, outcome.cumulative.mean(axis=0), color=colour, label=name)
    slope = [lai_robbins(MEANS, int(step)) for step in steps]
    axes.plot(steps, slope, color=BLACK, linestyle="--", label="Lai and Robbins' slope")
    axes.plot(steps, (MEANS.max() - MEANS.mean()) * steps, color=PINK, label="random choice")
    axes.set_ylim(0, 0.5 * (MEANS.max() - MEANS.mean()) * horizon)
    axes.set_xlabel("steps")
    axes.set_ylabel("cumulative regret (clicks)")
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_delay(delay: int = 100, horizon: int = 1500) -> Figure:
    """The share of runs that play the best arm, when rewards come late."""
    figure, (axes,) = new_figure(f"Rewards told {delay} steps late", height=3.6)
    makers: dict[tuple[str, str], Callable[[], Policy]] = {
        ("UCB, narrow", BLUE): lambda: UCB1(RUNS, 3, width=0.2),
        ("Thompson", GREEN): lambda: BetaThompson(RUNS, 3),
    }
    for (name, colour), make in makers.items():
        world = BernoulliWorld(MEANS, runs=RUNS)
        outcome = simulate(make(), world, horizon=horizon, delay=delay)
        best = (outcome.arms == 0).mean(axis=0)
        smooth = np.convolve(best, np.full(25, 1 / 25), mode="valid")
        axes.plot(np.arange(len(smooth)) + 25, smooth, color=colour, label=name)
    axes.set_ylim(0, 1)
    axes.set_xlabel("steps")
    axes.set_ylabel("share on the best arm")
    axes.legend(frameon=False)
    return figure


def draw_contexts(bend: float = 0.0, alpha: float = 0.5, horizon: int = 800) -> Figure:
    """LinUCB and linear Thompson in a world that is straight (0) or bent (1)."""
    figure, (axes,) = new_figure(f"Contexts, bend {bend:g}", height=3.6)
    makers: dict[tuple[str, str], Callable[[], Policy]] = {
        (f"LinUCB, alpha {alpha:g}", BLUE): lambda: LinUCB(12, 4, 6, alpha=alpha),
        ("linear Thompson", GREEN): lambda: LinearThompson(12, 4, 6, scale=0.3),
    }
    for (name, colour), make in makers.items():
        world = ContextualWorld(runs=12, arms=4, dimension=6, bend=bend, seed=3)
        outcome = simulate(make(), world, horizon=horizon)
        axes.plot(outcome.cumulative.mean(axis=0), color=colour, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel("cumulative regret (reward)")
    axes.legend(frameon=False)
    return figure
