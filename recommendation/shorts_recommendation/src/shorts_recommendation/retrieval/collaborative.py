"""Collaborative recall: who watched these watched those too.

In: the long views before a moment as a matrix [U, V]. Out: either

- item-item: for every video its K nearest by shrunk cosine (``Neighbours``); a request adds up the
  votes of the user's last long views. Deshpande and Karypis, "Item-Based Top-N
  Recommendation Algorithms", TOIS 2004; each source keeps its K best targets (a bounded fan-out).
- iALS: factors of Rendle et al., "Revisiting the Performance of iALS on Item Recommendation
  Benchmarks", RecSys 2022 (ml_algorithms.matrix_factorization.ials), with the live history folded
  in by one ridge solve (``FoldIn``), then a search over all factors.

Neither needs a row of the user's own: a new user has candidates after one long view, and an event
changes the very next request. Which one serves is chosen on the validation days (config.py says
why). The shrunk cosine is x_i . x_j / sqrt((n_i + shrink)(n_j + shrink)): one common user of two
rare videos is not certainty.

Shapes: U users, V videos, K neighbours, B requests, H recent long views, M list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.ials import ImplicitALS, fit_ials
from shorts_recommendation.config import RetrievalConfig
from shorts_recommendation.log import ImpressionLog
from shorts_recommendation.retrieval.index import VideoIndex, choose_index

BINS = 2048
TUNING_USERS = 200
SMALL = 5000
"""Below so many videos an exact search is as fast as any."""


@dataclass(frozen=True)
class Neighbours:
    """K nearest videos of every video, nearest first.

    Attributes:
        video: i32[V, K], -1 where there are fewer.
        similarity: f32[V, K].
    """

    video: np.ndarray
    similarity: np.ndarray


def long_view_matrix(
    log: ImpressionLog, until_s: int, n_users: int, n_videos: int
) -> sparse.csr_matrix:
    """Binary csr f32[U, V]: who watched what through before ``until_s``."""
    end = int(np.searchsorted(log.timestamp, until_s))
    rows = np.flatnonzero(log.long_view[:end])
    ones = np.ones(len(rows), dtype=np.float32)
    pairs = (log.user_idx[rows], log.video_idx[rows])
    matrix = sparse.csr_matrix((ones, pairs), shape=(n_users, n_videos))
    matrix.data[:] = 1.0  # repeats were added up
    return matrix


def fit_neighbours(matrix: sparse.csr_matrix, config: RetrievalConfig) -> Neighbours:
    """Nearest videos by shrunk cosine; time O(sum over users of history^2), sparse throughout."""
    from implicit.nearest_neighbours import all_pairs_knn

    views = np.asarray(matrix.sum(axis=0)).ravel()
    scale = 1.0 / np.sqrt(views + config.shrink)
    weighted = (matrix @ sparse.diags(scale)).tocsr().astype(np.float64)
    most = config.neighbours + 1  # a video is its own nearest
    nearest = all_pairs_knn(weighted, most, num_threads=1, show_progress=False).tocsr()
    n_videos = matrix.shape[1]
    video = np.full((n_videos, config.neighbours), -1, dtype=np.int32)
    similarity = np.zeros((n_videos, config.neighbours), dtype=np.float32)
    _sort_rows(nearest.indptr, nearest.indices, nearest.data, video, similarity)
    return Neighbours(video, similarity)


def fit_factors(matrix: sparse.csr_matrix, config: RetrievalConfig, seed: int) -> ImplicitALS:
    """IALS factors of the same matrix."""
    return fit_ials(
        matrix,
        factors=config.factors,
        unobserved_weight=config.ials_unobserved_weight,
        reg=config.ials_reg,
        iterations=config.ials_iterations,
        seed=seed,
    )


class FoldIn:
    """Half a step of iALS for a micro-batch: factors of users from their last long views alone.

    The same ridge regression as ``ImplicitALS.fold_in``, with the Gram matrix of the catalogue kept
    and the rows padded instead of sparse: a tenth of a millisecond for eight users.

    Args:
        model: Fitted factors.
    """

    def __init__(self, model: ImplicitALS) -> None:
        items = model.item_factors.astype(np.float32)
        self.model = model
        self._items = np.vstack([items, np.zeros((1, items.shape[1]), dtype=np.float32)])
        self._gram = (model.unobserved_weight * items.T @ items).astype(np.float32)

    def users(self, recent: np.ndarray) -> np.ndarray:
        """User factors f32[B, D] of recent long views i32[B, H], -1 padded; repeats count once."""
        model = self.model
        recent = np.where(_first_of_its_kind(recent), recent, -1)
        views = self._items[recent]  # [B, H, D]; -1 is the row of zeros
        n_views = (recent >= 0).sum(axis=1)
        # The penalty counts the catalogue that the factors were fitted on.
        scale = n_views + model.unobserved_weight * len(model.item_factors)
        penalty = model.reg * scale**model.reg_exponent
        system = self._gram + views.transpose(0, 2, 1) @ views
        diagonal = np.einsum("bdd->bd", system)
        diagonal += penalty[:, None].astype(np.float32)
        right = views.sum(axis=1)[:, :, None]
        return np.ascontiguousarray(np.linalg.solve(system, right)[:, :, 0], dtype=np.float32)


def _first_of_its_kind(recent: np.ndarray) -> np.ndarray:
    """bool[B, H]: False where a video stands further left already."""
    same = recent[:, :, None] == recent[:, None, :]
    return ~np.tril(same, k=-1).any(axis=2)


def factors_of(item_factors: np.ndarray, config: RetrievalConfig) -> ImplicitALS:
    """A model that can fold in, from the item side alone."""
    nobody = np.zeros((0, item_factors.shape[1]), dtype=np.float32)
    return ImplicitALS(nobody, item_factors, config.ials_unobserved_weight, config.ials_reg, 1.0)


def index_factors(model: ImplicitALS, k: int) -> VideoIndex:
    """An index over the factors of videos that somebody watched through, as wide as recall asks.

    The queries that set its width are users of the training; without any (a loaded model) it is
    exact.
    """
    watched = np.flatnonzero(np.abs(model.item_factors).sum(axis=1) > 0).astype(np.int32)
    vectors = np.ascontiguousarray(model.item_factors[watched], dtype=np.float32)
    queries = model.user_factors[np.abs(model.user_factors).sum(axis=1) > 0][-TUNING_USERS:]
    if not len(queries) or len(watched) < SMALL:
        return VideoIndex("flat", 0, vectors, watched)
    return choose_index("ivf", vectors, watched, np.ascontiguousarray(queries), k)[0]


@numba.njit(cache=True)
def _sort_rows(indptr, indices, data, video, similarity):  # type: ignore[no-untyped-def]
    """Rows of a csr into padded arrays, largest first, without the diagonal and without zeros."""
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        order = np.argsort(-data[begin:end], kind="mergesort")
        n = 0
        for place in order:
            column = indices[begin + place]
            if column != row and data[begin + place] > 0 and n < video.shape[1]:
                video[row, n] = column
                similarity[row, n] = data[begin + place]
                n += 1


@numba.njit(cache=True, nogil=True)
def neighbour_votes(  # type: ignore[no-untyped-def]
    recent, decay, video, similarity, votes, touched, binned, target
):
    """Fill ``target`` i32[B, M] with the videos that recent long views vote for, best first.

    The vote of the h-th newest view weighs decay^h. Sorting is by counting into BINS steps of the
    largest vote: linear in what was touched, and close enough to order a list that is cut anyway.

    Args:
        recent: i32[B, H], newest first, -1 padded.
        decay: Of a vote with every newer view.
        video: i32[V, K].
        similarity: f32[V, K].
        votes: f32[V] of zeros; zero again afterwards.
        touched: i32[at least H K], scratch.
        binned: i32[BINS + 1], scratch.
        target: i32[B, M], filled with -1 beforehand.
    """
    for b in range(len(recent)):
        n, top, weight = 0, np.float32(0.0), np.float32(1.0)
        for h in range(recent.shape[1]):
            source = recent[b, h]
            if source < 0:
                break
            for k in range(video.shape[1]):
                v = video[source, k]
                if v < 0:
                    break
                if votes[v] == 0.0:
                    touched[n] = v
                    n += 1
                votes[v] += weight * similarity[source, k]
                top = max(top, votes[v])
            weight *= decay
        if n == 0:
            continue
        binned[:] = 0
        step = (BINS - 1) / top
        for i in range(n):
            binned[BINS - int(votes[touched[i]] * step)] += 1
        for bin_ in range(1, BINS + 1):
            binned[bin_] += binned[bin_ - 1]
        for i in range(n - 1, -1, -1):  # backwards: what the newest view named comes first
            v = touched[i]
            slot = BINS - int(votes[v] * step)
            binned[slot] -= 1
            if binned[slot] < target.shape[1]:
                target[b, binned[slot]] = v
            votes[v] = 0.0
