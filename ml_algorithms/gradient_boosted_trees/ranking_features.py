"""A graded ranking task from MovieLens: which of the films somebody rated did they like best?

In: a ``Dataset`` (interactions, items, users). Out: a ``RankingTable``: features f64[N, F] as they
were known *before* the rating, the rating as the grade 0 to 4, and the rows of each query.

Time is cut into windows of about equally many ratings. A query is one user in one window; its rows
are the films that the user rated in the later half of the user's time there. What is known of films
comes from the ratings before the window began; what is known of the user from those and from the
user's own earlier half (most MovieLens users rate in one sitting: without it most would be
strangers). A film not seen before has NaN where a mean should be: a missing value with a meaning.

The task is ordering what was chosen, not finding what to choose: films that a user did not rate
are absent, so the numbers say nothing about retrieval.

Legend: N rows, F features, Q queries, U users, I items, G genres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_platform.data.schema import Dataset, genre_flags

DAY_S = 86_400
MIN_ROWS = 5
"""Queries with fewer rows, or with one grade only, are left out: there is nothing to order."""


@dataclass(frozen=True)
class RankingTable:
    """Rows in the order of their queries.

    Attributes:
        features: f64[N, F].
        names: of the features.
        grade: f64[N], 0 to 4.
        group: i64[Q], rows of each query.
        user_id: i64[Q].
        window: i64[Q], number of the window; a split by time is a split by this.
    """

    features: np.ndarray
    names: tuple[str, ...]
    grade: np.ndarray
    group: np.ndarray
    user_id: np.ndarray
    window: np.ndarray

    def of_windows(self, first: int, last: int) -> RankingTable:
        """The queries of windows first <= w < last.

        Raises:
            ValueError: If there is none.
        """
        keep = (self.window >= first) & (self.window < last)
        if not keep.any():
            raise ValueError(f"no query in windows {first}..{last - 1}")
        return self.of_queries(keep)

    def of_queries(self, keep: np.ndarray) -> RankingTable:
        """The queries of the mask bool[Q]."""
        rows = np.repeat(keep, self.group)
        return RankingTable(
            self.features[rows], self.names, self.grade[rows],
            self.group[keep], self.user_id[keep], self.window[keep],
        )  # fmt: skip


def ranking_table(data: Dataset, *, n_windows: int = 20) -> RankingTable:
    """Builds features and grades; the first window only feeds the counters.

    Args:
        data: With ratings 0.5 to 5.
        n_windows: Windows of about equally many ratings, at least 3.

    Raises:
        ValueError: On fewer than 3 windows, or no query of MIN_ROWS rows.
    """
    if n_windows < 3:
        raise ValueError(f"a split by time needs at least 3 windows, got {n_windows}")
    log = data.interactions.sort_values(["timestamp", "user_id", "item_id"], ignore_index=True)
    items, users = data.items.set_index("item_id"), data.users.set_index("user_id")
    names, flags = genre_flags(data)
    genres = pd.DataFrame(flags.astype(np.float64), items.index, names)
    cuts = np.quantile(log["timestamp"], np.arange(1, n_windows) / n_windows, method="lower")
    window = np.searchsorted(cuts, log["timestamp"], side="right")
    parts = []
    for number in range(1, n_windows):
        past, now = log[window < number], log[window == number]
        early = now["timestamp"] <= now.groupby("user_id")["timestamp"].transform("median")
        known, now = pd.concat([past, now[early]]), now[~early]
        ratings = now.groupby("user_id")["rating"]
        something_to_order = (ratings.transform("size") >= MIN_ROWS) & (
            ratings.transform("max") > ratings.transform("min")
        )
        now = now[something_to_order].sort_values(["user_id", "item_id"])
        if len(now) and len(past):
            begin = int(cuts[number - 1])
            part = _features(past, known, now, items, users, genres, begin)
            parts.append(part.assign(_window=number))
    if not parts:
        raise ValueError(f"no user rated {MIN_ROWS} items within one of {n_windows} windows")
    return _assemble(pd.concat(parts, ignore_index=True))


def _assemble(table: pd.DataFrame) -> RankingTable:
    keys = table[["_window", "_user"]].to_numpy(np.int64)
    begin = np.flatnonzero(np.any(np.diff(keys, axis=0, prepend=-1) != 0, axis=1))
    names = tuple(name for name in table if not name.startswith("_"))
    return RankingTable(
        table[list(names)].to_numpy(np.float64),
        names,
        np.clip(np.round(table["_rating"].to_numpy(np.float64)) - 1.0, 0.0, 4.0),
        np.diff(np.append(begin, len(table))),
        keys[begin, 1],
        keys[begin, 0],
    )


def _features(
    past: pd.DataFrame,
    known: pd.DataFrame,
    now: pd.DataFrame,
    items: pd.DataFrame,
    users: pd.DataFrame,
    genres: pd.DataFrame,
    begin: int,
) -> pd.DataFrame:
    """The rows of ``now``: films as of ``past``, users as of ``known``; "_..." is no feature."""
    item, user = now["item_id"], now["user_id"]
    first_seen = item.map(past.groupby("item_id")["timestamp"].min()).to_numpy(np.float64)
    of_item = past.groupby("item_id")["rating"].agg(["count", "mean", "std"])
    of_user = known.groupby("user_id")["rating"].agg(["count", "mean", "std"])
    recent = past[past["timestamp"] >= begin - 30 * DAY_S].groupby("item_id")["rating"]
    taste = _genre_taste(known, genres, of_user["mean"])
    flags = genres.loc[item].to_numpy()
    liked = taste.reindex(user).to_numpy()
    out = pd.DataFrame(
        {
            "_user": user.to_numpy(),
            "_rating": now["rating"].to_numpy(),
            "item_count": item.map(of_item["count"]).fillna(0.0).to_numpy(),
            "item_mean": item.map(of_item["mean"]).to_numpy(),
            "item_std": item.map(of_item["std"]).to_numpy(),
            "item_count_30d": item.map(recent.count()).fillna(0.0).to_numpy(),
            "item_mean_30d": item.map(recent.mean()).to_numpy(),
            "item_days_known": (begin - first_seen) / DAY_S,
            "item_year": items["year"].reindex(item).replace(0, np.nan).to_numpy(np.float64),
            "item_genres": flags.sum(axis=1),
            "user_count": user.map(of_user["count"]).fillna(0.0).to_numpy(),
            "user_mean": user.map(of_user["mean"]).to_numpy(),
            "user_std": user.map(of_user["std"]).to_numpy(),
            "user_age": users["age"].reindex(user).to_numpy(np.float64),
            "user_is_female": (users["gender"].reindex(user) == "F").to_numpy(np.float64),
            "user_genre_taste": _mean_over(flags, liked),
            "user_genre_best": np.where(flags > 0, np.nan_to_num(liked, nan=-9.0), -9.0).max(1),
        }
    )  # fmt: skip
    out["user_genre_best"] = out["user_genre_best"].where(out["user_genre_best"] > -9.0)
    for position, name in enumerate(genres):
        out[f"genre_{name.lower()}"] = flags[:, position]
    return out


def _genre_taste(past: pd.DataFrame, genres: pd.DataFrame, user_mean: pd.Series) -> pd.DataFrame:
    """By user and genre: mean of (rating - the user's mean), shrunk to 0 by three ratings."""
    above = past["rating"].to_numpy() - past["user_id"].map(user_mean).to_numpy()
    flags = genres.loc[past["item_id"]].to_numpy()
    user = past["user_id"].to_numpy()
    total = pd.DataFrame(flags * above[:, None], columns=genres.columns).groupby(user).sum()
    count = pd.DataFrame(flags, columns=genres.columns).groupby(user).sum()
    return total / (count + 3.0)


def _mean_over(flags: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of values [N, G] where flags [N, G] are set; NaN where none is or user is unknown."""
    n = flags.sum(axis=1)
    mean = (flags * np.nan_to_num(values)).sum(axis=1) / np.maximum(n, 1.0)
    return np.where((n > 0) & ~np.isnan(values).all(axis=1), mean, np.nan)
