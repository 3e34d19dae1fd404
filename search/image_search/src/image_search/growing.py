"""An array that rows can be appended to, with room to spare.

Appending one row to an array copies all of it. Here the room doubles when it is used up, so that N
appends copy fewer than 2 N rows in all, and readers get a view.

Legend: N rows.
"""

from __future__ import annotations

import numpy as np


class GrowingRows:
    """Rows of one type and shape.

    Args:
        rows: [N, ...]; kept as it is until something is appended.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._room, self._n = rows, len(rows)

    def __len__(self) -> int:
        return self._n

    @property
    def values(self) -> np.ndarray:
        """[N, ...]: a view; what is appended later does not change it."""
        return self._room[: self._n]

    def append(self, rows: np.ndarray) -> None:
        """Adds rows [n, ...].

        Raises:
            ValueError: If they have another shape.
        """
        if rows.shape[1:] != self._room.shape[1:]:
            raise ValueError(f"rows of {rows.shape[1:]} to an array of {self._room.shape[1:]}")
        end = self._n + len(rows)
        if end > len(self._room):
            room = np.empty((max(2 * self._n, end, 16), *self._room.shape[1:]), self._room.dtype)
            room[: self._n] = self.values
            self._room = room
        self._room[self._n : end] = rows
        self._n = end
