"""The study at its small size, and the measuring itself on answers that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour import bench_contenders
from ml_algorithms.nearest_neighbour.bench import SMOKE, STUDY
from ml_algorithms.nearest_neighbour.bench_changes import masks_of
from ml_algorithms.nearest_neighbour.bench_config import (
    Problem,
    clustered_vectors,
    generated_problem,
)
from ml_algorithms.nearest_neighbour.bench_plots import Curve
from ml_algorithms.nearest_neighbour.bench_recall import ask_all, found_share
from ml_algorithms.nearest_neighbour.exact import FlatIndex, distances
from ml_algorithms.nearest_neighbour.index import NO_ID
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError

EXPECTED = {
    "glove": [
        "glove/ours_flat/recall@10",
        "glove/ours_hnsw+ef=40/recall@10",
        "glove/ours_hnsw/build_s",
        "glove/ours_lsh+probes=4/qps",
        "glove/ours_ivf_pq/bytes_per_vector",
        "glove/ours_ivf_pq_refined+probes=4/recall@10",
        "glove/faiss_flat/qps",
        "glove/faiss_ivf+probes=4/recall@10",
        "glove/faiss_hnsw+ef=40/qps",
        "glove/faiss_ivf_pq_fs+probes=4/qps",
        "glove/usearch+ef=20/recall@10",
    ],
    "fashion_mnist": ["fashion_mnist/ours_ivf+probes=4/recall@10"],
    "movielens": ["movielens/ours_flat/qps", "movielens/faiss_flat/qps@recall0.99"],
    "hnsw_parity": [
        "hnsw_parity/ours+ef=20/recall@10",
        "hnsw_parity/ours_less_faiss+ef=20/recall@10",
        "hnsw_parity/ours_less_faiss+ef=20/times_slower",
        "hnsw_parity/in_order+ef=20/recall@10",
        "hnsw_parity/nearest_links+ef=20/recall@10",
        "hnsw_parity/compiled_small+ef=20/times_faster",
    ],
    "filtered": [
        "filtered/admit+far+s=0.1/distances",
        "filtered/two_hop+near+s=0.1/recall@10",
        "filtered/post+independent+s=0.5/short",
        "filtered/pre+far+s=0.5/qps",
    ],
    "deletes": [
        "deletes/repair+dead=0.75/recall@10",
        "deletes/rebuild+dead=0.75/seconds",
        "deletes/drop_after+dead=0.25/qps",
    ],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study, once. ScaNN is left out where there is no wheel of it."""
    folder = tmp_path_factory.mktemp("study")
    patch = pytest.MonkeyPatch()
    try:
        bench_contenders.library("scann")
    except MissingInputError:
        whole = bench_contenders.library_contenders
        patch.setattr(
            bench_contenders,
            "library_contenders",
            lambda problem, knobs: [c for c in whole(problem, knobs) if c.name != "scann"],
        )
    with patch.context():
        assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    patch.undo()
    return folder


@pytest.mark.parametrize("part", EXPECTED)
def test_each_part_measures_what_its_page_quotes(part: str, out: Path) -> None:
    results = Results.read(out / f"{part}.json")
    for key in EXPECTED[part]:
        assert key in results, key
    assert results.run.dataset.synthetic
    pictures = sorted(out.glob(f"plots/{part}_*.png"))
    assert len(pictures) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_exact_indexes_find_everything_in_the_study(out: Path) -> None:
    for part in ("glove", "movielens"):
        results = Results.read(out / f"{part}.json")
        for name in ("ours_flat", "faiss_flat"):
            assert results[f"{part}/{name}/recall@10"].value == 1.0


def test_every_part_has_run(out: Path) -> None:
    assert {path.stem for path in out.glob("*.json")} == {part.name for part in STUDY.parts}


# --- how recall and speed are measured ------------------------------------------------------------


def points_on_a_line() -> Problem:
    base = np.arange(6, dtype=np.float32)[:, None]
    queries = np.array([[0.0], [2.5]], dtype=np.float32)
    return Problem("line", "-", True, "l2", base, queries, 3)


def test_recall_counts_ties_with_the_kth_and_no_empty_place() -> None:
    problem = points_on_a_line()
    # Of 0: 0, 1, 2 are right. Of 2.5: 2 and 3 at 0.25, then 1 or 4 at 2.25, equally right.
    ids = np.array([[0, 1, 3], [3, 2, 4]])
    assert found_share(problem, ids).tolist() == [pytest.approx(2 / 3), 1.0]
    assert found_share(problem, np.array([[0, NO_ID, NO_ID]])).tolist() == [pytest.approx(1 / 3)]


def test_recall_of_inner_products_and_of_distances_by_brute_force() -> None:
    base, queries = clustered_vectors(500, 20, 8)
    for metric in ("l2", "ip"):
        problem = Problem("x", "-", True, metric, base, queries, 5)  # type: ignore[arg-type]
        ids = FlatIndex(base, metric).search(queries, 5)[1]  # type: ignore[arg-type]
        assert found_share(problem, ids).mean() == 1.0
        ids[:, 0] = np.argmax(distances(queries, base, metric), axis=1)  # type: ignore[arg-type]
        assert found_share(problem, ids).mean() == pytest.approx(0.8)


def test_each_query_is_asked_by_itself_until_the_budget_is_spent() -> None:
    queries = np.arange(500, dtype=np.float32)[:, None]
    shapes = set()

    def ask(query: np.ndarray) -> np.ndarray:
        shapes.add(query.shape)
        return np.array([int(query[0, 0])])

    ids, qps = ask_all(ask, queries, budget_s=60.0)
    assert ids[:, 0].tolist() == list(range(500))
    assert shapes == {(1, 1)}
    assert qps > 0
    assert len(ask_all(ask, queries, budget_s=0.0)[0]) == 100  # the least


def test_the_front_drops_what_another_setting_beats() -> None:
    curve = Curve("x", "#000000", True, [0.5, 0.9, 0.8, 0.95], [100.0, 50.0, 40.0, 10.0], 1.0, 8.0)
    assert curve.front() == [(0.5, 100.0), (0.9, 50.0), (0.95, 10.0)]
    assert curve.fastest(0.85) == 50.0
    assert curve.fastest(0.99) is None


def test_filters_allow_just_their_share_near_or_far() -> None:
    problem = generated_problem(SMOKE, 0)
    clusters = problem.base[:10]
    mean = {}
    for relation in ("independent", "near", "far"):
        masks = masks_of(problem, clusters, relation, 0.1, seed=0)
        assert {int(mask.sum()) for mask in masks} == {120}
        apart = [
            distances(query[None], problem.base[mask])[0].mean()
            for query, mask in zip(problem.queries, masks, strict=True)
        ]
        mean[relation] = float(np.mean(apart))
    assert mean["near"] < 0.8 * mean["independent"] < mean["independent"] < 0.9 * mean["far"]
    with pytest.raises(ValueError, match="relation"):
        masks_of(problem, clusters, "beside", 0.1, seed=0)


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(MissingInputError, match="no_such_library is not installed"):
        bench_contenders.library("no_such_library")
