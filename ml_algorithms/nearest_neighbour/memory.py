"""Memory and machines of a vector index by arithmetic: what to write on the whiteboard.

In: N, D, an index's parameters, a machine, queries per second. Out: bytes (``Layout``), work per
query (``Work``), shards and replicas (``Fleet``). ``bench_memory`` holds the layouts against the
real serialised sizes of FAISS indexes; the machine's rates are assumptions and say so.

Bytes per vector, the part that grows with N:

    flat       4 D
    HNSW       4 D + 8 M + 4 M / (M - 1) + 12   links: ground, levels above, bookkeeping
    IVF        row + 8                          row: 4 D, or a code
    PQ         M bits / 8

A node reaches level l with probability M^-l (Malkov and Yashunin's mL = 1 / ln M), so it has
1 / (M - 1) levels above the ground on average, each with M links of 4 bytes.

Work per query has two currencies. A scan reads memory in order: bytes / bandwidth. A graph jumps:
each vector it touches is a cache miss, or on a disk a read. That, not the count of distances, is
why a graph needs its vectors in memory and a list of codes does not mind being long.

A fleet: every query goes to every shard, so shards divide *memory* and replicas divide *load*.
shards = ceil(bytes / usable bytes), replicas = ceil(load of one shard / capacity) + spare.

Legend: N vectors, D dimensions, C lists, P probes, M links or parts, S shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

FLOAT_BYTES = 4
ID_BYTES = 8
LINK_BYTES = 4
# FAISS keeps for each node the offset of its links (8 bytes) and its level (4 bytes).
HNSW_NODE_BYTES = 12
FAST_SCAN_ROWS = 32
SECTOR_BYTES = 4096


@dataclass(frozen=True)
class Layout:
    """Bytes of an index: ``per_vector`` grows with N, ``shared`` does not (centroids, codebooks).

    ``disk_per_vector`` lies on an SSD instead of in memory.
    """

    per_vector: float
    shared: float = 0.0
    disk_per_vector: float = 0.0

    def total(self, n: float) -> float:
        """Bytes of memory for N vectors."""
        return self.per_vector * n + self.shared


def flat(dimensions: int, value_bytes: float = FLOAT_BYTES) -> Layout:
    """Vectors as they are; value_bytes 2 for half precision, 1 for 8-bit scalars."""
    return Layout(dimensions * value_bytes)


def hnsw(dimensions: int, m: int, value_bytes: float = FLOAT_BYTES) -> Layout:
    """Vectors, 2M links at level 0, M at each of 1 / (M - 1) levels above, bookkeeping.

    Raises:
        ValueError: If M is below 2: every node would reach every level.
    """
    if m < 2:
        raise ValueError(f"HNSW needs M of at least 2, got {m}")
    links = LINK_BYTES * (2 * m + m / (m - 1))
    return Layout(dimensions * value_bytes + links + HNSW_NODE_BYTES)


def ivf(dimensions: int, lists: int, row_bytes: float) -> Layout:
    """A row and an id per vector, a centroid per list."""
    return Layout(row_bytes + ID_BYTES, float(lists * dimensions * FLOAT_BYTES))


def pq(dimensions: int, parts: int, bits: int = 8) -> Layout:
    """Packed codes; 2^bits centroids of D values in all."""
    return Layout(math.ceil(parts * bits / 8), float((1 << bits) * dimensions * FLOAT_BYTES))


def ivf_pq(dimensions: int, lists: int, parts: int, bits: int = 8) -> Layout:
    """A code and an id per vector; centroids and codebooks."""
    code, coarse = pq(dimensions, parts, bits), ivf(dimensions, lists, 0.0)
    return Layout(code.per_vector + ID_BYTES, code.shared + coarse.shared)


def fast_scan_bytes(n: int, parts: int) -> int:
    """Bytes of one list of 4-bit codes: rows in packs of 32, parts in pairs."""
    return math.ceil(n / FAST_SCAN_ROWS) * FAST_SCAN_ROWS * math.ceil(parts / 2)


def disk_graph(dimensions: int, degree: int, parts: int) -> Layout:
    """A graph on an SSD (DiskANN): codes in memory, vector and links packed into 4 KB sectors.

    Raises:
        ValueError: If one node does not fit into a sector.
    """
    node = dimensions * FLOAT_BYTES + LINK_BYTES * (degree + 1)
    if node > SECTOR_BYTES:
        raise ValueError(f"a node of {node} bytes exceeds a sector of {SECTOR_BYTES}")
    code = pq(dimensions, parts)
    return Layout(code.per_vector, code.shared, SECTOR_BYTES / (SECTOR_BYTES // node))


@dataclass(frozen=True)
class Machine:
    """One server. All values are assumptions of whoever fills them in.

    Attributes:
        memory_bytes: Of the machine.
        usable_share: Of memory for the index; the rest is for the system, buffers, growth.
        cores: That search.
        utilisation: Of the cores at peak; queues grow without bound near 1.
        scan_bytes_per_s: Bytes that one core reads in order and compares.
        touch_ns: One jump to a vector in memory, compared.
        disk_bytes: Of the SSDs.
        disk_reads_per_s: Random 4 KB reads of the SSDs together.
    """

    memory_bytes: float
    usable_share: float
    cores: int
    utilisation: float
    scan_bytes_per_s: float
    touch_ns: float
    disk_bytes: float
    disk_reads_per_s: float


@dataclass(frozen=True)
class Work:
    """What one query costs one shard: milliseconds of one core, reads of the disk."""

    core_ms: float
    disk_reads: float = 0.0


def scan_work(scanned_bytes: float, machine: Machine) -> Work:
    """Reading so many bytes in order."""
    return Work(1000.0 * scanned_bytes / machine.scan_bytes_per_s)


def hnsw_touches(n: float, m: int, ef: int) -> float:
    """Vectors that a search touches: about M new ones (half of 2M) at each of ef expansions.

    The levels above add one greedy walk of a few expansions each, log_M N levels: small beside ef.
    """
    return m * (ef + math.log(max(n, 2.0)) / math.log(m))


def hnsw_work(n: float, m: int, ef: int, machine: Machine) -> Work:
    """Touches in memory."""
    return Work(hnsw_touches(n, m, ef) * machine.touch_ns / 1e6)


def build_hours(n: float, insertion: Work, machine: Machine) -> float:
    """Hours of one machine, all cores busy, to insert N vectors at this work each.

    An insertion into a graph is a search (with efConstruction) and the linking, about as much
    again.
    """
    return 2.0 * n * insertion.core_ms / machine.cores / 3.6e6


def disk_graph_work(degree: int, list_size: int, machine: Machine) -> Work:
    """One read per expanded node (``list_size`` of them); codes of its links compared in memory."""
    return Work(list_size * degree / 2 * machine.touch_ns / 1e6, float(list_size))


@dataclass(frozen=True)
class Fleet:
    """Shards, replicas of each, and what decided them."""

    shards: int
    replicas: int
    bytes_per_shard: float
    core_ms: float
    queries_per_s_per_machine: float

    @property
    def machines(self) -> int:
        """Shards times replicas."""
        return self.shards * self.replicas

    @property
    def quantile_per_shard(self) -> float:
        """Quantile each shard must meet at the target for the slowest of all to meet p99."""
        return float(0.99 ** (1.0 / self.shards))


def fleet(
    n: float,
    layout: Layout,
    work: Callable[[float], Work],
    *,
    queries_per_s: float,
    machine: Machine,
    copies: float = 1.0,
    spare: int = 1,
) -> Fleet:
    """Machines for N vectors at a peak rate.

    Args:
        n: Vectors in all.
        layout: Of the index.
        work: Cost of a query on one shard of so many vectors.
        queries_per_s: At peak; each goes to every shard.
        machine: The server.
        copies: Of the index in memory at once: 2 where a new version is loaded beside the old.
        spare: Replicas beyond the load, so that one may fail or be replaced.

    Raises:
        ValueError: If a number is not positive, or the shared tables alone do not fit.
    """
    if n <= 0 or queries_per_s <= 0 or copies < 1 or spare < 0:
        raise ValueError(
            f"need n, queries_per_s > 0, copies >= 1, spare >= 0: {n}, {queries_per_s}, "
            f"{copies}, {spare}"
        )
    room = machine.memory_bytes * machine.usable_share / copies - layout.shared
    if room <= 0:
        raise ValueError(f"shared tables of {layout.shared:.3g} bytes fill the machine")
    by_memory = math.ceil(n * layout.per_vector / room)
    by_disk = math.ceil(n * layout.disk_per_vector / (machine.disk_bytes * machine.usable_share))
    shards = max(by_memory, by_disk, 1)
    cost = work(n / shards)
    rate = machine.cores * machine.utilisation * 1000.0 / cost.core_ms
    if cost.disk_reads:
        rate = min(rate, machine.disk_reads_per_s * machine.utilisation / cost.disk_reads)
    replicas = math.ceil(queries_per_s / rate) + spare
    return Fleet(shards, replicas, layout.total(n / shards), cost.core_ms, rate)
