"""What shadow traffic showed: agreement, scores, latency, failures, and whether to stop here.

In: pairs (record of a request with production's answer, candidate's answer) as `shadow.ShadowLane`
hands them over, and its counts. Out: a `ShadowSummary`, as a dict or a table for people.

- Means (overlap@10, RBO, tau) stand with 95% intervals that treat the *user* as the unit: the
  requests of one user resemble each other (`shadow_intervals.cluster_mean`).
- Latency percentiles stand with distribution-free intervals between order statistics. The
  candidate runs at idle priority, so its wall time contains waiting for production: an upper bound.
  Its CPU time is beside it, a lower bound where it also waits for something else.
- Scores: quantiles and the Kolmogorov-Smirnov distance. Its p-value is not given: scores of one
  list depend on each other, and with this many any difference is "significant".
- The verdict names what should stop a rollout here. Nothing in it says that the candidate is
  *better*: users saw none of its answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ml_platform.operations.shadow import FAILURES, Record
from ml_platform.operations.shadow_answers import agreement
from ml_platform.operations.shadow_intervals import ALPHA, Interval, cluster_mean, percentile

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class ShadowLimits:
    """When the verdict says stop (or look). Reasons stand beside the values.

    Attributes:
        min_pairs: Fewer say nothing.
        failure_share: Of requests without a usable answer, surely above this: stop. Production
            answers them, so users get a list, but not the candidate's.
        latency_ratio: Candidate's median time (the lower end of its interval) over production's
            (the upper end): stop. Twice is beyond what idle priority does to a median.
        overlap_low: Mean overlap@10 surely below: look. Lists with nothing in common are more often
            a wrong item table or sign than a better model.
        overlap_same: Mean overlap@10 surely above, and tau too: a canary would find no difference.
    """

    min_pairs: int = 100
    failure_share: float = 0.01
    latency_ratio: float = 2.0
    overlap_low: float = 0.1
    overlap_same: float = 0.99


@dataclass(frozen=True)
class ShadowSummary:
    """The report.

    Attributes:
        n_pairs: Requests with two answers; `n_users` different users.
        agreement: "overlap@10", "rbo", "tau" -> interval. Absent without data.
        scores: "production", "candidate" -> score at each of `QUANTILES`.
        score_ks: Kolmogorov-Smirnov distance of the two, 0 to 1.
        latency_ms: "production", "candidate", "candidate_cpu" -> "p50", "p95", "p99" -> interval.
        failures: Share of requests sent that brought no usable answer.
        counts: The lane's.
        verdict: "stop", "look" or "go on", and the reasons.
    """

    n_pairs: int
    n_users: int
    agreement: dict[str, Interval]
    scores: dict[str, list[float]]
    score_ks: float | None
    latency_ms: dict[str, dict[str, Interval]]
    failures: Interval
    counts: dict[str, int]
    verdict: str
    reasons: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Lines for people; 95% intervals in brackets."""
        lines = [f"shadow: {self.n_pairs} requests of {self.n_users} users answered by both"]
        lines += [f"  {name:<26}{value}" for name, value in self.agreement.items()]
        for name, quantiles in self.scores.items():
            lines.append(f"  scores {name:<19}" + "  ".join(f"{q:.4f}" for q in quantiles))
        if self.score_ks is not None:
            lines.append(f"  {'score distance (KS)':<26}{self.score_ks:.3f}")
        for name, row in self.latency_ms.items():
            cells = "   ".join(f"{p} {interval}" for p, interval in row.items())
            lines.append(f"  ms {name:<23}{cells}")
        lines.append(f"  {'no usable answer':<26}{self.failures}  of {self.failures.n} sent")
        lines.append("  counts: " + ", ".join(f"{k} {v}" for k, v in sorted(self.counts.items())))
        return "\n".join([*lines, f"  verdict: {self.verdict}: {'; '.join(self.reasons)}"])


@dataclass(frozen=True)
class _Pair:
    user: int
    overlap: float
    rbo: float
    tau: float | None
    production_ms: float
    candidate_ms: float
    cpu_ms: float
    production_scores: tuple[float, ...]
    candidate_scores: tuple[float, ...]


class ShadowReport:
    """Collects pairs, the last `max_pairs` of them. Thread-safe."""

    def __init__(self, limits: ShadowLimits | None = None, *, max_pairs: int = 5_000) -> None:
        self.limits = limits or ShadowLimits()
        self._pairs: deque[_Pair] = deque(maxlen=max_pairs)
        self._lock = threading.Lock()

    def add(self, record: Record, answer: Mapping[str, Any]) -> None:
        """One request answered by both.

        Args:
            record: With "user_id", "items", "scores", "total_ms" of production.
            answer: With "items", "scores", "elapsed_ms", "cpu_ms" of the candidate, checked.
        """
        found = agreement(list(map(int, record["items"])), answer["items"])
        pair = _Pair(
            user=int(record["user_id"]),
            overlap=found.overlap,
            rbo=found.rbo,
            tau=found.tau,
            production_ms=float(record["total_ms"]),
            candidate_ms=float(answer["elapsed_ms"]),
            cpu_ms=float(answer["cpu_ms"]),
            production_scores=tuple(map(float, record["scores"])),
            candidate_scores=tuple(map(float, answer["scores"])),
        )
        with self._lock:
            self._pairs.append(pair)

    def summary(
        self, counts: Mapping[str, int], closed_because: str | None = None
    ) -> ShadowSummary:
        """The report so far.

        Args:
            counts: `ShadowLane.counts`.
            closed_because: `ShadowLane.closed_because`.
        """
        with self._lock:
            pairs = list(self._pairs)
        failures = failure_share(counts)
        agreed, latency = _agreement(pairs), _latency(pairs)
        verdict, reasons = _verdict(
            self.limits, len(pairs), agreed, latency, failures, closed_because
        )
        scores = {
            "production": np.array([s for pair in pairs for s in pair.production_scores]),
            "candidate": np.array([s for pair in pairs for s in pair.candidate_scores]),
        }
        both = all(len(values) for values in scores.values())
        return ShadowSummary(
            n_pairs=len(pairs),
            n_users=len({pair.user for pair in pairs}),
            agreement=agreed,
            scores={n: np.quantile(v, QUANTILES).tolist() for n, v in scores.items() if len(v)},
            score_ks=float(stats.ks_2samp(*scores.values()).statistic) if both else None,
            latency_ms=latency,
            failures=failures,
            counts=dict(counts),
            verdict=verdict,
            reasons=reasons,
        )


def failure_share(counts: Mapping[str, int]) -> Interval:
    """Requests that brought no usable answer, of those sent; exact binomial interval."""
    failed = sum(n for name, n in counts.items() if name in FAILURES or "rubbish_" in name)
    sent = failed + counts.get("answered", 0)
    if not sent:
        return Interval(0.0, None, None, 0)
    ends = stats.binomtest(failed, sent).proportion_ci(1 - ALPHA)
    return Interval(failed / sent, float(ends.low), float(ends.high), sent)


def _agreement(pairs: Sequence[_Pair]) -> dict[str, Interval]:
    measures = {
        "overlap@10": [(pair.user, pair.overlap) for pair in pairs],
        "rbo": [(pair.user, pair.rbo) for pair in pairs],
        "tau": [(pair.user, pair.tau) for pair in pairs if pair.tau is not None],
    }
    return {
        name: cluster_mean(np.array([v for _, v in rows]), np.array([u for u, _ in rows]))
        for name, rows in measures.items()
        if rows
    }


def _latency(pairs: Sequence[_Pair]) -> dict[str, dict[str, Interval]]:
    if not pairs:
        return {}
    columns = {
        "production": np.array([pair.production_ms for pair in pairs]),
        "candidate": np.array([pair.candidate_ms for pair in pairs]),
        "candidate_cpu": np.array([pair.cpu_ms for pair in pairs]),
    }
    return {
        name: {f"p{q}": percentile(values, q) for q in PERCENTILES}
        for name, values in columns.items()
    }


def _verdict(
    limits: ShadowLimits,
    n_pairs: int,
    agreed: Mapping[str, Interval],
    latency: Mapping[str, Mapping[str, Interval]],
    failures: Interval,
    closed_because: str | None,
) -> tuple[str, list[str]]:
    """The strongest word that any rule gives, and the reasons of all that spoke."""
    stop, look = [], []
    if closed_because is not None:
        stop.append(f"the lane closed: {closed_because}")
    if (failures.low or 0.0) > limits.failure_share:
        stop.append(f"{failures.value:.1%} of requests got no usable answer")
    if n_pairs < limits.min_pairs:
        look.append(f"only {n_pairs} pairs, {limits.min_pairs} are wanted")
    else:
        stop += _stops(limits, agreed, latency)
        look += _looks(limits, agreed)
    if stop:
        return "stop", stop + look
    if look:
        return "look", look
    return "go on", ["nothing here speaks against a canary"]


def _stops(
    limits: ShadowLimits,
    agreed: Mapping[str, Interval],
    latency: Mapping[str, Mapping[str, Interval]],
) -> list[str]:
    reasons = []
    if "tau" in agreed and (agreed["tau"].high or 0.0) < 0:
        reasons.append(f"common items stand in reverse order (tau {agreed['tau'].value:.2f})")
    ours, theirs = latency["production"]["p50"], latency["candidate"]["p50"]
    if (theirs.low or 0.0) > limits.latency_ratio * (ours.high or np.inf):
        reasons.append(f"median {theirs.value:.1f} ms against {ours.value:.1f} ms of production")
    return reasons


def _looks(limits: ShadowLimits, agreed: Mapping[str, Interval]) -> list[str]:
    overlap, reasons = agreed["overlap@10"], []
    tau_low = agreed["tau"].low if "tau" in agreed else None
    if overlap.high is not None and overlap.high < limits.overlap_low:
        reasons.append(f"lists share {overlap.value:.0%} of their places: right items, right sign?")
    if min(overlap.low or 0.0, tau_low or 0.0) > limits.overlap_same:
        reasons.append("both answer the same: a canary has nothing to find")
    return reasons
