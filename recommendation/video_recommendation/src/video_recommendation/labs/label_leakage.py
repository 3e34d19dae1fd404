"""Lab: a feature that knows the future.

The feature is "how often was this item watched today". The warehouse has a table with one row per
item and day, so the training job joins it by date. That row is written at midnight, after the
request and after the label: the label event itself is counted in it. Offline the model looks
brilliant. At serving today's row does not exist yet, only the count so far.

Kaufman, Rosset and Perlich, "Leakage in Data Mining: Formulation, Detection, and Avoidance", KDD
2011: what may be used is what was legitimately known at the moment of prediction.

In: the data set of the run. Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from feature_engineering.counters import TICK_S, EventCounter, as_of
from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom, Value, dots
from ml_platform.evaluation.progress import Progress
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.labs.funnel import (
    Funnel,
    FunnelSettings,
    Rows,
    build_funnel,
    fit_ranker,
    list_ndcg,
)
from video_recommendation.retrieval.sources import DAY_S

FEATURE = "log_count_1d"
SETTINGS = FunnelSettings(train_queries=1500, n_trees=60)

Moment = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CountWindow:
    """A count of an item's events over [begin, end), both given by the second of the request."""

    label: str
    begin: Moment
    end: Moment

    def offline(self, counter: EventCounter, rows: Rows) -> np.ndarray:
        """What the training job computes, from a log that knows all that happened since."""
        return self._count(counter, rows, self.end(rows.now))

    def served(self, counter: EventCounter, rows: Rows) -> np.ndarray:
        """What the same code finds at the moment of the request: later events do not exist."""
        return self._count(counter, rows, np.minimum(self.end(rows.now), rows.now))

    def _count(self, counter: EventCounter, rows: Rows, end: np.ndarray) -> np.ndarray:
        count = counter.between(rows.examples.item_idx, self.begin(rows.now), end)
        return np.log1p(count).astype(np.float32)


def midnight(now: np.ndarray) -> np.ndarray:
    """The first second of the day."""
    return now // DAY_S * DAY_S


def a_day_before(now: np.ndarray) -> np.ndarray:
    """24 hours before the last full minute."""
    return as_of(now) - DAY_S


WINDOWS = {
    "healthy": CountWindow("last 24 h, closed at the minute", a_day_before, as_of),
    "broken": CountWindow("daily table, joined by date", midnight, lambda t: midnight(t) + DAY_S),
    "fixed": CountWindow("today so far, closed at the minute", midnight, as_of),
    "leak_open_minute": CountWindow(
        "last 24 h, through this minute", a_day_before, lambda t: as_of(t) + TICK_S
    ),
    "leak_lifetime": CountWindow(
        "lifetime, over all the data", np.zeros_like, lambda t: np.full_like(t, 2**40)
    ),
}
MAIN = ("healthy", "broken", "fixed")
OTHER_LEAKS = ("leak_open_minute", "leak_lifetime")


@dataclass(frozen=True)
class Outcome:
    """What one definition of the feature leads to.

    Attributes:
        offline, served: NDCG@10 f64[Q] with the feature as the training job computes it, and as
            it is at the moment of the request.
        single_auc: AUC of the feature alone, offline.
        gain_share: Its share of the ranker's split gain.
        changed: Share of its values that change when events after the request are deleted.
    """

    offline: np.ndarray
    served: np.ndarray
    single_auc: float
    gain_share: float
    changed: float


def run(run: Run) -> LabReport:
    """The lab on the data of the run."""
    return measure(run.load(), run.config, run.progress)


def measure(
    data: SystemData, config: Config, progress: Progress, settings: FunnelSettings = SETTINGS
) -> LabReport:
    """Trains the ranker once per definition of the feature; judges it offline and as served."""
    funnel = build_funnel(data, config, settings, progress)
    found = {}
    for name, window in WINDOWS.items():
        with progress.stage(f"{name.split('_')[0]}: {window.label}", 1):
            found[name] = judge(data, funnel, window, config, settings)
    users = funnel.test.queries.user_idx
    all_symptoms = symptoms(found, users)
    return LabReport(
        source=Source.of(data),
        protocol=(
            f"{data.name}: LambdaMART of {settings.n_trees} trees on {len(funnel.train.queries)} "
            f"validation queries, judged on {len(funnel.test.queries)} test queries, full catalogue"
        ),
        main=Comparison(
            f"One feature, {FEATURE}, computed in three ways",
            {name: f"{name}: {WINDOWS[name].label}" for name in MAIN},
            tuple(symptom.only(MAIN) for symptom in all_symptoms),
        ),
        alarm=(
            f"{found['broken'].changed:.1%} of the values of {FEATURE} change when the events "
            f"after the request are deleted (healthy: {found['healthy'].changed:.1%})."
        ),
        more=(
            Comparison(
                "The same fault in other clothes",
                {name: WINDOWS[name].label for name in OTHER_LEAKS},
                tuple(symptom.only(OTHER_LEAKS) for symptom in all_symptoms),
            ),
        ),
        figure=dots(
            "Who finds the leak: the offline test or the user?",
            "NDCG@10 with 95% interval",
            {
                name: {
                    "offline replay": bootstrap_mean(found[name].offline, users),
                    "as served": bootstrap_mean(found[name].served, users),
                }
                for name in MAIN
            },
        ),
    )


def judge(
    data: SystemData, funnel: Funnel, window: CountWindow, config: Config, settings: FunnelSettings
) -> Outcome:
    """Trains on the feature as the training job computes it; replays it, then serves it."""
    counter, test = funnel.proposer.retriever.counter, funnel.test
    train = funnel.train.with_feature(FEATURE, window.offline(counter, funnel.train))
    offline, served = window.offline(counter, test), window.served(counter, test)
    ranker = fit_ranker(train, config, settings)
    return Outcome(
        offline=list_ndcg(data.log, test.with_feature(FEATURE, offline), ranker),
        served=list_ndcg(data.log, test.with_feature(FEATURE, served), ranker),
        single_auc=auc(test.examples.watched, offline),
        gain_share=ranker.gain()[FEATURE],
        changed=float((offline != served).mean()),
    )


def symptoms(found: Mapping[str, Outcome], users: np.ndarray) -> tuple[Symptom, ...]:
    """The rows of the tables; ``users`` i32[Q] are the clusters of the intervals."""

    def row(key: str, label: str, read: Callable[[Outcome], Value], form: str = ".3f") -> Symptom:
        return Symptom(key, label, {name: read(outcome) for name, outcome in found.items()}, form)

    return (
        row("offline_ndcg@10", "NDCG@10 offline", lambda o: bootstrap_mean(o.offline, users)),
        row("served_ndcg@10", "NDCG@10 as served", lambda o: bootstrap_mean(o.served, users)),
        row(
            "gap_ndcg@10",
            "offline minus served",
            lambda o: bootstrap_difference(o.offline, o.served, users),
            "+.3f",
        ),
        row("feature_auc", "AUC of the feature alone", lambda o: o.single_auc),
        row("feature_gain", "its share of split gain", lambda o: o.gain_share, ".1%"),
        row("changed_share", "values that change without the future", lambda o: o.changed, ".1%"),
    )
