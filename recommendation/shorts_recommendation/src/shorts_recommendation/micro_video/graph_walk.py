"""A walk on the watch graph, softened by a content graph, falling back on popularity.

In: train csr f32[U, V], a content graph csr f32[V, V], a popularity f64[V]. Out: a ``Scorer``.

    x_0 = history, summing to 1;   x_h = x_(h-1) D_V^-1 X' D_U^-1 X     one hop: video, user, video
    s   = sum over h = 1..H of decay^(h-1) x_h
    score = s + content * s K + backoff * popularity

The first hop is the three-step walk of Cooper, Lee, Radzik, Siantos, "Random Walks in Recommender
Systems: Exact Computation and Simulations", WWW 2014 companion; more hops reach further where a
user has one or two videos to start from. K is a frozen kNN graph of content, rows summing to 1, as
in Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
Recommendation", ACM MM 2023; there it smooths trained embeddings, here scores. The constant is a
jump to any video in proportion to popularity, PageRank's teleport: it ranks what no walk reaches.

Nothing is trained. A hop of B users costs 2 B nnz(X), without the item-item product, which heavy
accounts would fill: an account with 600 rows alone makes 360,000 entries.

Legend: U users, V videos, B users of a block, H hops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from shorts_recommendation.micro_video.protocol import Scorer


@dataclass(frozen=True)
class Walk:
    """Both halves of a hop, transposed so that a block of users stands in columns.

    Attributes:
        to_users: csr f32[U, V], from a video to those who watched it.
        to_videos: csr f32[V, U], from a user to what they watched.
        history: csr f32[U, V], where walks start: what a user watched.
    """

    to_users: sparse.csr_matrix
    to_videos: sparse.csr_matrix
    history: sparse.csr_matrix

    @classmethod
    def on(cls, train: sparse.csr_matrix, history: sparse.csr_matrix | None = None) -> Walk:
        """The walk on a train matrix; histories may be another matrix than the graph."""
        per_video = np.asarray(train.sum(axis=0)).ravel()
        per_user = np.asarray(train.sum(axis=1)).ravel()
        to_users = train @ sparse.diags_array(_inverse(per_video))
        to_videos = train.T @ sparse.diags_array(_inverse(per_user))
        start = train if history is None else history
        return cls(to_users.tocsr(), to_videos.tocsr(), start)

    def hops(self, users: np.ndarray, count: int) -> list[np.ndarray]:
        """x_1 to x_count, each f32[V, B]."""
        rows = self.history[users]
        share = sparse.diags_array(_inverse(np.asarray(rows.sum(axis=1)).ravel()))
        x = (share @ rows).T.toarray()
        found = []
        for _ in range(count):
            x = np.asarray(self.to_videos @ (self.to_users @ x), dtype=np.float32)
            found.append(x)
        return found


def content_graph(features: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """The nearest videos by content, csr f32[V, V], rows summing to 1, no video its own neighbour.

    Args:
        features: Unit rows f32[V, D].
        neighbours: Kept for each video; only those with a positive cosine count.

    Raises:
        ValueError: If ``neighbours`` does not leave at least one video out.
    """
    n_videos = len(features)
    if not 1 <= neighbours < n_videos:
        raise ValueError(f"neighbours must lie in 1..{n_videos - 1}, got {neighbours}")
    cosine = features @ features.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argpartition(-cosine, neighbours - 1, axis=1)[:, :neighbours]
    weight = np.maximum(np.take_along_axis(cosine, nearest, axis=1), 0.0)
    ptr = np.arange(0, n_videos * neighbours + 1, neighbours)
    graph = sparse.csr_matrix((weight.ravel(), nearest.ravel(), ptr), shape=(n_videos, n_videos))
    total = np.asarray(graph.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags_array(_inverse(total)) @ graph, dtype=np.float32)


def walk_scorer(
    walk: Walk,
    graph: sparse.csr_matrix,
    popularity: np.ndarray,
    *,
    hops: int,
    decay: float,
    content: float,
    backoff: float,
) -> Scorer:
    """The score of the module docstring; ``content`` 0 leaves the content graph out."""
    spread = graph.T.tocsr()
    base = (backoff * popularity).astype(np.float32)

    def score(users: np.ndarray) -> np.ndarray:
        found = walk.hops(users, hops)
        total = found[0].copy()
        for power, x in enumerate(found[1:], start=1):
            total += np.float32(decay**power) * x
        if content:
            total += np.float32(content) * (spread @ total)
        return np.asarray(total.T + base)

    return score


def _inverse(values: np.ndarray) -> np.ndarray:
    """1 / value, 0 where the value is 0: a walk never enters there."""
    return np.divide(1.0, values, out=np.zeros(len(values), np.float32), where=values > 0)
