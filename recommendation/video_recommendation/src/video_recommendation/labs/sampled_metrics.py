"""Lab: ranking against a sample of negatives changes which model wins.

The model must put one watched item above n items that were not watched. With n = 100 random ones
the test is cheap, and was usual for years. But of 1,600 negatives a random hundred holds hardly one
of those that compete for the first ten places: the sampled metric looks at the whole ranking from
afar, the full one at its top. A model with a sharp top and no opinion on the rest loses by the one
and wins by the other.

Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020: sampled metrics do not
keep the order of two models, not even in expectation. The expectation is what is computed here
(``sampled_ndcg``), so no luck of a draw is in the picture.

In: the data set of the run. Out: a ``LabReport``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure
from ml_platform.evaluation.progress import Progress
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.labs.funnel import every_nth
from video_recommendation.labs.sampled_models import LABELS, PAIRS, fit_models
from video_recommendation.labs.sampled_ndcg import Places, places
from video_recommendation.pipeline import time_ordered

USUAL = 100
SAMPLES = (20, 50, 100, 200, 400, 800)


@dataclass(frozen=True)
class SampledSettings:
    """At most so many queries of the test window."""

    test_queries: int = 5000


SETTINGS = SampledSettings()


def run(run: Run) -> LabReport:
    """The lab on the data of the run."""
    return measure(run.load(), run.config, run.progress)


def measure(
    data: SystemData,
    config: Config,
    progress: Progress,
    settings: SampledSettings = SETTINGS,
) -> LabReport:
    """Fits six models, ranks everything once, and reads both metrics off the same ranking."""
    end = data.windows.validation_end
    queries = every_nth(
        time_ordered(next_event_queries(data.log, end, None)), settings.test_queries
    )
    known = data.log.select(data.log.timestamp < end)
    with progress.stage("six models, fitted on the past", 1):
        models = fit_models(known, data, config)
    popularity = np.bincount(known.item_idx, minlength=known.n_items).astype(np.float64)
    found, seconds = {}, 0.0
    with progress.stage("rank the catalogue", len(models)) as step:
        for name, scorer in models.items():
            started = time.perf_counter()
            found[name] = places(scorer, data, queries, popularity)
            seconds += time.perf_counter() - started
            step(1)
    return _report(data, queries, found, seconds / len(models))


def _report(
    data: SystemData, queries: Queries, found: Mapping[str, Places], seconds: float
) -> LabReport:
    first, second = PAIRS["last_film"]
    users = found[first].users
    tests = {
        "healthy": {name: seen.full() for name, seen in found.items()},
        "broken": {name: seen.sampled(USUAL) for name, seen in found.items()},
        "by_popularity": {name: s.sampled_by_popularity(USUAL) for name, s in found.items()},
    }
    tests["fixed"] = tests["healthy"]
    main = ("healthy", "broken", "fixed")

    def difference(test: str, pair: str) -> Estimate:
        a, b = PAIRS[pair]
        return bootstrap_difference(tests[test][b], tests[test][a], users)

    verdict = {test: difference(test, "last_film") for test in main}
    flips = verdict["healthy"].value * verdict["broken"].value < 0
    return LabReport(
        source=Source.of(data),
        protocol=(
            f"{data.name}: {len(users)} relevant items of {len(queries)} test queries, each alone "
            f"against the negatives, {data.log.n_items} items, expectation over samples exact"
        ),
        main=Comparison(
            "Popularity or 'because you watched': which is better?",
            {
                "healthy": "healthy: full catalogue",
                "broken": f"broken: {USUAL} random negatives",
                "fixed": "fixed: full catalogue",
            },
            (
                *(
                    Symptom(
                        f"{name}_ndcg@10",
                        f"NDCG@10, {LABELS[name]}",
                        {test: bootstrap_mean(tests[test][name], users) for test in main},
                    )
                    for name in (first, second)
                ),
                Symptom(
                    "difference_ndcg@10", "because you watched minus popularity", verdict, "+.3f"
                ),
                Symptom(
                    "seconds", "s to rank everything", {"healthy": seconds, "fixed": seconds}, ".1f"
                ),
            ),
        ),
        alarm=(
            f"{verdict['healthy'].value:+.3f} on the catalogue, {verdict['broken'].value:+.3f} on "
            f"the sample: the order {'FLIPS' if flips else 'holds'}."
        ),
        more=(_pairs(difference), _sweep(found, users)),
        figure=figure(found, users),
    )


def _pairs(difference: Callable[[str, str], Estimate]) -> Comparison:
    """B minus A in every pair, by three tests."""
    tests = {
        "full": ("healthy", "full catalogue"),
        "uniform": ("broken", f"{USUAL} uniform"),
        "by_popularity": ("by_popularity", f"{USUAL} by popularity"),
    }
    names = {pair: f"{LABELS[b]} minus {LABELS[a]}" for pair, (a, b) in PAIRS.items()}
    return Comparison(
        "Three pairs, three tests",
        names,
        tuple(
            Symptom(key, label, {pair: difference(test, pair) for pair in PAIRS}, "+.3f")
            for key, (test, label) in tests.items()
        ),
        by_variant=True,
    )


def _sweep(found: Mapping[str, Places], users: np.ndarray) -> Comparison:
    """The difference of the first pair by number of negatives."""
    a, b = (found[name] for name in PAIRS["last_film"])
    values = {
        f"negatives_{n}": bootstrap_difference(b.sampled(n), a.sampled(n), users) for n in SAMPLES
    }
    values["negatives_all"] = bootstrap_difference(b.full(), a.full(), users)
    return Comparison(
        "At how many negatives does the order turn?",
        {name: name.replace("_", " ") for name in values},
        (Symptom("difference_ndcg@10", "because you watched minus popularity", values, "+.3f"),),
        by_variant=True,
    )


def figure(found: Mapping[str, Places], users: np.ndarray) -> Figure:
    """B minus A of the two pairs that flip with uniform negatives, over the number of negatives."""
    picture, (axes,) = new_figure("At how many negatives does the better model win?")
    most = int(found["popularity"].negatives.mean())
    axes.axhline(0, color=GREY, linewidth=1)
    for pair, colour in (("last_film", ORANGE), ("recency", BLUE)):
        a, b = (found[name] for name in PAIRS[pair])
        estimates = [bootstrap_difference(b.sampled(n), a.sampled(n), users) for n in SAMPLES]
        estimates.append(bootstrap_difference(b.full(), a.full(), users))
        x = np.array([*SAMPLES, most])
        value = np.array([estimate.value for estimate in estimates])
        low = np.array([estimate.low for estimate in estimates], dtype=np.float64)
        high = np.array([estimate.high for estimate in estimates], dtype=np.float64)
        label = " minus ".join(LABELS[name] for name in reversed(PAIRS[pair]))
        axes.plot(x, value, color=colour, marker="o", label=label)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks([*SAMPLES, most], [*map(str, SAMPLES), "all"])
    axes.minorticks_off()
    axes.set_xlabel("negatives per relevant item")
    axes.set_ylabel("difference in NDCG@10")
    axes.legend(frameon=False, fontsize=9)
    return picture
