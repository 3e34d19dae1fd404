"""What adds and deletes do to an index that is not built anew.

In: ``StudyVectors``. Out: ``Change``, one a step of a scenario, and ``Visible``, one a kind.

- ``ivf_random``: cells learned from nine tenths of the gallery, drawn at random; the last tenth
  comes in ten batches, then a tenth of all is deleted, then the index is built anew.
- ``ivf_new_class``: the same, but what comes later is a whole class that the cells have never seen.
  It falls into whichever cells are least far. ``recall_new`` is that of the class's own queries.
- ``hnsw_random``: a growing share of the nodes is deleted at random, no rebuild; then the rebuild.
- ``hnsw_class``: a whole class is deleted, and asked for: the walk starts among the dead.
- visible: seconds from the call of ``add`` to a search that returns the new row, one row at a time.

Recall is against the exact neighbours among what is in the index at that moment.

Legend: G gallery, Q queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.filtering import best_of
from image_search.retrieval.graph import HnswIndex
from image_search.retrieval.grid_study import FIRST, found_share
from image_search.retrieval.index import VectorIndex, build_index
from image_search.retrieval.inverted import IvfIndex
from image_search.retrieval.study_vectors import StudyVectors
from image_search.retrieval.timing import one_thread, single_ms
from ml_platform.evaluation.progress import Progress

BATCHES = 10
LATER = 0.1
"""Of the gallery: what comes later, and what is deleted."""
SINGLE_ADDS = 50


@dataclass(frozen=True)
class Change:
    """An index after a step.

    Attributes:
        scenario: See the module.
        step: "start", "add_3" (batches), "delete_0.1" (share), "rebuilt".
        n: Vectors in it, the dead not counted.
        recall: f64[Q].
        recall_new: f64[q], of the queries that the scenario is about; empty where it is about none.
        ms: f64[n], single queries, those of ``recall_new`` where there are any.
        seconds: That the step itself took, one thread.
        largest_cell: Share of the vectors in the fullest cell of an inverted file; 0 for others.
    """

    scenario: str
    step: str
    n: int
    recall: np.ndarray
    recall_new: np.ndarray
    ms: np.ndarray
    seconds: float
    largest_cell: float


@dataclass(frozen=True)
class Visible:
    """Seconds until an added row is found, one thread; the build beside it.

    Attributes:
        kind: Of the index.
        seconds: f64[n], of single rows.
        missed: Rows that the first search with their own vector did not return.
        build_s: Of the whole index.
    """

    kind: str
    seconds: np.ndarray
    missed: int
    build_s: float


@dataclass
class _Ground:
    """An index, what is in it, and the measuring of it."""

    vectors: StudyVectors
    config: IndexConfig
    scenario: str
    index: VectorIndex
    present: np.ndarray
    about: np.ndarray

    def after(self, step: str, work: Callable[[], None]) -> Change:
        """Does the work on one thread, then measures."""
        with one_thread():
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            asks = self.vectors.queries[self.about] if self.about.any() else self.vectors.queries
            timed = self.config.study.timed_queries
            ms = single_ms(lambda q: self.index.search(q, FIRST), asks, single=timed)
        recall = self._recall()
        cell = 0.0
        if isinstance(self.index, IvfIndex):
            cell = float(self.index.sizes.max() / max(len(self.index), 1))
        new = recall[self.about]
        n = int(self.present.sum())
        return Change(self.scenario, step, n, recall, new, ms, seconds, cell)

    def _recall(self) -> np.ndarray:
        rows = np.flatnonzero(self.present)
        truth = best_of(self.vectors.queries, rows, self.vectors.gallery[rows], FIRST)[0]
        return found_share(self.index.search(self.vectors.queries, FIRST)[0], truth)

    def add(self, rows: np.ndarray) -> None:
        self.index.add(rows, self.vectors.gallery[rows])
        self.present[rows] = True

    def remove(self, rows: np.ndarray) -> None:
        self.index.remove(rows[self.present[rows]])
        self.present[rows] = False


def measure_changes(
    vectors: StudyVectors, config: IndexConfig, seed: int, progress: Progress
) -> list[Change]:
    """All four scenarios."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(vectors.gallery))
    late = order[: max(BATCHES, round(LATER * len(order)))]
    new = newest_class(vectors)
    of_class = rng.permutation(np.flatnonzero(vectors.label == new))
    nobody = np.zeros(len(vectors.queries), dtype=bool)
    asked = vectors.query_label == new
    made: list[Change] = []
    with progress.stage("index changes", 4) as advance:
        for scenario, rows, about in (
            ("ivf_random", late, nobody),
            ("ivf_new_class", of_class, asked),
        ):
            made += ivf_scenario(vectors, config, seed, scenario, rows, about)
            advance(1)
        shares = config.study.dead_shares
        steps = {f"delete_{share:g}": order[: round(share * len(order))] for share in shares}
        made += hnsw_scenario(vectors, config, seed, "hnsw_random", steps, nobody)
        advance(1)
        whole = {"start": of_class[:0], "delete_class": of_class}
        made += hnsw_scenario(vectors, config, seed, "hnsw_class", whole, asked)
        advance(1)
    return made


def newest_class(vectors: StudyVectors) -> int:
    """The class that comes later: the last one that has queries."""
    return int(np.intersect1d(vectors.label, vectors.query_label).max())


def ivf_scenario(
    vectors: StudyVectors,
    config: IndexConfig,
    seed: int,
    scenario: str,
    late: np.ndarray,
    about: np.ndarray,
) -> list[Change]:
    """Learns from all but ``late`` i64[n], adds those in batches, deletes, builds anew."""
    present = np.ones(len(vectors.gallery), dtype=bool)
    present[late] = False
    with one_thread():
        index = _built("ivf_flat", vectors, np.flatnonzero(present), config, seed)
    ground = _Ground(vectors, config, scenario, index, present, about)
    # Before the new ones are there nothing of theirs can be found: about everybody.
    start = _Ground(vectors, config, scenario, index, present, np.zeros_like(about))
    made = [start.after("start", lambda: None)]
    for number, batch in enumerate(np.array_split(late, BATCHES), start=1):
        made.append(ground.after(f"add_{number}", partial(ground.add, batch)))
    rng = np.random.default_rng(seed + 1)
    gone = rng.choice(len(present), round(LATER * len(present)), replace=False)
    made.append(ground.after(f"delete_{LATER:g}", lambda: ground.remove(gone)))

    def rebuild() -> None:
        rows = np.flatnonzero(ground.present)
        ground.index = _built("ivf_flat", vectors, rows, config, seed)

    return [*made, ground.after("rebuilt", rebuild)]


def hnsw_scenario(
    vectors: StudyVectors,
    config: IndexConfig,
    seed: int,
    scenario: str,
    steps: dict[str, np.ndarray],
    about: np.ndarray,
) -> list[Change]:
    """Deletes the rows of each step (each holds those of the one before), then builds anew."""
    # The rebuild is the last step's, not the index's own.
    patient = config.model_copy(update={"rebuild_share": 0.999})
    present = np.ones(len(vectors.gallery), dtype=bool)
    with one_thread():
        index = _built("hnsw", vectors, np.flatnonzero(present), patient, seed)
    if not isinstance(index, HnswIndex):
        raise TypeError(f"hnsw is built as it is, got {type(index).__name__}")
    ground = _Ground(vectors, config, scenario, index, present, about)
    made = [ground.after(name, partial(ground.remove, rows)) for name, rows in steps.items()]
    return [*made, ground.after("rebuilt", index.rebuild)]


def measure_visible(
    vectors: StudyVectors, config: IndexConfig, seed: int, progress: Progress
) -> list[Visible]:
    """Every kind: SINGLE_ADDS rows come one by one to an index of all others."""
    order = np.random.default_rng(seed).permutation(len(vectors.gallery))
    late, early = order[:SINGLE_ADDS], np.sort(order[SINGLE_ADDS:])
    made: list[Visible] = []
    with progress.stage("index: time to visible", len(config.study.kinds)) as advance:
        for kind in config.study.kinds:
            with one_thread():
                started = time.perf_counter()
                index = _built(kind, vectors, early, config, seed)
                build_s = time.perf_counter() - started
                seconds, missed = _visible(index, vectors, late)
            made.append(Visible(kind, seconds, missed, build_s))
            advance(1)
    return made


def _visible(index: VectorIndex, vectors: StudyVectors, late: np.ndarray) -> tuple[np.ndarray, int]:
    seconds, missed = np.empty(len(late)), 0
    for place, row in enumerate(late):
        vector = vectors.gallery[row : row + 1]
        started = time.perf_counter()
        index.add(np.array([row]), vector)
        found = index.search(vector, FIRST)[0]
        seconds[place] = time.perf_counter() - started
        missed += int(row not in found)
    return seconds, missed


def _built(
    kind: str, vectors: StudyVectors, rows: np.ndarray, config: IndexConfig, seed: int
) -> VectorIndex:
    plain = config.model_copy(update={"reduce": "none"})
    return build_index(kind, vectors.gallery[rows], rows, plain, seed)
