"""Parts without contexts: ``regret``, ``delay_and_batch``, ``nonstationary``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_algorithms.bandits.bench_config import (
    CLICK_RATES,
    NARROW,
    Config,
    band,
    final_regret,
    log_steps,
)
from ml_algorithms.bandits.environment import BernoulliWorld, Outcome, Policy, simulate
from ml_algorithms.bandits.epsilon_greedy import EpsilonGreedy
from ml_algorithms.bandits.thompson import BetaThompson
from ml_algorithms.bandits.ucb import UCB1, DiscountedUCB, SlidingWindowUCB, lai_robbins, ucb1_bound
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
)
from ml_platform.evaluation.study import StudyRun

Make = Callable[[int, int], Policy]

BY_HAND = "epsilon, cooling, widths, windows and memories set by hand, not tuned"
PLAIN: dict[str, Make] = {
    "greedy": lambda r, k: EpsilonGreedy(r, k, epsilon=0.0),
    "epsilon_0.1": lambda r, k: EpsilonGreedy(r, k, epsilon=0.1),
    "epsilon_cooling": lambda r, k: EpsilonGreedy(r, k, epsilon=1.0, cooling=200.0),
    "ucb1": lambda r, k: UCB1(r, k),
    "ucb_narrow": lambda r, k: UCB1(r, k, width=NARROW),
    "thompson": lambda r, k: BetaThompson(r, k),
}
CHANGING: dict[str, Make] = {
    "epsilon_0.1": lambda r, k: EpsilonGreedy(r, k, epsilon=0.1),
    "epsilon_moving": lambda r, k: EpsilonGreedy(r, k, epsilon=0.1, step_size=0.02),
    "ucb_narrow": lambda r, k: UCB1(r, k, width=NARROW),
    "ucb_window_500": lambda r, k: SlidingWindowUCB(r, k, window=500, width=NARROW),
    "ucb_window_2000": lambda r, k: SlidingWindowUCB(r, k, window=2000, width=NARROW),
    "ucb_discounted": lambda r, k: DiscountedUCB(r, k, discount=0.9995, width=NARROW),
    "thompson": lambda r, k: BetaThompson(r, k),
    "thompson_200": lambda r, k: BetaThompson(r, k, discount=0.995),
    "thompson_2000": lambda r, k: BetaThompson(r, k, discount=0.9995),
}
LOOKS = {
    "greedy": ("greedy", GREY, "-"),
    "epsilon_0.1": ("ε-greedy 0.1", ORANGE, "-"),
    "epsilon_moving": ("ε-greedy, moving mean", ORANGE, "--"),
    "epsilon_cooling": ("ε-greedy, cooling", ORANGE, "--"),
    "ucb1": ("UCB1 (width 2)", BLUE, "-"),
    "ucb_narrow": ("UCB, narrow", SKY, "-"),
    "ucb_window_500": ("UCB, window of 500", BLUE, ":"),
    "ucb_window_2000": ("UCB, window of 2,000", BLUE, "--"),
    "ucb_discounted": ("UCB, memory of 2,000", BLUE, "-."),
    "thompson": ("Thompson", GREEN, "-"),
    "thompson_200": ("Thompson, memory of 200", GREEN, ":"),
    "thompson_2000": ("Thompson, memory of 2,000", GREEN, "--"),
}


def run_regret(run: StudyRun[Config]) -> None:
    """Cumulative regret of all policies on fixed arms, beside what theory says."""
    config = run.config
    results = run.results(dataset_name="Bernoulli arms", dataset_sha256="generated", synthetic=True)
    means = np.array(CLICK_RATES)
    outcomes: dict[str, Outcome] = {}
    with run.progress.stage("policies", len(PLAIN)) as step:
        for name, make in PLAIN.items():
            world = BernoulliWorld(means, runs=config.runs)
            policy = make(config.runs, world.arms)
            outcomes[name] = simulate(policy, world, horizon=config.horizon, seed=run.seed)
            step(1)
    protocol = (
        f"synthetic: {len(means)} Bernoulli arms with click rates {', '.join(map(str, means))}, "
        f"{config.runs} runs; {BY_HAND}"
    )
    marks = sorted({min(1000, config.horizon), config.horizon})
    for name, outcome in outcomes.items():
        for at in marks:
            key = f"regret/{name}/regret@{at}"
            results.add(key, final_regret(outcome, at), protocol=protocol)
        final = outcome.cumulative[:, -1]
        results.add(
            f"regret/{name}/p95@{config.horizon}",
            np.quantile(final, 0.95),
            protocol=protocol,
            n=config.runs,
        )
        settled = (outcome.arms[:, -config.horizon // 10 :] == 0).mean(axis=1)
        results.add(
            f"regret/{name}/settled_on_worse",
            float((settled < 0.5).mean()),
            n=config.runs,
            protocol=f"{protocol}; best arm in under half of the last tenth of steps",
        )
    for at in marks:
        results.add(f"regret/theory/ucb1_bound@{at}", ucb1_bound(means, at), protocol="theorem 1")
        results.add(
            f"regret/theory/lai_robbins@{at}", lai_robbins(means, at), protocol="slope x log"
        )
        worst = (means.max() - means.mean()) * at
        results.add(f"regret/theory/random@{at}", worst, protocol="uniform choices, exact")
    _draw_regret(run, outcomes, means)


def _draw_regret(run: StudyRun[Config], outcomes: dict[str, Outcome], means: np.ndarray) -> None:
    steps = log_steps(run.config.horizon)
    figure, (axes,) = new_figure("Ten arms, click rates of 1 to 10%", height=4.6)
    for name, outcome in outcomes.items():
        label, colour, style = LOOKS[name]
        mean, low, high = band(outcome, steps)
        axes.plot(steps, mean, style, color=colour, linewidth=1.8, label=label)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    upper = [ucb1_bound(means, int(at)) for at in steps]
    lower = [lai_robbins(means, int(at)) for at in steps]
    uniform = [(means.max() - means.mean()) * at for at in steps]
    axes.plot(steps, upper, color=BLACK, linestyle=(0, (1, 1)), label="UCB1's upper bound")
    axes.plot(steps, lower, color=BLACK, linestyle=(0, (5, 2)), label="Lai and Robbins' slope")
    axes.plot(steps, uniform, color=PINK, linewidth=1, label="random choice")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.3, None)
    axes.set_xlabel("steps (log scale)")
    axes.set_ylabel("cumulative regret (clicks lost, log scale)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    run.picture("curves", figure)


DELAYED = ("epsilon_0.1", "ucb1", "ucb_narrow", "thompson")


def run_delay(run: StudyRun[Config]) -> None:
    """What late feedback costs: rewards told ``delay`` steps late, or in batches of that size."""
    config = run.config
    results = run.results(dataset_name="Bernoulli arms", dataset_sha256="generated", synthetic=True)
    means = np.array(CLICK_RATES)
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    cases = [("delay", d) for d in config.delays] + [("batch", d) for d in config.delays if d]
    with run.progress.stage("cases", len(cases)) as step:
        for kind, size in cases:
            for name in DELAYED:
                world = BernoulliWorld(means, runs=config.delay_runs)
                knobs = {"delay": size} if kind == "delay" else {"batch": size}
                policy = PLAIN[name](config.delay_runs, world.arms)
                outcome = simulate(
                    policy, world, horizon=config.delay_horizon, seed=run.seed, **knobs
                )
                estimate = final_regret(outcome, config.delay_horizon)
                protocol = (
                    f"synthetic: the ten arms of part regret, {config.delay_horizon} steps, "
                    f"{config.delay_runs} runs, {kind} of {size} steps; {BY_HAND}"
                )
                key = f"{kind}_{size}/{name}/regret@{config.delay_horizon}"
                results.add(key, estimate, protocol=protocol)
                found.setdefault((kind, name), []).append((size, estimate.value))
            step(1)
    _draw_delay(run, found)


def _draw_delay(
    run: StudyRun[Config], found: dict[tuple[str, str], list[tuple[int, float]]]
) -> None:
    figure, panels = new_figure("Regret under late feedback", panels=2, share_y=True)
    means = np.array(CLICK_RATES)
    for axes, kind in zip(panels, ("delay", "batch"), strict=True):
        for name in DELAYED:
            label, colour, style = LOOKS[name]
            points = found[kind, name]
            if kind == "batch":
                points = [found["delay", name][0], *points]
            axes.plot(*zip(*points, strict=True), style, marker="o", color=colour, label=label)
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks(list(run.config.delays), [f"{d:,}" for d in run.config.delays])
        axes.minorticks_off()
        axes.set_xlabel(f"{kind} (steps)")
        uniform = float(means.max() - means.mean()) * run.config.delay_horizon
        axes.axhline(uniform, color=PINK, linewidth=1)
        axes.text(0, uniform, " random choice", color=PINK, va="bottom", fontsize=8)
    panels[0].set_ylabel(f"regret after {run.config.delay_horizon:,} steps")
    panels[0].set_ylim(0, None)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    run.picture("curves", figure)


def changing_means(horizon: int, phases: int) -> np.ndarray:
    """Click rates f[T, 5] that move on to the next arm at the start of every phase."""
    base = np.array([0.10, 0.06, 0.05, 0.04, 0.03])
    phase_of = np.minimum(np.arange(horizon) * phases // horizon, phases - 1)
    return np.stack([np.roll(base, 2 * phase) for phase in range(phases)])[phase_of]


def run_nonstationary(run: StudyRun[Config]) -> None:
    """Arms whose click rates swap: who notices?"""
    config = run.config
    results = run.results(dataset_name="Bernoulli arms", dataset_sha256="generated", synthetic=True)
    means = changing_means(config.changing_horizon, config.phases)
    protocol = (
        f"synthetic: 5 Bernoulli arms of 3 to 10% that swap places {config.phases - 1} times in "
        f"{config.changing_horizon} steps, {config.changing_runs} runs; {BY_HAND}"
    )
    figure, (axes,) = new_figure("When the best arm moves (grey lines)", height=4.4)
    with run.progress.stage("policies", len(CHANGING)) as step:
        for name, make in CHANGING.items():
            world = BernoulliWorld(means, runs=config.changing_runs)
            policy = make(config.changing_runs, world.arms)
            outcome = simulate(policy, world, horizon=config.changing_horizon, seed=run.seed)
            at = config.changing_horizon
            results.add(
                f"nonstationary/{name}/regret@{at}", final_regret(outcome, at), protocol=protocol
            )
            steps = np.unique(np.linspace(1, at, 200).astype(np.int64))
            label, colour, style = LOOKS[name]
            axes.plot(steps, band(outcome, steps)[0], style, color=colour, label=label)
            step(1)
    for phase in range(1, config.phases):
        axes.axvline(phase * config.changing_horizon / config.phases, color=GREY, linewidth=1)
    axes.set_xlabel("steps")
    axes.set_ylabel("cumulative regret (clicks lost)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    run.picture("curves", figure)
