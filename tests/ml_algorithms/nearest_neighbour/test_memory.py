"""The arithmetic by hand, and against what FAISS really writes."""

import math

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour import memory
from ml_algorithms.nearest_neighbour.bench_memory import (
    OPTIONS,
    SCALES,
    MemoryConfig,
    measured_layouts,
    plan,
    serialised_bytes,
)
from ml_algorithms.nearest_neighbour.memory import Layout, Machine, Work, fleet

N, D = 20_000, 64
MACHINE = Machine(
    memory_bytes=100e9, usable_share=0.5, cores=10, utilisation=0.5, scan_bytes_per_s=10e9,
    touch_ns=100.0, disk_bytes=1e12, disk_reads_per_s=1e6,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(measured_layouts(D)))
def test_layouts_are_what_faiss_writes(name: str) -> None:
    """Within half a percent: the rest is a header and the chance of the drawn levels."""
    pytest.importorskip("faiss")
    factory, layout = measured_layouts(D)[name]
    assert layout.total(N) == pytest.approx(serialised_bytes(factory, N, D), rel=5e-3)


def test_fast_scan_codes_come_in_packs() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(1030, 32)).astype(np.float32)
    index = faiss.IndexPQFastScan(32, 16, 4)
    index.pq.cp.niter = 1
    index.train(vectors)
    index.add(vectors)
    assert memory.fast_scan_bytes(1030, 16) == index.codes.size() == 1056 * 8


def test_bytes_by_hand() -> None:
    assert memory.flat(128).total(10_000) == 5_120_000
    # 512 + 4 * 32 links + 4 * 16 / 15 above + 12
    assert memory.hnsw(128, 16).per_vector == pytest.approx(512 + 128 + 4.2667 + 12, abs=1e-3)
    billion = memory.ivf_pq(128, 2**18, 32)
    assert billion.per_vector == 40
    assert billion.total(1e9) == 40e9 + 2**18 * 512 + 256 * 512
    # 512 + 4 * 65 = 772 bytes: five to a sector
    graph = memory.disk_graph(128, 64, 32)
    assert (graph.per_vector, graph.disk_per_vector) == (32, 4096 / 5)


def test_levels_above_the_ground_are_as_many_as_drawn() -> None:
    """floor(-ln U / ln M) has mean 1 / (M - 1), the term of the layout."""
    draws = np.random.default_rng(0).random(200_000)
    for m in (8, 32):
        drawn = np.floor(-np.log(draws) / math.log(m)).mean()
        assert drawn == pytest.approx(1 / (m - 1), rel=0.03)


def test_work_by_hand() -> None:
    assert memory.scan_work(1e9, MACHINE).core_ms == pytest.approx(100)
    # 1e9 insertions of 2 x 0.18 ms on 10 cores are 36,000 s
    assert memory.build_hours(1e9, Work(0.18), MACHINE) == pytest.approx(10)
    assert memory.hnsw_touches(16**3, 16, 50) == pytest.approx(16 * 53)
    assert memory.hnsw_work(16**3, 16, 50, MACHINE).core_ms == pytest.approx(16 * 53 * 1e-4)
    assert memory.disk_graph_work(64, 100, MACHINE) == Work(0.32, 100)


def test_shards_divide_memory_and_replicas_divide_load() -> None:
    layout = Layout(100.0)  # 1e9 vectors: 100 GB, of which a machine takes 50

    def work(n: float) -> Work:
        return Work(5.0)  # 10 cores at half: 1,000 queries a second

    plan = fleet(1e9, layout, work, queries_per_s=2500, machine=MACHINE)
    assert (plan.shards, plan.replicas, plan.machines) == (2, 3 + 1, 8)
    assert plan.queries_per_s_per_machine == pytest.approx(1000)
    assert plan.bytes_per_shard == 50e9
    assert plan.quantile_per_shard == pytest.approx(math.sqrt(0.99))
    twice = fleet(1e9, layout, work, queries_per_s=5000, machine=MACHINE)
    assert (twice.shards, twice.replicas) == (2, 6)
    loaded = fleet(1e9, layout, work, queries_per_s=2500, machine=MACHINE, copies=2)
    assert loaded.shards == 4


def test_disks_limit_bytes_and_reads() -> None:
    plan = fleet(
        1e9, Layout(10.0, disk_per_vector=800.0), lambda n: Work(0.1, 100.0),
        queries_per_s=10_000, machine=MACHINE, spare=0,
    )  # fmt: skip
    assert plan.shards == 2  # 800 GB on SSDs of 1 TB, half used
    assert plan.queries_per_s_per_machine == pytest.approx(5000)  # 1e6 * 0.5 / 100
    assert plan.replicas == 2


def test_more_shards_of_a_graph_cost_more_in_all() -> None:
    """Logarithmic search: halving the shard hardly halves the work, so the fleet pays for it."""
    whole = memory.hnsw_touches(1e8, 16, 100)
    assert 10 * memory.hnsw_touches(1e7, 16, 100) > 9.5 * whole


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="M of at least 2, got 1"):
        memory.hnsw(8, 1)
    with pytest.raises(ValueError, match="exceeds a sector"):
        memory.disk_graph(1024, 64, 32)
    with pytest.raises(ValueError, match="fill the machine"):
        fleet(10, Layout(1, 60e9), lambda n: Work(1), queries_per_s=1, machine=MACHINE)
    with pytest.raises(ValueError, match="queries_per_s > 0"):
        fleet(10, Layout(1), lambda n: Work(1), queries_per_s=0, machine=MACHINE)


def test_every_kind_has_a_plan_at_every_scale_and_codes_need_the_fewest_machines() -> None:
    config = MemoryConfig()
    machines = {
        (option.name, scale): plan(config, option, n).machines
        for option in OPTIONS
        for scale, n in SCALES.items()
    }
    assert min(machines.values()) >= 2  # a spare always
    assert machines["flat", "10k"] == 2
    assert (
        machines["flat", "10b"]
        > 10 * machines["hnsw", "10b"]
        > 100 * machines["ivf_pq", "10b"] / 10
    )
