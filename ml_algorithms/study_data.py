"""What the studies of several algorithms do alike with data: load it, and draw queries from it.

In: a data set's name, or a ``Dataset``. Out: the ``Dataset``, or an error that a study reports by
name; ``NextEvents``: a past to fit on and queries after it, with what each may know and must find.

This stands outside ml_platform because its rooms do not know each other: ``study`` cannot name the
errors of ``data``, and ``data`` cannot raise those of ``study``.

Legend: Q queries, H history rows of all queries together, R relevant items of all queries together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ml_platform.data.datasets import DatasetUnavailableError, SyntheticConfig, load_dataset
from ml_platform.data.interactions import InteractionLog, Queries, build_interaction_log
from ml_platform.data.schema import Dataset
from ml_platform.data.splits import next_event_queries, temporal_windows
from ml_platform.evaluation.study import MissingInputError

SYNTHETIC = "synthetic"
Loaded = TypeVar("Loaded")


@contextmanager
def or_missing_input() -> Iterator[None]:
    """Data that no source has becomes a study's "missing input": the part fails, the others run.

    For ``load_table`` and ``load_vectors``; ``study_dataset`` has it inside.

    Raises:
        MissingInputError: In place of DatasetUnavailableError, with its words.
    """
    try:
        yield
    except DatasetUnavailableError as error:
        raise MissingInputError(str(error)) from error


def study_dataset(name: str, *, small: SyntheticConfig | None = None) -> Dataset:
    """The data set of a study.

    Args:
        name: Of the registry; "synthetic" is generated.
        small: Size of the generated data; of no effect on a real data set.

    Raises:
        MissingInputError: If no source has it; the message says what to do.
        ValueError: For a name that is not in the registry.
    """
    with or_missing_input():
        return load_dataset(name, synthetic=small if name == SYNTHETIC else None)


def for_notebook(load: Callable[[str], Loaded], name: str = "movielens-100k") -> Loaded:
    """What ``load`` makes of a data set, or of generated data where no source has it.

    ``MLSD_NOTEBOOK_SIZE=smoke`` asks for the generated data, as tests do.
    """
    if os.environ.get("MLSD_NOTEBOOK_SIZE") == "smoke":
        name = SYNTHETIC
    try:
        return load(name)
    except MissingInputError as error:
        print(f"{error}\nGenerated data instead: mechanics only, no quality.")
        return load(SYNTHETIC)


@dataclass(frozen=True)
class NextEvents:
    """Queries of the last tenth of time, and the nine tenths before it.

    Attributes:
        past: What models are fitted on.
        queries: Q of them, in the order of the log; histories are live, they reach into the last
            tenth.
        ptr: i64[Q + 1], history q is ``history[ptr[q]:ptr[q + 1]]``.
        history: i32[H], items, oldest first.
        relevant: Ragged: ptr i64[Q + 1], items i32[R].
    """

    past: InteractionLog
    queries: Queries
    ptr: np.ndarray
    history: np.ndarray
    relevant: tuple[np.ndarray, np.ndarray]

    @property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(query i64[H], item i32[H]): the pairs to mask."""
        return np.repeat(np.arange(len(self.queries)), np.diff(self.ptr)), self.history


def next_events(
    data: Dataset, *, queries: int, seed: int, least_history: int = 0, least_unseen: int = 0
) -> NextEvents:
    """Cuts by time and draws queries after the cut.

    Args:
        data: Any data set.
        queries: At most so many, drawn at random without replacement.
        seed: Of the order of events within a second, and of the draw.
        least_history: Events that a query's user must have before it.
        least_unseen: Items that a query's user must not have met.
    """
    log = build_interaction_log(data, seed=seed)
    cut = temporal_windows(log.timestamp).validation_end
    every = next_event_queries(log, cut, None)
    length = every.history_end - every.history_begin
    fit = np.flatnonzero((length >= least_history) & (length <= log.n_items - least_unseen))
    drawn = np.random.default_rng(seed).choice(fit, size=min(queries, len(fit)), replace=False)
    chosen = every.subset(np.sort(drawn))
    ptr, rows = chosen.history(log)
    return NextEvents(
        past=log.select(log.timestamp < cut),
        queries=chosen,
        ptr=ptr,
        history=log.item_idx[rows],
        relevant=chosen.relevant(log),
    )
