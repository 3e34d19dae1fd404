"""What the notebook shows: pictures and small tables of this folder's indexes on generated vectors.

In: knobs. Out: figures (``show`` displays one), or a pandas table. All vectors are generated: they
prove mechanics, not quality; the study measures on real ones.

Legend: N vectors, D dimensions, Q queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ml_algorithms.nearest_neighbour.anisotropic import encode_anisotropic, train_anisotropic
from ml_algorithms.nearest_neighbour.bench_memory import OPTIONS, MemoryConfig, plan
from ml_algorithms.nearest_neighbour.exact import FlatIndex, rerank
from ml_algorithms.nearest_neighbour.hnsw import HNSW
from ml_algorithms.nearest_neighbour.index import Distances, Ids, Vectors, normalise
from ml_algorithms.nearest_neighbour.ivf import IVFIndex
from ml_algorithms.nearest_neighbour.lsh import collision_probability
from ml_algorithms.nearest_neighbour.product_quantization import PQIndex, ProductQuantizer
from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, PINK, new_figure

K = 10


@dataclass(frozen=True)
class Toy:
    """Generated unit vectors: base f32[N, D], queries f32[Q, D], true neighbours i64[Q, 10]."""

    base: Vectors
    queries: Vectors
    truth: Ids


@lru_cache(maxsize=4)
def toy_vectors(n: int = 4000, dimensions: int = 32, queries: int = 100, seed: int = 0) -> Toy:
    """Overlapping clusters with few intrinsic dimensions, as embeddings have."""
    rng = np.random.default_rng(seed)
    intrinsic = max(2, dimensions // 3)
    spread = rng.normal(size=(intrinsic, dimensions))
    centres = rng.normal(size=(30, intrinsic)) * 1.2
    latent = centres[rng.integers(30, size=n + queries)] + rng.normal(size=(n + queries, intrinsic))
    noise = 0.3 * rng.normal(size=(n + queries, dimensions))
    vectors = normalise((latent @ spread + noise).astype(np.float32))
    base, asked = vectors[:n], vectors[n:]
    return Toy(base, asked, FlatIndex(base, "ip").search(asked, K)[1])


def recall(found: Ids, truth: Ids) -> float:
    """Share of the true neighbours that were found (ids without ties)."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(hits) / truth.shape[1])


def collision_picture(bits: int, tables: int) -> Figure:
    """Chance to meet in a bucket by angle, for one table and for all."""
    figure, (axes,) = new_figure(f"LSH: {bits} bits, {tables} tables")
    angles = np.linspace(0, 90, 91)
    for count, colour in ((1, GREY), (tables, BLUE)):
        chance = [collision_probability(math.radians(angle), bits, count) for angle in angles]
        axes.plot(angles, chance, color=colour)
        middle = int(np.argmin(np.abs(np.array(chance) - 0.5)))
        name = "one table" if count == 1 else "all tables"
        axes.annotate(
            name, (angles[middle], chance[middle]), xytext=(8, 6), textcoords="offset points",
            color=colour,
        )  # fmt: skip
    axes.set_xlabel("angle between query and vector, degrees")
    axes.set_ylabel("chance to share a bucket")
    axes.set_ylim(0, 1.05)
    return figure


@lru_cache(maxsize=1)
def toy_lists() -> IVFIndex:
    """An IVF index of the toy vectors with 64 lists."""
    return IVFIndex.build(toy_vectors().base, metric="ip", lists=64, seed=0)


def probes_picture(probes: int) -> Figure:
    """Recall against the share of vectors scanned, with one setting marked."""
    toy, index = toy_vectors(), toy_lists()
    settings = sorted({1, 2, 4, 8, 16, 32, 64, probes})
    sizes = np.diff(index.lists.offsets)
    shares, recalls = [], []
    for setting in settings:
        found = index.probing(setting).search(toy.queries, K)[1]
        recalls.append(recall(found, toy.truth))
        shares.append(setting * float(sizes.mean()) / len(toy.base))
    figure, (axes,) = new_figure("IVF: recall@10 by share of vectors scanned (generated vectors)")
    axes.plot(shares, recalls, color=ORANGE, marker="s", markersize=4)
    place = settings.index(probes)
    axes.plot([shares[place]], [recalls[place]], marker="o", markersize=11, color=BLUE)
    axes.annotate(
        f"{probes} probes: recall {recalls[place]:.2f}, {shares[place]:.0%} scanned",
        (shares[place], recalls[place]), xytext=(10, -14), textcoords="offset points", color=BLUE,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("share of vectors scanned")
    axes.set_ylabel("recall@10")
    return figure


@lru_cache(maxsize=8)
def _codes(parts: int, bits: int) -> PQIndex:
    base = toy_vectors().base
    quantizer = ProductQuantizer.train(base, parts=parts, bits=bits, iterations=8)
    return PQIndex(base, quantizer, metric="ip")


def codes_table(parts: int, shortlist: int, bits: int = 6) -> pd.DataFrame:
    """Bytes and recall of PQ codes alone, and after the shortlist is compared exactly."""
    toy, index = toy_vectors(), _codes(parts, bits)
    rough = index.search(toy.queries, shortlist)[1]
    fine = rerank(toy.queries, rough, toy.base, K, "ip")[1]
    rows = {
        "float32": (toy.base.shape[1] * 4.0, 1.0),
        "codes only": (index.quantizer.code_bytes, recall(rough[:, :K], toy.truth)),
        f"codes, best {shortlist} re-ranked": (
            index.quantizer.code_bytes,
            recall(fine, toy.truth),
        ),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["bytes scanned", "recall@10"])


@lru_cache(maxsize=8)
def _aware(eta: float) -> Vectors:
    base = toy_vectors().base
    quantizer, _ = train_anisotropic(base, parts=8, bits=4, eta=eta, rounds=3)
    return quantizer.decode(encode_anisotropic(quantizer, base, eta))


def eta_table(etas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)) -> pd.DataFrame:
    """Plain error, parallel error and recall of 4-byte codes by weight of the parallel error."""
    toy, rows = toy_vectors(), {}
    for eta in etas:
        decoded = _aware(eta)
        residual = toy.base - decoded
        found = FlatIndex(decoded, "ip").search(toy.queries, K)[1]
        rows[f"eta {eta:g}"] = (
            float((residual**2).sum(axis=1).mean()),
            float((np.einsum("nd,nd->n", residual, toy.base) ** 2).mean()),
            recall(found, toy.truth),
        )
    columns = ["|r|^2", "parallel part of it", "recall@10"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


class _Watched(HNSW):
    """An HNSW that writes down which nodes it compares with a query."""

    watched: list[int] | None = None

    def distances(self, query: Vectors, nodes: list[int]) -> Distances:
        if self.watched is not None:
            self.watched += nodes
        return super().distances(query, nodes)


@lru_cache(maxsize=4)
def _plane(m: int, n: int = 350) -> _Watched:
    """A graph over points of the plane, in four clumps."""
    rng = np.random.default_rng(3)
    centres = np.array([[0, 0], [5, 1], [1, 5], [6, 6]], dtype=np.float32)
    points = centres[rng.integers(4, size=n)] + rng.normal(size=(n, 2))
    index = _Watched(2, m=m, ef_construction=30)
    for point in points.astype(np.float32):
        index.insert(point)
    return index


def walk_picture(m: int, ef: int) -> Figure:
    """Layer 0 of a graph in the plane, the nodes one search compares, and what it finds."""
    index = _plane(m)
    query = np.array([[5.4, 4.6]], dtype=np.float32)
    index.ef_search, index.watched = ef, []
    _, ids = index.search(query, 5)
    seen, index.watched = sorted(set(index.watched)), None
    figure, (axes,) = new_figure(
        f"HNSW in the plane: {len(seen)} of {len(index.vectors)} points compared", height=5.0
    )
    points = index.vectors
    links = [
        points[[node, other]] for node, layers in enumerate(index.links) for other in layers[0]
    ]
    axes.add_collection(LineCollection(links, colors="0.85", linewidths=0.5, zorder=1))
    axes.scatter(*points.T, s=8, color=GREY, zorder=2)
    axes.scatter(*points[seen].T, s=16, color=ORANGE, zorder=3, label="compared")
    axes.scatter(*points[ids[0]].T, s=40, color=BLUE, zorder=4, label="found")
    axes.scatter(*query.T, s=120, marker="*", color=PINK, zorder=5, label="query")
    axes.legend(frameon=False, loc="upper left")
    axes.set_xlabel("first dimension")
    axes.set_ylabel("second dimension")
    return figure


def fleet_table(log10_vectors: float, dimensions: int, queries_per_s: float) -> pd.DataFrame:
    """Memory, shards, replicas and machines of each kind of index, by arithmetic."""
    config = MemoryConfig(dimensions=dimensions, queries_per_s=queries_per_s)
    n = 10.0**log10_vectors
    rows: dict[str, tuple[Any, ...]] = {}
    for option in OPTIONS:
        layout = option.layout(config, n, dimensions)
        made = plan(config, option, n)
        gigabytes = round(layout.total(n) / 1e9, 2)
        rows[option.label] = (gigabytes, made.shards, made.replicas, made.machines, made.core_ms)
    columns = ["memory, GB", "shards", "replicas", "machines", "core-ms a query"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(2)


def selection_picture(k: int = K) -> Figure:
    """How many vectors have entered a heap of k by the number seen: measured and expected."""
    rng = np.random.default_rng(0)
    n = 5000
    values = rng.random(n)
    entered = np.array([(values[:i] < values[i]).sum() < k for i in range(n)]).cumsum()
    expected = np.minimum(1.0, k / np.arange(1, n + 1)).cumsum()
    figure, (axes,) = new_figure(f"A heap of {k}: how many of {n:,} ever enter it?")
    axes.plot(entered, color=BLUE)
    axes.plot(expected, color=GREEN, linestyle="--")
    axes.annotate("measured", (n * 0.55, entered[int(n * 0.55)]), xytext=(0, -16),
                  textcoords="offset points", color=BLUE)  # fmt: skip
    axes.annotate("k (1 + ln(i / k))", (n * 0.3, expected[int(n * 0.3)]), xytext=(-70, 14),
                  textcoords="offset points", color=GREEN)  # fmt: skip
    axes.set_xlabel("vectors seen")
    axes.set_ylabel("entered so far")
    return figure
