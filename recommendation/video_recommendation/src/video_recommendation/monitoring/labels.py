"""Which of the shown items was watched next: lists joined to events as they come in.

In: lists as they are shown, events as they are accepted. Out: scores f64[N], outcomes bool[N] and
users i64[N] of the lists whose outcome is known. The rule is the training rows' own: a list is
answered by the user's next moment, which is one event, or several of the same second. A list that
is followed by another list and no event is dropped, for training has no request without an event:
a monitor that counted it as "nothing was watched" would find every model badly calibrated.

The newest list of a user therefore waits until the user is seen again; nothing is decided by time.
Memory is bounded: so many waiting users, so many answered lists, the oldest are forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

MAX_WAITING = 20_000
MAX_ANSWERED = 2000


@dataclass
class _Waiting:
    """A list whose user has not gone on yet."""

    item_ids: np.ndarray
    scores: np.ndarray
    watched: np.ndarray
    moment: int | None = None


class LabelJoin:
    """Thread-safe; both calls take microseconds.

    Args:
        max_waiting: Users whose list waits for an outcome.
        max_answered: Lists in the window.
    """

    def __init__(self, max_waiting: int = MAX_WAITING, max_answered: int = MAX_ANSWERED) -> None:
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._answered: deque[tuple[np.ndarray, np.ndarray, int]] = deque(maxlen=max_answered)
        self._max_waiting = max_waiting
        self._lock = threading.Lock()

    def shown(self, user_id: int, item_ids: np.ndarray, scores: np.ndarray) -> None:
        """A list went out: item_ids i64[K], scores f64[K]."""
        fresh = _Waiting(item_ids, scores, np.zeros(len(item_ids), dtype=bool))
        with self._lock:
            self._finish(user_id)
            self._waiting[user_id] = fresh
            if len(self._waiting) > self._max_waiting:
                self._waiting.popitem(last=False)

    def event(self, user_id: int, item_id: int, moment: int) -> None:
        """The user did something with an item at a Unix second."""
        with self._lock:
            waiting = self._waiting.get(user_id)
            if waiting is None:
                return
            if waiting.moment is None:
                waiting.moment = moment
            if waiting.moment == moment:
                waiting.watched |= waiting.item_ids == item_id
            else:
                self._finish(user_id)

    def clear(self) -> None:
        """Forgets everything: the scores of another version follow."""
        with self._lock:
            self._waiting.clear()
            self._answered.clear()

    @property
    def n_answered(self) -> int:
        """Lists whose outcome is known."""
        return len(self._answered)

    def answered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores f64[N], outcomes bool[N] and users i64[N] of the answered lists."""
        with self._lock:
            lists = list(self._answered)
        if not lists:
            return np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
        scores, watched, users = zip(*lists, strict=True)
        return (
            np.concatenate(scores),
            np.concatenate(watched),
            np.repeat(np.array(users, dtype=np.int64), [len(part) for part in scores]),
        )

    def _finish(self, user_id: int) -> None:
        waiting = self._waiting.pop(user_id, None)
        if waiting is not None and waiting.moment is not None:
            self._answered.append((waiting.scores, waiting.watched, user_id))
