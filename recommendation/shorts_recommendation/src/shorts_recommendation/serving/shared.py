"""How far the log has grown, seen by all workers of one service without a question to anybody.

In: each worker's last committed number. Out: the highest of all. A file of eight bytes a worker,
mapped into every process: writing is one store, reading a few loads. Each worker writes its own
place only, so no lock is needed and a number never goes back.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path


class SharedSeq:
    """Last numbers of W workers.

    Args:
        path: Of the file; made when absent.
        workers: W.
        worker: The caller's place, 0..W-1.
    """

    def __init__(self, path: Path, workers: int, worker: int) -> None:
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}: count from 0")
        self._format = struct.Struct(f"<{workers}q")
        self._place = 8 * worker
        path.touch()
        with path.open("r+b") as file:
            if path.stat().st_size < self._format.size:
                file.truncate(self._format.size)
            self._map = mmap.mmap(file.fileno(), self._format.size)
        self._alone = workers == 1

    def publish(self, seq: int) -> None:
        """The caller has committed up to this number; a lower one changes nothing.

        The answer to a retry carries the number of the first attempt, which lies behind.
        """
        if seq > struct.unpack_from("<q", self._map, self._place)[0]:
            struct.pack_into("<q", self._map, self._place, seq)

    def latest(self) -> int:
        """The highest number of all; 0 for a worker that is alone, who knows it anyway."""
        return 0 if self._alone else max(self._format.unpack_from(self._map))

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
