"""Lab: a recommender that learns from its own lists.

To a model of implicit feedback "not watched" means "not wanted". What was not shown cannot have
been watched; so it looks worse every night, and is shown less every day. The dashboard applauds:
people watch what they are shown more and more often. The cure has two halves. One of the ten places
is drawn at random among all other items, and a watch counts by one over the probability with which
its item was shown and examined. Half a cure is none, and too much of it is none either.

Chaney, Stewart and Engelhardt, "How Algorithmic Confounding in Recommendation Systems Increases
Homogeneity and Decreases Utility", RecSys 2018; Jiang et al., "Degenerate Feedback Loops in
Recommender Systems", AIES 2019.

In: simulated worlds with known preferences (``closed_loop``). Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, SKY, new_figure
from ml_platform.evaluation.progress import Progress
from video_recommendation.commands import Run
from video_recommendation.labs.closed_loop import METRICS, LoopSettings, Policy, closed_loop

POLICIES = {
    "broken": Policy("greedy", explores=False),
    "fixed": Policy("explores, weighs", explores=True, weight_cap=5.0),
    "explore_only": Policy("explores, does not weigh", explores=True),
    "weight_cap_20": Policy("explores, weighs up to 20", explores=True, weight_cap=20.0),
}
LABELS = {
    "coverage": ("catalogue shown in a day", ".1%"),
    "effective_items": ("effective items, 2^entropy", ".0f"),
    "gini": ("Gini of exposure", ".3f"),
    "new_items": ("places given to items published since day 0", ".1%"),
    "click_rate": ("watches per item shown (dashboard)", ".3f"),
    "regret": ("watches lost to the best list (truth)", ".1%"),
}
REGRET = METRICS.index("regret")


def run(run: Run) -> LabReport:
    """The lab; it brings its own worlds, whatever the data of the run."""
    return measure(LoopSettings(), run.progress, seed=run.config.seed)


def measure(settings: LoopSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Runs every policy in every world."""
    curves = {}  # [worlds, days, metrics]
    for name, policy in POLICIES.items():
        loops = []
        title = f"{name if name in ('broken', 'fixed') else 'half fixed'}: {policy.label}"
        # One thread: the matrices are small, and threads would only wait for each other.
        with progress.stage(title, settings.n_worlds) as step, threadpool_limits(1, "blas"):
            for world in range(settings.n_worlds):
                loops.append(closed_loop(settings, policy, seed + world))
                step(1)
        curves[name] = np.stack(loops)
    last = settings.n_days - 1
    ends = {"healthy": curves["broken"][:, 0], **{n: c[:, last] for n, c in curves.items()}}
    headings = {
        "healthy": "healthy: random, day 0",
        "broken": f"broken: greedy, day {last}",
        "fixed": f"fixed: explores, weighs, day {last}",
    }
    other = {name: POLICIES[name].label for name in ("explore_only", "weight_cap_20")}
    coverage, concentration, rate = ("coverage", "gini", "click_rate")
    mean = {name: dict(zip(METRICS, end.mean(axis=0), strict=True)) for name, end in ends.items()}
    healthy, broken = mean["healthy"], mean["broken"]
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {settings.n_worlds} worlds of {settings.n_users} users, "
            f"{settings.n_items} items and {settings.n_new_items} new ones a day, lists of "
            f"{settings.k}, EASE fitted every night; intervals over worlds"
        ),
        main=Comparison(
            "A recommender fed on its own lists", headings, symptoms(ends, headings, METRICS)
        ),
        alarm=(
            f"coverage {healthy[coverage]:.0%} -> {broken[coverage]:.0%}, Gini "
            f"{healthy[concentration]:.2f} -> {broken[concentration]:.2f}. The dashboard says: "
            f"watches per item shown {healthy[rate]:.3f} -> {broken[rate]:.3f}."
        ),
        more=(
            Comparison(
                "Half a cure, and too much of it",
                other,
                symptoms(ends, other, ("coverage", "effective_items", "new_items", "regret")),
            ),
            regret_differences(ends),
        ),
        figure=figure(curves),
    )


def symptoms(
    ends: Mapping[str, np.ndarray], variants: Mapping[str, str], metrics: tuple[str, ...]
) -> tuple[Symptom, ...]:
    """One row per metric: the mean over worlds with its interval."""
    rows = []
    for key in metrics:
        label, form = LABELS[key]
        place = METRICS.index(key)
        values = {name: bootstrap_mean(ends[name][:, place]) for name in variants}
        rows.append(Symptom(key, label, values, form))
    return tuple(rows)


def regret_differences(ends: Mapping[str, np.ndarray]) -> Comparison:
    """Who loses more watches than the greedy loop, and who fewer; paired by world."""
    names = [name for name in POLICIES if name != "broken"]
    values = {
        f"{name}_minus_broken": bootstrap_difference(
            ends[name][:, REGRET], ends["broken"][:, REGRET]
        )
        for name in names
    }
    return Comparison(
        "Watches lost, against the greedy loop in the same world (below 0 is better)",
        {f"{name}_minus_broken": POLICIES[name].label for name in names},
        (Symptom("regret", "difference", values, "+.1%"),),
        by_variant=True,
    )


def figure(curves: Mapping[str, np.ndarray]) -> Figure:
    """Effective items and regret, day by day."""
    picture, panels = new_figure("What is left of the catalogue, and of the watches?", panels=2)
    styles = {
        "broken": (ORANGE, "-"),
        "fixed": (BLUE, "-"),
        "explore_only": (GREY, "--"),
        "weight_cap_20": (SKY, ":"),
    }
    chosen = (METRICS.index("effective_items"), REGRET)
    for axes, metric, label in zip(
        panels, chosen, ("effective items a day", "regret"), strict=True
    ):
        for name, curve in curves.items():
            colour, line = styles[name]
            mean = curve[:, 1:, metric].mean(axis=0)  # day 0 is the same random list for all
            days = np.arange(1, len(mean) + 1)
            axes.plot(days, mean, color=colour, linestyle=line, label=POLICIES[name].label)
        axes.set_xlabel("day")
        axes.set_ylabel(label)
    panels[0].set_ylim(bottom=0)
    panels[1].legend(frameon=False, fontsize=8)
    return picture
