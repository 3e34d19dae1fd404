"""What personalisation is worth against the truth. SYNTHETIC.

In: searches (who, with which picture), style vectors, one of the options of ``blending``. Out: one
value per search: NDCG@10 with the person's attraction to an item as its gain, expected clicks on a
page of 20, how much the page's items differ, how much of its style is the person's taste.

Two orders to begin with: by similarity (no ranker), and by the impersonal truth, which is the best
that a ranker can do that is not told who asks. What personalisation adds to the second is what no
better ranker could have given.

Legend: n searches, C candidates, K page, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from image_search.clicks.truth import Truth
from image_search.embeddings.base import unit_rows
from image_search.personalisation.blending import blended
from image_search.retrieval.index import VectorIndex
from ml_platform.evaluation.diversity_metrics import intra_list_distance
from ml_platform.evaluation.ranking_metrics import graded_ndcg_at

Base = Literal["similarity", "impersonal"]
Option = Literal["none", "blend", "feature", "shift", "oracle"]
MEASURES = ("ndcg@10", "clicks", "distance", "taste")
CHUNK = 512
"""Searches at once: 512 lists of 200 vectors of 256 numbers are 100 MiB."""
_NDCG, _PAGE = 10, 20


@dataclass(frozen=True)
class Searches:
    """Who asks with what.

    Attributes:
        user: i64[n].
        query_row: i64[n], rows of the image set.
        vectors: f32[n, D] of the queries, of length 1.
        found: What ``World.retrieve`` finds by them, where it is kept for several settings.
    """

    user: np.ndarray
    query_row: np.ndarray
    vectors: np.ndarray
    found: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def part(self, where: slice | np.ndarray) -> Searches:
        """Only those."""
        found = None if self.found is None else (self.found[0][where], self.found[1][where])
        return Searches(self.user[where], self.query_row[where], self.vectors[where], found)


@dataclass(frozen=True)
class World:
    """What searches run against.

    Attributes:
        truth: Known, synthetic.
        index: Over the catalogue's rows.
        vectors: f32[N, D] by row.
        directions: f32[N, D] by row (``styles.Directions``).
        own: i64[M]: the catalogue row of each picture of the image set, -1 where it is no item.
        candidates: C.
        page: K.
    """

    truth: Truth
    index: VectorIndex
    vectors: np.ndarray
    directions: np.ndarray
    own: np.ndarray
    candidates: int = 200
    page: int = _PAGE

    def retrieve(
        self, searches: Searches, vectors: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows i64[n, C] and similarities f32[n, C]; a query's own item is left out (-1).

        By ``vectors`` f32[n, D], or by the searches' own.
        """
        if vectors is None and searches.found is not None:
            return searches.found
        vectors = searches.vectors if vectors is None else vectors
        rows, similarity = self.index.search(vectors, self.candidates)
        mine = rows == self.own[searches.query_row][:, None]
        mine &= rows >= 0
        return np.where(mine, -1, rows), np.where(mine, np.float32(-np.inf), similarity)


@dataclass(frozen=True)
class Setting:
    """One way to answer.

    Attributes:
        option: Of ``blending``; "oracle" orders by the truth about the person.
        base: The order to begin with.
        weight: Of blend: of the style. Of shift: the length. Of feature: style's weight in units of
            the base's score, as learned.
    """

    option: Option
    base: Base = "similarity"
    weight: float = 0.0


def measure(
    world: World, searches: Searches, styles: np.ndarray, setting: Setting
) -> dict[str, np.ndarray]:
    """Measure -> f64[n] with styles f32[n, D]; see the module."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    for begin in range(0, len(searches), CHUNK):
        part = slice(begin, begin + CHUNK)
        for name, values in _measured(world, searches.part(part), styles[part], setting).items():
            found[name].append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def pages(
    world: World, searches: Searches, styles: np.ndarray, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """The pages i64[n, K] that a setting shows, and all candidates i64[n, C] it saw."""
    vectors = None
    if setting.option == "shift":
        vectors = unit_rows(searches.vectors + setting.weight * styles)
    rows, similarity = world.retrieve(searches, vectors)
    nobody, who = np.full(len(searches), -1), searches.user
    if setting.option == "oracle":
        score = world.truth.utility(who, searches.query_row, rows)
    elif setting.base == "impersonal":
        score = world.truth.utility(nobody, searches.query_row, rows)
    else:
        score = similarity
    if setting.option in ("blend", "feature"):
        score = _with_style(world, rows, score, styles, setting)
    order = np.argsort(-score, axis=1, kind="stable")[:, : world.page]
    return np.take_along_axis(rows, order, axis=1), rows


def _with_style(
    world: World, rows: np.ndarray, score: np.ndarray, styles: np.ndarray, setting: Setting
) -> np.ndarray:
    liking = np.einsum("ncd,nd->nc", world.directions[np.maximum(rows, 0)], styles)
    if setting.option == "blend":
        return blended(score, rows, liking, setting.weight)
    return np.where(rows >= 0, score + setting.weight * liking, score)


def _measured(
    world: World, searches: Searches, styles: np.ndarray, setting: Setting
) -> dict[str, np.ndarray]:
    searches = replace(searches, found=world.retrieve(searches))
    shown, seen = pages(world, searches, styles, setting)
    # The ideal list is the best of what the plain query finds too, or an option that finds worse
    # candidates would be judged by them.
    plain, _ = world.retrieve(searches)
    offered = _attraction(world, searches, np.concatenate([plain, seen], axis=1))
    gains = _attraction(world, searches, shown)
    truth = world.truth
    liked = np.einsum(
        "nks,ns->nk", truth.item_style[np.maximum(shown, 0)], truth.audience.taste[searches.user]
    )
    return {
        "ndcg@10": graded_ndcg_at(gains, _once_each(plain, seen, offered), _NDCG),
        "clicks": truth.expected_clicks(searches.user, searches.query_row, shown),
        "distance": page_distance(world.vectors, shown),
        "taste": np.asarray(liked.mean(axis=1), dtype=np.float64),
    }


def page_distance(vectors: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """f64[n]: mean distance of the items of pages i64[n, K], -1 padded, by vectors f32[N, D]."""
    some, place = np.unique(np.maximum(shown, 0), return_inverse=True)
    pages_of_some = np.where(shown >= 0, place.reshape(shown.shape), -1)
    return intra_list_distance(vectors[some], pages_of_some.astype(np.int32))


def _attraction(world: World, searches: Searches, rows: np.ndarray) -> np.ndarray:
    """f64, 0 where there is no candidate."""
    found = world.truth.attraction(searches.user, searches.query_row, rows)
    return np.where(rows >= 0, found, 0).astype(np.float64)


def _once_each(plain: np.ndarray, seen: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """``offered`` f64[n, 2 C] with 0 for what ``seen`` repeats of ``plain``."""
    both = np.concatenate([plain, seen], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    sorted_rows = np.take_along_axis(both, order, axis=1)
    again = np.zeros(both.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], sorted_rows[:, 1:] == sorted_rows[:, :-1], axis=1)
    return np.where(again, 0.0, offered)
