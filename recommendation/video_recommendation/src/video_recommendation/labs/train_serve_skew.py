"""Lab: one feature is computed differently at serving.

The ranker's ``ease_score`` lets the last events of a history vote loudest. Training reads histories
from the log, oldest first. The serving team keeps them in a Redis list filled with LPUSH, newest
first, and hands them to the same formula. Every value is a number of the right size; no code fails.
The loudest votes now come from the oldest events. Four more such differences are in ``skews``.

Zinkevich, "Rules of Machine Learning", Google, rules 29 and 37: log the features as served, train
on those, and measure the skew.

In: the data set of the run. Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom, Value, dots
from ml_platform.evaluation.progress import Progress
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.labs.funnel import (
    FunnelSettings,
    Rows,
    build_funnel,
    fit_ranker,
)
from video_recommendation.labs.skew_monitors import WINDOW_ROWS, Monitors, Seen, training_reference
from video_recommendation.labs.skews import SKEWS
from video_recommendation.requests import batch_of_queries

SETTINGS = FunnelSettings(train_queries=2000, n_trees=80)
MAIN = ("healthy", "broken", "fixed")


def run(run: Run) -> LabReport:
    """The lab on the data of the run."""
    return measure(run.load(), run.config, run.progress)


def measure(
    data: SystemData, config: Config, progress: Progress, settings: FunnelSettings = SETTINGS
) -> LabReport:
    """Trains once; serves the same requests with each skew, and asks two monitors."""
    funnel = build_funnel(data, config, settings, progress)
    with progress.stage("healthy: ranker and drift reference", 2) as step:
        ranker = fit_ranker(funnel.train, config, settings)
        step(1)
        drift = training_reference(funnel.train)
    feature = SKEWS["broken"].feature
    look = Monitors(data, funnel.test, ranker, drift)
    found = {"healthy": look.at(funnel.test, feature)}
    for name, skew in SKEWS.items():
        with progress.stage(f"{'broken' if name == 'broken' else 'another'}: {skew.label}", 1):
            served = funnel.test.with_feature(skew.feature, skew.serve(funnel, data))
            found[name] = look.at(served, skew.feature)
    rebuilt = funnel.proposer.propose(batch_of_queries(data.log, funnel.test.queries))[1]
    same_builder = Rows(funnel.test.queries, replace(funnel.test.examples, features=rebuilt))
    found["fixed"] = look.at(same_builder, feature)
    base = found["healthy"].ndcg
    rows = symptoms(found, base, funnel.test.queries.user_idx)
    broken = found["broken"]
    return LabReport(
        source=Source.of(data),
        protocol=(
            f"{data.name}: LambdaMART of {settings.n_trees} trees, {len(funnel.test.queries)} test "
            f"queries, full catalogue; drift: {WINDOW_ROWS:,} rows on either side, by user"
        ),
        main=Comparison(
            f"Serving computes {feature} from a history in the wrong order",
            {
                "healthy": "healthy",
                "broken": "broken: newest first",
                "fixed": "fixed: one builder",
            },
            tuple(row.only(MAIN) for row in rows),
        ),
        alarm=(
            f"parity: {feature} differs in {broken.differ:.1%} of the served rows. "
            f"Drift: {broken.alarms} features named ({found['healthy'].alarms} with nothing "
            f"broken), {feature} {'among them' if broken.named else 'not among them'}."
        ),
        more=(
            Comparison(
                "Five ways to be slightly different",
                {name: skew.label for name, skew in SKEWS.items()},
                tuple(row.only(SKEWS) for row in rows if row.key in BY_SKEW),
                by_variant=True,
            ),
        ),
        figure=dots(
            "What does each difference cost?",
            "NDCG@10 minus healthy, 95% interval, paired",
            {
                skew.label: {
                    "difference": bootstrap_difference(
                        found[name].ndcg, base, funnel.test.queries.user_idx
                    )
                }
                for name, skew in SKEWS.items()
            },
        ),
    )


BY_SKEW = (
    "difference_ndcg@10",
    "psi_before",
    "psi",
    "drift_named_before",
    "drift_names_it",
    "rows_that_differ",
)


def symptoms(found: Mapping[str, Seen], base: np.ndarray, users: np.ndarray) -> tuple[Symptom, ...]:
    """The rows of the tables."""

    def row(key: str, label: str, read: Callable[[Seen], Value], form: str = ".3f") -> Symptom:
        return Symptom(key, label, {name: read(seen) for name, seen in found.items()}, form)

    return (
        row("ndcg@10", "NDCG@10 as served", lambda s: bootstrap_mean(s.ndcg, users)),
        row(
            "difference_ndcg@10",
            "NDCG@10 minus healthy",
            lambda s: bootstrap_difference(s.ndcg, base, users),
            "+.3f",
        ),
        row("not_finite", "errors and missing values", lambda s: float(s.not_finite), ".0f"),
        row("psi_before", "PSI before", lambda s: s.psi_before),
        row("psi", "PSI now", lambda s: s.psi),
        row("drift_named_before", "named before", lambda s: float(s.named_before), ".0f"),
        row("drift_names_it", "drift names it", lambda s: float(s.named), ".0f"),
        row("drift_alarms", "features that drift names", lambda s: float(s.alarms), ".0f"),
        row("rows_that_differ", "differ from rebuild", lambda s: s.differ, ".1%"),
    )
