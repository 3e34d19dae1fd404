"""Which weights make the value: four honest ways, and one rule to choose among them.

In: heads and outcomes of logged impressions of the training and the validation days. Out:
``ValueChoice``. Nothing here reads the world's hidden satisfaction; a company has all of it.

| way | weights from | judged by |
|---|---|---|
| engagement | grid, validation days | NDCG of the session on grades (skip .. like), ``value`` |
| return | regression, training days | who comes back sooner, ``proxies.return_panel`` |
| return_grid | grid with likes up to 50, validation days | the same |
| stay | regression, training days | whether the session goes on, ``proxies.stay_panel`` |

The rule reads no truth. The goal is that people come back, so what stands nearer to it goes first:
*return*, then *stay*, then *engagement*. A regression is taken only if
(1) the interval of at least one of its weights lies on one side of 0 on the training days, and
(2) its value goes with its own outcome on the validation days, interval above 0.
*return_grid* is shown and never taken: it is chosen and judged on the same days.

Why *return* seldom passes: a session moves the next gap by little and chance moves it by much (a
factor of two either way), there are about ten sessions a person in a fortnight, and the four heads
say nearly the same of a session's mean. ``Fitted.detectable`` puts it in numbers. On a development
world (3,000 people, 20,000 sessions, trees) one deviation of a session's predicted likes has to
move the gap by 1.2% to be found in four logs of five, and by 2.3% to 3.3% for the other heads.
*Stay* asks a question of the same kind twelve times a session, about one video instead of a dozen:
there the weight of the likes stood fifteen standard errors from 0.

What is wrong with *stay*. Its author had read how the simulator makes people leave, and had seen
what its weights are worth by the truth on one development world before the rule was written: that
it was thought of at all is not blind. And it is still a short-term signal. Where bait holds people
in the session they later regret, it walks into the same trap as watch time, and only a slow metric
tells. Real teams therefore let the slow metric judge the fast one:

- G. Tang, J. Pan, H. Wang, J. Basilico, "Reward innovation for long-term member satisfaction"
  (RecSys 2023), and J. Pan and others, "Recommending for Long-Term Member Satisfaction at Netflix"
  (Netflix TechBlog 2024): retention is noisy, comes late and is hard to attribute to one
  recommendation, so a proxy reward is engineered from what people do, and revised.
- Y. Wang, M. Sharma, C. Xu and others, "Surrogate for Long-Term User Experience in Recommender
  Systems" (KDD 2022): picks from the log the behaviours that predict how often people visit
  months later, among people who visited equally often before, then confirms them in live tests.
- A. Zito, D. Greaves, J. Soriano, L. Richardson, "Pareto optimal proxy metrics" (arXiv 2023):
  weights of a proxy chosen over past experiments, for agreement with the slow metric and for
  sensitivity at once. We have no past experiments, hence the regressions on a log.
- Q. Cai, S. Liu, X. Wang and others, "Reinforcing User Retention in a Billion Scale Short Video
  Recommender System" (WWW Companion 2023): reinforcement learning sets such weights for the time to
  the next session. Y. Wu, D. Chang, J. She and others, "Learned Ranking Function" (RecSys 2024):
  the combination itself is learned, and leaving the list has a modelled value.
- T. Cunningham, S. Pandey, L. Sigerson and others, "What We Know About Using Non-Engagement Signals
  in Content Ranking" (arXiv 2024): surveys about single items and quality labels raise retention
  beyond what engagement reaches. Our world asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from ml_platform.evaluation.intervals import Estimate
from shorts_recommendation.ranking.heads import Heads
from shorts_recommendation.ranking.proxies import (
    Fitted,
    Impressions,
    Panel,
    association,
    can_fit,
    correlations,
    fit_panel,
    return_panel,
    stay_panel,
)
from shorts_recommendation.ranking.sequences import Sequences
from shorts_recommendation.ranking.value import choose_weights, session_ndcg, value

VALUE_HEADS = ("long_view", "watch", "like", "skip")
"""Of which a value is made; diversity is the re-ranker's business."""
WAYS = ("engagement", "return", "return_grid", "stay")
ORDER = ("return", "stay")
"""Nearest to the goal first."""
PROXY_ROWS = 400_000
"""Most impressions of the training days that the regressions read, users whole: ten seconds of the
transformer."""
WIDE_GRID: dict[str, tuple[float, ...]] = {
    "long_view": (0.0, 1.0),
    "watch": (0.0, 1.0, 2.0),
    "like": (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
    "skip": (0.0, -1.0, -2.0),
}


@dataclass(frozen=True)
class LoggedHeads:
    """What one stretch of days has to say.

    Attributes:
        heads: f32[N] each, rows by user and then time.
        user, session, time_s: i64[N].
        gains: f32[N], ``value.grades``.
        until_s: Where the stretch ends.
    """

    heads: Heads
    user: np.ndarray
    session: np.ndarray
    time_s: np.ndarray
    gains: np.ndarray
    until_s: int

    def impressions(self) -> Impressions:
        """For ``proxies``."""
        columns = [getattr(self.heads, task) for task in VALUE_HEADS]
        features = np.stack(columns, axis=1).astype(np.float64)
        return Impressions(self.user, self.session, self.time_s, features)


@dataclass(frozen=True)
class Way:
    """One way to weights, and what the validation days say of it.

    Attributes:
        weights: Head -> weight; of a regression, the largest is 1 in size.
        fitted: The regression, for the two ways that are one.
        ndcg: Session NDCG@10 on grades.
        sooner: Shortening of log gap with one deviation more of the session's mean value.
        stays: Change of the probability that the session goes on, of the video's value.
    """

    weights: dict[str, float]
    fitted: Fitted | None
    ndcg: float
    sooner: Estimate | None
    stays: Estimate | None


@dataclass(frozen=True)
class ValueChoice:
    """The ways that the log allows, and the one taken."""

    taken: str
    ways: dict[str, Way]

    @property
    def weights(self) -> dict[str, float]:
        """Of the way taken."""
        return self.ways[self.taken].weights


def proxy_rows(sequences: Sequences, learn: np.ndarray, *, most: int = PROXY_ROWS) -> np.ndarray:
    """bool[M]: the training rows that the regressions read, all rows of users drawn by a hash."""
    count = np.bincount(sequences.user_idx[learn])
    order = np.random.default_rng(0).permutation(len(count))
    chosen = np.zeros(max(int(sequences.user_idx.max(initial=-1)) + 1, len(count)), dtype=np.bool_)
    chosen[order[np.cumsum(count[order]) <= most]] = True
    return np.asarray(learn & chosen[sequences.user_idx])


def logged_heads(
    sequences: Sequences, rows: np.ndarray, heads: Heads, gains: np.ndarray, until_s: int
) -> LoggedHeads:
    """The rows bool[M], of which ``heads`` f32[R] speaks; ``gains`` f32[M] is of all."""
    return LoggedHeads(
        heads,
        sequences.user_idx[rows],
        sequences.session[rows],
        sequences.time_s[rows],
        gains[rows],
        until_s,
    )


def choose_value(
    learn: LoggedHeads, check: LoggedHeads, default: Mapping[str, float], *, seed: int = 0
) -> ValueChoice:
    """Weights by every way, and the choice; see the module's docstring for the rule.

    Args:
        learn: Training days (or a sample of their users).
        check: Validation days.
        default: Where the engagement grid stays without evidence.
        seed: Of the bootstrap.
    """
    seen, shown = learn.impressions(), check.impressions()
    held = {
        "return": return_panel(shown, check.until_s),
        "stay": stay_panel(shown, check.until_s),
    }
    fits = {
        "return": _fit(return_panel(seen, learn.until_s), seed),
        "stay": _fit(stay_panel(seen, learn.until_s), seed),
    }
    weights = {
        "engagement": choose_weights(check.heads, check.gains, check.session, default)[0],
        "return_grid": best_of_grid(held["return"]),
        **{name: as_weights(fit.weights) for name, fit in fits.items() if fit is not None},
    }
    ways = {
        name: _judged(w, fits.get(name), check, held, seed)
        for name in WAYS
        if (w := weights.get(name)) is not None
    }
    return ValueChoice(_taken(ways), ways)


def as_weights(weights: np.ndarray) -> dict[str, float]:
    """Weights f64[P] as exchange rates: an order knows no scale, so the largest becomes 1."""
    scaled = weights / max(float(np.abs(weights).max()), 1e-12)
    return {task: round(float(w), 4) for task, w in zip(VALUE_HEADS, scaled, strict=True)}


def best_of_grid(panel: Panel) -> dict[str, float] | None:
    """The combination of ``WIDE_GRID`` whose session mean goes best with an early return."""
    if not can_fit(panel):
        return None
    rates = np.array([r for r in product(*WIDE_GRID.values()) if any(r)])
    best = rates[int(np.argmax(correlations(panel, rates)))]
    return dict(zip(WIDE_GRID, best.tolist(), strict=True))


def _fit(panel: Panel, seed: int) -> Fitted | None:
    return fit_panel(panel, seed=seed) if can_fit(panel) else None


def _judged(
    weights: dict[str, float],
    fitted: Fitted | None,
    check: LoggedHeads,
    held: Mapping[str, Panel],
    seed: int,
) -> Way:
    """What the validation days say of one way."""
    vector = np.array([weights.get(task, 0.0) for task in VALUE_HEADS])
    found = {
        name: association(panel, vector, seed=seed) if can_fit(panel) and vector.any() else None
        for name, panel in held.items()
    }
    ndcg, _ = session_ndcg(value(check.heads, weights), check.gains, check.session)
    mean = float(ndcg.mean()) if len(ndcg) else 0.0
    return Way(weights, fitted, mean, found["return"], found["stay"])


def _taken(ways: Mapping[str, Way]) -> str:
    """The first of ORDER that the training days identify and the validation days confirm."""
    for name in ORDER:
        way = ways.get(name)
        if way is None or way.fitted is None or not way.fitted.identified.any():
            continue
        confirmed = way.sooner if name == "return" else way.stays
        if confirmed is not None and confirmed.low is not None and confirmed.low > 0:
            return name
    return "engagement"
