"""What an experiment counts, a number a person: the unit of assignment is the unit of analysis.

In: a ``Trace`` (or the log before the experiment, read as one). Out: for each metric a numerator
and, where it is a ratio of sums, a denominator, f64[P] each, in the order of ``people``.

Three kinds stand here side by side. *Proxies*: the click-through rate (long views for each
impression; nothing is clicked in a feed that plays by itself), watch seconds, skips, likes.
*Guardrails*: sessions a day, active days and return within 24 hours, which are slow and noisy and
what the business lives on. *Truth*: satisfaction, which the simulator knows and no platform does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.diversity_metrics import category_entropy
from ml_platform.operations.experiments import Arm
from shorts_recommendation.experiments.simulation import Trace
from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog

RUN = 10  # videos in a row whose main tags are compared
RETURN_S = DAY_S


@dataclass(frozen=True)
class Metric:
    """How a metric is read.

    Attributes:
        name: Its last word in the results.
        words: For tables.
        kind: proxy, guardrail, truth or spread (diversity).
        covariate: The metric of the time before that CUPED uses; None where the log has none.
    """

    name: str
    words: str
    kind: str
    covariate: str | None = None

    @property
    def before(self) -> str:
        """Name of the metric before the experiment."""
        return self.covariate or self.name


METRICS = (
    Metric("ctr", "long views an impression", "proxy"),
    Metric("watch_s_per_video", "watch seconds an impression", "proxy"),
    Metric("watch_s_per_day", "watch seconds a day", "proxy"),
    Metric("skip_rate", "skips an impression", "proxy"),
    Metric("like_rate", "likes an impression", "proxy"),
    Metric("sessions_per_day", "sessions a day", "guardrail"),
    Metric("active_days", "share of days active", "guardrail"),
    Metric("return_24h", "sessions followed by another in 24 h", "guardrail"),
    Metric("satisfaction", "satisfaction an impression (hidden)", "truth", covariate="ctr"),
    Metric("tag_entropy", "entropy of main tags in ten, bits", "spread"),
    Metric("fresh_share", "impressions of fresh uploads", "spread"),
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric of P people.

    Attributes:
        top: f64[P].
        bottom: f64[P], None for a mean.
    """

    top: np.ndarray
    bottom: np.ndarray | None = None

    def arm(self, rows: np.ndarray, before: Measured | None = None) -> Arm:
        """The people ``rows`` (mask or positions) as the statistics want them."""
        return Arm(
            self.top[rows],
            None if self.bottom is None else self.bottom[rows],
            None if before is None else before.top[rows],
            None if before is None or before.bottom is None else before.bottom[rows],
        )

    @property
    def value(self) -> float:
        """Mean, or ratio of sums."""
        if self.bottom is None:
            return float(self.top.mean())
        return float(self.top.sum() / max(self.bottom.sum(), 1e-12))


def measure(
    trace: Trace,
    people: np.ndarray,
    catalogue: Catalogue,
    *,
    start_s: int,
    end_s: int,
    fresh_hours: int,
) -> dict[str, Measured]:
    """Every metric of every person over [start_s, end_s).

    Args:
        trace: At least what happened in that time.
        people: i32[P], user_idx; who never came counts 0, not nothing.
        catalogue: For tags and the age of uploads.
        start_s: Of the time that counts.
        end_s: Its end; a day must fit for the return within 24 hours.
        fresh_hours: Age up to which an upload is fresh.

    Raises:
        ValueError: If the time is shorter than two days.
    """
    if end_s - start_s < 2 * DAY_S:
        raise ValueError(f"{(end_s - start_s) / DAY_S:.1f} days: returns need at least two")
    trace = trace.select((trace.time_s >= start_s) & (trace.time_s < end_s))
    row = _rows_of(people, trace.user)
    keep = row >= 0
    trace, row = trace.select(keep), row[keep]
    days = (end_s - start_s) / DAY_S

    def per_person(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, weights=values, minlength=len(people))

    shown = per_person(np.ones(len(row)))
    age_s = trace.time_s - catalogue.upload_s[trace.video]
    watched = per_person(trace.watch_s)
    entropy, runs = _tag_entropy(trace, row, len(people), catalogue)
    returned, sessions_that_could = _returns(trace, row, len(people), end_s)
    return {
        "ctr": Measured(per_person(trace.long_view), shown),
        "watch_s_per_video": Measured(watched, shown),
        "watch_s_per_day": Measured(watched / days),
        "skip_rate": Measured(per_person(trace.skip), shown),
        "like_rate": Measured(per_person(trace.like), shown),
        "sessions_per_day": Measured(per_person(trace.opens) / days),
        "active_days": Measured(_active_days(trace, row, len(people), start_s) / days),
        "return_24h": Measured(returned, sessions_that_could),
        "satisfaction": Measured(per_person(trace.satisfaction), shown),
        "tag_entropy": Measured(entropy, runs),
        "fresh_share": Measured(per_person(age_s < fresh_hours * 3600), shown),
    }


def trace_of_log(log: ImpressionLog) -> Trace:
    """The log before the experiment as a trace; satisfaction is not in it and stands at 0."""
    _, first = np.unique(log.session_id, return_index=True)
    opens = np.zeros(len(log), dtype=bool)
    opens[first] = True
    return Trace(
        user=log.user_idx,
        video=log.video_idx,
        time_s=log.timestamp,
        watch_s=log.watch_s,
        long_view=log.long_view,
        skip=log.skip,
        like=log.like,
        satisfaction=np.zeros(len(log), dtype=np.float32),
        opens=opens,
        exposures=np.zeros(len(log), dtype=np.int32),
    )


def _rows_of(people: np.ndarray, user: np.ndarray) -> np.ndarray:
    """i64[N]: position of each user among the people, -1 for others."""
    table = np.full(int(max(people.max(initial=0), user.max(initial=0))) + 1, -1, dtype=np.int64)
    table[people] = np.arange(len(people))
    return table[user]


def _active_days(trace: Trace, row: np.ndarray, n: int, start_s: int) -> np.ndarray:
    """f64[n]: days, counted from the start, on which a session was opened."""
    day = (trace.time_s[trace.opens] - start_s) // DAY_S
    pairs = np.unique(row[trace.opens] * (int(day.max(initial=0)) + 1) + day)
    return np.bincount(pairs // (int(day.max(initial=0)) + 1), minlength=n).astype(np.float64)


def _returns(trace: Trace, row: np.ndarray, n: int, end_s: int) -> tuple[np.ndarray, np.ndarray]:
    """f64[n] twice: sessions followed by another in 24 h, and sessions that had 24 h to be."""
    who, when = row[trace.opens], trace.time_s[trace.opens]
    order = np.lexsort((when, who))
    who, when = who[order], when[order]
    # Sessions of the last day are left out whether or not their person came again: counting only
    # those that did would make the end of an experiment look better than its middle.
    could = when < end_s - RETURN_S
    same = np.r_[who[1:] == who[:-1], False]
    gap = np.r_[when[1:] - when[:-1], 0]
    back = could & same & (gap <= RETURN_S)
    return (
        np.bincount(who, weights=back, minlength=n),
        np.bincount(who, weights=could, minlength=n),
    )


def _tag_entropy(
    trace: Trace, row: np.ndarray, n: int, catalogue: Catalogue
) -> tuple[np.ndarray, np.ndarray]:
    """f64[n] twice: sum of the entropies of full runs of ten, and their number."""
    order = np.argsort(row, kind="stable")
    who, tag = row[order], catalogue.tags[trace.video[order], 0]
    begins = np.searchsorted(who, np.arange(n))
    place = np.arange(len(who)) - begins[who]
    shown = np.bincount(who, minlength=n)
    full = place < shown[who] // RUN * RUN
    runs = tag[full].reshape(-1, RUN).astype(np.int32)
    entropy = category_entropy(runs, np.eye(catalogue.n_tags, dtype=bool))
    owner = who[full][::RUN]
    return (
        np.bincount(owner, weights=entropy, minlength=n),
        np.bincount(owner, minlength=n).astype(np.float64),
    )
