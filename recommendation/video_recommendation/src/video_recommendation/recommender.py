"""The one request path: retrieve, pre-rank, rank, re-rank, explain.

In: a ``RequestBatch``. Out: candidates, scores, lists. Training of the rankers, the offline replay
and the server all call the methods of this class, a thousand requests at a time or one, so what is
measured offline is what is served.

    request -> user tower -> five sources, merged -> pre-rank 200 -> rank -> MMR, rules -> list

Everything that does not depend on the request was computed when the bundle was built: item vectors
and their index, item-item models, item statistics, the item half of the user tower's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.data.interactions import InteractionLog
from ml_platform.serving.stages import RequestStages, Step
from video_recommendation.config import Config
from video_recommendation.data import Catalogue, Users
from video_recommendation.explanation import Explainer
from video_recommendation.features import SCHEMA, FeatureBuilder
from video_recommendation.ranking.calibration import Calibrator
from video_recommendation.ranking.examples import Proposal
from video_recommendation.ranking.lambdarank import LambdaRanker
from video_recommendation.ranking.mmoe import MMoERanker
from video_recommendation.ranking.prerank import PreRanker, keep_best
from video_recommendation.requests import RequestBatch, single_request
from video_recommendation.reranking import Pool, RankedList, rerank
from video_recommendation.retrieval.sources import SOURCES, Candidates, Retriever
from video_recommendation.retrieval.training import RequestEncoder
from video_recommendation.serving.protocol import RecommendedItem, UserState
from video_recommendation.stored_features import FeatureReader, StoredFeatures

if TYPE_CHECKING:
    from video_recommendation.monitoring.reference import Reference

_AGE_COLUMN = SCHEMA.names.index("age_days")


@dataclass(frozen=True)
class Ranked:
    """What the ranker saw and said about one batch.

    Attributes:
        candidates: Survivors of the pre-ranker.
        features: f32[C, F].
        score: f64[C], of the configured ranker.
        as_of: i64[C], the minute that the stored features stand for; -1 where defaults stand.
    """

    candidates: Candidates
    features: np.ndarray
    score: np.ndarray
    as_of: np.ndarray


@dataclass(frozen=True)
class Proposer:
    """The part of the path that needs no ranker: it also builds the ranker's training rows."""

    encoder: RequestEncoder
    retriever: Retriever
    builder: FeatureBuilder

    def retrieve(self, batch: RequestBatch) -> Candidates:
        """Merged pool of all sources."""
        return self.retriever.retrieve(batch, self.encoder.encode(batch))

    def prerank_matrix(self, batch: RequestBatch, candidates: Candidates) -> np.ndarray:
        """f32[C, P] for the pre-ranker."""
        return self.builder.prerank_matrix(batch, candidates, self.retriever)

    def stored(self, batch: RequestBatch, candidates: Candidates) -> StoredFeatures:
        """What the feature store keeps, computed from this retriever's counter instead."""
        return self.builder.stored(batch, candidates, self.retriever)

    def matrix(
        self, batch: RequestBatch, candidates: Candidates, stored: StoredFeatures | None = None
    ) -> np.ndarray:
        """f32[C, F] for the rankers; stored features are computed when not given."""
        return self.builder.matrix(batch, candidates, self.retriever, stored)

    def propose(self, batch: RequestBatch) -> Proposal:
        """The whole pool with both feature matrices: rows to train rankers on."""
        candidates = self.retrieve(batch)
        return (
            candidates,
            self.matrix(batch, candidates),
            self.prerank_matrix(batch, candidates),
        )


class Recommender:
    """One model version. Safe to call from several threads: nothing is changed by a request."""

    reads_stored_features = True
    """``recommend`` takes ``features``: item activity and profiles from a feature store."""

    def __init__(
        self,
        *,
        version: str,
        config: Config,
        catalogue: Catalogue,
        users: Users,
        log: InteractionLog,
        proposer: Proposer,
        preranker: PreRanker,
        rankers: dict[str, LambdaRanker | MMoERanker],
        calibrator: Calibrator,
        trained_through: Mapping[str, int] | None = None,
    ) -> None:
        """Puts the parts together; ``log`` holds the events the models may know.

        ``trained_through`` names the event logs that it was made from: id and last sequence number.
        """
        self.version = version
        self.trained_through = dict(trained_through or {})
        self.config = config
        self.catalogue = catalogue
        self.users = users
        self.log = log
        self.proposer = proposer
        self.preranker = preranker
        self.rankers = rankers
        self.calibrator = calibrator
        self.reference: Reference | None = None  # for the monitor; training sets it
        self.data_end = int(log.timestamp.max())
        self._genre_vectors = _unit_rows(catalogue.genre_flags)
        self._first_genre = np.where(
            catalogue.genre_flags.any(axis=1), catalogue.genre_flags.argmax(axis=1), -1
        )
        self._explainer = Explainer(catalogue, proposer.retriever, self.lambda_ranker())

    # --- the stages, for batches ------------------------------------------------------------

    def prerank(self, batch: RequestBatch, candidates: Candidates) -> tuple[np.ndarray, Candidates]:
        """Pre-rank scores f32[C] of the whole pool, and the survivors."""
        scores = self.preranker.score(self.proposer.prerank_matrix(batch, candidates))
        rows = keep_best(scores, candidates.ptr, self.config.ranking.prerank_keep)
        return scores, candidates.take(rows, len(batch))

    def rank(
        self, batch: RequestBatch, candidates: Candidates, ranker: str | None = None
    ) -> Ranked:
        """Scores the survivors with the configured ranker, or the one named."""
        stored = self.proposer.stored(batch, candidates)
        return self._scored(self.proposer, batch, candidates, stored, ranker)

    def _scored(
        self,
        proposer: Proposer,
        batch: RequestBatch,
        candidates: Candidates,
        stored: StoredFeatures,
        ranker: str | None = None,
    ) -> Ranked:
        features = proposer.matrix(batch, candidates, stored)
        model = self.rankers[ranker or self.config.ranking.ranker]
        score = np.asarray(model.score(features), dtype=np.float64)
        return Ranked(candidates, features, score, stored.as_of)

    def pool(self, ranked: Ranked, begin: int, end: int) -> Pool:
        """The ranked candidates ``begin:end`` (one request) as the re-ranker wants them."""
        order = begin + np.argsort(-ranked.score[begin:end], kind="stable")
        item = ranked.candidates.item_idx[order]
        head = item[: self.config.reranking.pool]
        age = ranked.features[order, _AGE_COLUMN]
        return Pool(
            rows=order,
            score=ranked.score[order],
            fresh=(age >= 0) & (age <= self.config.retrieval.fresh_days),
            first_genre=self._first_genre[item],
            similarity=self._similarity(head),
        )

    def rerank(
        self, ranked: Ranked, begin: int, end: int, *, k: int, user_idx: int, now: int
    ) -> RankedList:
        """The list of one request; the draw of the exploration item depends on user and second."""
        rng = np.random.default_rng((self.config.seed, user_idx + 1, now))
        return rerank(self.pool(ranked, begin, end), self.config.reranking, k=k, rng=rng)

    def _similarity(self, item: np.ndarray) -> np.ndarray:
        """f[P, P] in 0..1: half by genres, half by the item tower's vectors.

        Genres are what a person sees as "the same again"; vectors also know that two dramas are not
        alike. Measured in both spaces afterwards, because a list can be pushed apart in one alone.
        """
        vectors = self.proposer.retriever.item_vectors[item]
        genres = self._genre_vectors[item]
        return (np.clip(vectors @ vectors.T, 0, 1) + genres @ genres.T) / 2

    # --- one live request ----------------------------------------------------------------------

    def recommend(
        self,
        *,
        user_id: int,
        state: UserState,
        now: int,
        k: int,
        exclude: np.ndarray,
        counter: EventCounter,
        stages: RequestStages,
        surface: str,
        features: FeatureReader | None = None,
    ) -> Sequence[RecommendedItem]:
        """Ranks up to k items for a user. See ``serving.protocol.Recommender``.

        The fallback ladder: feature store -> the counter in this process; ranker -> pre-rank order;
        re-ranker -> ranker's order. When retrieval itself fails, the caller falls back to
        popularity. Without ``features`` (offline, in a shadow) nothing is asked of a store.
        """
        del surface  # one surface so far; it is logged with the request
        # An event of this very second is known and must count: the request comes after it.
        now = max(now, int(state.timestamp[-1]) + 1) if len(state) else now
        batch = single_request(
            self.users.user_idx(user_id), now, state.item_idx, state.rating, state.timestamp
        )
        live = replace(self.proposer, retriever=replace(self.proposer.retriever, counter=counter))
        pool = stages.run("retrieve", lambda: without(live.retrieve(batch), exclude))
        if not len(pool.item_idx):  # all that the sources propose was seen or excluded
            return []
        reader = None
        if features is not None:
            reader = lambda kept: features.read(kept.item_idx, user_id, now)  # noqa: E731
        return self._finish(batch, pool, live, k, stages, reader)

    def _finish(
        self,
        batch: RequestBatch,
        pool: Candidates,
        live: Proposer,
        k: int,
        stages: RequestStages,
        read: Callable[[Candidates], StoredFeatures] | None,
    ) -> Sequence[RecommendedItem]:
        def prerank() -> tuple[np.ndarray, Candidates]:
            scores = self.preranker.score(live.prerank_matrix(batch, pool))
            rows = keep_best(scores, pool.ptr, self.config.ranking.prerank_keep)
            return scores[rows], pool.take(rows, 1)

        prerank_score, survivors = stages.run("prerank", prerank)
        stored = _stored(stages, survivors, read, lambda: live.stored(batch, survivors))
        ranked = stages.attempt("rank", lambda: self._scored(live, batch, survivors, stored))
        if ranked is None:  # counted and logged by the stages: the response says "degraded"
            return self._plain(survivors, prerank_score, k, "A match for your recent watching")
        listed = stages.ladder(
            Step("rerank", lambda: self._rerank_one(batch, ranked, k)),
            Step("rank_order", lambda: _ranker_order(ranked, k)),
        )
        return stages.run("explain", lambda: self._describe(batch, ranked, listed))

    def _rerank_one(self, batch: RequestBatch, ranked: Ranked, k: int) -> RankedList:
        return self.rerank(
            ranked,
            0,
            len(ranked.score),
            k=k,
            user_idx=int(batch.user_idx[0]),
            now=int(batch.now[0]),
        )

    def _describe(
        self, batch: RequestBatch, ranked: Ranked, listed: RankedList
    ) -> list[RecommendedItem]:
        rows = listed.rows
        probability = self.calibrator.probability(ranked.score[rows])
        reasons = self._explainer.reasons(batch, ranked.candidates, ranked.features, rows)
        items = []
        for place, row in enumerate(rows):
            exploring = place == listed.exploration_place
            items.append(
                RecommendedItem(
                    item_idx=int(ranked.candidates.item_idx[row]),
                    score=float(probability[place]),
                    reason="Something different" if exploring else reasons[place],
                    sources=source_names(ranked.candidates, int(row)),
                    exploration=exploring,
                    propensity=listed.propensity if exploring else None,
                    features=ranked.features[row],
                    features_as_of=int(ranked.as_of[row]),
                )
            )
        return items

    def _plain(
        self, survivors: Candidates, score: np.ndarray, k: int, reason: str
    ) -> list[RecommendedItem]:
        """The pre-ranker's order as it is: what is shown when the ranker is not there."""
        return [
            RecommendedItem(
                int(survivors.item_idx[row]),
                float(score[row]),
                reason,
                source_names(survivors, int(row)),
            )
            for row in np.argsort(-score, kind="stable")[:k]
        ]

    def similar(self, item_idx: int, k: int) -> Sequence[RecommendedItem]:
        """Nearest items by the item tower; the item itself is left out."""
        vectors = self.proposer.retriever.item_vectors
        score, found = self.proposer.retriever.index.search(vectors[item_idx][None], k + 1)
        return [
            RecommendedItem(
                int(i), float(s), f"Similar to {self.catalogue.titles[item_idx]}", ("two_tower",)
            )
            for i, s in zip(found[0], score[0], strict=True)
            if i not in (item_idx, -1)
        ][:k]

    # --- what the server asks for ---------------------------------------------------------------

    def history(self, user_id: int) -> UserState:
        """The user's events in the training log; empty for an unknown user."""
        user = self.users.user_idx(user_id)
        if user < 0:
            return UserState.empty()
        rows = slice(self.log.user_ptr[user], self.log.user_ptr[user + 1])
        return UserState(self.log.item_idx[rows], self.log.rating[rows], self.log.timestamp[rows])

    def training_events(self) -> tuple[np.ndarray, np.ndarray]:
        """All events of the log, item_idx i32[N] and timestamp i64[N], by time."""
        order = np.argsort(self.log.timestamp, kind="stable")
        return self.log.item_idx[order], self.log.timestamp[order]

    def warm_up(self) -> None:
        """Runs a few requests, so that the first real one does not pay for lazy set-up."""
        busiest = np.argsort(-np.diff(self.log.user_ptr))[:3]
        for user_id in [-1, *self.users.user_ids[busiest]]:
            self.recommend(
                user_id=int(user_id),
                state=self.history(int(user_id)),
                now=self.data_end + 1,
                k=self.config.reranking.k,
                exclude=np.zeros(0, dtype=np.int32),
                counter=self.proposer.retriever.counter,
                stages=RequestStages(),
                surface="home",
            )

    def lambda_ranker(self) -> LambdaRanker:
        """The LambdaMART ranker, which explains lists whichever ranker orders them."""
        ranker = self.rankers["lambdarank"]
        if not isinstance(ranker, LambdaRanker):
            raise TypeError(f"the ranker named lambdarank is a {type(ranker).__name__}")
        return ranker


def source_names(candidates: Candidates, row: int) -> tuple[str, ...]:
    """Names of the sources that proposed a candidate."""
    return tuple(
        name for name, held in zip(SOURCES, candidates.in_source[row], strict=True) if held
    )


def without(candidates: Candidates, exclude: np.ndarray) -> Candidates:
    """The candidates that are not among the items ``exclude``."""
    if not len(exclude):
        return candidates
    rows = np.flatnonzero(~np.isin(candidates.item_idx, exclude))
    return candidates.take(rows, len(candidates.ptr) - 1)


def _stored(
    stages: RequestStages,
    survivors: Candidates,
    read: Callable[[Candidates], StoredFeatures] | None,
    compute: Callable[[], StoredFeatures],
) -> StoredFeatures:
    """Stored features: read from the online store where there is one, else computed in process."""
    steps = [Step("features_in_process", compute)]
    if read is not None:
        steps.insert(0, Step("features", lambda: read(survivors)))
    return stages.ladder(*steps)


def _ranker_order(ranked: Ranked, k: int) -> RankedList:
    return RankedList(np.argsort(-ranked.score, kind="stable")[:k], -1, 1.0)


def _unit_rows(matrix: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    return (matrix / np.maximum(norm, 1e-12)).astype(np.float32)
