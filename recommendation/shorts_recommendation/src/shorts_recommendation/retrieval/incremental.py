"""Towers between two trainings: frozen, fed with uploads, or learning from every hour's events.

In: a retriever's towers, trained before the test days, and the log of those days. Out: for each way
of updating, per query, recall@100 of what was watched in the session, and what an update costs.

- ``frozen``: nothing changes: an upload of the test days has no vector and cannot be found.
- ``uploads``: an upload is embedded from its content, tags, creator and duration when it appears.
- ``online_<minutes>``: besides, id rows and their biases learn from the events of the last period:
  one pass of row-wise Adagrad over its long views, with the training's loss. The dense layers stay.

Learning online from the stream, with one row for every id, is the way of Liu et al., "Monolith:
Real Time Recommendation System With Collisionless Embedding Table", arXiv 2209.07663, 2022, who
separate it from batch training and trade some reliability for it. Departures: one process, so
learning and serving share the rows; the table is an array by ``video_idx``, so nothing can collide;
rows never expire and none is filtered by frequency; the dense layers wait for the next training.

Everything is prequential: a query of a period is answered by what was learnt before that period.
Scores are exact products over all existing videos, so that no index enters the comparison.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

import numpy as np

from ml_platform.evaluation.progress import Step
from shorts_recommendation.config import TwoTowerConfig
from shorts_recommendation.log import DAY_S, Catalogue
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.encoder import Encoder
from shorts_recommendation.retrieval.pairs import Pairs
from shorts_recommendation.retrieval.training import TowerBatches, TrainedTower


class OnlineTrainer:
    """A tower that goes on learning its id rows.

    Args:
        tower: Trained; it is copied, the caller's stays as it is.
        catalogue: Videos, also those to come.
        config: Of the towers.
        pairs: Long views in time order that updates are cut from; earlier ones count for log q.
        seed: Of the negatives.
    """

    def __init__(
        self,
        tower: TrainedTower,
        catalogue: Catalogue,
        config: TwoTowerConfig,
        pairs: Pairs,
        seed: int,
    ) -> None:
        self.tower = copy.deepcopy(tower)
        self.tower.model.requires_grad_(False)
        self.catalogue, self.pairs = catalogue, pairs
        self.config = config.model_copy(update={"id_dropout": 0.0})
        self._rng = np.random.default_rng(seed)

    def update(self, since_s: int, until_s: int) -> np.ndarray:
        """Learn from the long views in [``since_s``, ``until_s``); returns the changed videos."""
        times = self.pairs.timestamp
        first, end = np.searchsorted(times, [since_s, until_s])
        if end == first:
            return np.zeros(0, dtype=np.int64)
        batches = TowerBatches(
            self.pairs.take(slice(first, end)).known_at(until_s),
            self.catalogue,
            self.tower,
            self.config,
            until_s,
            self._rng,
        )
        # What is in a batch follows the traffic of the day, not that of the training window.
        day = self.pairs.video_idx[np.searchsorted(times, until_s - DAY_S) : end]
        batches.set_share(np.bincount(day, minlength=len(self.catalogue)))
        # All of them, also what fills no batch: there is no other epoch to wait for.
        order = self._rng.permutation(end - first)
        for rows in np.array_split(order, -(-(end - first) // batches.size)):
            batches.train(rows, None, self.config.online_row_rate)
        return np.flatnonzero(batches.touched)


@dataclass
class Way:
    """One way of updating, replayed.

    Attributes:
        name: Row of the table.
        takes_uploads: Whether uploads get a vector.
        period_s: Between two updates of rows; 0 never.
        trainer: Of those that learn.
        encoder: Its own copy.
        vectors: f32[V, D], zero where there is none.
        known: bool[V], which videos have one.
        update_s: Seconds of processor time of every update.
        learnt_until_s: Events before are learnt.
    """

    name: str
    takes_uploads: bool
    period_s: int
    trainer: OnlineTrainer | None
    encoder: Encoder
    vectors: np.ndarray
    known: np.ndarray
    learnt_until_s: int
    update_s: list[float] = field(default_factory=list)

    def advance(self, now_s: int, catalogue: Catalogue) -> None:
        """Take in the uploads before ``now_s`` and learn every full period before it."""
        if self.takes_uploads:
            new = np.flatnonzero(~self.known & (catalogue.upload_s <= now_s))
            if len(new):
                self.vectors[new] = self.encoder.add_uploads(new, catalogue)
                self.known[new] = True
        if self.trainer is None:
            return
        while self.learnt_until_s + self.period_s <= now_s:
            started = time.process_time()
            end_s = self.learnt_until_s + self.period_s
            changed = self.trainer.update(self.learnt_until_s, end_s)
            changed = changed[self.known[changed]]
            self.vectors[changed] = self.encoder.update(self.trainer.tower, changed)
            self.learnt_until_s = end_s
            self.update_s.append(time.process_time() - started)


def make_ways(
    tower: TrainedTower,
    encoder: Encoder,
    vectors: np.ndarray,
    catalogue: Catalogue,
    config: TwoTowerConfig,
    pairs: Pairs,
    *,
    start_s: int,
    periods_s: tuple[int, ...],
    seed: int,
) -> list[Way]:
    """``frozen``, ``uploads`` and one learning way for each period, all from the same towers.

    Args:
        tower: Trained on events before ``start_s``.
        encoder: Its serving form.
        vectors: f32[V, D], of the videos before ``start_s``.
        catalogue: Videos.
        config: Of the towers.
        pairs: Long views of the training's last day and of the replayed days.
        start_s: Where the replay begins.
        periods_s: Between two updates.
        seed: Of the negatives.
    """
    known = catalogue.upload_s < start_s

    def way(name: str, takes_uploads: bool, period_s: int) -> Way:
        learns = OnlineTrainer(tower, catalogue, config, pairs, seed) if period_s else None
        own = copy.deepcopy(encoder)
        return Way(
            name, takes_uploads, period_s, learns, own, vectors.copy(), known.copy(), start_s
        )

    learning = [way(f"online_{period // 60}m", True, period) for period in periods_s]
    return [way("frozen", False, 0), way("uploads", True, 0), *learning]


def replay_ways(
    ways: list[Way],
    batch: RequestBatch,
    catalogue: Catalogue,
    *,
    grid_s: int,
    k: int,
    step: Step = lambda _: None,
) -> dict[str, np.ndarray]:
    """Top k of every request by every way, in time order; i32[Q, k] by name.

    Args:
        ways: They are advanced in place.
        batch: Q requests, ascending in time.
        catalogue: Videos.
        grid_s: Requests of a cell of this grid are answered together, by what was known before.
        k: List length.
        step: Progress, in requests.
    """
    lists = {way.name: np.full((len(batch), k), -1, dtype=np.int32) for way in ways}
    grid = batch.now_s // grid_s
    for cell in np.unique(grid):
        at = np.flatnonzero(grid == cell)
        part = batch.take(at)
        for way in ways:
            way.advance(int(cell) * grid_s, catalogue)
            scores = way.encoder.user_vectors(part) @ way.vectors.T
            scores[:, ~way.known] = -np.inf
            rows, places = np.nonzero(part.seen >= 0)
            scores[rows, part.seen[rows, places]] = -np.inf
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            lists[way.name][at] = np.take_along_axis(best, order, axis=1)
        step(len(at))
    return lists
