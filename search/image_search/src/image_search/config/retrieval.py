"""How vectors are searched (retrieval/)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ml_platform.evaluation.configuration import Stage

IndexKind = Literal["flat", "ivf_flat", "ivf_pq", "hnsw", "int8", "binary"]

Reduction = Literal["none", "prefix", "pca"]


class IndexStudyConfig(Stage):
    """What `indexes`, `index-changes` and `compatible` measure."""

    kinds: tuple[IndexKind, ...] = ("flat", "ivf_flat", "ivf_pq", "hnsw", "int8", "binary")
    """Measured; flat must be among them."""
    queries: PositiveInt = 2_000
    """Of recall; 10,000 change its third digit and take five times as long."""
    timed_queries: PositiveInt = 300
    """One by one, after a warm-up of a tenth; a 99th percentile then rests on three."""
    target_recall: float = Field(default=0.95, gt=0, le=1)
    """Recall@10 on validation queries that a kind must reach to be carried to the test."""
    budget_ms: float = Field(default=10.0, gt=0)
    """Of the 100 ms of a request, that the index may take at the 99th percentile."""
    scale_sizes: tuple[PositiveInt, ...] = (30_000, 100_000, 300_000, 1_000_000)
    """Vectors of the scaling part; SYNTHETIC, real ones with noise."""
    scale_graph_most: PositiveInt = 300_000
    """No graph is built beyond: a million nodes take more minutes than all else together."""
    scale_queries: PositiveInt = 200
    jitter: float = Field(default=0.5, gt=0)
    """Length of the noise, in units of the median distance to the nearest neighbour."""
    selectivities: tuple[float, ...] = (0.5, 0.1, 0.01, 0.001)
    over_fetch: PositiveInt = 10
    """A post-filtered search asks for so many times the page; right where a tenth passes."""
    filter_queries: PositiveInt = 300
    dead_shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5)
    """Of a graph's nodes, deleted at random."""
    update_images: PositiveInt = 10_000
    """The new model's training pictures; the old one's are the first ``update_old_share``."""
    update_old_share: float = Field(default=0.3, gt=0, lt=1)
    update_gallery: PositiveInt = 15_000
    """Pictures that are searched, drawn out of the gallery."""
    update_epochs: PositiveInt = 3
    update_batch: int = Field(default=128, ge=2)
    update_seeds: PositiveInt = 3
    """Trainings of all three models: one pair may be lucky."""
    influence: float = Field(default=1.0, gt=0)
    """Weight of the old classifier's loss, as much as the own. Not tuned."""


class IndexConfig(Stage):
    """How vectors are searched (retrieval/)."""

    kind: IndexKind = "flat"
    """Exact: tens of thousands of vectors take a few milliseconds on one core (`indexes`)."""
    candidates: PositiveInt = 200
    """Of one query, that go on to ranking."""
    reduce: Reduction = "none"
    """Fewer numbers a vector before it is indexed: "prefix" keeps the first ones (right for an
    embedding whose prefixes were trained), "pca" the directions of most energy (for any)."""
    reduce_to: PositiveInt = 64
    """Numbers left; a quarter of the served embedding's."""
    rescore: bool = True
    """Order the shortlist of a lossy index again by the full vectors, which costs their memory."""
    shortlist: PositiveInt = 200
    """Candidates that are ordered again, at least; twice as many as are asked for otherwise."""
    lists: PositiveInt | None = None
    """Cells of the inverted file; None: four times the square root of the number of vectors, the
    lower end of what the FAISS wiki's guidelines advise below a million."""
    probes: PositiveInt = 16
    """Cells read for a query."""
    pq_bytes: PositiveInt = 32
    """Of a product-quantised vector: eight numbers a byte at 256 dimensions. Must divide them."""
    hnsw_m: int = Field(default=16, ge=2)
    """Links of a node in the upper layers, twice as many in the lowest; the range of the paper
    is 5 to 48."""
    hnsw_build_width: PositiveInt = 64
    hnsw_search_width: PositiveInt = 64
    """Of the walk; never below the number of results asked for."""
    rebuild_share: float = Field(default=0.2, gt=0, lt=1)
    """Of dead nodes in a graph, at which it is built anew: a fifth of memory and of every walk is
    then for nothing. `index-changes` measures the walk at other shares."""
    rotation: Literal["learned", "random"] = "learned"
    """Before the signs of binary codes are taken."""
    exact_below: PositiveInt = 3_000
    """Where a filter lets fewer rows through, all of them are compared: a graph or an inverted
    file would look long for the few that pass."""
    study: IndexStudyConfig = IndexStudyConfig()
