"""The study's memory part: bytes held against FAISS's, machines from 10 thousand to 10 billion.

In: sizes and an assumed machine (``MemoryConfig``). Out: ``memory.json`` and two pictures.

- ``serialised/*``: bytes per vector of a FAISS index as it writes itself to a file, beside
  ``predicted/*`` from ``memory``. The vectors are random: sizes do not depend on their values.
- ``bytes/*``: gigabytes of each kind of index by N, at two dimensions.
- ``fleet/*``: shards, replicas and machines of each kind at each N under one load, by arithmetic
  from the assumed machine.

Legend: N vectors, D dimensions, M links or parts, C lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ml_algorithms.nearest_neighbour import memory
from ml_algorithms.nearest_neighbour.memory import Fleet, Layout, Machine, Work, fleet
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError, StudyRun

GB = 1e9
BUILD_EF = 200  # candidates kept while building an HNSW graph


class MemoryConfig(BaseModel):
    """What is measured, and what is assumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured_vectors: int = Field(default=50_000, ge=1000)
    measured_dimensions: int = 128
    dimensions: int = 128
    wide_dimensions: int = 768
    hnsw_m: int = 16
    hnsw_ef: int = 128
    code_parts: int = 32
    probes: int = 64
    disk_degree: int = 64
    disk_list: int = 100
    refine_reads: int = 100
    queries_per_s: float = 10_000.0
    machine_memory_gb: float = 256.0
    usable_share: float = 0.7
    cores: int = 32
    utilisation: float = 0.5
    scan_gb_per_s: float = 10.0
    touch_ns: float = 100.0
    disk_tb: float = 7.68
    disk_reads_per_s: float = 1e6

    @property
    def machine(self) -> Machine:
        """The assumed server."""
        return Machine(
            memory_bytes=self.machine_memory_gb * GB,
            usable_share=self.usable_share,
            cores=self.cores,
            utilisation=self.utilisation,
            scan_bytes_per_s=self.scan_gb_per_s * GB,
            touch_ns=self.touch_ns,
            disk_bytes=self.disk_tb * 1e12,
            disk_reads_per_s=self.disk_reads_per_s,
        )


SCALES: Mapping[str, float] = {"10k": 1e4, "1m": 1e6, "100m": 1e8, "1b": 1e9, "10b": 1e10}


@dataclass(frozen=True)
class Option:
    """A kind of index: its layout by N and D, and what a query costs a shard of n vectors."""

    name: str
    label: str
    colour: str
    layout: Callable[[MemoryConfig, float, int], Layout]
    work: Callable[[MemoryConfig, float], Work]


def lists_for(n: float) -> int:
    """4 sqrt(N) lists."""
    return max(1, round(4 * math.sqrt(n)))


def _ivf_work(config: MemoryConfig, n: float, row_bytes: float, disk_reads: float = 0.0) -> Work:
    """Nearest centroids by a scan, or by a graph over them where that is less; then the rows."""
    lists, machine = lists_for(n), config.machine
    rows = memory.scan_work(min(config.probes / lists, 1.0) * n * row_bytes, machine)
    by_scan = memory.scan_work(4 * lists * config.dimensions, machine)
    by_graph = memory.hnsw_work(lists, config.hnsw_m, config.hnsw_ef, machine)
    return Work(rows.core_ms + min(by_scan.core_ms, by_graph.core_ms), disk_reads)


def _refined(config: MemoryConfig, n: float, dimensions: int) -> Layout:
    """IVF-PQ whose exact vectors lie on the SSD."""
    layout = memory.ivf_pq(dimensions, lists_for(n), config.code_parts)
    return Layout(layout.per_vector, layout.shared, 4.0 * dimensions)


OPTIONS = (
    Option(
        "flat",
        "exact, float32",
        BLACK,
        lambda c, n, d: memory.flat(d),
        lambda c, n: memory.scan_work(4 * c.dimensions * n, c.machine),
    ),
    Option(
        "ivf_flat",
        "IVF, float32",
        ORANGE,
        lambda c, n, d: memory.ivf(d, lists_for(n), 4 * d),
        lambda c, n: _ivf_work(c, n, 4 * c.dimensions),
    ),
    Option(
        "hnsw",
        "HNSW, float32",
        BLUE,
        lambda c, n, d: memory.hnsw(d, c.hnsw_m),
        lambda c, n: memory.hnsw_work(n, c.hnsw_m, c.hnsw_ef, c.machine),
    ),
    Option(
        "hnsw_sq8",
        "HNSW, 8-bit scalars",
        SKY,
        lambda c, n, d: memory.hnsw(d, c.hnsw_m, 1),
        lambda c, n: memory.hnsw_work(n, c.hnsw_m, c.hnsw_ef, c.machine),
    ),
    Option(
        "ivf_pq",
        "IVF-PQ, codes only",
        GREEN,
        lambda c, n, d: memory.ivf_pq(d, lists_for(n), c.code_parts),
        lambda c, n: _ivf_work(c, n, c.code_parts),
    ),
    Option(
        "ivf_pq_refine",
        "IVF-PQ, vectors on SSD",
        GREEN,
        _refined,
        lambda c, n: _ivf_work(c, n, c.code_parts, c.refine_reads),
    ),
    Option(
        "disk_graph",
        "graph on SSD",
        PINK,
        lambda c, n, d: memory.disk_graph(d, c.disk_degree, c.code_parts),
        lambda c, n: memory.disk_graph_work(c.disk_degree, c.disk_list, c.machine),
    ),
)


def measured_layouts(dimensions: int) -> dict[str, tuple[str, Layout]]:
    """FAISS's factory string and our layout of each kind that is measured."""
    lists, parts = 64, dimensions // 4
    return {
        "flat": ("Flat", memory.flat(dimensions)),
        "sq8": ("SQ8", memory.flat(dimensions, 1)),
        "hnsw16": ("HNSW16", memory.hnsw(dimensions, 16)),
        "hnsw32": ("HNSW32", memory.hnsw(dimensions, 32)),
        "hnsw16_sq8": ("HNSW16_SQ8", memory.hnsw(dimensions, 16, 1)),
        "ivf_flat": (f"IVF{lists},Flat", memory.ivf(dimensions, lists, 4 * dimensions)),
        "pq": (f"PQ{parts}", memory.pq(dimensions, parts)),
        "ivf_pq": (f"IVF{lists},PQ{parts}", memory.ivf_pq(dimensions, lists, parts)),
        "ivf_pq4": (f"IVF{lists},PQ{parts}x4", memory.ivf_pq(dimensions, lists, parts, 4)),
    }


def serialised_bytes(factory: str, n: int, dimensions: int) -> int:
    """Bytes of a FAISS index of n random vectors, as it writes itself to a file.

    Training and construction are kept to a minimum: neither changes a size.

    Raises:
        MissingInputError: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingInputError("the memory part needs faiss: install faiss-cpu") from error

    faiss.omp_set_num_threads(1)
    vectors = np.random.default_rng(0).normal(size=(n, dimensions)).astype(np.float32)
    index: Any = faiss.index_factory(dimensions, factory)
    for owner in (index, getattr(index, "pq", index)):
        if hasattr(owner, "cp"):
            owner.cp.niter = 1
    if hasattr(index, "do_polysemous_training"):
        index.do_polysemous_training = False  # an annealing that only reorders the centroids
    if hasattr(index, "hnsw"):
        index.hnsw.efConstruction = 1
    index.train(vectors[:10_000])
    index.add(vectors)
    return int(faiss.serialize_index(index).size)


def memory_part(run: StudyRun[Any]) -> None:
    """Measures sizes, does the arithmetic, draws it. The run's config has a field ``memory``."""
    config: MemoryConfig = run.config.memory
    results = run.results(dataset_name="generated", dataset_sha256="none", synthetic=True)
    _measure(run, config, results)
    _arithmetic(config, results)
    run.picture("bytes", _bytes_picture(config))
    run.picture("machines", _machines_picture(config))


def _measure(run: StudyRun[Any], config: MemoryConfig, results: Results) -> None:
    """Serialised against predicted bytes per vector."""
    n, dimensions = config.measured_vectors, config.measured_dimensions
    protocol = f"FAISS index of {n:,} random vectors of {dimensions} dimensions, serialised"
    layouts = measured_layouts(dimensions)
    with run.progress.stage("serialised sizes", len(layouts)) as step:
        for name, (factory, layout) in layouts.items():
            held = serialised_bytes(factory, n, dimensions) / n
            predicted = layout.total(n) / n
            results.add(f"serialised/{name}/bytes_per_vector", held, protocol=protocol, n=n)
            arithmetic = "memory.py: layout x N + shared tables, by N"
            results.add(f"predicted/{name}/bytes_per_vector", predicted, protocol=arithmetic)
            share = predicted / held - 1.0
            results.add(f"predicted/{name}/error", share, protocol=f"predicted / {protocol} - 1")
            step(1)


def plan(config: MemoryConfig, option: Option, n: float) -> Fleet:
    """The fleet of one kind of index at one N."""
    return fleet(
        n,
        option.layout(config, n, config.dimensions),
        lambda shard: option.work(config, shard),
        queries_per_s=config.queries_per_s,
        machine=config.machine,
    )


def _arithmetic(config: MemoryConfig, results: Results) -> None:
    """Bytes and fleets of every kind at every N."""
    by_arithmetic = (
        f"arithmetic: M={config.hnsw_m} links, codes of {config.code_parts} bytes, 4 sqrt(N) lists"
    )
    load = (
        f"arithmetic: D={config.dimensions}, {config.queries_per_s:,.0f} queries/s; machine "
        f"as assumed: {config.machine_memory_gb:g} GB of which {config.usable_share:.0%} usable, "
        f"{config.cores} cores at {config.utilisation:.0%}, {config.scan_gb_per_s:g} GB/s a core, "
        f"{config.touch_ns:g} ns a jump, SSD {config.disk_tb:g} TB and "
        f"{config.disk_reads_per_s:,.0f} reads/s; one spare replica"
    )
    for option in OPTIONS:
        for scale, n in SCALES.items():
            for dimensions in (config.dimensions, config.wide_dimensions):
                layout = option.layout(config, n, dimensions)
                key = f"bytes/{option.name}_d{dimensions}/gb_{scale}"
                results.add(key, layout.total(n) / GB, protocol=by_arithmetic)
            _add_fleet(config, option, scale, load, results)


def _add_fleet(
    config: MemoryConfig, option: Option, scale: str, protocol: str, results: Results
) -> None:
    """One fleet's numbers, as ``fleet/<kind>_<scale>/*``."""
    n = SCALES[scale]
    made = plan(config, option, n)
    layout = option.layout(config, n, config.dimensions)
    values = {
        "shards": made.shards,
        "replicas": made.replicas,
        "machines": made.machines,
        "memory_gb": layout.total(n) / GB,
        "disk_tb": layout.disk_per_vector * n / 1e12,
        "core_ms": made.core_ms,
        "queries_per_s_per_machine": made.queries_per_s_per_machine,
        "quantile_per_shard": made.quantile_per_shard,
    }
    if option.name.startswith("hnsw"):
        work = memory.hnsw_work(n / made.shards, config.hnsw_m, BUILD_EF, config.machine)
        values["build_hours_per_shard"] = memory.build_hours(n / made.shards, work, config.machine)
    for name, value in values.items():
        results.add(f"fleet/{option.name}_{scale}/{name}", value, protocol=protocol)


def _bytes_picture(config: MemoryConfig) -> Any:
    """Memory by N, a line for each kind, at both dimensions."""
    figure, panels = new_figure("Memory of an index by number of vectors", panels=2, share_y=True)
    grid = np.logspace(4, 10, 25)
    shown = [option for option in OPTIONS if option.name not in ("ivf_flat", "ivf_pq_refine")]
    for axes, dimensions in zip(panels, (config.dimensions, config.wide_dimensions), strict=True):
        for option in shown:
            values = [option.layout(config, n, dimensions).total(n) / GB for n in grid]
            axes.loglog(grid, values, color=option.colour, label=option.label)
        usable = config.machine_memory_gb * config.usable_share
        axes.axhline(usable, color=GREY, linestyle=":")
        axes.text(1.2e4, usable * 1.3, "one machine's usable memory", color=GREY, fontsize=8)
        axes.set_xlabel("vectors")
        axes.set_title(f"{dimensions} dimensions", fontsize=10)
    panels[0].set_ylabel("memory, GB")
    panels[1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _machines_picture(config: MemoryConfig) -> Any:
    """Machines by N for each kind under the assumed load."""
    figure, (axes,) = new_figure(
        f"Machines for {config.queries_per_s:,.0f} queries/s, {config.dimensions} dimensions, by "
        "arithmetic",
        height=4.2,
    )
    grid = np.logspace(4, 10, 25)
    ends = []
    for option in OPTIONS:
        style = "--" if option.name == "ivf_pq_refine" else "-"
        values = [plan(config, option, n).machines for n in grid]
        axes.loglog(grid, values, color=option.colour, linestyle=style)
        ends.append((values[-1], option))
    height = 0.0
    for value, option in sorted(ends, key=lambda end: end[0]):
        height = max(value, height * 1.9)  # names stand apart even where lines end together
        axes.text(1.25e10, height, option.label, color=option.colour, fontsize=8, va="center")
    axes.set_xlim(1e4, 4e11)
    axes.set_xticks([1e4, 1e6, 1e8, 1e9, 1e10])
    axes.set_xlabel("vectors")
    axes.set_ylabel("machines, spare replica included")
    return figure
