"""An inverted file: vectors by cell of k-means, and a search reads the nearest cells only.

In: vectors f32[N, D] of length 1. Out: the most similar rows. With ``compressed`` a vector is kept
as a product-quantised residual of M bytes (H. Jegou, M. Douze, C. Schmid, "Product Quantization for
Nearest Neighbor Search", TPAMI 2011, section 4, as FAISS has it), without it in full.

The cells are those of the vectors that the index was trained on. A vector that comes later joins
the nearest of them, however far that is; ``changes_study.py`` measures what that costs, also for a
class that the training has not seen. Removal is real: the list is compacted.

A filter is applied while lists are read ("during"): what it bars costs a look-up and no distance.
If the nearest cells hold too few that pass, the answer ends short, which is why the index reads
more cells the fewer pass, up to all.

Legend: N vectors, D dimensions, L cells, P probes, M bytes of a code.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.faiss_library import faiss
from image_search.retrieval.index import FaissIndex, queries_of, selector

PER_CELL = 64
"""Vectors a cell that k-means reads at most."""
FEWEST_PER_CELL = 39
"""FAISS warns below: a centroid of fewer is mostly noise."""
FEWEST_CODED = 16 * FEWEST_PER_CELL
"""Vectors that the 16 codewords of four bits want; 256 want sixteen times as many, and a set
between gets four bits a part."""
CELL_ROUNDS = 10
PQ_ROUNDS = 15
"""Of k-means a part; FAISS's 25 and 256 vectors a codeword take seven times as long."""


class IvfIndex(FaissIndex):
    """See the module; made by ``trained``."""

    KIND = "ivf"

    @classmethod
    def trained(
        cls, vectors: np.ndarray, config: IndexConfig, seed: int, *, compressed: bool
    ) -> Self:
        """Learns cells (and codebooks) from vectors f32[n, D]; none of them is added.

        Raises:
            ValueError: If ``pq_bytes`` does not divide D, or there are too few vectors to learn
                codewords from.
        """
        dim = vectors.shape[1]
        lists = cells_for(len(vectors), config.lists)
        coarse = faiss.IndexFlatIP(dim)
        index: Any
        if compressed:
            if dim % config.pq_bytes or len(vectors) < FEWEST_CODED:
                raise ValueError(
                    f"product codes of {config.pq_bytes} bytes need a dimension that they divide "
                    f"and {FEWEST_CODED} vectors to learn from; there are {len(vectors)} of {dim}"
                )
            bits = 8 if len(vectors) >= 256 * FEWEST_PER_CELL else 4
            index = faiss.IndexIVFPQ(
                coarse, dim, lists, config.pq_bytes, bits, faiss.METRIC_INNER_PRODUCT
            )
            index.pq.cp.seed = seed
            index.pq.cp.max_points_per_centroid, index.pq.cp.niter = PER_CELL, PQ_ROUNDS
        else:
            index = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.cp.max_points_per_centroid = PER_CELL
        index.cp.niter = CELL_ROUNDS
        index.cp.spherical = True  # unit vectors: a cell is a cone
        index.own_fields = True
        coarse.this.disown()
        index.train(queries_of(vectors))
        index.nprobe = min(config.probes, lists)
        return cls(index)

    @property
    def cells(self) -> int:
        """L."""
        return int(self._index.nlist)

    @property
    def probes(self) -> int:
        """P, cells read for a query; may be set."""
        return int(self._index.nprobe)

    @probes.setter
    def probes(self, number: int) -> None:
        self._index.nprobe = min(number, self.cells)

    @property
    def sizes(self) -> np.ndarray:
        """i64[L]: vectors in each cell."""
        lists = self._index.invlists
        return np.array([lists.list_size(cell) for cell in range(self.cells)], dtype=np.int64)

    def probes_for(self, passing: int) -> int:
        """Cells that hold as many passing rows as P cells hold rows, at most L."""
        share = max(passing, 1) / max(len(self), 1)
        return min(self.cells, math.ceil(self.probes / min(share, 1.0)))

    def _passing(self, allowed: np.ndarray) -> Any:
        """With a filter, more cells the fewer rows pass."""
        probes = self.probes_for(int(allowed.sum()))
        return faiss.SearchParametersIVF(nprobe=probes, sel=selector(allowed))


def cells_for(n: int, wanted: int | None) -> int:
    """Cells over n vectors: four times the square root, or as wanted; enough vectors in each."""
    cells = wanted or round(4 * math.sqrt(n))
    return max(1, min(cells, n // FEWEST_PER_CELL))
