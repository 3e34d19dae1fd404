"""What a log says about satisfaction without being told: who stays, and who comes back sooner.

In: predictions of logged impressions and when they happened. Out: ``Panel`` (rows whose outcome is
known), its regression ``Fitted`` with an interval for every weight, and ``association``: how well
one value goes with an outcome on rows that it was not fitted on.

Two outcomes that no model of engagement reads:

- *stay*: after this impression the session goes on (1) or ends (0). One row an impression.
- *return*: -log(min(gap, horizon)), the gap from a session's last impression to the user's next
  session. One row a session; its features are the session's means.

Both are compared within a user (every column less the user's mean): who is active differs from who
is not in a hundred ways that no ranking changes. Controls: the place in the session for *stay*; the
hour at which the session ends and its length for *return*.

Why predictions and not what happened: a like is rare. A session's share of likes is mostly chance,
and chance in a regressor pulls its weight towards 0, the more the rarer the event. A calibrated
prediction errs the other way round (the outcome scatters about it), which leaves the weight alone.

Censoring. A log ends while people are away. *Return* takes only sessions that end a whole horizon
before the log does and caps every gap at the horizon: each outcome is then known, whatever comes
later, so the long gaps are not the ones that go missing. *Stay* leaves out all impressions of the
last ``quiet_s``, and not only those whose session has not gone on yet.

What this is not: an experiment. The logging policy chose what was shown by what it knew of the
user, and a mood that brings both likes and an early return looks like an effect.

Legend: N impressions by user and then time, S rows of a panel, P heads, Q controls, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.intervals import Estimate
from shorts_recommendation.log import DAY_S

RESAMPLES = 400
RIDGE = 0.01
"""Of every head's own sum of squares: long view, watch and skip say nearly the same."""
POWER = 2.8
"""Standard errors of the smallest effect found in 80 of 100 logs, at 5%, two sides: 1.96 + 0.84."""
_FLAT = 1e-12
"""Variance within users below which a head says nothing."""


@dataclass(frozen=True)
class Impressions:
    """Logged impressions, N rows by user and then time.

    Attributes:
        user, session: i64[N].
        time_s: i64[N].
        features: f64[N, P], predictions made before each.
    """

    user: np.ndarray
    session: np.ndarray
    time_s: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Panel:
    """Rows with a known outcome; more is better.

    Attributes:
        features: f64[S, P].
        controls: f64[S, Q].
        outcome: f64[S].
        user: i64[S].
    """

    features: np.ndarray
    controls: np.ndarray
    outcome: np.ndarray
    user: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Fitted:
    """Weights of a regression within users.

    Attributes:
        weights, low, high: f64[P] and their 95% intervals, users resampled whole.
        spread: f64[P], standard deviation of each head within a user.
        detectable: f64[P], smallest effect of one such deviation that 80% of logs of this size
            would show, in the outcome's unit.
        rows, users: Behind it.
    """

    weights: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray
    detectable: np.ndarray
    rows: int
    users: int

    @property
    def identified(self) -> np.ndarray:
        """bool[P]: the interval lies on one side of 0."""
        return np.asarray(self.low * self.high > 0)


def stay_panel(log: Impressions, until_s: int, *, quiet_s: int = 1800) -> Panel:
    """One row an impression: did the session go on?

    Args:
        log: Of any stretch of time; sessions that began before it count from there.
        until_s: Where the log ends.
        quiet_s: Silence after which a session is over.
    """
    starts, ends = _sessions(log)
    last = np.zeros(len(log.user), dtype=np.bool_)
    last[ends - 1] = True
    place = np.arange(len(last)) - np.repeat(starts, ends - starts)
    known = log.time_s + quiet_s <= until_s
    controls = np.stack([place, place**2, np.log1p(place)], axis=1)
    return Panel(
        log.features[known], controls[known].astype(np.float64), 1.0 - last[known], log.user[known]
    )


def return_panel(log: Impressions, until_s: int, *, horizon_s: int = DAY_S) -> Panel:
    """One row a session: how soon did the person come back?

    Args:
        log: Of any stretch of time.
        until_s: Where the log ends; nothing after it is read.
        horizon_s: Longer gaps count as this long.
    """
    starts, ends = _sessions(log)
    length = ends - starts
    user, end_s = log.user[starts], log.time_s[ends - 1]
    gap_s = np.full(len(starts), horizon_s, dtype=np.float64)
    again = user[1:] == user[:-1]
    gap_s[:-1][again] = (log.time_s[starts[1:]] - end_s[:-1])[again]
    known = end_s + horizon_s <= until_s
    means = np.add.reduceat(log.features, starts, axis=0) / length[:, None]
    hour = 2 * np.pi * (end_s % DAY_S) / DAY_S
    waves = [wave(turn * hour) for turn in (1, 2) for wave in (np.sin, np.cos)]
    controls = np.stack([*waves, np.log(length)], axis=1)
    outcome = -np.log(np.clip(gap_s, 60, horizon_s))
    return Panel(means[known], controls[known], outcome[known], user[known])


def can_fit(panel: Panel) -> bool:
    """Whether every head differs within users, on ten rows a column and two users at least."""
    columns = panel.features.shape[1] + panel.controls.shape[1]
    if len(panel) < 10 * columns:
        return False
    grams = _user_grams(panel)
    return len(grams) >= 2 and bool((_squares(grams, panel) > _FLAT * len(panel)).all())


def fit_panel(
    panel: Panel, *, ridge: float = RIDGE, resamples: int = RESAMPLES, seed: int = 0
) -> Fitted:
    """Least squares within users, the heads (not the controls) shrunk by a ridge.

    Raises:
        ValueError: If no user has two rows, or one of the heads never differs within a user.
    """
    grams = _user_grams(panel)
    p = panel.features.shape[1]
    squares = _squares(grams, panel)
    if len(grams) == 0 or (squares <= _FLAT * len(panel)).any():
        raise ValueError(
            f"{len(panel)} rows of {len(grams)} users leave a head without variation within users: "
            f"sums of squares {squares.tolist()}; give more days"
        )
    weights = _solve(grams.sum(axis=0)[None], p, ridge)[0]
    draws = np.concatenate(
        [_solve(g, p, ridge) for g in _resampled(grams, resamples, np.random.default_rng(seed))]
    )
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    spread = np.sqrt(squares / len(panel))
    detectable = POWER * draws.std(axis=0, ddof=1) * spread
    return Fitted(weights, low, high, spread, detectable, len(panel), len(grams))


def association(
    panel: Panel, weights: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Change of the outcome with one standard deviation (within users) more of a value.

    Args:
        panel: Rows that the weights were not fitted on.
        weights: f64[P].
        resamples: Of the users.
        seed: Of the resampling.

    Raises:
        ValueError: As ``fit_panel``.
    """
    worth = panel.features @ np.asarray(weights, dtype=np.float64)
    fitted = fit_panel(
        Panel(worth[:, None], panel.controls, panel.outcome, panel.user),
        ridge=0.0,
        resamples=resamples,
        seed=seed,
    )
    slope, low, high = (
        float(x[0] * fitted.spread[0]) for x in (fitted.weights, fitted.low, fitted.high)
    )
    return Estimate(slope, low, high, len(panel))


def correlations(panel: Panel, weights: np.ndarray) -> np.ndarray:
    """Partial correlation f64[K] of K values with the outcome, within users, for a grid.

    Args:
        panel: S rows.
        weights: f64[K, P].
    """
    p = panel.features.shape[1]
    total = _user_grams(panel).sum(axis=0)
    kept = total[:p, :p], total[:p, -1], total[-1, -1]
    q = total[p:-1, p:-1]
    if len(q):  # what the controls explain goes out of both sides
        ours, theirs = total[:p, p:-1], total[p:-1, -1]
        inverse = np.linalg.pinv(q)
        kept = (
            kept[0] - ours @ inverse @ ours.T,
            kept[1] - ours @ inverse @ theirs,
            kept[2] - theirs @ inverse @ theirs,
        )
    variance = np.einsum("kp,pr,kr->k", weights, kept[0], weights)
    return np.asarray(weights @ kept[1] / np.sqrt(np.maximum(variance * kept[2], 1e-300)))


def _sessions(log: Impressions) -> tuple[np.ndarray, np.ndarray]:
    """First row and one past the last of every session, i64 each."""
    if not len(log.user):
        raise ValueError("no impressions: widen the window")
    new = (np.diff(log.session) != 0) | (np.diff(log.user) != 0)
    starts = np.flatnonzero(np.r_[True, new])
    return starts, np.r_[starts[1:], len(log.user)]


def _squares(grams: np.ndarray, panel: Panel) -> np.ndarray:
    """Sum of squares within users of each head, f64[P]."""
    return np.asarray(np.einsum("udd->d", grams)[: panel.features.shape[1]])


def _user_grams(panel: Panel) -> np.ndarray:
    """Products of the demeaned columns (heads, controls, outcome), summed by user.

    f64[U, D, D] of the users with at least two rows, D = P + Q + 1. The sums of any resample of
    users are sums of these, so that a bootstrap never touches the rows again.
    """
    _, who, count = np.unique(panel.user, return_inverse=True, return_counts=True)
    columns = np.column_stack([panel.features, panel.controls, panel.outcome])
    within = np.empty_like(columns)
    for d in range(columns.shape[1]):
        mean = np.bincount(who, columns[:, d], minlength=len(count)) / count
        within[:, d] = columns[:, d] - mean[who]
    size = columns.shape[1]
    grams = np.empty((len(count), size, size))
    for i in range(size):
        for j in range(i, size):
            product = within[:, i] * within[:, j]
            grams[:, i, j] = grams[:, j, i] = np.bincount(who, product, minlength=len(count))
    return grams[count >= 2]


def _resampled(grams: np.ndarray, resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Sums of bootstrap samples of users, in blocks f64[R, D, D]."""
    n, size = len(grams), grams.shape[1]
    flat = grams.reshape(n, -1)
    blocks = []
    for begin in range(0, resamples, 50):
        rows = min(50, resamples - begin)
        draws = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        blocks.append((counts @ flat).reshape(rows, size, size))
    return blocks


def _solve(grams: np.ndarray, p: int, ridge: float) -> np.ndarray:
    """Weights f64[R, P] of sums of products f64[R, D, D]."""
    left, right = grams[:, :-1, :-1].copy(), grams[:, :-1, -1]
    own = np.einsum("rdd->rd", left)
    # A control that never varies (all sessions end at one hour) gets weight 0, not an error.
    penalty = np.maximum(np.r_[np.full(p, ridge), np.full(left.shape[1] - p, 1e-9)], 1e-12) * own
    left[:, np.arange(left.shape[1]), np.arange(left.shape[1])] += penalty + 1e-12
    return np.asarray(np.linalg.solve(left, right[..., None])[:, :p, 0])
