"""Indexes over item vectors: rows and similarities of the nearest, with filters, adds and deletes.

In: vectors f32[N, D] of length 1, row numbers i64[N]. Out: for queries f32[Q, D] the ``k`` most
similar rows i64[Q, k], padded with -1, and their inner products f32[Q, k], padded with -inf.

Six kinds stand behind one protocol. ``flat`` is here; the others are in their own modules:

    ivf_flat, ivf_pq    inverted.py   the vectors of the nearest cells only
    hnsw                graph.py      a walk through a layered proximity graph
    int8, binary        codes.py      every vector, in 8 bits or in 1 bit a number
    (any of them)       rescored.py   on fewer dimensions, or with the shortlist ordered exactly

Legend: N rows, D dimension, Q queries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.faiss_library import faiss

SHARED_SCAN = 1_024
"""Numbers of a batch of queries (Q x D) from which one pass over the vectors serves all of them."""
PARTS = "index.json"
"""What kind an index in a folder is."""


class VectorIndex(Protocol):
    """Rows by the inner product of their vectors with a query's."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int:
        """Of the vectors or codes and what finds them, as they would be written."""

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors f32[n, D] under new row numbers i64[n]."""

    def remove(self, rows: np.ndarray) -> None:
        """Takes rows out of every later answer."""

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows i64[Q, k] and similarities f32[Q, k]; ``allowed`` bool[N] restricts the rows."""

    def save(self, folder: Path) -> None:
        """Writes everything that ``load`` needs into an existing folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote."""


class FaissIndex:
    """What the kinds do alike whose vectors, rows and removals FAISS keeps by itself.

    Args:
        index: FAISS's, empty, trained where it has to be; takes and removes vectors by id.
    """

    KIND: ClassVar[str]
    """In ``index.json``; FAISS's own file is ``<KIND>.faiss``."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def bytes(self) -> int:
        """As FAISS writes it."""
        return written_bytes(self._index)

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """See ``VectorIndex``; what was learned in training stays as it is."""
        rows, vectors = checked(rows, vectors, int(self._index.d))
        self._index.add_with_ids(vectors, rows)

    def remove(self, rows: np.ndarray) -> None:
        """See ``VectorIndex``. Reads every row number and closes the gaps: O(N)."""
        self._index.remove_ids(np.ascontiguousarray(rows, np.int64))

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``VectorIndex``. A filter is looked up row by row: the scan skips what it bars."""
        parameters = None if allowed is None else self._passing(allowed)
        similarity, rows = self._index.search(queries_of(queries), k, params=parameters)
        return padded(rows, similarity)

    def _passing(self, allowed: np.ndarray) -> Any:
        """FAISS's parameters of a search with a filter bool[N]."""
        return faiss.SearchParameters(sel=selector(allowed))

    def save(self, folder: Path) -> None:
        """See ``VectorIndex``."""
        faiss.write_index(self._index, str(folder / f"{self.KIND}.faiss"))
        write_kind(folder, self.KIND)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``VectorIndex``."""
        made = cls.__new__(cls)
        made._index = faiss.read_index(str(folder / f"{cls.KIND}.faiss"))
        return made


class FlatIndex(FaissIndex):
    """Exact search by FAISS: every vector is compared.

    Args:
        dim: D.
    """

    KIND = "flat"

    def __init__(self, dim: int) -> None:
        _share_scans()
        super().__init__(faiss.IndexIDMap2(faiss.IndexFlatIP(dim)))

    @property
    def bytes(self) -> int:
        """4 bytes a number and 8 an id."""
        return len(self) * (4 * int(self._index.d) + 8)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``VectorIndex``."""
        _share_scans()
        return super().load(folder)


def _share_scans() -> None:
    """Lets FAISS take a matrix product for the batches of a service, not only for large ones.

    Below a threshold it compares query by query and reads every vector anew for each; by default
    that is below 128,000 numbers, 500 queries of 256. On one thread the product is as fast from
    about 1,024 numbers on, and two to three times as fast at the service's full batch of 16. The
    threshold belongs to the process. Older versions count queries, 20 of them, and are left alone.
    """
    now = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = min(now, SHARED_SCAN)


def build_index(
    kind: str,
    vectors: np.ndarray,
    rows: np.ndarray,
    config: IndexConfig | None = None,
    seed: int = 0,
) -> VectorIndex:
    """An index of a kind over vectors f32[N, D] at rows i64[N], trained on these very vectors.

    Args:
        kind: Of ``config.IndexKind``.
        vectors: Of length 1.
        rows: Each once, not negative.
        config: Sizes, reduction and re-scoring; the defaults if None.
        seed: Of k-means and of random rotations.

    Raises:
        ValueError: For an unknown kind, no vectors, or sizes that do not fit them.
    """
    from image_search.retrieval.codes import BinaryIndex, Int8Index
    from image_search.retrieval.graph import HnswIndex
    from image_search.retrieval.inverted import IvfIndex
    from image_search.retrieval.reduction import fit_reduction
    from image_search.retrieval.rescored import RescoredIndex

    chosen = config or IndexConfig()
    rows, vectors = checked(rows, vectors, vectors.shape[1])
    if not len(vectors):
        raise ValueError(f"no vectors to build an index {kind!r} from; a flat one may start empty")
    reduction = fit_reduction(chosen.reduce, chosen.reduce_to, vectors)
    small = reduction.apply(vectors)
    core: VectorIndex
    if kind == "flat":
        core = FlatIndex(small.shape[1])
    elif kind in ("ivf_flat", "ivf_pq"):
        core = IvfIndex.trained(small, chosen, seed, compressed=kind == "ivf_pq")
    elif kind == "hnsw":
        core = HnswIndex(small.shape[1], chosen)
    elif kind == "int8":
        core = Int8Index.trained(small)
    elif kind == "binary":
        core = BinaryIndex.trained(small, chosen.rotation, seed)
    else:
        raise ValueError(
            f"unknown index {kind!r}; there are flat, ivf_flat, ivf_pq, hnsw, int8, binary"
        )
    lossy = kind in ("ivf_pq", "int8", "binary") or chosen.reduce != "none"
    if not lossy:
        core.add(rows, vectors)
        return core
    made = RescoredIndex(core, reduction, vectors.shape[1], chosen)
    made.add(rows, vectors)
    return made


def load_index(folder: Path) -> VectorIndex:
    """The index that was saved in ``folder``, of whichever kind.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If its kind is unknown.
    """
    from image_search.retrieval.codes import BinaryIndex, Int8Index
    from image_search.retrieval.graph import HnswIndex
    from image_search.retrieval.inverted import IvfIndex
    from image_search.retrieval.rescored import RescoredIndex

    classes: dict[str, type[VectorIndex]] = {
        "flat": FlatIndex,
        "ivf": IvfIndex,
        "hnsw": HnswIndex,
        "int8": Int8Index,
        "binary": BinaryIndex,
        "rescored": RescoredIndex,
    }
    kind = read_settings(folder)["kind"]
    if kind not in classes:
        raise ValueError(f"{folder} holds an index of unknown kind {kind!r}")
    return classes[kind].load(folder)


# --- what the kinds share ---


def checked(rows: np.ndarray, vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows i64[n] and vectors f32[n, D], contiguous.

    Raises:
        ValueError: On shapes that do not fit, a row given twice or below 0, or a value that is not
            finite: FAISS takes all of these and answers nonsense later.
    """
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim or rows.shape != (len(vectors),):
        raise ValueError(f"rows {rows.shape} and vectors {vectors.shape}: expected [n], [n, {dim}]")
    if len(rows) and (rows.min() < 0 or len(np.unique(rows)) != len(rows)):
        raise ValueError(f"rows must be 0 or more and each once; the least is {rows.min()}")
    if not np.isfinite(vectors).all():
        place = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"the vector of row {rows[place]} has a value that is not finite")
    return rows, vectors


def queries_of(queries: np.ndarray) -> np.ndarray:
    """f32[Q, D], contiguous."""
    return np.ascontiguousarray(queries, dtype=np.float32)


def selector(allowed: np.ndarray) -> Any:
    """FAISS's form of bool[N]: a bit a row. Rows beyond N do not pass."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def padded(rows: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, similarities) with -inf where FAISS found no row."""
    return rows, np.where(rows < 0, np.float32(-np.inf), similarity)


def written_bytes(index: Any) -> int:
    """Of the index as FAISS writes it, everything included."""
    binary = isinstance(index, faiss.IndexBinary)
    made = faiss.serialize_index_binary(index) if binary else faiss.serialize_index(index)
    return int(made.nbytes)


def write_kind(folder: Path, kind: str, **settings: object) -> None:
    """Writes ``index.json``: the kind, and what FAISS's own file does not hold."""
    (folder / PARTS).write_text(json.dumps({"kind": kind, **settings}, indent=1) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``write_kind`` was given, with the kind."""
    settings: dict[str, Any] = json.loads((folder / PARTS).read_text())
    return settings


def read_config(folder: Path) -> IndexConfig:
    """The configuration that ``write_kind`` was given."""
    return IndexConfig.model_validate(read_settings(folder)["config"])
