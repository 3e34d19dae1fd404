"""FAISS's number of threads, for a block: a measurement on one thread, a build on several.

FAISS keeps one number for the whole process, so that two blocks at once would undo each other.
FAISS is a contender of this package and no dependency of it; who imports this module has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss


@contextmanager
def faiss_threads(n_threads: int) -> Iterator[None]:
    """Sets FAISS's number of threads and restores what was set, also after an error."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
