"""A small feed that is fitted every night on the answers to its own slates.

In: ``LoopSettings`` and a ``LoopPolicy``. Out: ``LoopTrace``: every slate that was shown, with what
the world knows of it. World, audience, re-ranker and fresh pool are the system's own; the model is
iALS on long views (``ml_algorithms.matrix_factorization``), because it knows nothing that it was
not shown: a model with content features starves and narrows too, only more slowly.

One day: everybody who exists opens one session and sees one slate; nothing is shown twice to
anybody. Day 0 shows a random slate, so that every policy starts from the same answers.

Legend: U users, V videos, T days, k places of a slate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.special import expit

from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_platform.evaluation.diversity_metrics import unit_rows
from shorts_recommendation.config import RerankingConfig, RetrievalConfig, WorldConfig
from shorts_recommendation.content_projection import fit_basis, project
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.log import DAY_S
from shorts_recommendation.reranking import RerankItems, rerank
from shorts_recommendation.retrieval.fresh import make_pool
from shorts_recommendation.world import Audience, World, make_world
from shorts_recommendation.world.response import satisfaction_logit

FRESH_CANDIDATES = 6
EVENING_S = 20 * 3600
SECONDS_A_PLACE = 30


@dataclass(frozen=True)
class LoopSettings:
    """Size of the loop.

    Attributes:
        n_users: U.
        n_videos: V, of which ``backlog_share`` exist on day 0; the others come hour by hour.
        n_days: T.
        n_worlds: Independent worlds; intervals are over them.
        k: Places of a slate.
        backlog_share: See ``WorldConfig``.
        factors: Of iALS.
    """

    n_users: int = 250
    n_videos: int = 1200
    n_days: int = 16
    n_worlds: int = 5
    k: int = 10
    backlog_share: float = 0.6
    factors: int = 16

    def world(self) -> WorldConfig:
        """The world's configuration; content is small, since only pairs within a slate read it."""
        return WorldConfig(
            n_users=self.n_users,
            n_videos=self.n_videos,
            days=self.n_days,
            backlog_share=self.backlog_share,
            n_tags=20,
            n_languages=1,
            content_dim=64,
            n_shocks=1,
        )


@dataclass(frozen=True)
class LoopPolicy:
    """How slates are filled and what a long view counts for.

    Attributes:
        label: In tables.
        explores: Share of places drawn uniformly from all that the viewer has not seen.
        explores_pool: Share of places drawn uniformly within the ranker's pool.
        weight_cap: A long view counts one over the propensity of its video, at most this.
        fresh_slots: Places for uploads that have exposures left.
        fresh_exposures: Impressions that every upload is owed.
    """

    label: str
    explores: float = 0.0
    explores_pool: float = 0.0
    weight_cap: float = 1.0
    fresh_slots: int = 0
    fresh_exposures: int = 8


@dataclass
class LoopTrace:
    """What happened, day by day: [T, U, k] each, ``best`` and ``now_s`` [T].

    Attributes:
        videos: i32, what was shown.
        long_view: bool.
        satisfaction: f32, the truth for a rested viewer.
        best: f64, mean satisfaction of the best unseen k of that day: what could be had.
        now_s: i64[T].
    """

    videos: list[np.ndarray] = field(default_factory=list)
    long_view: list[np.ndarray] = field(default_factory=list)
    satisfaction: list[np.ndarray] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    now_s: list[int] = field(default_factory=list)


class Loop:
    """One world under one policy.

    Args:
        settings: Sizes.
        policy: How slates are filled.
        seed: Of the world, the audience and every draw.
    """

    def __init__(self, settings: LoopSettings, policy: LoopPolicy, seed: int) -> None:
        self.settings, self.policy = settings, policy
        self.world: World = make_world(settings.world(), seed)
        self.trace = LoopTrace()
        self._audience = Audience(self.world, seed)
        self._rng = np.random.default_rng((seed, 7))
        shape = (settings.n_users, settings.n_videos)
        self._users = np.arange(settings.n_users, dtype=np.int32)
        self._memory = np.zeros(shape, dtype=np.float32)  # what a long view counts for
        self._seen = np.zeros(shape, dtype=bool)
        self._exposures = np.zeros(settings.n_videos, dtype=np.int32)
        content = self.world.catalogue.content
        self._vectors = project(content, fit_basis(content, 32))

    def run(self) -> LoopTrace:
        """All days."""
        for day in range(self.settings.n_days):
            now_s = self.world.start_s + day * DAY_S + EVENING_S
            open_ = (self.world.catalogue.upload_s <= now_s)[None] & ~self._seen
            videos, propensity = self._slates(day, now_s, open_)
            self._note(videos, now_s, open_)
            self._watch(videos, propensity, now_s)
        return self.trace

    # --- slates -----------------------------------------------------------------------------------

    def _slates(self, day: int, now_s: int, open_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Videos i32[U, k] and the probability of each to stand where it stands."""
        scores = np.where(open_, self._rng.random(open_.shape, dtype=np.float32), -np.inf)
        if day == 0:
            videos = np.argsort(-scores, axis=1)[:, : self.settings.k].astype(np.int32)
            # One of all that are left at each place: drawn without replacement.
            left = open_.sum(axis=1, keepdims=True) - np.arange(videos.shape[1])
            return videos, 1.0 / left
        # The random part only breaks the ties between all that the model has never seen.
        scores = self._model_scores() + 1e-6 * scores
        items = self._pool(scores, now_s, open_)
        slates = rerank(items, self._rules(items), self._rng)
        videos, propensity = slates.videos(items), slates.propensity.astype(np.float64)
        return self._explored(videos, propensity, open_)

    def _model_scores(self) -> np.ndarray:
        model = fit_ials(
            sparse.csr_matrix(self._memory),
            factors=self.settings.factors,
            unobserved_weight=0.05,
            reg=0.02,
            iterations=6,
            seed=0,
        )
        return model.score(model.user_factors)

    def _pool(self, scores: np.ndarray, now_s: int, open_: np.ndarray) -> RerankItems:
        """The best by score, and behind them the uploads that the fresh source proposes."""
        policy, catalogue = self.policy, self.world.catalogue
        width = 60
        best = np.argpartition(-scores, width, axis=1)[:, :width]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        videos = np.take_along_axis(best, order, axis=1).astype(np.int32)
        value = np.take_along_axis(scores, videos, axis=1)
        fresh = np.zeros(videos.shape, dtype=bool)
        if policy.fresh_slots:
            wanted = self._fresh(now_s, open_)
            wanted[(wanted[:, :, None] == videos[:, None, :]).any(axis=2)] = -1
            behind = value.min(axis=1, keepdims=True) * np.ones(wanted.shape)
            videos = np.concatenate([videos, wanted], axis=1)
            value = np.concatenate([value, behind], axis=1)
            fresh = np.concatenate([fresh, wanted >= 0], axis=1)
        known = np.maximum(videos, 0)
        nothing = np.zeros((len(videos), 0))
        return RerankItems(
            videos=videos,
            value=np.nan_to_num(value, neginf=0.0).astype(np.float32),
            vectors=self._vectors[known],
            creator=catalogue.creator_idx[known],
            main_tag=catalogue.tags[known, 0],
            fresh=fresh,
            recent_vectors=np.zeros((len(videos), 0, self._vectors.shape[1]), dtype=np.float32),
            recent_creator=nothing.astype(np.int32),
            recent_tag=nothing.astype(np.int16),
        )

    def _fresh(self, now_s: int, open_: np.ndarray) -> np.ndarray:
        """Uploads with exposures left, by likeness to what each user watched through; -1 padded."""
        config = RetrievalConfig(fresh_hours=72, fresh_exposures=self.policy.fresh_exposures)
        snapshot = CounterSnapshot(now_s, np.zeros((4, 1, len(self._exposures))), self._exposures)
        pool = make_pool(snapshot, self.world.catalogue, self._vectors, config)
        taste = self._memory @ self._vectors
        wanted = pool.propose(self._users, unit_rows(taste).astype(np.float32), FRESH_CANDIDATES)
        allowed = np.take_along_axis(open_, np.maximum(wanted, 0), axis=1) & (wanted >= 0)
        return np.where(allowed, wanted, -1).astype(np.int32)

    def _rules(self, items: RerankItems) -> RerankingConfig:
        """The system's rules: diversity within a slate is on in every policy."""
        return RerankingConfig(
            k=self.settings.k,
            relevance_weight=0.8,
            fresh_slots=self.policy.fresh_slots,
            exploration=self.policy.explores_pool,
        )

    def _explored(
        self, videos: np.ndarray, propensity: np.ndarray, open_: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives some places to videos drawn from all that their viewer has not seen."""
        share = self.policy.explores
        if share == 0:
            return videos, propensity
        left = open_.copy()
        np.put_along_axis(left, videos, False, axis=1)
        drawn = np.argsort(np.where(left, self._rng.random(left.shape), 2.0), axis=1)
        drawn = drawn[:, : videos.shape[1]].astype(np.int32)
        explores = self._rng.random(videos.shape) < share
        chance = share / left.sum(axis=1, keepdims=True)
        return (
            np.where(explores, drawn, videos),
            np.where(explores, chance, (1 - share) * propensity),
        )

    # --- answers ----------------------------------------------------------------------------------

    def _note(self, videos: np.ndarray, now_s: int, open_: np.ndarray) -> None:
        """The truth of what is about to be shown."""
        when = np.full(len(self._users), now_s)
        every = np.broadcast_to(np.arange(self.settings.n_videos), open_.shape)
        world = self.world
        interest = world.interest(self._users, every, when)
        bait = world.video_truth.clickbait[None]
        truth = expit(satisfaction_logit(world.behaviour, interest, bait)).astype(np.float32)
        self.trace.videos.append(videos)
        self.trace.satisfaction.append(np.take_along_axis(truth, videos, axis=1))
        k = self.settings.k
        best = -np.partition(-np.where(open_, truth, 0.0), k, axis=1)[:, :k]
        self.trace.best.append(float(best.mean()))
        self.trace.now_s.append(now_s)

    def _watch(self, videos: np.ndarray, propensity: np.ndarray, now_s: int) -> None:
        """Everybody watches the whole slate; long views enter the model's memory."""
        when = np.full(len(self._users), now_s)
        self._audience.open_sessions(self._users, when)
        answers = np.zeros(videos.shape, dtype=bool)
        for place in range(videos.shape[1]):
            column = videos[:, place]
            seen = self._audience.watch(self._users, column, when + place * SECONDS_A_PLACE)
            answers[:, place] = seen.long_view
            weight = np.minimum(1.0 / propensity[:, place], self.policy.weight_cap)
            self._memory[self._users, column] = weight * seen.long_view
            self._seen[self._users, column] = True
            np.add.at(self._exposures, column, 1)
        self.trace.long_view.append(answers)
