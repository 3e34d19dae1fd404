"""The study of nearest neighbours.

python -m ml_algorithms.nearest_neighbour.bench [--config smoke] [--only glove]
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.nearest_neighbour.bench_changes import run_deletes, run_filtered
from ml_algorithms.nearest_neighbour.bench_config import Config, IndexConfig
from ml_algorithms.nearest_neighbour.bench_hnsw import run_parity
from ml_algorithms.nearest_neighbour.bench_memory import MemoryConfig, memory_part
from ml_algorithms.nearest_neighbour.bench_quantisation import run_quantisation
from ml_algorithms.nearest_neighbour.bench_quantisation_config import QuantisationConfig
from ml_algorithms.nearest_neighbour.bench_recall import (
    run_fashion_mnist,
    run_glove,
    run_movielens,
)
from ml_platform.evaluation.study import FULL, Part, Study

SMALL = IndexConfig(
    m=8,
    ef_construction=40,
    efs=(10, 20, 40),
    lists=16,
    probes=(1, 4),
    parts=4,
    fast_scan_parts=8,
    lsh_tables=2,
    lsh_bits=8,
    lsh_probes=(1, 4),
)
SMOKE = Config(
    queries=40,
    seconds_per_point=0.05,
    generated=1200,
    glove=SMALL,
    graph=SMALL,
    fashion_mnist=SMALL,
    movielens=SMALL,
    dataset="synthetic",
    factors=16,
    parity_base=800,
    readable_base=150,
    readable_queries=20,
    filter_base=800,
    filter_queries=15,
    filter_clusters=10,
    selectivities=(0.5, 0.1),
    delete_base=800,
    delete_queries=30,
    deleted=(0.25, 0.75),
    quantisation=QuantisationConfig(
        base=800,
        queries=30,
        shortlist=20,
        glove_parts=(2,),
        fashion_mnist_parts=(4,),
        opq_rounds=2,
        training=600,
        etas=(1.0, 4.0),
        aware_rounds=2,
        seeds=1,
    ),
    memory=MemoryConfig(measured_vectors=1000, measured_dimensions=16),
)

STUDY = Study(
    name="nearest_neighbour",
    folder=Path(__file__).resolve().parent,
    sizes={FULL: Config(), "smoke": SMOKE},
    parts=[
        Part("glove", "Recall against speed on 400,000 word vectors, by cosine", run_glove),
        Part("fashion_mnist", "The same on pictures of 784 pixels, by L2", run_fashion_mnist),
        Part("movielens", "The same on 1,682 item factors, by inner product", run_movielens),
        Part("hnsw_parity", "Is our HNSW as good as FAISS's at equal knobs?", run_parity),
        Part("filtered", "Which way of filtering breaks where?", run_filtered),
        Part("deletes", "What do deletes do to a graph?", run_deletes),
        Part(
            "quantisation",
            "What do the same bytes buy under PQ, OPQ, score-aware codes?",
            run_quantisation,
        ),
        Part("memory", "How many bytes and machines does an index take?", memory_part),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
