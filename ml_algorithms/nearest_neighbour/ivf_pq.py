"""IVF-PQ: inverted lists of compressed residuals, the index of billions of vectors.

In: vectors f32[N, D]. Out: an index of M bytes and an id per vector. Jegou, Douze and Schmid,
"Product Quantization for Nearest Neighbor Search", TPAMI 2011, section IV (IVFADC); with a rotation
it is FAISS's "OPQ,IVF,PQ".

Two quantisers in a row. The coarse one (k-means, C lists) says roughly where a vector lies; PQ
encodes only what is left, the residual r = x - c. Residuals are shorter than vectors and look alike
in all lists, so the same bytes describe them better.

The price is at search: under "l2" the query's residual q - c, and with it the table of M K
distances, differs from list to list. Splitting the square avoids most of it:

    |q - c - r|^2 = |q - c|^2 + (|r|^2 + 2 c.r) - 2 q.r

The last term is one table per query; the middle one belongs to the stored vector alone. It is kept
as one float per vector (FAISS instead tables it per list and centroid: M K floats a list). Under
"ip" q.x = q.c + q.r, and no such term is needed.

``search`` may end with ``refine``: the best ``refine * k`` by code are compared again by their
exact vectors, kept elsewhere. Codes then only have to bring the right ones into that short list.

Legend: N vectors, D dimensions, C lists, P probes, M parts, K centroids a part, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import distances, rerank, smallest_k
from ml_algorithms.nearest_neighbour.index import (
    Codes,
    Distances,
    Ids,
    Metric,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)
from ml_algorithms.nearest_neighbour.ivf import InvertedLists, default_lists, nearest_lists
from ml_algorithms.nearest_neighbour.kmeans import train_kmeans
from ml_algorithms.nearest_neighbour.product_quantization import (
    ProductQuantizer,
    adc,
    rotate,
    train_opq,
)


@dataclass(frozen=True)
class IVFPQIndex:
    """Codes of residuals in inverted lists. Build it with ``build``.

    Attributes:
        centroids: Coarse f32[C, D], in the rotated space.
        quantizer: Of the residuals.
        lists: Where each vector lies.
        codes: u8[N, M] in the order of the lists, stored part by part.
        constants: |r|^2 + 2 c.r of each decoded residual f32[N] ("l2"); 0 for "ip".
        metric: "l2" or "ip".
        rotation: f32[D, D], or None.
        probes: Lists scanned per query.
        refine: Compare refine * k candidates by ``exact``; 0: none.
        exact: The vectors f32[N, D] for refining, or None.
    """

    centroids: Vectors
    quantizer: ProductQuantizer
    lists: InvertedLists
    codes: Codes
    constants: Distances
    metric: Metric
    rotation: Vectors | None
    probes: int
    refine: int
    exact: Vectors | None

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        metric: Metric = "l2",
        parts: int,
        bits: int = 8,
        lists: int | None = None,
        probes: int = 8,
        refine: int = 0,
        opq: bool = False,
        iterations: int = 10,
        seed: int = 0,
        centroids: Vectors | None = None,
        quantizer: ProductQuantizer | None = None,
    ) -> IVFPQIndex:
        """Trains what is not given, then files and encodes every vector.

        Args:
            vectors: f32[N, D].
            metric: "l2" or "ip".
            parts: M; must divide D.
            bits: Per part.
            lists: C; 4 sqrt(N) when None.
            probes: Lists scanned per query.
            refine: Keep the vectors too and compare refine * k of them exactly.
            opq: Train a rotation first.
            iterations: Of every k-means.
            seed: Of everything random.
            centroids: Coarse centroids instead of training, in the rotated space.
            quantizer: Of the residuals, instead of training; its parts and bits count.

        Raises:
            ValueError: On bad vectors, metric, parts, bits, probes or refine.
        """
        check_metric(metric)
        exact = as_vectors(vectors)
        rotation = train_opq(exact, parts=parts, bits=bits, seed=seed)[0] if opq else None
        turned = rotate(exact, rotation)
        if centroids is None:
            wanted = lists or default_lists(len(turned))
            centroids = train_kmeans(turned, wanted, iterations=iterations, seed=seed).centroids
        labels = nearest_lists(turned, centroids, metric)[:, 0]
        residuals = turned - centroids[labels]
        if quantizer is None:
            quantizer = ProductQuantizer.train(
                residuals, parts=parts, bits=bits, iterations=iterations, seed=seed
            )
        filed = InvertedLists.of(labels, len(centroids))
        codes = np.asfortranarray(quantizer.encode(residuals[filed.order]))
        constants = _constants(quantizer.decode(codes), centroids[labels[filed.order]], metric)
        index = cls(centroids, quantizer, filed, codes, constants, metric, rotation, 1, 0, exact)
        return replace(index.probing(probes, refine), exact=exact if refine else None)

    def probing(self, probes: int, refine: int | None = None) -> IVFPQIndex:
        """The same index (nothing is copied) with other knobs.

        Raises:
            ValueError: If probes is not 1..C, or refine asks for vectors that were not kept.
        """
        refine = self.refine if refine is None else refine
        if not 1 <= probes <= len(self.centroids):
            raise ValueError(f"probes must be 1..{len(self.centroids)} (the lists), got {probes}")
        if refine < 0 or (refine and self.exact is None):
            raise ValueError(f"refine is {refine}: build with refine >= 1 to keep vectors")
        return replace(self, probes=probes, refine=refine)

    @property
    def bytes_per_vector(self) -> float:
        """Code + id 8 + constant 4 (l2) + shares of tables, and 4 D when vectors are kept."""
        shared = self.centroids.nbytes + self.quantizer.codebooks.nbytes + self.lists.offsets.nbytes
        shared += 0 if self.rotation is None else self.rotation.nbytes
        kept = 0 if self.exact is None else 4 * self.exact.shape[1]
        own = self.quantizer.code_bytes + 8.0 + (4.0 if self.metric == "l2" else 0.0) + kept
        return own + shared / len(self.codes)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest in the probed lists by code (or refined): f32[Q, k], i64[Q, k]."""
        check_k(k)
        queries = as_vectors(queries, self.quantizer.dimensions)
        wanted = max(k, self.refine * k)
        found = empty_result(len(queries), wanted)
        turned = rotate(queries, self.rotation)
        chosen = nearest_lists(turned, self.centroids, self.metric, self.probes)
        for row, query in enumerate(turned):
            values, ids = self._scan(query, chosen[row])
            near, places = smallest_k(values, wanted)
            found[0][row, : near.size], found[1][row, : near.size] = near, ids[places]
        if self.refine and self.exact is not None:
            return rerank(queries, found[1], self.exact, k, self.metric)
        return found

    def _scan(self, query: Vectors, chosen: npt.NDArray[np.int64]) -> tuple[Distances, Ids]:
        """Estimated distances of one query to all vectors of these lists, and their ids."""
        slices = self.lists.slices(chosen)
        table = self.quantizer.table(query, "ip")  # -q.r by part and centroid
        table = table if self.metric == "ip" else 2.0 * table
        to_lists = distances(query[None, :], self.centroids[chosen], self.metric)[0]
        # One pass over all lists: M lookups in all, where list by list would be P M small ones.
        codes = np.concatenate([self.codes[one].T for one in slices], axis=1).T
        values = adc(table, codes)
        values += np.concatenate([self.constants[one] for one in slices])
        values += np.repeat(to_lists, [one.stop - one.start for one in slices])
        return values, np.concatenate([self.lists.order[one] for one in slices])


def _constants(decoded: Vectors, centroids: Vectors, metric: Metric) -> Distances:
    """|r|^2 + 2 c.r of each vector f32[N]; zeros for "ip"."""
    if metric == "ip":
        return np.zeros(len(decoded), dtype=np.float32)
    return np.einsum("nd,nd->n", decoded + 2.0 * centroids, decoded)
