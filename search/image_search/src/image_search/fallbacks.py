"""The stages of one batch of searches, and what stands in for one that fails.

In: stages as plain callables, scores f32[B, C]. Out: their results, or the scores from before the
stage; for each ask the stages that a fallback stood in for, as ``stage:reason``.

    rank          by similarity
    personalise   as ranked
    rerank        the first k by score; near-duplicates may stand beside each other

``ml_platform.serving.stages`` runs them, and catches, logs and names what they raise. Two failures
are told apart. A stage that *raises* has failed for all asks of the batch: they share its call, and
a second try one by one would multiply the work just when something is wrong. A stage whose scores
are *not finite* has failed for the asks that have such a score and for no other: a NaN sorts to
some place without a word, and a page in a random order looks like any other page.

Without a monitor nothing is caught. An evaluation that went on with a fallback would measure the
fallback; a server that warms up should stop before it is sent a request.

Legend: B asks, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ml_platform.serving.stages import RequestStages, StageError, StageMonitor

T = TypeVar("T")


class BatchStages:
    """See the module.

    Args:
        monitor: Of the service; None: errors go through.
        n_asks: B.
    """

    def __init__(self, monitor: StageMonitor | None, n_asks: int) -> None:
        self._catches = monitor is not None
        self._stages = RequestStages(monitor)
        self._told: list[list[str]] = [[] for _ in range(n_asks)]

    def degradations(self, ask: int) -> tuple[str, ...]:
        """Stages that a fallback stood in for at this place of the batch."""
        return tuple(self._told[ask])

    def attempt(self, stage: str, asks: Sequence[int], function: Callable[[], T]) -> T | None:
        """What ``function`` returns (never None), or None where it raised.

        Args:
            stage: Its name in answers and metrics.
            asks: Places in the batch that have a fallback instead, then.
            function: Does the work.
        """
        if not self._catches:
            return self._stages.run(stage, function)
        before = len(self._stages.degradations)
        result = self._stages.attempt(stage, function)
        self._tell(asks, before)
        return result

    def scores(
        self,
        stage: str,
        asks: Sequence[int],
        rows: np.ndarray,
        before: np.ndarray,
        function: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Scores f32[B, C] of a stage, those from before it where it failed.

        Args:
            stage: Its name.
            asks: Places in the batch that it is for.
            rows: i64[B, C]; scores of padding (-1) may be anything.
            before: f32[B, C].
            function: Makes the scores.
        """
        made = self.attempt(stage, asks, lambda: _of_shape(function(), rows.shape))
        if made is None:
            return before
        failed = np.flatnonzero((~np.isfinite(made) & (rows >= 0)).any(axis=1))
        if not len(failed):
            return made
        detail = f"scores that are not finite for {len(failed)} of {len(rows)} asks"
        if not self._catches:
            raise StageError(f"{stage}: {detail}")
        known = len(self._stages.degradations)
        self._stages.degrade(stage, "error", detail)
        self._tell(failed.tolist(), known)
        made = made.copy()
        made[failed] = before[failed]
        return made

    def _tell(self, asks: Sequence[int], since: int) -> None:
        for degradation in self._stages.degradations[since:]:
            for ask in asks:
                self._told[ask].append(f"{degradation.stage}:{degradation.reason}")


def _of_shape(scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if scores.shape != shape:
        raise StageError(f"scores of shape {scores.shape}, expected {shape}")
    return scores
