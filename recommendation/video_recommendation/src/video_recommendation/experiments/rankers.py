"""Interleaving against an A/B test: how many users does each need to see the same difference?

In: the data set. Two pairs of real rankers answer the same next-event queries after the training
window, from live histories. Out: for each pair the users both methods need, calculated from what
one user contributes, and simulated power beside it.

A click is a held-out event: the user chose the item next, and the list shows it. The A/B test gives
a user the lists of one ranker and reads clicks a query (a ratio, unit user). Interleaving gives the
user the drafted list and reads the credit (unit user). Users are drawn with replacement from those
of the test window. What the comparison leaves out is the same for both: people who click because an
item is shown, and lists that change what is chosen next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Step
from ml_platform.evaluation.ranking_metrics import hit_matrix
from ml_platform.evaluation.top_k import top_k
from ml_platform.operations.experiments import Arm, unit_values
from ml_platform.operations.interleaving import credit, team_draft
from ml_platform.operations.power import Spread, power_curve, required_units
from video_recommendation.data import SystemData
from video_recommendation.experiments.false_alarms import share
from video_recommendation.experiments.settings import ExperimentSettings
from video_recommendation.requests import RequestBatch, batch_of_queries

K = 10
EASE_REG = 300.0
HALF_LIFE = 10
"""Of the second EASE: an event ten steps back votes half as much as the last one."""
BATCH = 500


@dataclass(frozen=True, eq=False)
class Duel:
    """One pair of rankers.

    Attributes:
        key: In the results.
        name_a, name_b: The two rankers.
        clicks_a, clicks_b: Mean clicks a query, of all users.
        credit: Mean credit a user, positive where B is preferred.
        ab_users, interleaving_users: Needed in all, for 80% power at 5%.
        users: i64[P], users of the simulated points.
        ab, interleaving: P simulated powers each.
        ab_line, interleaving_line: f64[P], calculated.
    """

    key: str
    name_a: str
    name_b: str
    clicks_a: float
    clicks_b: float
    credit: float
    ab_users: int
    interleaving_users: int
    users: np.ndarray
    ab: tuple[Estimate, ...]
    interleaving: tuple[Estimate, ...]
    ab_line: np.ndarray
    interleaving_line: np.ndarray


@dataclass(frozen=True, eq=False)
class _PerUser:
    """f64[U] queries and clicks under A and B, and f64[R, U] credits of R different coins."""

    queries: np.ndarray
    clicks_a: np.ndarray
    clicks_b: np.ndarray
    credits: np.ndarray


def duels(data: SystemData, settings: ExperimentSettings, step: Step) -> tuple[Duel, ...]:
    """EASE against popularity, and EASE against itself with votes that fade."""
    queries = next_event_queries(data.log, data.windows.train_end, None)
    lists = ranker_lists(data, queries)
    pairs = (
        ("popularity_ease", "popularity", "ease"),
        ("ease_fading", "ease", "ease, fading votes"),
    )
    found = []
    for key, a, b in pairs:
        users = _per_user(data.log, queries, lists[a], lists[b], settings)
        found.append(_duel(key, (a, b), users, settings, step))
    return tuple(found)


def ranker_lists(data: SystemData, queries: Queries) -> dict[str, np.ndarray]:
    """The ten best items i32[Q, 10] of three rankers; models know the training window only."""
    train = data.log.select(data.log.timestamp < data.windows.train_end)
    counts = np.bincount(train.item_idx, minlength=train.n_items).astype(np.float32)
    model = fit_ease(train.matrix(), reg=EASE_REG)
    batch = batch_of_queries(data.log, queries)
    lists: dict[str, list[np.ndarray]] = {"popularity": [], "ease": [], "ease, fading votes": []}
    for begin in range(0, len(batch), BATCH):
        part = batch.slice(begin, min(begin + BATCH, len(batch)))
        fading = (0.5 ** (part.steps_back / HALF_LIFE)).astype(np.float32)
        scores = {
            "popularity": np.tile(counts, (len(part), 1)),
            "ease": score_histories(model, part.item_idx, part.ptr),
            "ease, fading votes": score_histories(model, part.item_idx, part.ptr, fading),
        }
        for name, block in scores.items():
            lists[name].append(_best(block, part))
    return {name: np.concatenate(blocks) for name, blocks in lists.items()}


def _best(scores: np.ndarray, batch: RequestBatch) -> np.ndarray:
    return top_k(scores, K, seen=(batch.owner, batch.item_idx))[0]


def _per_user(
    log: InteractionLog,
    queries: Queries,
    a: np.ndarray,
    b: np.ndarray,
    settings: ExperimentSettings,
) -> _PerUser:
    """Sums over each user's queries."""
    relevant = queries.relevant(log)
    users, user_of = np.unique(queries.user_idx, return_inverse=True)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(user_of, weights=values, minlength=len(users))

    rng = np.random.default_rng((settings.seed, 5))
    credits = []
    for _ in range(settings.n_interleavings):
        shown = team_draft(a, b, K, rng)
        credits.append(summed(credit(hit_matrix(shown.items, *relevant), shown.team)))
    return _PerUser(
        queries=summed(np.ones(len(queries))),
        clicks_a=summed(hit_matrix(a, *relevant).sum(axis=1)),
        clicks_b=summed(hit_matrix(b, *relevant).sum(axis=1)),
        credits=np.stack(credits),
    )


def _duel(
    key: str, names: tuple[str, str], users: _PerUser, settings: ExperimentSettings, step: Step
) -> Duel:
    values_a = unit_values(Arm(users.clicks_a, per=users.queries))
    values_b = unit_values(Arm(users.clicks_b, per=users.queries))
    ab = Spread(float(values_a.mean()), float((values_a.var() + values_b.var()) / 2))
    difference = float(values_b.mean() - values_a.mean())
    # One arm instead of two: a mean of n users has variance s2 / n, the difference of two halves
    # 4 s2 / n. So the same formulas serve, with a quarter of the variance.
    one_arm = Spread(float(users.credits.mean()), float(users.credits.var() / 4))
    sizes = np.array(settings.ranker_users)
    found = np.array([_found(users, n, settings) for n in settings.ranker_users])
    step(1)
    return Duel(
        key=key,
        name_a=names[0],
        name_b=names[1],
        clicks_a=float(values_a.mean()),
        clicks_b=float(values_b.mean()),
        credit=one_arm.mean,
        ab_users=required_units(ab, difference),
        interleaving_users=required_units(one_arm, one_arm.mean),
        users=sizes,
        ab=tuple(share(int(hits), settings.n_seeds) for hits in found[:, 0]),
        interleaving=tuple(share(int(hits), settings.n_seeds) for hits in found[:, 1]),
        ab_line=power_curve(ab, difference, sizes),
        interleaving_line=power_curve(one_arm, one_arm.mean, sizes),
    )


def _found(users: _PerUser, n: int, settings: ExperimentSettings) -> tuple[int, int]:
    """Experiments of n users that find the better ranker, by A/B test and by interleaving.

    Better is what all users together say; a finding of the opposite does not count.
    """
    better = np.sign(users.clicks_b.sum() - users.clicks_a.sum())
    rng = np.random.default_rng((settings.seed, 6, n))
    critical_ab, critical_one = stats.t.ppf(0.975, n - 2), stats.t.ppf(0.975, n - 1)
    n_population = len(users.queries)
    hits = np.zeros(2, dtype=np.int64)
    for _ in range(settings.n_seeds):
        rows = rng.integers(n_population, size=n)
        coins = rng.integers(len(users.credits), size=n)
        a, b = rows[: n // 2], rows[n // 2 :]
        difference, error = _ratio_difference(users, a, b)
        hits[0] += better * difference > critical_ab * error
        credits = users.credits[coins, rows]
        hits[1] += better * credits.mean() > critical_one * credits.std(ddof=1) / n**0.5
    return int(hits[0]), int(hits[1])


def _ratio_difference(users: _PerUser, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference of clicks a query and its standard error by the delta method."""
    values_a = unit_values(Arm(users.clicks_a[a], per=users.queries[a]))
    values_b = unit_values(Arm(users.clicks_b[b], per=users.queries[b]))
    error = np.sqrt(values_a.var(ddof=1) / len(a) + values_b.var(ddof=1) / len(b))
    return float(values_b.mean() - values_a.mean()), float(error)
