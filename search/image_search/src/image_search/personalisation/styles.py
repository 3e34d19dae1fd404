"""The style of a user: where in the embedding their clicks lie, apart from what they searched for.

In: clicks (user, catalogue rows, time). Out: a style vector of each user, and scores with it. A
click on a coat says first of all that a coat was searched for; what is left when the mean of all
coats is subtracted says which coats this user likes:

    d_i   = v_i - mean of the vectors of i's class                        an item's own direction
    S_h,u = sum over u's clicks c of 2^(-age of c / h) d_c                 decayed sum, half-life h
    N_h,u = sum over u's clicks c of 2^(-age of c / h)                     decayed count
    s_u   = (1 - a) S_long / (N_long + n0) + a S_session / (N_session + n0)
    a     = share * N_session / (N_session + 1)

with n0 the shrinkage: each part is the mean of the user's clicks and n0 clicks of nobody in
particular (whose direction is 0), so that one click moves little and none nothing. Without clicks
in the session the long-term style speaks alone. Users
by a decayed mean of item vectors in one space with the items is the simplest of its kind (learned
ones: PinnerFormer, KDD 2022). The store keeps S and N, not the clicks: O(D) a user, O(D) a click,
and nothing to replay.

Legend: U users, N items, D dimension, K classes, n clicks, B asks, C candidates.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from image_search.config import PersonalisationConfig
from image_search.embeddings.base import unit_rows

FILE = "styles.npz"
_FIRST_SLOTS = 64


@dataclass(frozen=True)
class Directions:
    """What of an item is style: its vector without the mean of its class.

    Attributes:
        mean: f32[K + 1, D], of each class's vectors; the last for items of no class.
        label: i16[N], class by row, -1 for none.
    """

    mean: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, label: np.ndarray, n_classes: int) -> Self:
        """Means over the items' vectors f32[N, D]; a class without items has the mean of all."""
        if len(vectors) != len(label) or not len(vectors):
            raise ValueError(f"{len(vectors)} vectors and {len(label)} labels")
        mean = np.tile(vectors.mean(axis=0, dtype=np.float64), (n_classes + 1, 1))
        for k in np.unique(label[label >= 0]):
            mean[k] = vectors[label == k].mean(axis=0, dtype=np.float64)
        return cls(mean.astype(np.float32), np.asarray(label, dtype=np.int16))

    def __call__(self, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """f32[..., D] of length 1 (or 0) from rows i64[...] and their vectors f32[..., D].

        Rows beyond those known here (items added since) are taken for items of no class.
        """
        known = (rows >= 0) & (rows < len(self.label))
        label = np.where(known, self.label[np.where(known, rows, 0)], -1)
        apart = vectors - self.mean[label]
        return unit_rows(apart.reshape(-1, apart.shape[-1])).reshape(apart.shape)


class StyleStore:
    """Styles of users, kept up to date click by click; safe to share between threads."""

    def __init__(self, dim: int, config: PersonalisationConfig | None = None) -> None:
        """An empty store of styles f32[dim]."""
        if dim < 1:
            raise ValueError(f"a style needs at least one dimension, got {dim}")
        self.config = config or PersonalisationConfig()
        half_lives = (self.config.session_half_life_s, self.config.long_half_life_s)
        self._half_life_s = np.array(half_lives)
        self._slot_of: dict[int, int] = {}
        self._free: list[int] = []
        self._sum = np.zeros((_FIRST_SLOTS, 2, dim), dtype=np.float32)
        self._count = np.zeros((_FIRST_SLOTS, 2))
        self._clicks = np.zeros(_FIRST_SLOTS, dtype=np.int64)
        self._last_s = np.full(_FIRST_SLOTS, -np.inf)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def dim(self) -> int:
        """D."""
        return int(self._sum.shape[2])

    @property
    def bytes(self) -> int:
        """Of the arrays."""
        return sum(a.nbytes for a in (self._sum, self._count, self._clicks, self._last_s))

    def apply_clicks(self, user_id: int, directions: np.ndarray, now_s: float) -> None:
        """Adds a user's clicks, all at one time.

        Args:
            user_id: External id.
            directions: f32[n, D] of the clicked items (``Directions``).
            now_s: Seconds on any clock that does not run backwards; a click from before the user's
                last one counts as if it came with it.

        Raises:
            ValueError: If the shape does not fit or a value is not finite.
        """
        directions = np.atleast_2d(np.asarray(directions, dtype=np.float32))
        if directions.shape[1:] != (self.dim,) or not np.isfinite(directions).all():
            raise ValueError(f"directions {directions.shape}: expected finite [n, {self.dim}]")
        if not np.isfinite(now_s):
            raise ValueError(f"the time of a click must be finite, got {now_s}")
        if not len(directions):
            return
        with self._lock:
            slot = self._slot(user_id)
            faded = self._fading(np.array([slot]), now_s)[0]
            self._sum[slot] = self._sum[slot] * faded[:, None] + directions.sum(axis=0)
            self._count[slot] = self._count[slot] * faded + len(directions)
            self._clicks[slot] += len(directions)
            self._last_s[slot] = max(now_s, self._last_s[slot])

    def styles(self, user_ids: list[int | None], now_s: float) -> np.ndarray:
        """f32[B, D]: each user's style at ``now_s``; zeros for None and for unknown users.

        The length says how much is known: 0 for nothing, 1 at most.
        """
        found = np.zeros((len(user_ids), self.dim), dtype=np.float32)
        with self._lock:
            slots = [-1 if u is None else self._slot_of.get(u, -1) for u in user_ids]
            there = np.flatnonzero(np.array(slots, dtype=np.int64) >= 0)
            if len(there):
                found[there] = self._mixed(np.array(slots)[there], now_s)
        return found

    def clicks(self, user_id: int) -> int:
        """How many clicks of this user there have been; 0 for an unknown one."""
        slot = self._slot_of.get(user_id)
        return 0 if slot is None else int(self._clicks[slot])

    def forget(self, user_id: int) -> bool:
        """Erases all that is known of a user; False if nothing was."""
        with self._lock:
            return self._forget(user_id)

    def shift(self, seconds: float) -> None:
        """Moves every click by so many seconds: from a log's clock to the server's, say."""
        with self._lock:
            self._last_s += seconds

    def save(self, folder: Path) -> None:
        """Writes ``styles.npz`` into an existing folder."""
        with self._lock:
            ids = np.array(list(self._slot_of), dtype=np.int64)
            slots = np.array(list(self._slot_of.values()), dtype=np.int64)
            total, count = self._sum[slots], self._count[slots]
            clicks, last_s = self._clicks[slots], self._last_s[slots]
        np.savez(folder / FILE, user_id=ids, total=total, count=count, clicks=clicks, last_s=last_s)

    @classmethod
    def load(cls, folder: Path, config: PersonalisationConfig | None = None) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: If the file holds more users than are kept, or its columns do not fit.
        """
        with np.load(folder / FILE, allow_pickle=False) as kept:
            ids, columns = kept["user_id"], [kept[name] for name in _COLUMNS]
        made = cls(int(columns[0].shape[2]), config)
        if len(ids) > made.config.max_users or {len(c) for c in columns} != {len(ids)}:
            raise ValueError(f"{folder / FILE}: {len(ids)} users, {made.config.max_users} are kept")
        for user in ids.tolist():
            made._slot(user)
        made._sum[: len(ids)], made._count[: len(ids)] = columns[0], columns[1]
        made._clicks[: len(ids)], made._last_s[: len(ids)] = columns[2], columns[3]
        return made

    def _mixed(self, slots: np.ndarray, now_s: float) -> np.ndarray:
        """f32[n, D]; see the module for the formula."""
        faded = self._fading(slots, now_s)
        count = self._count[slots] * faded
        total = self._sum[slots] * faded[..., None]
        under = count + self.config.shrinkage
        share = self.config.session_share * count[:, :1] / (count[:, :1] + 1)
        weights = np.concatenate([share, 1 - share], axis=1) / np.where(under > 0, under, 1)
        return np.einsum("ns,nsd->nd", weights, total).astype(np.float32)

    def _fading(self, slots: np.ndarray, now_s: float) -> np.ndarray:
        """f64[n, 2]: what is left of session and long-term sums since the users' last clicks."""
        idle_s = np.maximum(now_s - self._last_s[slots], 0.0)
        return np.asarray(np.exp2(-idle_s[:, None] / self._half_life_s))

    def _slot(self, user_id: int) -> int:
        """The user's place, made if there is none; the user idle the longest goes if it is full."""
        slot = self._slot_of.get(user_id)
        if slot is not None:
            return slot
        if len(self._slot_of) >= self.config.max_users:
            idle = min(self._slot_of, key=lambda user: float(self._last_s[self._slot_of[user]]))
            self._forget(idle)
        slot = self._free.pop() if self._free else len(self._slot_of)
        if slot >= len(self._sum):
            self._grow()
        self._slot_of[user_id] = slot
        return slot

    def _forget(self, user_id: int) -> bool:
        slot = self._slot_of.pop(user_id, None)
        if slot is None:
            return False
        self._sum[slot], self._count[slot], self._clicks[slot] = 0, 0, 0
        self._last_s[slot] = -np.inf
        self._free.append(slot)
        return True

    def _grow(self) -> None:
        for name in ("_sum", "_count", "_clicks", "_last_s"):
            old = getattr(self, name)
            empty = np.full_like(old, -np.inf) if name == "_last_s" else np.zeros_like(old)
            setattr(self, name, np.concatenate([old, empty]))


_COLUMNS = ("total", "count", "clicks", "last_s")
