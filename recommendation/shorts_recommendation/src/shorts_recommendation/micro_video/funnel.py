"""The funnel on the micro-videos: sources, their union, a ranker of trees, and the list.

In: ``Sources`` (scorers fitted on train rows), users. Out: candidates i32[B, C], features
f32[B, C, F], and a ``Scorer`` that ranks the union.

Labels are one hidden video a user that the sources' training did not see. Two kinds, never mixed
up in a table:

- *held-out train*: one train row of every ordinary account with two or more is hidden, the sources
  are fitted again without it, the trees learn from it. Comparable with published figures, which
  know nothing but train rows.
- *validation*: the trees learn from the validation pairs, and popularity among them is a feature.
  Not comparable: no published model was given these pairs. Counts are made out of fold: a user's
  own pair would otherwise stand in the count of its video and nowhere else.

Features: the score of each source and its rank within the source (quota + 1 where the source did
not propose the video), cosine with the history in image and in audio, popularity of three kinds,
history length, popularity of the history.

Legend: B users, C candidates, S sources, F features, V videos, Q labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
from scipy import sparse

from ml_platform.evaluation.top_k import top_k
from shorts_recommendation.micro_video.protocol import BLOCK, Scorer
from shorts_recommendation.micro_video.scorers import content_knn
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Queries, Split

OUTSIDE = -1e4
"""Score of a video that no source proposed: below every margin of the trees."""


@dataclass(frozen=True)
class Sources:
    """Scorers by name, the histories that they read, and what else the features need.

    Attributes:
        scorers: Name to scorer; all fitted on ``history``'s rows only.
        history: csr f32[U, V]; its rows are masked.
        split: For content and popularity.
        recent: f64[V] or None: popularity among the validation pairs.
    """

    scorers: Mapping[str, Scorer]
    history: sparse.csr_matrix
    split: Split
    recent: np.ndarray | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the F features, in order."""
        of_sources = [f"{kind}_{name}" for name in self.scorers for kind in ("score", "rank")]
        rest = ["image", "audio", "popularity", "light_popularity", "history", "history_popularity"]
        return (*of_sources, *rest, *(["recent_popularity"] if self.recent is not None else []))


@dataclass(frozen=True)
class Proposals:
    """What the sources say of B users, scored once.

    Attributes:
        scores: f32[B, V] of each source.
        lists: i32[B, quota] of each source, best first, seen videos left out.
        videos: i32[B, C], the union, ascending, -1 at the end.
    """

    scores: Mapping[str, np.ndarray]
    lists: Mapping[str, np.ndarray]
    videos: np.ndarray


def propose(sources: Sources, users: np.ndarray, quota: int) -> Proposals:
    """The best ``quota`` unseen videos of each source, and their union."""
    scores = {name: scorer(users) for name, scorer in sources.scorers.items()}
    rows, seen = sources.history[users].nonzero()
    lists = {name: top_k(one, quota, seen=(rows, seen))[0] for name, one in scores.items()}
    return Proposals(scores, lists, union(list(lists.values())))


def union(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Each row's videos, each once, ascending, i32[B, C], padded with -1 at the end.

    C is the longest union of the block.
    """
    joined = np.sort(np.concatenate(lists, axis=1), axis=1)
    repeated = np.zeros(joined.shape, dtype=bool)
    repeated[:, 1:] = joined[:, 1:] == joined[:, :-1]
    last = np.iinfo(joined.dtype).max
    pushed = np.sort(np.where(repeated | (joined < 0), last, joined), axis=1)
    width = int((pushed < last).sum(axis=1).max(initial=0))
    return np.where(pushed == last, -1, pushed)[:, :width]


def features(sources: Sources, users: np.ndarray, proposed: Proposals) -> np.ndarray:
    """f32[B, C, F] of the candidates; places of padding hold what video 0 would have."""
    videos = np.maximum(proposed.videos, 0)
    at = (np.arange(len(users))[:, None], videos)
    split, history = sources.split, sources.history[users]
    columns = []
    for name, scores in proposed.scores.items():
        columns += [scores[at], _rank_within(proposed.lists[name], videos, split.n_videos)]
    for kind in (split.image, split.audio):
        columns.append(content_knn(sources.history, kind)(users)[at])
    length = np.asarray(history.sum(axis=1)).reshape(-1, 1)
    light = split.popularity(light_only=True)
    of_history = (history @ light).reshape(-1, 1) / np.maximum(length, 1.0)
    columns += [split.popularity(light_only=False)[videos], light[videos]]
    columns += [np.broadcast_to(part, videos.shape) for part in (length, of_history)]
    if sources.recent is not None:
        columns.append(sources.recent[videos])
    return np.stack(columns, axis=2).astype(np.float32)


def _rank_within(proposed: np.ndarray, videos: np.ndarray, n_videos: int) -> np.ndarray:
    """The place of each candidate in a source's list, from 1; the list's length + 1 outside it."""
    rank = np.full((len(proposed), n_videos + 1), proposed.shape[1] + 1, dtype=np.float32)
    np.put_along_axis(
        rank,
        np.where(proposed < 0, n_videos, proposed).astype(np.int64),
        np.arange(1, proposed.shape[1] + 1, dtype=np.float32)[None],
        axis=1,
    )
    return np.take_along_axis(rank, videos.astype(np.int64), axis=1)


def _with_drawn_negatives(
    videos: np.ndarray, hit: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """bool[B, C]: the hit and up to ``count`` drawn others, in rows that have a hit."""
    chance = np.where(hit, -1.0, np.where(videos < 0, 2.0, rng.random(videos.shape)))
    place = chance.argsort(axis=1).argsort(axis=1)
    return np.asarray((place <= count) & (videos >= 0) & hit.any(axis=1, keepdims=True))


@dataclass(frozen=True)
class Labelled:
    """Rows to learn from: features f32[N, F], hit bool[N]."""

    features: np.ndarray
    hit: np.ndarray


def labelled_rows(
    sources: Sources, labels: Queries, config: MicroVideoConfig, rng: np.random.Generator
) -> Labelled:
    """Rows of the users whose hidden video is among the candidates, with drawn negatives.

    A user whose video no source proposed teaches nothing about order, and is left out.
    """
    parts, hits = [], []
    for begin in range(0, len(labels), BLOCK):
        rows = slice(begin, begin + BLOCK)
        users = labels.user_idx[rows]
        proposed = propose(sources, users, config.source_quota)
        hit = proposed.videos == labels.video_idx[rows, None]
        kept = _with_drawn_negatives(proposed.videos, hit, config.negatives, rng)
        parts.append(features(sources, users, proposed)[kept])
        hits.append(hit[kept])
    return Labelled(np.concatenate(parts), np.concatenate(hits))


def fit_trees(rows: Labelled, config: MicroVideoConfig, leaves: int, seed: int) -> lightgbm.Booster:
    """A classifier "is this the hidden video?"; one positive a user, so its order is a ranking.

    Raises:
        ValueError: If no label was reached by any source.
    """
    if not rows.hit.any():
        raise ValueError("no hidden video is among the candidates: raise source_quota")
    parameters = {
        "objective": "binary",
        "learning_rate": 0.05,
        "num_leaves": leaves,
        "min_data_in_leaf": config.min_leaf,
        "lambda_l2": 10.0,
        "feature_fraction": 0.8,
        "seed": seed,
        "deterministic": True,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lightgbm.Dataset(rows.features, rows.hit.astype(np.float32), free_raw_data=True)
    return lightgbm.train(parameters, data, num_boost_round=config.trees)


def funnel_scorers(
    sources: Sources, rankers: Sequence[lightgbm.Booster], config: MicroVideoConfig
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Users to one score matrix f32[B, V] a ranker; the features are computed once for all.

    A score is the margin of the trees for a candidate, ``OUTSIDE`` for every other video.
    """

    def score(users: np.ndarray) -> list[np.ndarray]:
        proposed = propose(sources, users, config.source_quota)
        real = proposed.videos >= 0
        rows, videos = np.nonzero(real)[0], proposed.videos[real]
        table = features(sources, users, proposed)[real]
        found = []
        for trees in rankers:
            scores = np.full((len(users), sources.split.n_videos), OUTSIDE, dtype=np.float32)
            scores[rows, videos] = trees.predict(table, raw_score=True, num_threads=1)
            found.append(scores)
        return found

    return score


def hide_one(split: Split, rng: np.random.Generator) -> tuple[sparse.csr_matrix, Queries]:
    """One drawn train row of every ordinary account with at least two, and train without them."""
    train = split.train
    lengths = np.diff(train.indptr)
    users = np.flatnonzero(~split.heavy & (lengths >= 2))
    places = train.indptr[users] + rng.integers(0, lengths[users])
    kept = np.ones(train.nnz, dtype=bool)
    kept[places] = False
    owner = np.repeat(np.arange(train.shape[0]), lengths)[kept]
    rest = sparse.csr_matrix((train.data[kept], (owner, train.indices[kept])), shape=train.shape)
    return rest, Queries(users.astype(np.int32), train.indices[places].astype(np.int32))
