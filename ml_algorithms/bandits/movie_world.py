"""A world from ratings: which popular film would this new user like?

In: a data set of ratings. Out: ``MovieWorld``, whose arms are the films that were rated most by the
users who came first, before the next user came; the visitors are the users who came later, each
once. What the first users rated after that moment is not known then, and left out.

Honest about what ratings are. A user's opinion is known only for the films they rated, so a policy
may choose only among those (``available``): every reward is a true one, and no reward is guessed.
The price: these are people choosing among films they chose to watch, not visitors to whom a film
was shown, and like rates are high. The unbiased replay of Li et al. (WWW 2010) needs a log whose
choices were random; ratings are not such a log.

Legend: U visitors, K films, R runs, D features.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.bandits.environment import Moment
from ml_platform.data.schema import Dataset

LIKED = 4.0
TECHNICAL = ("programmer", "engineer", "technician", "scientist")


class MovieWorld:
    """Visitors in random order, a different one in every run.

    Attributes:
        likes: f[U, K], 1 where the visitor rated the film 4 or more.
        known: bool[U, K], rated films; at least two for every visitor.
        features: f[U, D], what is known of a new user: age, gender, occupation, a constant.
        past_likes, past_ratings: f[K], of the earlier users before the first visitor came, for a
            warm start.
        order: i64[R, U], who comes when.
    """

    def __init__(
        self, data: Dataset, *, arms: int, runs: int, past_share: float = 0.3, seed: int = 0
    ) -> None:
        """Build from ratings.

        Args:
            data: A data set with ratings of 1 to 5.
            arms: K.
            runs: R.
            past_share: Of the users, by time of their first rating, who only define the arms.
            seed: Of the orders.

        Raises:
            ValueError: If fewer than two visitors rated two of the films.
        """
        first = data.interactions.groupby("user_id")["timestamp"].min().sort_values(kind="stable")
        n_past = int(past_share * len(first))
        rows = data.interactions
        opening = first.iloc[min(n_past, len(first) - 1)]  # when the first of the visitors came
        past = rows[rows["user_id"].isin(first.index[:n_past]) & (rows["timestamp"] < opening)]
        films = past["item_id"].value_counts().sort_index().nlargest(arms).index.to_numpy()
        earlier = past.pivot(index="user_id", columns="item_id", values="rating")[films]
        later = rows[rows["item_id"].isin(films) & rows["user_id"].isin(first.index[n_past:])]
        table = later.pivot(index="user_id", columns="item_id", values="rating")
        table = table.reindex(index=first.index[n_past:], columns=films)
        table = table[table.notna().sum(axis=1) >= 2]
        if len(table) < 2:
            raise ValueError(f"only {len(table)} visitors rated two of the {arms} films")
        self.likes = (table.to_numpy() >= LIKED).astype(np.float64)
        self.known = table.notna().to_numpy()
        self.past_likes = (earlier.to_numpy() >= LIKED).sum(axis=0).astype(np.float64)
        self.past_ratings = earlier.notna().to_numpy().sum(axis=0).astype(np.float64)
        self.features = user_features(data, table.index.to_numpy())
        self.runs, self.arms = runs, arms
        rng = np.random.default_rng(seed)
        self.order = np.stack([rng.permutation(len(table)) for _ in range(runs)])

    @property
    def visitors(self) -> int:
        """U."""
        return len(self.likes)

    def moment(self, step: int, rng: np.random.Generator) -> Moment:
        """The visitor of every run at this step; means are what they think, 0 or 1."""
        users = self.order[:, step]
        return Moment(self.features[users], self.likes[users], self.likes[users], self.known[users])

    def by_visitor(self, values: np.ndarray) -> np.ndarray:
        """Values f[R, U] of the steps, averaged over the runs for each visitor f[U]."""
        total = np.zeros(self.visitors)
        np.add.at(total, self.order.ravel(), values.ravel())
        return total / self.runs


def user_features(data: Dataset, user_ids: np.ndarray) -> np.ndarray:
    """A constant, age (in units of 20 years from 35), gender, student, technical work. f[U, 5]."""
    users = data.users.set_index("user_id").loc[user_ids]
    age = np.where(users["age"] >= 0, (users["age"] - 35) / 20, 0.0)
    columns = [
        np.ones(len(users)),
        age,
        (users["gender"] == "F").to_numpy(),
        (users["occupation"] == "student").to_numpy(),
        users["occupation"].isin(TECHNICAL).to_numpy(),
    ]
    return np.stack(columns, axis=1).astype(np.float64)
