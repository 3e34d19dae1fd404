"""Lab: nobody is owed a first impression.

A ranker that learns from impressions ranks an upload without any behind everything that it knows.
So nobody sees it, so it never has any. Nothing breaks today: the old videos are good, and what the
feed shows is as good as it was. It breaks later, when people have seen them.

The repair is an exposure budget: every upload is owed some impressions, and one place of a slate is
for those that have not had theirs (``reranking``, ``retrieval.fresh``). Wang et al., "Fresh Content
Needs More Attention: Multi-funnel Fresh Content Recommendation", KDD 2023.

In: closed loops in simulated worlds whose catalogue is young (``closed_loop``). Out: a
``LabReport``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ml_platform.evaluation.diversity_metrics import exposure
from ml_platform.evaluation.intervals import student_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, SKY, new_figure
from ml_platform.evaluation.progress import Progress
from shorts_recommendation.labs.closed_loop import Loop, LoopPolicy, LoopSettings
from shorts_recommendation.log import DAY_S

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

SETTINGS = LoopSettings(backlog_share=0.3, n_days=18)
LAST = 4
FIRST = slice(1, 5)
"""Days on which a budget could cost something; day 0 is random."""
GOOD = slice(6, 12)
"""What the end is compared with: the middle third of the run, by the calendar. Days picked where
the curve stands highest would make any later day look like a fall."""
HIT_SHARE = 0.1
HIT_EXPOSURES = 20
GRACE_S = 3 * DAY_S
POLICIES = {
    "broken": LoopPolicy("no budget"),
    "fixed": LoopPolicy("one fresh place in ten", fresh_slots=1),
    "two_slots": LoopPolicy("two fresh places in ten", fresh_slots=2),
    "random_places": LoopPolicy("one random place in ten instead", explores=0.1),
}
LABELS = {
    "uploads_seen": ("uploads of three days and more that anybody saw", ".0%"),
    "hits_found": ("best tenth of uploads shown 20 times", ".0%"),
    "upload_places": ("places given to uploads", ".1%"),
    "long_view": ("long views per video shown", ".3f"),
    "satisfaction": ("satisfaction (truth)", ".3f"),
}
METRICS = tuple(LABELS)
DAILY = METRICS[2:]


def run(run: Run) -> LabReport:
    """The lab; it brings its own worlds, whatever the data of the run."""
    return measure(SETTINGS, run.progress, seed=run.config.seed)


def measure(settings: LoopSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Runs every policy in every world."""
    curves, ends = {}, {}
    for name, policy in POLICIES.items():
        daily, final = [], []
        with progress.stage(policy.label, settings.n_worlds) as step, threadpool_limits(1, "blas"):
            for number in range(settings.n_worlds):
                days, uploads = follow(Loop(settings, policy, seed + number))
                daily.append(days)
                final.append([*uploads, *days[-LAST:].mean(axis=0)])
                step(1)
        curves[name], ends[name] = np.stack(daily), np.array(final)
    early = curves["broken"][:, GOOD].mean(axis=1)
    unknown = np.full((settings.n_worlds, 2), np.nan)  # too early to say of any upload
    ends["healthy"] = np.concatenate([unknown, early], axis=1)
    return _report(settings, ends, curves)


def follow(loop: Loop) -> tuple[np.ndarray, tuple[float, float]]:
    """Daily metrics f64[T, 3]; shares of uploads seen, and of the best of them found."""
    trace = loop.run()
    upload_s = loop.world.catalogue.upload_s
    new = upload_s > loop.world.start_s
    days = [
        [float(new[videos].mean()), float(answers.mean()), float(felt.mean())]
        for videos, answers, felt in zip(
            trace.videos, trace.long_view, trace.satisfaction, strict=True
        )
    ]
    shown = exposure(np.concatenate(trace.videos), len(upload_s))
    settled = np.flatnonzero(new & (upload_s < trace.now_s[-1] - GRACE_S))
    worth = mean_worth(loop, settled)
    best = settled[np.argsort(-worth)[: max(1, round(HIT_SHARE * len(settled)))]]
    found = float((shown[best] >= HIT_EXPOSURES).mean())
    return np.array(days), (float((shown[settled] > 0).mean()), found)


def mean_worth(loop: Loop, videos: np.ndarray) -> np.ndarray:
    """True satisfaction of each video, over everybody, f64[n]."""
    users = np.arange(loop.settings.n_users)
    every = np.broadcast_to(videos, (len(users), len(videos)))
    when = np.full(len(users), loop.world.end_s)
    return loop.world.expected(users, every, when).satisfaction.mean(axis=0, dtype=np.float64)


def _report(
    settings: LoopSettings, ends: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray]
) -> LabReport:
    headings = {
        "healthy": "no budget, the middle third",
        "broken": "broken: no budget, at the end",
        "fixed": "fixed: one fresh place",
    }
    others = {name: POLICIES[name].label for name in ("two_slots", "random_places")}
    broken = dict(zip(METRICS, ends["broken"].mean(axis=0), strict=True))
    early = dict(zip(METRICS, ends["healthy"].mean(axis=0), strict=True))
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {settings.n_worlds} worlds of {settings.n_users} people and "
            f"{settings.n_videos} videos, {1 - settings.backlog_share:.0%} of them uploaded within "
            f"{settings.n_days} days, iALS every night, slates of {settings.k}, mean of the last "
            f"{LAST} days; Student's t over worlds"
        ),
        main=Comparison(
            "Who gives an upload its first impression?", headings, _rows(ends, headings)
        ),
        alarm=(
            f"{broken['uploads_seen']:.0%} of the uploads of three days and more have been seen by "
            f"anybody. Long views per video, on the dashboard: {early['long_view']:.3f} in the "
            f"middle third, {broken['long_view']:.3f} at the end."
        ),
        more=(
            Comparison("Other budgets", others, _rows(ends, others)),
            _differences(ends, curves),
        ),
        figure=_figure(curves),
    )


def _rows(ends: Mapping[str, np.ndarray], variants: Mapping[str, str]) -> tuple[Symptom, ...]:
    rows = []
    for place, (key, (label, form)) in enumerate(LABELS.items()):
        values = {
            name: student_mean(ends[name][:, place])
            for name in variants
            if np.isfinite(ends[name][:, place]).all()
        }
        rows.append(Symptom(key, label, values, form))
    return tuple(rows)


def _differences(ends: Mapping[str, np.ndarray], curves: Mapping[str, np.ndarray]) -> Comparison:
    """True satisfaction against no budget in the same world: first days, last days."""
    names = [name for name in POLICIES if name != "broken"]
    felt, place = DAILY.index("satisfaction"), METRICS.index("satisfaction")
    early = {
        f"{n}_minus_broken": student_mean(
            (curves[n][:, FIRST, felt] - curves["broken"][:, FIRST, felt]).mean(axis=1)
        )
        for n in names
    }
    late = {
        f"{n}_minus_broken": student_mean(ends[n][:, place] - ends["broken"][:, place])
        for n in names
    }
    return Comparison(
        "Satisfaction against no budget, in the same world",
        {f"{name}_minus_broken": POLICIES[name].label for name in names},
        (
            Symptom("satisfaction_early", "days 1 to 4", early, "+.3f"),
            Symptom("satisfaction_late", f"last {LAST} days", late, "+.3f"),
        ),
        by_variant=True,
    )


def _figure(curves: Mapping[str, np.ndarray]) -> Figure:
    picture, panels = new_figure("When does it show that nothing new is shown?", panels=2)
    styles = {
        "broken": (ORANGE, "-"),
        "fixed": (BLUE, "-"),
        "two_slots": (SKY, "--"),
        "random_places": (GREY, ":"),
    }
    for axes, key in zip(panels, ("upload_places", "satisfaction"), strict=True):
        for name, curve in curves.items():
            colour, line = styles[name]
            values = curve[:, :, DAILY.index(key)].mean(axis=0)
            label = POLICIES[name].label
            axes.plot(np.arange(len(values)), values, color=colour, linestyle=line, label=label)
        axes.set_xlabel("day")
        axes.set_ylabel(LABELS[key][0])
    panels[0].legend(frameon=False, fontsize=8)
    return picture
