"""Recall: five sources and their merge, for a micro-batch of requests.

In: a ``RequestBatch`` and the ``CounterSnapshot`` of the moment. Out: ``Candidates``. Everything
that does not depend on the user is made once a snapshot (``prepare``: trending and tag lists, the
fresh pool, uploads into the index); everything that depends on the catalogue once a model.

A request then costs: a user vector, one index search, one pass over the neighbours of the last long
views, one product with the fresh pool, one merge. ``profile.py`` measures each.

Not thread-safe: scratch arrays are the retriever's own. One retriever a process, or a lock.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ml_algorithms.matrix_factorization.ials import ImplicitALS
from shorts_recommendation.config import Config, RetrievalConfig
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.log import Catalogue
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.candidates import SOURCES, Candidates
from shorts_recommendation.retrieval.collaborative import (
    BINS,
    FoldIn,
    Neighbours,
    factors_of,
    neighbour_votes,
)
from shorts_recommendation.retrieval.encoder import Encoder, mapped
from shorts_recommendation.retrieval.fresh import FreshPool, make_pool
from shorts_recommendation.retrieval.index import Measured, VideoIndex
from shorts_recommendation.retrieval.lists import SnapshotLists, make_lists
from shorts_recommendation.retrieval.merge import merge, shares, similarities
from shorts_recommendation.retrieval.training import TrainedTower

TAGS = SOURCES.index("tags")


__all__ = ["SOURCES", "Candidates", "Retriever", "best_tags"]


@dataclass
class Retriever:
    """A fitted recall stage.

    Attributes:
        catalogue: All videos known; those uploaded later than a request are never proposed.
        config: Quotas and lengths.
        encoder: Both towers, for serving.
        vectors: f32[V, D], zero where not yet encoded.
        index: Over the videos encoded so far.
        neighbours: Item-item lists, or None.
        factors: iALS, or None; exactly one of the two is there.
        factor_index: Over the iALS factors of videos.
        n_languages: G.
        foreign: What a video in another language counts in lists.
        indexed_until_s: Videos uploaded up to here are in the index.
        measured: What the choice of the index rests on.
    """

    catalogue: Catalogue
    config: RetrievalConfig
    encoder: Encoder
    vectors: np.ndarray
    index: VideoIndex
    neighbours: Neighbours | None
    factors: ImplicitALS | None
    factor_index: VideoIndex | None
    n_languages: int
    foreign: float
    indexed_until_s: int
    measured: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Scratch arrays and what is derived."""
        if (self.neighbours is None) == (self.factors is None):
            raise ValueError("give item-item neighbours or iALS factors, not both and not neither")
        self._shares = shares(self.config.quotas)
        self._fold_in = None if self.factors is None else FoldIn(self.factors)
        self._lists: SnapshotLists | None = None
        self._prepared: CounterSnapshot | None = None
        self._pool: FreshPool | None = None
        self._make_scratch()

    def _make_scratch(self) -> None:
        n = len(self.catalogue)
        self._upload_s = self.catalogue.upload_s.astype(np.int64)
        self._stamp, self._place = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int32)
        self._next_stamp = 1
        self._votes = np.zeros(n, dtype=np.float32)
        self._bins = np.zeros(BINS + 1, dtype=np.int32)
        self._touched = np.zeros(0, dtype=np.int32)

    # --- once a snapshot ---

    def prepare(self, snapshot: CounterSnapshot) -> None:
        """Make what depends on the moment alone; does nothing for the snapshot of the last call.

        ``propose`` calls it; a service calls it from outside the request path.
        """
        if self._lists is not None and self._prepared is snapshot:
            return
        self._prepared = snapshot
        self.add_uploads(snapshot.as_of_s)
        self._lists = make_lists(
            snapshot,
            self.catalogue,
            self.config,
            n_languages=self.n_languages,
            foreign=self.foreign,
        )
        self._pool = make_pool(snapshot, self.catalogue, self.vectors, self.config)

    def add_uploads(self, now_s: int) -> int:
        """Encode and index what was uploaded up to ``now_s``; returns how many."""
        # By what has no vector and not by time: an upload of the service may carry a time that the
        # index has passed already.
        new = np.flatnonzero((self.catalogue.upload_s <= now_s) & ~self.vectors.any(axis=1))
        if len(new):
            self.vectors[new] = self.encoder.add_uploads(new, self.catalogue)
            self.index.add(self.vectors[new], new)
        self.indexed_until_s = max(self.indexed_until_s, int(now_s))
        return len(new)

    def sync(self, tower: TrainedTower, videos: np.ndarray) -> None:
        """Take over the id rows of these videos from a tower that went on learning."""
        videos = videos[self.vectors[videos].any(axis=1)]  # the others are not in the index yet
        self.vectors[videos] = self.encoder.update(tower, videos)
        self.index.replace(self.vectors[videos], videos)

    def add_videos(self, catalogue: Catalogue) -> None:
        """Take a catalogue with more videos at its end; what was there must be unchanged.

        Raises:
            ValueError: If the new catalogue is shorter.
        """
        more = len(catalogue) - len(self.catalogue)
        if more < 0:
            raise ValueError(f"{len(catalogue)} videos, {len(self.catalogue)} were known")
        self.catalogue = catalogue
        self.encoder.grow(len(catalogue))
        self.vectors = np.pad(self.vectors, ((0, more), (0, 0)))
        if self.neighbours is not None:
            n = self.neighbours
            self.neighbours = Neighbours(
                np.pad(n.video, ((0, more), (0, 0)), constant_values=-1),
                np.pad(n.similarity, ((0, more), (0, 0))),
            )
        self._lists = None
        self._make_scratch()

    # --- a micro-batch ---

    def user_vectors(self, batch: RequestBatch) -> np.ndarray:
        """User vectors f32[B, D]."""
        return self.encoder.user_vectors(batch)

    def propose(
        self, batch: RequestBatch, snapshot: CounterSnapshot, *, only: str | None = None
    ) -> Candidates:
        """The candidates of B requests; see ``merge.py`` for their order.

        Args:
            batch: B requests.
            snapshot: The counters of the moment.
            only: The name of one source: its list alone, without refill from elsewhere.
        """
        self.prepare(snapshot)
        queries = self.user_vectors(batch)
        return self.merged(batch, queries, self.proposals(batch, queries), only=only)

    def resized(self, config: RetrievalConfig) -> Retriever:
        """The same models with other quotas and lengths; uploads to one stay its own."""
        return replace(
            self,
            config=config,
            encoder=copy.deepcopy(self.encoder),
            vectors=self.vectors.copy(),
            index=self.index.copy(),
        )

    def proposals(self, batch: RequestBatch, queries: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sources' lists i32[B, M_s] in the order of SOURCES; the tags' are made in the merge.

        Raises:
            RuntimeError: Before the first ``prepare``.
        """
        if self._lists is None:
            raise RuntimeError("no snapshot yet: call prepare(snapshot) first")
        return (
            self.nearest(queries),
            self.collaborative(batch.recent_positive),
            np.zeros((len(batch), 0), dtype=np.int32),
            self._lists.trending[self._language(batch)],
            self.fresh(batch, queries),
        )

    def nearest(self, queries: np.ndarray) -> np.ndarray:
        """Videos i32[B, M] of largest product with user vectors f32[B, D]."""
        return self.index.search(queries, self.depth)

    @property
    def depth(self) -> int:
        """Neighbours that the index is asked for: all of a catalogue that fits into the list."""
        asked = int(self.config.search_depth * self.config.vector_quota)
        return max(asked, len(self.index)) if len(self.index) <= self.config.n_candidates else asked

    def fresh(self, batch: RequestBatch, queries: np.ndarray) -> np.ndarray:
        """Fresh uploads i32[B, M]."""
        if self._pool is None:
            raise RuntimeError("no snapshot yet: call prepare(snapshot) first")
        return self._pool.propose(batch.user_idx, queries, 2 * self.config.fresh_quota)

    def collaborative(self, recent: np.ndarray) -> np.ndarray:
        """Videos i32[B, M] from the last long views i32[B, H], newest first."""
        length = int(self.config.search_depth * self.config.collaborative_quota)
        if self.neighbours is None:
            return self._by_factors(recent, length)
        if len(self._touched) < recent.shape[1] * self.neighbours.video.shape[1]:
            self._touched = np.zeros(recent.shape[1] * self.neighbours.video.shape[1], np.int32)
        target = np.full((len(recent), length), -1, dtype=np.int32)
        neighbour_votes(
            recent,
            np.float32(self.config.vote_decay),
            self.neighbours.video,
            self.neighbours.similarity,
            self._votes,
            self._touched,
            self._bins,
            target,
        )
        return target

    def merged(
        self,
        batch: RequestBatch,
        queries: np.ndarray,
        lists: tuple[np.ndarray, ...],
        *,
        only: str | None = None,
        share: np.ndarray | None = None,
    ) -> Candidates:
        """One list a request from the sources' lists, in turns ``share`` (merge.shares)."""
        if self._lists is None:
            raise RuntimeError("no snapshot yet: call prepare(snapshot) first")
        rest = self._lists.everything
        shape = (len(batch), self.config.n_candidates)
        videos = np.full(shape, -1, dtype=np.int32)
        sources, similarity = np.zeros(shape, np.uint8), np.empty(shape, np.float32)
        choice, weight = best_tags(batch.tag_profile, self.config.tags_per_user)
        if only is not None:
            empty = np.zeros((len(batch), 0), dtype=np.int32)
            lists = tuple(a if s == only else empty for s, a in zip(SOURCES, lists, strict=True))
            weight, rest = weight * np.float32(only == "tags"), rest[:0]
        merge(
            lists,
            self._lists.tags,
            self._language(batch),
            choice,
            weight,
            TAGS,
            rest,
            self._shares if share is None else share,
            batch.seen,
            self._upload_s,
            batch.now_s,
            self._stamp,
            self._place,
            self._next_stamp,
            videos,
            sources,
        )
        self._next_stamp += len(batch)
        similarities(queries, self.vectors, videos, similarity)
        return Candidates(videos, sources, similarity)

    def count_exposures(self, videos: np.ndarray) -> None:
        """Tell the fresh pool what was shown since the snapshot: the budget is a budget."""
        if self._pool is not None:
            self._pool.spend(np.asarray(videos))

    # --- on disk ---

    def save(self, folder: Path) -> None:
        """Write plain arrays; the catalogue is the bundle's own and is not written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save(folder)
        self.index.save(folder)
        np.save(folder / "vectors.npy", self.vectors)
        if self.neighbours is not None:
            np.save(folder / "neighbours_video.npy", self.neighbours.video)
            np.save(folder / "neighbours_similarity.npy", self.neighbours.similarity)
        if self.factors is not None:
            np.save(folder / "item_factors.npy", self.factors.item_factors)
        if self.factor_index is not None:
            (folder / "factor_index").mkdir(exist_ok=True)
            self.factor_index.save(folder / "factor_index")
        meta = {
            "collaborative": "ials" if self.neighbours is None else "item_item",
            "index": [self.index.kind, self.index.width],
            "factor_index": self.factor_index and [self.factor_index.kind, self.factor_index.width],
            "n_languages": self.n_languages,
            "foreign": self.foreign,
            "indexed_until_s": self.indexed_until_s,
            "measured": [asdict(row) for row in self.measured],
        }
        (folder / "retriever.json").write_text(json.dumps(meta, indent=2))

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue, config: Config) -> Retriever:
        """What ``save`` wrote; large arrays are mapped, so that processes share their pages.

        Raises:
            ValueError: If the catalogue is another, or the collaborative source is.
        """
        meta = json.loads((folder / "retriever.json").read_text())
        vectors = mapped(folder / "vectors.npy", "c")
        if len(catalogue) != len(vectors):
            raise ValueError(f"{len(catalogue)} videos, {len(vectors)} vectors in {folder}")
        kind = config.retrieval.collaborative
        if meta["collaborative"] != kind:
            raise ValueError(f"{folder} holds {meta['collaborative']}, not {kind}: train again")
        neighbours, factors, factor_index = None, None, None
        if kind == "item_item":
            neighbours = Neighbours(
                mapped(folder / "neighbours_video.npy", "r"),
                mapped(folder / "neighbours_similarity.npy", "r"),
            )
        else:
            factors = factors_of(np.load(folder / "item_factors.npy"), config.retrieval)
            factor_index = VideoIndex.load(folder / "factor_index", *meta["factor_index"])
        return cls(
            catalogue=catalogue,
            config=config.retrieval,
            encoder=Encoder.load(folder),
            vectors=vectors,
            index=VideoIndex.load(folder, *meta["index"]),
            neighbours=neighbours,
            factors=factors,
            factor_index=factor_index,
            n_languages=meta["n_languages"],
            foreign=meta["foreign"],
            indexed_until_s=meta["indexed_until_s"],
            measured=[Measured(**row) for row in meta["measured"]],
        )

    def _language(self, batch: RequestBatch) -> np.ndarray:
        return np.clip(batch.language.astype(np.int64), 0, self.n_languages - 1)

    def _by_factors(self, recent: np.ndarray, length: int) -> np.ndarray:
        if self._fold_in is None or self.factor_index is None:
            raise RuntimeError("iALS has no index: fit_retriever makes it")
        found = self.factor_index.search(self._fold_in.users(recent), length)
        found[(recent >= 0).sum(axis=1) == 0] = -1  # nothing to fold in
        return found


def best_tags(profile: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n largest positive tags of profiles f32[B, T]: tags i64[B, n] and weights f32[B, n]."""
    n = min(n, profile.shape[1])
    tags = np.argpartition(profile, -n, axis=1)[:, -n:]
    weight = np.maximum(np.take_along_axis(profile, tags, axis=1), 0.0)
    order = np.argsort(-weight, axis=1, kind="stable")
    return (
        np.take_along_axis(tags, order, axis=1),
        np.take_along_axis(weight, order, axis=1).astype(np.float32),
    )
