"""What the two halves of the study share: rows, the walk's knobs, the funnel's sources, lists.

In: scorers and a ``Split``. Out: ``Row``s, gathered in a ``Study``.

Legend: U users, V videos, Q test users, k list length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from shorts_recommendation.micro_video import scorers
from shorts_recommendation.micro_video.funnel import Labelled, Sources, fit_trees, funnel_scorers
from shorts_recommendation.micro_video.graph_walk import Walk, content_graph, walk_scorer
from shorts_recommendation.micro_video.protocol import (
    BLOCK,
    METRICS,
    Measured,
    Scorer,
    measure,
    recommend,
)
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Queries, Split


@dataclass(frozen=True)
class Row:
    """One model on the test users.

    Attributes:
        values: "recall", "ndcg", "precision": f64[Q], mean over seeds.
        lists: i32[Q, k] of the first seed.
        protocol: "published" or "recent".
        setting: What won on the validation users, in words; "" where nothing was chosen.
        tried: Settings tried there.
        seeds: Fits that the values are a mean of.
        validation_recall: Of the winner, on the users who chose it; None where nothing was chosen.
        seconds: Fitting every setting and measuring.
    """

    values: dict[str, np.ndarray]
    lists: np.ndarray
    protocol: str
    setting: str
    tried: int
    seeds: int
    validation_recall: float | None
    seconds: float


@dataclass
class Study:
    """All rows by name, the re-ranked lists by MMR's weight, and the split they stand on."""

    split: Split
    config: MicroVideoConfig
    rows: dict[str, Row] = field(default_factory=dict)
    reranked: dict[float, tuple[Measured, np.ndarray]] = field(default_factory=dict)
    """Weight to (metrics, intra-list distance f64[Q]); 1.0 is the ranker's order."""

    def difference(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """Recall of two rows, user by user, for a paired interval."""
        return self.rows[first].values["recall"], self.rows[second].values["recall"]


@dataclass(frozen=True)
class WalkSettings:
    """Knobs of the walk that won: hops, decay, content and audio weight, backoff, whose popularity.

    ``audio`` is None where content has no weight.
    """

    hops: int
    decay: float
    content: float
    backoff: float
    light_only: bool = True
    audio: float | None = None

    def __str__(self) -> str:
        whose = "ordinary" if self.light_only else "all"
        heard = "" if self.audio is None else f" audio={self.audio:g}"
        return (
            f"hops={self.hops} decay={self.decay:g} content={self.content:g}{heard} "
            f"backoff={self.backoff:g} popularity={whose}"
        )


@dataclass(frozen=True)
class Graphs:
    """What the walk goes on; made once, whatever the knobs.

    Attributes:
        walk: On the train rows.
        content: Weight of audio to csr f32[V, V], the frozen content graph.
    """

    walk: Walk
    content: Mapping[float, sparse.csr_matrix]

    @classmethod
    def of(cls, split: Split, config: MicroVideoConfig) -> Graphs:
        """The graphs of a split, one content graph a weight of audio."""
        content = {
            weight: content_graph(split.with_audio(weight).content, config.content_neighbours)
            for weight in config.audio_weights
        }
        return cls(Walk.on(split.train), content)


def walk_of(split: Split, graphs: Graphs, chosen: WalkSettings) -> Scorer:
    """The walk with these knobs."""
    heard = next(iter(graphs.content)) if chosen.audio is None else chosen.audio
    return walk_scorer(
        graphs.walk,
        graphs.content[heard],
        split.popularity(light_only=chosen.light_only),
        hops=chosen.hops,
        decay=chosen.decay,
        content=chosen.content,
        backoff=chosen.backoff,
    )


def sources_of(split: Split, walk: Scorer, tower: Scorer) -> Sources:
    """The funnel's four sources on a split's train rows."""
    named = {
        "walk": walk,
        "two_tower": tower,
        "content": scorers.content_knn(split.train, split.content),
        "popularity": scorers.constant(split.popularity(light_only=True)),
    }
    return Sources(named, split.train, split)


def ranked_lists(
    sources: Sources, rows: Labelled, leaves: int, study: Study, users: np.ndarray
) -> list[np.ndarray]:
    """Lists i32[Q, k] of one ranker a seed."""
    rankers = [fit_trees(rows, study.config, leaves, seed) for seed in study.config.seeds]
    return many_lists(funnel_scorers(sources, rankers, study.config), study, users)


def many_lists(
    score: Callable[[np.ndarray], list[np.ndarray]], study: Study, users: np.ndarray
) -> list[np.ndarray]:
    """Lists i32[Q, k] of several rankers that share their features."""
    blocks = []
    for begin in range(0, len(users), BLOCK):
        block = users[begin : begin + BLOCK]
        found = score(block)
        blocks.append(
            [recommend(fixed(one), study.split.train, block, study.config.k) for one in found]
        )
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def fixed(scores: np.ndarray) -> Scorer:
    """A scorer of users that were scored already, f32[B, V]; asks no second time."""
    return lambda _: scores


def plus(scorer: Scorer, base: np.ndarray) -> Scorer:
    """A scorer with a constant f64[V] added for everybody."""
    row = base.astype(np.float32)
    return lambda users: scorer(users) + row


def on_test(study: Study, scorer: Scorer) -> Measured:
    """The one question to the test users (in development: to those who stand in for them)."""
    return measure(scorer, study.split.train, study.split.test, study.config.k)


def means_of(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Each metric f64[Q], mean over the fits."""
    return {
        metric: np.mean([getattr(one, metric) for one in measured], axis=0) for metric in METRICS
    }


@contextmanager
def clock() -> Iterator[Callable[[], float]]:
    """Gives a function that says how many seconds the block took."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - started
    ended.append(time.perf_counter())


def recent_share(pairs: Queries, n_videos: int) -> np.ndarray:
    """Share of the pairs that each video has, f64[V]."""
    return np.bincount(pairs.video_idx, minlength=n_videos) / max(1, len(pairs))
