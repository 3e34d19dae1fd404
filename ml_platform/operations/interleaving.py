"""Which of two rankers do users prefer? Team-draft interleaving: both answer, in one list.

In: the lists of two rankers for the same queries, i32[Q, K]. Out: the interleaved lists with the
team of every position; from the clicks on them a credit per query, and a test over users.

An A/B test shows ranker A to some users and B to others, and must see through all that makes users
differ: taste, activity, mood. Interleaving shows each user both and asks which of them put the
clicked item there, so every user is their own control. That is where its sensitivity comes from.
What it cannot tell is how much a metric rises: it answers "which", an A/B test answers "how much".

Team draft (Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?",
CIKM 2008) works as two captains do: whoever has fewer players picks next, a coin decides when both
have the same number, and a pick is the ranker's best item that is not yet on the list. A click
counts for the team that picked the item. Where one ranker has nothing left to pick, the list ends.

Why it is fair. Both have one pick in every round and the coin decides who goes first, so each team
holds each position equally often. A user who clicks at random, or only at the top, gives both the
same credit on average. An item that both would pick next falls to either with probability 1/2.

A user's queries hang together, so the test has the user as its unit: the sign of the user's credit
against a fair coin (exact binomial), and the mean credit per user with a t interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

TEAM_A, TEAM_B, NO_TEAM = 0, 1, -1
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Interleaved:
    """Lists to show.

    Attributes:
        items: i32[Q, k], -1 where the list ended early.
        team: i8[Q, k], TEAM_A or TEAM_B, NO_TEAM where there is no item.
    """

    items: npt.NDArray[np.int32]
    team: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Preference:
    """What users prefer.

    Attributes:
        wins_a: Users whose clicks favour A.
        wins_b: Users whose clicks favour B.
        ties: Users with as much credit for A as for B, most often none at all.
        sign_p: Two-sided p of the sign test over the users that are no ties.
        credit: Mean over users of credit for B minus credit for A, with `low` and `high`.
        credit_p: Two-sided p of that mean being 0, by Student's t over users.
    """

    wins_a: int
    wins_b: int
    ties: int
    sign_p: float
    credit: float
    low: float
    high: float
    credit_p: float


def team_draft(
    a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], k: int, rng: np.random.Generator
) -> Interleaved:
    """Interleaves the lists of two rankers, for all queries at once.

    Args:
        a: i32[Q, K], best first, -1 as padding at the end; no item twice in a row.
        b: i32[Q, K'], the other ranker's lists for the same queries.
        k: Length of the interleaved list.
        rng: Of the coins.

    Raises:
        ValueError: On lists for different queries, or k below 1.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"two lists a query are needed, got shapes {a.shape} and {b.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n = len(a)
    items = np.full((n, k), -1, dtype=np.int32)
    team = np.full((n, k), NO_TEAM, dtype=np.int8)
    picks = np.zeros((n, 2), dtype=np.int64)
    open_list = np.ones(n, dtype=np.bool_)
    for place in range(k):
        best_a, best_b = _next_pick(a, items), _next_pick(b, items)
        open_list &= (best_a >= 0) & (best_b >= 0)
        coin = rng.random(n) < 0.5
        b_picks = (picks[:, 1] < picks[:, 0]) | ((picks[:, 1] == picks[:, 0]) & coin)
        items[:, place] = np.where(open_list, np.where(b_picks, best_b, best_a), -1)
        team[:, place] = np.where(open_list, np.where(b_picks, TEAM_B, TEAM_A), NO_TEAM)
        picks[np.arange(n), b_picks.astype(np.int64)] += open_list
    return Interleaved(items, team)


def credit(clicked: npt.NDArray[np.bool_], team: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """f64[Q]: clicks on items of team B minus clicks on items of team A, for every query.

    Raises:
        ValueError: If the shapes differ, or something was clicked where there is no item.
    """
    if clicked.shape != team.shape:
        raise ValueError(f"clicks have shape {clicked.shape}, teams {team.shape}")
    if (clicked & (team == NO_TEAM)).any():
        raise ValueError("a click on a position without an item; clicks and teams do not match")
    return np.asarray(
        (clicked & (team == TEAM_B)).sum(axis=1) - (clicked & (team == TEAM_A)).sum(axis=1),
        dtype=np.float64,
    )


def preference(
    credits: npt.NDArray[np.float64], users: npt.NDArray[np.integer] | None = None
) -> Preference:
    """Whom users prefer, with the user as the unit.

    Args:
        credits: f64[Q], from `credit`; summed over each user's queries.
        users: [Q], the user of each query; None: every query is a user of its own.

    Raises:
        ValueError: With fewer than two users, or where nobody's credit differs from 0.
    """
    if users is not None and np.shape(users) != credits.shape:
        raise ValueError(f"{len(credits)} queries, but users has shape {np.shape(users)}")
    if users is not None:
        _, user_of = np.unique(users, return_inverse=True)
        credits = np.bincount(user_of, weights=credits).astype(np.float64)
    if len(credits) < 2 or not np.isfinite(credits).all() or not credits.any():
        raise ValueError(
            f"{len(credits)} users and {np.count_nonzero(credits)} with credit: "
            "nothing can be said before some users click more of one ranker's items"
        )
    wins_a, wins_b = int((credits < 0).sum()), int((credits > 0).sum())
    test = stats.ttest_1samp(credits, 0.0) if np.ptp(credits) > 0 else None
    mean = float(credits.mean())
    interval = test.confidence_interval(LEVEL) if test else (mean, mean)
    return Preference(
        wins_a=wins_a,
        wins_b=wins_b,
        ties=len(credits) - wins_a - wins_b,
        sign_p=float(stats.binomtest(wins_b, wins_a + wins_b).pvalue),
        credit=mean,
        low=float(interval[0]),
        high=float(interval[1]),
        credit_p=float(test.pvalue) if test else 0.0,
    )


def _next_pick(
    ranked: npt.NDArray[np.integer], taken: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """i32[Q]: the first item of each ranking that is not on the list yet, -1 where none is left."""
    free = (ranked >= 0) & ~(ranked[:, :, None] == taken[:, None, :]).any(axis=2)
    first = ranked[np.arange(len(ranked)), free.argmax(axis=1)]
    return np.where(free.any(axis=1), first, -1).astype(np.int32)
