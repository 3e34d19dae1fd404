"""The one request path: retrieve -> pre-rank -> rank -> re-rank, for B requests at once.

In: a ``RequestBatch`` and a ``CounterSnapshot``. Out: slates. Evaluation, the simulated experiments
and the service all call these methods, so offline and online cannot differ.

    1,000 candidates   five sources, merged by quota (retrieval/)
      150              pre-ranker, distilled from the ranker
       60              ranker: four heads, one value
       10              re-ranking for a sequence of single videos

The history is encoded once and serves every candidate of the pre-ranker and the ranker; a caller
that keeps the encoding between two events passes it in.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from shorts_recommendation.config import Config
from shorts_recommendation.content_projection import project
from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.features import cross_features
from shorts_recommendation.items import ItemTable, make_items
from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.new_video import NewVideo, SpareRows, check_new, extended
from shorts_recommendation.ranking.heads import Ranker
from shorts_recommendation.ranking.prerank import PreRanker
from shorts_recommendation.ranking.transformer import TransformerRanker
from shorts_recommendation.ranking.value import value
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.reranking import (
    RerankItems,
    Slates,
    rerank,
    select_pool,
    warm_up,
    with_budget,
)
from shorts_recommendation.retrieval.candidates import SOURCES, Candidates
from shorts_recommendation.retrieval.sources import Retriever
from shorts_recommendation.slates import Ranked, Slate, StageClock, as_slates
from shorts_recommendation.state import UserStates

AT_REQUEST_TIME = {"ranking", "reranking", "retrieval", "serving", "evaluation"}
"""Stages whose settings are read with each request."""


class Recommender:
    """A loaded bundle. Not thread-safe: one thread computes.

    Args:
        version: Name of the bundle.
        config: With which it was trained; ``with_config`` changes what is read at request time.
        catalogue: Grows with uploads.
        users: The people known at training.
        items: The catalogue as models read it.
        retriever: The sources.
        encoder: The transformer; its encoding feeds the pre-ranker too.
        rankers: "transformer" and "lightgbm"; ``config.ranking.ranker`` chooses.
        preranker: Distilled from the transformer.
        basis: f32[768, D], projection for pairs of videos within a slate.
        states: After the log; copied for each caller.
        counters: After the log; copied for each caller.
        data_end: Unix seconds, end of the log.
    """

    def __init__(
        self,
        *,
        version: str,
        config: Config,
        catalogue: Catalogue,
        users: Users,
        items: ItemTable,
        retriever: Retriever,
        encoder: TransformerRanker,
        rankers: dict[str, Ranker],
        preranker: PreRanker,
        basis: np.ndarray,
        states: UserStates,
        counters: VideoCounters,
        data_end: int,
    ) -> None:
        self.version, self.config, self.data_end = version, config, data_end
        self.catalogue, self.users, self.items = catalogue, users, items
        self.retriever, self.encoder, self.rankers = retriever, encoder, rankers
        self.preranker, self.basis = preranker, basis
        self.vectors = project(catalogue.content, basis)
        self._states, self._counters = states, counters
        self._rng = np.random.default_rng(config.seed)
        self._prepared: CounterSnapshot | None = None
        self._spare = SpareRows()

    def with_config(self, **stages: Any) -> Recommender:
        """The same models with other settings, as ``with_config(reranking=...)``.

        A view is independent: lists, budgets and uploads of one are not seen by another.

        Raises:
            ValueError: For a stage that the models were trained with.
        """
        trained = sorted(set(stages) - AT_REQUEST_TIME)
        if trained:
            raise ValueError(
                f"{', '.join(trained)} cannot change after training; "
                f"{', '.join(sorted(AT_REQUEST_TIME))} can"
            )
        view = copy.copy(self)
        view.config = self.config.model_copy(update=stages)
        view.retriever = self.retriever.resized(view.config.retrieval)
        view.encoder = copy.copy(self.encoder)
        view.rankers = {**self.rankers, "transformer": view.encoder}
        view.preranker = copy.copy(self.preranker)
        view.preranker.teacher = view.encoder
        view._rng = np.random.default_rng(self.config.seed)
        view._prepared = None
        view._spare = SpareRows()
        return view

    # --- the funnel ---

    def encode(self, batch: RequestBatch) -> np.ndarray:
        """Histories as f32[B, d]; changes only with an event."""
        return self.encoder.encode(batch)

    def prepare(self, snapshot: CounterSnapshot) -> None:
        """Makes what depends on the moment alone: lists, the fresh pool, the pre-ranker's bias.

        Free for the snapshot of the last call. A service calls it outside the request path.

        Raises:
            ValueError: If the counters lack uploads that the catalogue has.
        """
        if len(snapshot.exposures) != len(self.catalogue):
            raise ValueError(
                f"counters of {len(snapshot.exposures)} videos, {len(self.catalogue)} in the "
                "catalogue: call counters.grow(len(catalogue)) after add_video"
            )
        self.retriever.prepare(snapshot)
        if self._prepared is not snapshot:
            self.preranker.refresh(snapshot.features)
            self._prepared = snapshot

    def retrieve(self, batch: RequestBatch, snapshot: CounterSnapshot) -> Candidates:
        """Unseen candidates i32[B, 1000] that exist now."""
        return self.retriever.propose(batch, snapshot)

    def prerank(self, candidates: Candidates, encoded: np.ndarray, keep: int) -> np.ndarray:
        """Columns of the candidates that the ranker sees, i64[B, keep], best first."""
        scores = self.preranker.score(encoded, candidates.videos)
        scores = np.where(candidates.videos >= 0, scores, -np.inf)
        keep = min(keep, scores.shape[1])
        best = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)

    def rank(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        videos: np.ndarray,
        encoded: np.ndarray,
        sources: np.ndarray | None = None,
    ) -> Ranked:
        """Heads and value of videos i32[B, P], -1 padded."""
        cross = cross_features(batch, videos, snapshot, self.items)
        ranker = self.rankers[self.config.ranking.ranker]
        heads = ranker.score(encoded, batch.user, batch.context, videos, cross)
        worth = value(heads, self.config.ranking.value_weights)
        if sources is None:
            sources = np.zeros(videos.shape, dtype=np.uint8)
        worth = np.where(videos >= 0, worth, -np.inf).astype(np.float32)
        return Ranked(videos, worth, heads, sources)

    def rerank(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        ranked: Ranked,
        k: int,
        *,
        recent: np.ndarray | None = None,
    ) -> tuple[RerankItems, Slates, np.ndarray]:
        """Slates of k, from the best of the ranked; also their pools and the pools' columns.

        Args:
            batch: The requests.
            snapshot: For the exposure budget of uploads.
            ranked: From ``rank``.
            k: Videos wanted.
            recent: i32[B, R], -1 padded: what the client still holds, oldest first. It counts as
                shown and is not shown again.
        """
        config = self.config.reranking
        videos = ranked.videos
        if recent is not None and recent.size:
            held = (videos[:, :, None] == recent[:, None, :]).any(axis=2)
            videos = np.where(held, -1, videos)
        known = np.maximum(videos, 0)
        fresh = self._with_budget(known, snapshot, batch.now_s) & (videos >= 0)
        pool = select_pool(videos, ranked.value, fresh, config)
        chosen = np.take_along_axis(videos, pool, axis=1)
        known = np.maximum(chosen, 0)
        shown = self._shown(batch, recent, config.memory)
        shown_known = np.maximum(shown, 0)
        items = RerankItems(
            videos=chosen,
            value=np.take_along_axis(ranked.value, pool, axis=1),
            vectors=self.vectors[known],
            creator=self.items.creator[known],
            main_tag=self.items.tags[known, 0],
            fresh=np.take_along_axis(fresh, pool, axis=1),
            recent_vectors=self.vectors[shown_known] * (shown >= 0)[..., None],
            recent_creator=np.where(shown >= 0, self.items.creator[shown_known], -1),
            recent_tag=np.where(shown >= 0, self.items.tags[shown_known, 0], -1),
        )
        return items, rerank(items, config, self._rng, length=k), pool

    def recommend(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        k: int,
        *,
        recent: np.ndarray | None = None,
        encoded: np.ndarray | None = None,
    ) -> list[Slate]:
        """The next k videos of B requests.

        Args:
            batch: What is known of the users.
            snapshot: The published counters.
            k: Videos wanted.
            recent: i32[B, R], -1 padded: videos that the client still holds.
            encoded: f32[B, d] of ``encode``, where the caller has kept it.
        """
        clock = StageClock()
        self.prepare(snapshot)
        clock.lap("prepare")
        if encoded is None:
            encoded = self.encode(batch)
        clock.lap("encode")
        candidates = self.retrieve(batch, snapshot)
        clock.lap("retrieve")
        kept = self.prerank(candidates, encoded, self.config.ranking.prerank_keep)
        videos = np.take_along_axis(candidates.videos, kept, axis=1)
        sources = np.take_along_axis(candidates.sources, kept, axis=1)
        clock.lap("prerank")
        ranked = self.rank(batch, snapshot, videos, encoded, sources)
        clock.lap("rank")
        items, slates, pool = self.rerank(batch, snapshot, ranked, k, recent=recent)
        clock.lap("rerank")
        return as_slates(items, slates, pool, ranked, clock.ms)

    def count_exposures(self, videos: np.ndarray) -> None:
        """What was shown since the snapshot, i32[n]: the counters see it at the next grid point.

        Until then the uploads' budget must not be overspent. Shown, not computed: most of a
        prefetched slate is never played.
        """
        self.retriever.count_exposures(videos)

    # --- what a caller keeps ---

    def new_states(self, capacity: int | None = None) -> UserStates:
        """States after the log, rows 0..U-1 of the known users, empty ones after them."""
        return self._states.copy(capacity or len(self.users))

    def new_counters(self) -> VideoCounters:
        """The counters after the log, an object of the caller's own."""
        return self._counters.copy()

    def source_names(self) -> Sequence[str]:
        """Names of the bits of ``Slate.sources``."""
        return SOURCES

    def add_video(
        self,
        *,
        video_id: int,
        creator_idx: int,
        tags: np.ndarray,
        language: int,
        duration_s: float,
        content: np.ndarray,
        upload_s: int,
    ) -> int:
        """Takes an upload into catalogue, index and item matrices; returns its ``video_idx``.

        The caller's states and counters follow: ``states.items = recommender.items`` and
        ``counters.grow(len(recommender.catalogue))``.

        Raises:
            ValueError: See ``check_new``.
        """
        video = NewVideo(video_id, creator_idx, tags, language, duration_s, content, upload_s)
        return self.add_videos([video])[0]

    def add_videos(self, videos: Sequence[NewVideo]) -> list[int]:
        """Takes several uploads at once: lists and tables are made anew once for all of them.

        Returns:
            Their ``video_idx``.

        Raises:
            ValueError: See ``check_new``; nothing has changed then.
        """
        if not videos:
            return []
        check_new(self.catalogue, videos)
        first = len(self.catalogue)
        self.catalogue = extended(self.catalogue, videos, self._spare)
        self.items = make_items(self.catalogue, self.items.projection, base=self.items)
        vectors = project(self.catalogue.content[first:], self.basis)
        self.vectors = self._spare.append("vectors", self.vectors, vectors)
        self.retriever.add_videos(self.catalogue)
        self.encoder.add_videos(self.catalogue)  # the trees read no item table
        self.preranker.add_videos(self.catalogue)
        self._prepared = None
        return list(range(first, first + len(videos)))

    def reseed(self, stream: int) -> None:
        """Draws of its own for each process that was forked from one; exploration uses them."""
        self._rng = np.random.default_rng([self.config.seed, stream, time.time_ns()])

    def warm_up(self) -> None:
        """Touches every stage, so that the first request is not the slowest."""
        warm_up(self.config.reranking)
        now = np.full(2, self.data_end, dtype=np.int64)
        batch = self._states.batch(np.arange(2, dtype=np.int32), now)
        for size in (1, 2):
            self.recommend(batch.take(slice(0, size)), self._counters.snapshot, 2)

    # --- parts ---

    def _with_budget(
        self, videos: np.ndarray, snapshot: CounterSnapshot, now_s: np.ndarray
    ) -> np.ndarray:
        retrieval = self.config.retrieval
        return with_budget(
            self.items.upload_s[videos],
            snapshot.exposures[videos],
            now_s[:, None],
            fresh_hours=retrieval.fresh_hours,
            fresh_exposures=retrieval.fresh_exposures,
        )

    def _shown(self, batch: RequestBatch, recent: np.ndarray | None, memory: int) -> np.ndarray:
        """i32[B, R], newest first: what the client holds, then this session's events; -1 padded."""
        live = batch.now_s[:, None] - batch.history_time_s <= self.config.state.session_gap_s
        # A gap inside the history ends the session for everything before it.
        gaps = np.diff(batch.history_time_s, axis=1) > self.config.state.session_gap_s
        after = np.cumsum(gaps[:, ::-1], axis=1)[:, ::-1] == 0
        live[:, :-1] &= after
        live &= live[:, -1:]
        shown = np.where(live & (batch.history >= 0), batch.history, -1)[:, ::-1][:, :memory]
        if recent is None or not recent.size:
            return shown
        return np.concatenate([recent[:, ::-1], shown], axis=1)[:, :memory]


def with_ranker(recommender: Recommender, name: str) -> Recommender:
    """The same funnel with another ranker.

    Raises:
        ValueError: If the bundle has no such ranker.
    """
    if name not in recommender.rankers:
        raise ValueError(f"no ranker {name!r}; the bundle has {', '.join(recommender.rankers)}")
    ranking = recommender.config.ranking.model_copy(update={"ranker": name})
    return recommender.with_config(ranking=ranking)
