"""Parts with contexts: ``contextual`` (worlds drawn) and ``real`` (films and new users)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_algorithms.bandits.bench_config import Config, band, final_regret
from ml_algorithms.bandits.environment import ContextualWorld, Outcome, Policy, simulate
from ml_algorithms.bandits.epsilon_greedy import EpsilonGreedy, EpsilonGreedyLinear
from ml_algorithms.bandits.linucb import LinUCB
from ml_algorithms.bandits.movie_world import MovieWorld
from ml_algorithms.bandits.thompson import BetaThompson, LinearThompson
from ml_algorithms.bandits.ucb import UCB1
from ml_algorithms.study_data import study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    interval_dot,
    named_rows,
    new_figure,
)
from ml_platform.evaluation.study import StudyRun

SMALL = SyntheticConfig(n_users=150, n_items=60, n_interactions=4000)
# runs, arms, dimension, knob -> policy; every family is tuned on its own grid in other worlds.
Family = Callable[[int, int, int, float], Policy]


def _neural(runs: int, arms: int, dimension: int, scale: float) -> Policy:
    from ml_algorithms.bandits.neural_linear import NeuralLinear

    return NeuralLinear(runs, arms, dimension, scale=scale)


FAMILIES: dict[str, tuple[Family, tuple[float, ...]]] = {
    "random": (lambda r, k, d, e: EpsilonGreedyLinear(r, k, d, epsilon=e), (1.0,)),
    "epsilon_linear": (
        lambda r, k, d, e: EpsilonGreedyLinear(r, k, d, epsilon=e),
        (0.0, 0.01, 0.05, 0.1),
    ),
    "linucb": (lambda r, k, d, a: LinUCB(r, k, d, alpha=a), (0.03, 0.1, 0.3, 1.0, 3.0)),
    "linear_thompson": (lambda r, k, d, s: LinearThompson(r, k, d, scale=s), (0.03, 0.1, 0.3, 1.0)),
    "neural_linear": (_neural, (0.03, 0.1, 0.3, 1.0)),
}
LOOKS = {
    "random": ("random", PINK, "-"),
    "epsilon_linear": ("ε-greedy, linear", ORANGE, "-"),
    "linucb": ("LinUCB", BLUE, "-"),
    "linear_thompson": ("Thompson, linear", GREEN, "-"),
    "neural_linear": ("Thompson, neural-linear", GREEN, "--"),
}


def run_contextual(run: StudyRun[Config]) -> None:
    """Linear and bent worlds; every family with the knob that did best in other such worlds."""
    from ml_algorithms.bandits.neural_linear import one_torch_thread

    with one_torch_thread():
        _contextual(run)


def _contextual(run: StudyRun[Config]) -> None:
    config = run.config
    results = run.results(dataset_name="drawn worlds", dataset_sha256="generated", synthetic=True)
    bends = {"linear_world": 0.0, "bent_world": config.bend}
    found: dict[str, dict[str, Outcome]] = {name: {} for name in bends}
    with run.progress.stage("worlds x families", len(bends) * len(FAMILIES)) as step:
        for world_name, bend in bends.items():
            for family, (make, grid) in FAMILIES.items():
                knob = tuned(make, grid, config, bend, run.seed + 1)
                outcome = play(
                    make, knob, config, bend, run.seed,
                    runs=config.contextual_runs, horizon=config.contextual_horizon,
                )  # fmt: skip
                found[world_name][family] = outcome
                step(1)
                at = config.contextual_horizon
                protocol = (
                    f"synthetic: {config.contextual_arms} arms, contexts of {config.dimension} "
                    f"numbers, bend {bend:g}, noise 0.3, {config.contextual_runs} worlds of "
                    f"{at} steps, knob {knob:g} tuned on other worlds"
                )
                key = f"{world_name}/{family}"
                results.add(f"{key}/regret@{at}", final_regret(outcome, at), protocol=protocol)
                late = bootstrap_mean(outcome.regret[:, -at // 4 :].mean(axis=1))
                results.add(
                    f"{key}/late_regret", late, protocol=f"{protocol}; per step, last quarter"
                )
                results.add(f"{key}/knob", knob, protocol=protocol)
    _draw_contextual(run, found)


def play(
    make: Family, knob: float, config: Config, bend: float, seed: int, *, runs: int, horizon: int
) -> Outcome:
    """One family in worlds of its own seed."""
    world = ContextualWorld(
        runs=runs, arms=config.contextual_arms, dimension=config.dimension, bend=bend, seed=seed
    )
    policy = make(runs, world.arms, world.dimension, knob)
    return simulate(policy, world, horizon=horizon, seed=seed)


def tuned(make: Family, grid: tuple[float, ...], config: Config, bend: float, seed: int) -> float:
    """The knob of the grid with the least regret in worlds that the comparison does not use."""
    if len(grid) == 1:
        return grid[0]
    size = {"runs": config.tuning_runs, "horizon": config.tuning_horizon}
    lost = [play(make, k, config, bend, seed, **size).regret.sum() for k in grid]
    return grid[int(np.argmin(lost))]


def _draw_contextual(run: StudyRun[Config], found: dict[str, dict[str, Outcome]]) -> None:
    figure, panels = new_figure("Regret with contexts", panels=2, height=4.2)
    titles = {"linear_world": "rewards linear in the context", "bent_world": "mostly bent"}
    steps = np.unique(np.linspace(1, run.config.contextual_horizon, 100).astype(np.int64))
    for axes, (world_name, outcomes) in zip(panels, found.items(), strict=True):
        for family, outcome in outcomes.items():
            label, colour, style = LOOKS[family]
            mean, low, high = band(outcome, steps)
            axes.plot(steps, mean, style, color=colour, label=label)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(titles[world_name], fontsize=10)
        axes.set_xlabel("steps")
    others = [o for f, o in found["linear_world"].items() if f != "random"]
    panels[0].set_ylim(0, 1.15 * max(float(band(o, steps)[2].max()) for o in others))
    panels[0].set_ylabel("cumulative regret (reward lost)")
    panels[1].set_ylim(0, None)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    run.picture("curves", figure)


def _fixed_popular(world: MovieWorld) -> Policy:
    """The film that earlier users liked most, and no learning: a Beta belief of great weight."""
    return _warm(world, weight=1e6)


def _warm(world: MovieWorld, *, weight: float) -> Policy:
    """Thompson sampling that begins with earlier users' likes, at a weight."""
    policy = BetaThompson(world.runs, world.arms)
    policy.ones += weight * world.past_likes
    policy.zeros += weight * (world.past_ratings - world.past_likes)
    return policy


FILM_POLICIES: dict[str, Callable[[MovieWorld], Policy]] = {
    "random": lambda w: EpsilonGreedy(w.runs, w.arms, epsilon=1.0),
    "epsilon_0.1": lambda w: EpsilonGreedy(w.runs, w.arms, epsilon=0.1),
    "ucb1": lambda w: UCB1(w.runs, w.arms),
    "thompson": lambda w: BetaThompson(w.runs, w.arms),
    "linucb": lambda w: LinUCB(w.runs, w.arms, w.features.shape[1], alpha=0.5),
    "linear_thompson": lambda w: LinearThompson(w.runs, w.arms, w.features.shape[1], scale=0.4),
    "thompson_warm": lambda w: _warm(w, weight=0.2),
    "popular_before": _fixed_popular,
}
FILM_NAMES = {
    "random": "random",
    "epsilon_0.1": "ε-greedy 0.1",
    "ucb1": "UCB1",
    "thompson": "Thompson",
    "linucb": "LinUCB, who the user is",
    "linear_thompson": "linear Thompson, who the user is",
    "thompson_warm": "Thompson, warm start",
    "popular_before": "best of earlier users, fixed",
}


def run_real(run: StudyRun[Config]) -> None:
    """Popular films for new users: every visitor once, choices among the films they rated."""
    config = run.config
    data = study_dataset(config.dataset, small=SMALL)
    results = run.results_of(data)
    world = MovieWorld(data, arms=config.films, runs=config.film_runs, seed=run.seed)
    protocol = (
        f"{data.name}: the {config.films} films that the first 30% of users rated most before the "
        f"first later user came are the arms; {world.visitors} later users, once each in "
        f"{config.film_runs} random orders; like = rating >= 4; choice among the films the user "
        "rated; epsilon, widths, scales and the weight of the warm start set by hand, not tuned; "
        "user bootstrap"
    )
    best = np.where(world.known, world.likes, 0.0).max(axis=1)
    results.add("real/someone_who_knows/like_rate", bootstrap_mean(best), protocol=protocol)
    rows = []
    with run.progress.stage("policies", len(FILM_POLICIES)) as step:
        for name, make in FILM_POLICIES.items():
            outcome = simulate(make(world), world, horizon=world.visitors, seed=run.seed)
            estimate = bootstrap_mean(world.by_visitor(outcome.rewards))
            results.add(f"real/{name}/like_rate", estimate, protocol=protocol)
            half = outcome.rewards[:, world.visitors // 2 :].mean()
            results.add(
                f"real/{name}/like_rate_late",
                half,
                n=world.visitors,
                protocol=f"{protocol}; second half of the visits",
            )
            rows.append((FILM_NAMES[name], estimate))
            step(1)
    results.add("real/visits/n", world.visitors, protocol=protocol)
    figure, (axes,) = new_figure("Share of visitors who liked the film chosen for them")
    for place, (_, one) in enumerate(rows):
        colour = GREY if place in (0, len(rows) - 1) else BLUE
        interval_dot(axes, place, (one.value, one.low, one.high), colour=colour)
    named_rows(axes, [name for name, _ in rows])
    axes.set_xlabel("liked (rating of 4 or 5), with 95% interval over users")
    run.picture("likes", figure)
