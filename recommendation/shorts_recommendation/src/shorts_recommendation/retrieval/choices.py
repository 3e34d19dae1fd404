"""The knobs of recall, each at a few values, on the validation days.

In: the data. Out: ``Tried`` rows: for every value of a knob, values a query whose means are the
recalls of validation days by models of the training days. Nothing here reads the world's truth or a
test day; ``evaluation/uniform_recall.py`` says why the criterion is unbiased.

- towers (``rejected_weight``, ``epochs``): the exact nearest unseen videos of every user vector, no
  index and no other source in between;
- collaborative: item-item or iALS alone, each with the whole list;
- quotas and heads: all sources propose once, and every setting merges the same proposals.

Q queries, C list length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ml_platform.evaluation.progress import Progress, Silent
from ml_platform.evaluation.ranking_metrics import hit_matrix, recall_at
from shorts_recommendation.config import Config, TwoTowerConfig
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.retrieval import alone_config, best_unseen
from shorts_recommendation.evaluation.retrieval_queries import Queries, snapshots_of
from shorts_recommendation.evaluation.uniform_recall import uniform_recall_at
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.candidates import SOURCES
from shorts_recommendation.retrieval.collaborative import (
    fit_factors,
    index_factors,
    long_view_matrix,
)
from shorts_recommendation.retrieval.encoder import Encoder, make_encoder
from shorts_recommendation.retrieval.fitting import fit_retriever
from shorts_recommendation.retrieval.merge import shares
from shorts_recommendation.retrieval.pairs import Pairs, training_pairs
from shorts_recommendation.retrieval.sources import Retriever
from shorts_recommendation.retrieval.training import train_two_tower

CUTS = (100, 1000)
COLLABORATIVE = SOURCES.index("collaborative")
CHUNK = 64
REJECTED_WEIGHTS = (0.0, 0.5, 1.5, 3.0, 5.0)
EPOCHS = (1, 2, 3)
QUOTAS: tuple[tuple[int, ...], ...] = (
    (400, 250, 200, 100, 50),
    (500, 200, 150, 100, 50),
    (500, 150, 150, 150, 50),
    (500, 50, 200, 200, 50),
    (600, 50, 150, 150, 50),
    (700, 50, 100, 100, 50),
    (800, 50, 50, 50, 50),
    (250, 250, 250, 200, 50),
)
"""Per thousand, in the order of SOURCES; fresh keeps its 50, which recall cannot judge."""
HEADS: dict[str, tuple[int, ...] | None] = {
    "by_quota": None,
    "vectors": (90, 0, 0, 0, 10),
    "trending": (0, 0, 0, 90, 10),
    "vectors_and_trending": (45, 0, 0, 45, 10),
}
"""What the first tenth of the rounds name, per thousand; None: as the quotas say."""


@dataclass
class Tried:
    """One value of one knob.

    Attributes:
        knob: Name as in the results.
        value: Of the knob, as text.
        uniform: f64[len(CUTS), Q], ``uniform_recall_at``.
        logged: f64[len(CUTS), Q], recall of all long views, weighed alike.
        cost: Processor time by name (training, or milliseconds a request).
    """

    knob: str
    value: str
    uniform: np.ndarray
    logged: np.ndarray
    cost: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        knob: str,
        value: object,
        lists: np.ndarray,
        queries: Queries,
        cost: dict[str, float] | None = None,
    ) -> Tried:
        """Measure lists i32[Q, C]."""
        hits = hit_matrix(lists, queries.ptr, queries.relevant)
        cuts = tuple(min(k, lists.shape[1]) for k in CUTS)
        logged = np.stack([recall_at(hits, queries.n_relevant, k) for k in cuts])
        return cls(knob, str(value), uniform_recall_at(lists, queries, cuts), logged, cost or {})


def tower_settings(config: TwoTowerConfig) -> list[tuple[str, object, TwoTowerConfig]]:
    """Knob, value and configuration of every tower that is trained; each knob by itself."""
    settings: list[tuple[str, object, TwoTowerConfig]] = [
        ("rejected_weight", w, config.model_copy(update={"rejected_weight": w}))
        for w in REJECTED_WEIGHTS
    ]
    settings += [("epochs", n, config.model_copy(update={"epochs": n})) for n in EPOCHS]
    return settings


def try_towers(
    data: ShortsData, config: Config, queries: Queries, progress: Progress | None = None
) -> list[Tried]:
    """Every setting of the towers alone; a setting that two knobs share is trained once."""
    until_s, tower = data.windows.train_end, config.two_tower
    pairs = training_pairs(
        data.log,
        data.catalogue,
        until_s=until_s,
        length=tower.history_length,
        decay=config.state.profile_decay,
        most=tower.max_pairs,
    )
    settings, done, rows = tower_settings(tower), {}, []
    with (progress or Silent()).stage("choices: towers", len(settings)) as step:
        for knob, value, setting in settings:
            key = setting.model_dump_json()
            if key not in done:
                started = time.thread_time()
                vectors, encoder = _train(data, pairs, setting, until_s, config.seed)
                seconds = time.thread_time() - started
                done[key] = nearest_lists(data, vectors, encoder, queries, config), seconds
            lists, seconds = done[key]
            rows.append(Tried.of(knob, value, lists, queries, {"train_s": seconds}))
            step(1)
    return rows


def _train(
    data: ShortsData, pairs: Pairs, config: TwoTowerConfig, until_s: int, seed: int
) -> tuple[np.ndarray, Encoder]:
    """Video vectors f32[V, D] and the encoder; what was uploaded later comes from its content."""
    tower = train_two_tower(pairs, data.catalogue, data.users, config, until_s=until_s, seed=seed)
    encoder = make_encoder(tower, len(data.catalogue))
    vectors = np.zeros((len(data.catalogue), encoder.dim), dtype=np.float32)
    old = data.catalogue.upload_s < until_s
    vectors[old] = encoder.update(tower, np.flatnonzero(old))
    vectors[~old] = encoder.add_uploads(np.flatnonzero(~old), data.catalogue)
    return vectors, encoder


def nearest_lists(
    data: ShortsData, vectors: np.ndarray, encoder: Encoder, queries: Queries, config: Config
) -> np.ndarray:
    """The unseen videos of largest product, exact, i32[Q, C]."""
    length = config.retrieval.n_candidates
    parts = []
    for begin in range(0, len(queries), CHUNK):
        batch = queries.batch.take(slice(begin, begin + CHUNK))
        parts.append(best_unseen(encoder.user_vectors(batch) @ vectors.T, batch, data, length))
    return np.concatenate(parts)


def try_merges(
    data: ShortsData, config: Config, queries: Queries, progress: Progress | None = None
) -> list[Tried]:
    """Every source alone, item-item and iALS, then quotas and heads of the merge."""
    progress = progress or Silent()
    made = _Merges(data, config)
    names = made.names
    lists = {
        key: np.full((len(queries), config.retrieval.n_candidates), -1, dtype=np.int32)
        for key in names
    }
    with progress.stage("choices: merges", len(queries)) as step:
        for snapshot, at in snapshots_of(
            data.log, len(data.catalogue), config, queries.batch.now_s
        ):
            for key, found in made.lists(queries.batch.take(at), snapshot):
                lists[key][at] = found
            step(len(at))
    return [
        Tried.of(*key, found, queries, made.cost(key, len(queries))) for key, found in lists.items()
    ]


def name_of(quotas: tuple[int, ...], n: int) -> str:
    """Quotas of a list of n as text, per thousand."""
    return "_".join(str(round(1000 * q / n)) if sum(quotas) == n else str(q) for q in quotas)


def _scaled(quotas: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Quotas per thousand for a list of n; those of a list of n stay."""
    if sum(quotas) == n:
        return quotas
    return tuple(q * n // 1000 for q in quotas)


class _Merges:
    """One retriever of the training days whose proposals every setting merges.

    Args:
        data: The world.
        config: Of the system; the index is exact here.
    """

    def __init__(self, data: ShortsData, config: Config) -> None:
        until_s = data.windows.train_end
        own = config.retrieval.model_copy(update={"index": "flat", "collaborative": "item_item"})
        fitted = fit_retriever(
            data, until_s, config.model_copy(update={"retrieval": own}), config.seed
        )
        matrix = long_view_matrix(data.log, until_s, len(data.users), len(data.catalogue))
        factors = fit_factors(matrix, own, config.seed)
        self.config = own
        self.wide = fitted.resized(alone_config(own))
        self.ials = replace(
            self.wide,
            neighbours=None,
            factors=factors,
            factor_index=index_factors(factors, self._depth(own.n_candidates)),
        )
        self.serves = config.retrieval.collaborative
        self.spent = {"item_item": 0.0, "ials": 0.0}
        n = own.n_candidates
        self.merges: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...] | None]] = {}
        for quotas in (*QUOTAS, own.quotas):
            self.merges["quotas", name_of(quotas, n)] = _scaled(quotas, n), None
        for name, head in HEADS.items():
            fits = zip(head or own.quotas, own.quotas, strict=True)
            scaled = tuple(min(h * n // 1000, q) for h, q in fits)
            self.merges["head", name] = own.quotas, scaled if head else None
        self.names = [("alone", source) for source in SOURCES]
        self.names += [("collaborative", kind) for kind in self.spent]
        self.names += list(self.merges)

    def _depth(self, quota: int) -> int:
        return int(self.config.search_depth * quota)

    def lists(
        self, batch: RequestBatch, snapshot: CounterSnapshot
    ) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """The list i32[B, C] of every name."""
        self.wide.prepare(snapshot)
        vectors = self.wide.user_vectors(batch)
        kinds = {
            kind: self._timed(kind, retriever, batch)
            for kind, retriever in (("item_item", self.wide), ("ials", self.ials))
        }
        found = list(self.wide.proposals(batch, vectors))
        found[COLLABORATIVE] = kinds[self.serves]
        for source in SOURCES:
            alone = self.wide.merged(batch, vectors, tuple(found), only=source)
            yield ("alone", source), alone.videos
        for kind, proposed in kinds.items():
            one = (*found[:COLLABORATIVE], proposed, *found[COLLABORATIVE + 1 :])
            alone = self.wide.merged(batch, vectors, one, only="collaborative")
            yield ("collaborative", kind), alone.videos
        for key, (quotas, head) in self.merges.items():
            cut = (
                found[0][:, : self._depth(quotas[0])],
                found[1][:, : self._depth(quotas[1])],
                *found[2:4],
                found[4][:, : 2 * quotas[4]],
            )
            lists = tuple(np.ascontiguousarray(part) for part in cut)  # one compiled form
            share = shares(quotas, head)
            yield key, self.wide.merged(batch, vectors, lists, share=share).videos

    def _timed(self, kind: str, retriever: Retriever, batch: RequestBatch) -> np.ndarray:
        started = time.thread_time()
        found = retriever.collaborative(batch.recent_positive)
        self.spent[kind] += time.thread_time() - started
        return found

    def cost(self, key: tuple[str, str], n: int) -> dict[str, float]:
        """Milliseconds a request of the two collaborative sources, at the whole list's length."""
        if key[0] != "collaborative":
            return {}
        return {"ms": 1000 * self.spent[key[1]] / n}
