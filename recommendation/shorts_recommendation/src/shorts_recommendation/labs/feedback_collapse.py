"""Lab: a feed that is trained on its own slates.

What was not shown cannot have been watched, and to a model of long views that means: not wanted. So
the feed narrows, night after night, to ever fewer creators. Two things that people trust do not see
it: the long-view rate rises, and every slate is as diverse as before, because diversity is enforced
*within* a slate. What is lost lies between slates.

Chaney, Stewart and Engelhardt, "How Algorithmic Confounding in Recommendation Systems Increases
Homogeneity and Decreases Utility", RecSys 2018. Exploration counts only where it can reach what the
model does not know: drawn within the ranker's own pool it reaches little.

In: closed loops in simulated worlds (``closed_loop``). Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ml_platform.evaluation.diversity_metrics import exposure, intra_list_distance
from ml_platform.evaluation.intervals import student_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, SKY, new_figure
from ml_platform.evaluation.progress import Progress
from shorts_recommendation.labs.closed_loop import Loop, LoopPolicy, LoopSettings

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

SETTINGS = LoopSettings(backlog_share=0.9)
LAST = 3
"""Days at the end whose mean is reported."""
POLICIES = {
    "broken": LoopPolicy("greedy"),
    "fixed": LoopPolicy("one place in ten: whole catalogue", explores=0.1),
    "pool_only": LoopPolicy("one place in ten: the ranker's pool", explores_pool=0.1),
    "weighted": LoopPolicy("whole catalogue, weighed by propensity", explores=0.1, weight_cap=2.0),
}
LABELS = {
    "creators": ("creators in effect, 2^entropy of exposure", ".0f"),
    "videos": ("different videos shown in a day", ".0f"),
    "ild": ("intra-list distance within a slate", ".3f"),
    "long_view": ("long views per video shown (dashboard)", ".3f"),
    "satisfaction": ("satisfaction (truth)", ".3f"),
}
METRICS = tuple(LABELS)


def run(run: Run) -> LabReport:
    """The lab; it brings its own worlds, whatever the data of the run."""
    return measure(SETTINGS, run.progress, seed=run.config.seed)


def measure(settings: LoopSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Runs every policy in every world."""
    curves = {}
    for name, policy in POLICIES.items():
        # One thread: the matrices are small, and threads would only wait for each other.
        with progress.stage(policy.label, settings.n_worlds) as step, threadpool_limits(1, "blas"):
            worlds = []
            for number in range(settings.n_worlds):
                worlds.append(daily(Loop(settings, policy, seed + number)))
                step(1)
        curves[name] = np.stack(worlds)  # [worlds, days, metrics]
    ends = {name: curve[:, -LAST:].mean(axis=1) for name, curve in curves.items()}
    ends["healthy"] = curves["broken"][:, 0]
    return _report(settings, ends, curves)


def daily(loop: Loop) -> np.ndarray:
    """f64[T, metrics] of one world."""
    trace, catalogue = loop.run(), loop.world.catalogue
    rows = []
    for videos, answers, felt in zip(
        trace.videos, trace.long_view, trace.satisfaction, strict=True
    ):
        creators = exposure(catalogue.creator_idx[videos], catalogue.n_creators)
        rows.append(
            [
                effective(creators),
                float(len(np.unique(videos))),
                float(intra_list_distance(catalogue.content, videos).mean()),
                float(answers.mean()),
                float(felt.mean()),
            ]
        )
    return np.array(rows)


def effective(amounts: np.ndarray) -> float:
    """2 to the entropy: so many, shown equally often, would be spread as evenly."""
    share = amounts[amounts > 0] / amounts.sum()
    return float(2.0 ** -(share * np.log2(share)).sum())


def _report(
    settings: LoopSettings, ends: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray]
) -> LabReport:
    headings = {
        "healthy": "healthy: random, day 0",
        "broken": "broken: greedy",
        "fixed": "fixed: explores",
    }
    others = {name: POLICIES[name].label for name in ("pool_only", "weighted")}
    mean = {n: dict(zip(METRICS, e.mean(axis=0), strict=True)) for n, e in ends.items()}
    before, after = mean["healthy"], mean["broken"]
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {settings.n_worlds} worlds of {settings.n_users} people and "
            f"{settings.n_videos} videos, {settings.n_days} days, iALS every night, slates of "
            f"{settings.k}, mean of the last {LAST} days; Student's t over worlds"
        ),
        main=Comparison("A feed trained on its own slates", headings, _symptoms(ends, headings)),
        alarm=(
            f"creators in effect {before['creators']:.0f} -> {after['creators']:.0f}. The "
            f"dashboards say: long views {before['long_view']:.3f} -> {after['long_view']:.3f}, "
            f"distance within a slate {before['ild']:.2f} -> {after['ild']:.2f}."
        ),
        more=(
            Comparison("Other ways to explore", others, _symptoms(ends, others)),
            _differences(ends),
        ),
        figure=_figure(curves),
    )


def _symptoms(ends: Mapping[str, np.ndarray], variants: Mapping[str, str]) -> tuple[Symptom, ...]:
    rows = []
    for place, (key, (label, form)) in enumerate(LABELS.items()):
        values = {name: student_mean(ends[name][:, place]) for name in variants}
        rows.append(Symptom(key, label, values, form))
    return tuple(rows)


def _differences(ends: Mapping[str, np.ndarray]) -> Comparison:
    names = [name for name in POLICIES if name != "broken"]
    symptoms = []
    for key in ("creators", "satisfaction"):
        place = METRICS.index(key)
        values = {
            f"{n}_minus_broken": student_mean(ends[n][:, place] - ends["broken"][:, place])
            for n in names
        }
        symptoms.append(Symptom(key, LABELS[key][0], values, "+" + LABELS[key][1]))
    return Comparison(
        "Against the greedy feed in the same world",
        {f"{name}_minus_broken": POLICIES[name].label for name in names},
        tuple(symptoms),
        by_variant=True,
    )


def _figure(curves: Mapping[str, np.ndarray]) -> Figure:
    picture, panels = new_figure("Who is still shown, and what does the dashboard say?", panels=2)
    styles = {
        "broken": (ORANGE, "-"),
        "fixed": (BLUE, "-"),
        "pool_only": (GREY, "--"),
        "weighted": (SKY, ":"),
    }
    for axes, key in zip(panels, ("creators", "long_view"), strict=True):
        for name, curve in curves.items():
            colour, line = styles[name]
            values = curve[:, :, METRICS.index(key)].mean(axis=0)
            label = POLICIES[name].label
            axes.plot(np.arange(len(values)), values, color=colour, linestyle=line, label=label)
        axes.set_xlabel("day")
        axes.set_ylabel(LABELS[key][0])
        axes.set_ylim(bottom=0)
    panels[1].legend(frameon=False, fontsize=7, loc="lower right")
    return picture
