"""An index on reduced or coded vectors whose shortlist is ordered again by the full ones.

In: vectors f32[N, D] of length 1. Out: as every index, with the exact inner products where
``rescore`` is set. The inner index sees vectors of d <= D numbers (``reduction.py``) and names at
least ``shortlist`` rows; their full vectors decide. Recall is then that of the shortlist, and a
lossy code costs far less than its own order would.

The full vectors are held by row number, so rows should be dense, as a catalogue's are. They are
counted in ``bytes``; ``core_bytes`` is what a search reads in full. A service whose vectors lie on
a disk, or in the ranker's memory anyway, pays only the latter here.

Legend: N rows, D and d dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.filtering import rescored
from image_search.retrieval.index import (
    VectorIndex,
    checked,
    load_index,
    queries_of,
    read_config,
    read_settings,
    write_kind,
)
from image_search.retrieval.reduction import Reduced


class RescoredIndex:
    """See the module.

    Attributes:
        core: The inner index, over reduced vectors.
        shortlist: Rows ordered again, at least; 0: none, the inner order stands.
    """

    def __init__(
        self, core: VectorIndex, reduction: Reduced, dim: int, config: IndexConfig
    ) -> None:
        self.core, self.reduction, self.dim, self.config = core, reduction, dim, config
        self.shortlist = config.shortlist if config.rescore else 0
        self._full = np.zeros((0, dim), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.core)

    @property
    def core_bytes(self) -> int:
        """Of the inner index and the projection."""
        return self.core.bytes + self.reduction.bytes

    @property
    def bytes(self) -> int:
        """The same with the full vectors, if they are kept."""
        return self.core_bytes + int(self._full.nbytes)

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """See ``VectorIndex``."""
        rows, vectors = checked(rows, vectors, self.dim)
        self.core.add(rows, self.reduction.apply(vectors))
        if not self.config.rescore or not len(rows):
            return
        if (top := int(rows.max()) + 1) > len(self._full):
            room = max(top, len(self._full) * 5 // 4)  # or each added row would copy all
            grown = np.zeros((room, self.dim), dtype=np.float32)
            grown[: len(self._full)] = self._full
            self._full = grown
        self._full[rows] = vectors

    def remove(self, rows: np.ndarray) -> None:
        """See ``VectorIndex``. The full vector stays where it is until its row is used again."""
        self.core.remove(rows)

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``VectorIndex``."""
        queries = queries_of(queries)
        small = self.reduction.apply(queries)
        if not self.shortlist:
            return self.core.search(small, k, allowed=allowed)
        most = max(self.shortlist, 2 * k)
        rows, _ = self.core.search(small, max(min(most, len(self)), k), allowed=allowed)
        return rescored(queries, rows, self._full, k)

    def save(self, folder: Path) -> None:
        """See ``VectorIndex``."""
        (folder / "core").mkdir()
        self.core.save(folder / "core")
        np.savez(folder / "rescored.npz", full=self._full, basis=self.reduction.basis)
        write_kind(
            folder,
            "rescored",
            dim=self.dim,
            reduction=self.reduction.kind,
            reduced=self.reduction.dim,
            config=self.config.model_dump(mode="json"),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``VectorIndex``."""
        config, settings = read_config(folder), read_settings(folder)
        with np.load(folder / "rescored.npz", allow_pickle=False) as kept:
            full, basis = kept["full"], kept["basis"]
        reduction = Reduced(settings["reduction"], settings["reduced"], basis)
        made = cls(load_index(folder / "core"), reduction, settings["dim"], config)
        made._full = full
        return made
