"""The studies of indexes: filters, reduction, measures, choices, the commands at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from image_search.commands import Run
from image_search.config import Config, IndexConfig, load_config
from image_search.embeddings.base import unit_rows
from image_search.retrieval import changes_command, command
from image_search.retrieval.changes_study import measure_visible
from image_search.retrieval.filter_study import filters_of, price_band
from image_search.retrieval.filtering import after, before, best_of, rescored
from image_search.retrieval.grid_study import (
    Build,
    Measured,
    builds_for,
    chosen_of,
    found_share,
    pq_bytes_for,
)
from image_search.retrieval.index import FlatIndex, build_index
from image_search.retrieval.plots import undominated
from image_search.retrieval.reduction import fit_reduction
from image_search.retrieval.scaling_study import jittered, within_budget
from image_search.retrieval.study_vectors import StudyVectors
from image_search.retrieval.timing import Speed, measure
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results

LINE = unit_rows(np.array([[1, 0], [1, 1], [0, 1], [-1, 1]], dtype=np.float32))
QUERY = np.array([[1, 0]], dtype=np.float32)  # nearest first: 0, 1, 2, 3


def some_vectors(n: int = 300, dim: int = 16) -> StudyVectors:
    rng = np.random.default_rng(0)
    label = np.arange(n) % 3
    centres = rng.standard_normal((3, dim))
    gallery = unit_rows(centres[label] + 0.4 * rng.standard_normal((n, dim)))
    asks = unit_rows(centres[np.arange(30) % 3] + 0.4 * rng.standard_normal((30, dim)))
    price = np.arange(n, dtype=np.float32)
    return StudyVectors("made", gallery, label, price, asks, np.arange(30) % 3, "made")


# --- filters ---


def test_before_and_after_by_hand() -> None:
    index = FlatIndex(2)
    index.add(np.arange(4), LINE)
    allowed = np.array([False, False, True, True])
    assert before(QUERY, LINE, allowed, 3)[0].tolist() == [[2, 3, -1]]
    # Two fetched, both barred: an empty page although two items pass.
    assert after(index, QUERY, allowed, 2, fetch=2)[0].tolist() == [[-1, -1]]
    assert after(index, QUERY, allowed, 2, fetch=3)[0].tolist() == [[2, -1]]
    rows, similarity = after(index, QUERY, allowed, 2, fetch=4)
    assert rows.tolist() == [[2, 3]]
    assert similarity[0] == pytest.approx([0, -(0.5**0.5)], abs=1e-6)
    with pytest.raises(ValueError, match="1 rows fetched for 2"):
        after(index, QUERY, allowed, 2, fetch=1)


def test_best_of_nothing_and_of_few() -> None:
    assert best_of(QUERY, np.zeros(0, np.int64), LINE[:0], 2)[0].tolist() == [[-1, -1]]
    rows, similarity = best_of(QUERY, np.array([8, 9]), LINE[:2], 3)
    assert rows.tolist() == [[8, 9, -1]]
    assert similarity[0, 2] == -np.inf


def test_rescored_orders_each_querys_own_shortlist() -> None:
    shortlist = np.array([[3, 2, -1], [0, 3, 1]])
    queries = np.concatenate([QUERY, -QUERY])
    rows, similarity = rescored(queries, shortlist, LINE, 2)
    assert rows.tolist() == [[2, 3], [3, 1]]
    assert similarity[1] == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_price_band_holds_its_share_around_the_median() -> None:
    price = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    assert price_band(price, 0.2).tolist() == [False, False, True, False, False]
    assert price_band(price, 0.6).tolist() == [False, False, True, True, True]
    assert price_band(price, 0.0001).sum() == 1
    assert price_band(price, 1.0).all()


def test_filters_by_class() -> None:
    made = filters_of(some_vectors(), (0.5,), 9)
    own = {int(vectors_of_class) for _, allowed in made["own_class"] for vectors_of_class in
           np.unique(some_vectors().label[allowed])}  # fmt: skip
    assert own == {0, 1, 2}
    for (asks, mine), (same, other) in zip(made["own_class"], made["other_class"], strict=True):
        np.testing.assert_array_equal(asks, same)
        assert not (mine & other).any()
    assert made["price_0.5"][0][1].sum() == 150


# --- reduction ---


def test_prefix_has_length_one_and_pca_keeps_products() -> None:
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 10))  # rank 3
    vectors = unit_rows(flat)
    short = fit_reduction("prefix", 4, vectors).apply(vectors)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(short, unit_rows(vectors[:, :4]))
    turned = fit_reduction("pca", 3, vectors).apply(vectors)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-5)
    two = fit_reduction("pca", 2, vectors).apply(vectors)
    singular = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    # The energy that is kept is that of the two largest singular values: Eckart and Young.
    assert (two.astype(np.float64) ** 2).sum() == pytest.approx((singular[:2] ** 2).sum(), rel=1e-4)


def test_reduction_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="unknown reduction 'umap'"):
        fit_reduction("umap", 2, LINE)
    with pytest.raises(ValueError, match="3 dimensions"):
        fit_reduction("prefix", 3, LINE)
    with pytest.raises(ValueError, match="8 dimensions"):
        fit_reduction("pca", 8, np.eye(4, 16, dtype=np.float32))


# --- measures and choices ---


def test_found_share_by_hand() -> None:
    truth = np.array([[1, 2, 3], [4, -1, -1], [-1, -1, -1]])
    found = np.array([[3, 9, 1], [-1, 4, -1], [1, 2, 3]])
    assert found_share(found, truth).tolist() == pytest.approx([2 / 3, 1, 0])


def test_pq_bytes_divide() -> None:
    assert [pq_bytes_for(128, 32), pq_bytes_for(100, 32), pq_bytes_for(7, 4)] == [32, 25, 1]


def row(width: int, recall: float, ms: float, name: str = "ivf") -> Measured:
    build = Build(name, "ivf_flat", widths=(1, 2, 4))
    return Measured(
        build, width, {10: np.array([recall])}, np.ones(1), Speed(np.array([ms]), 1.0), 1, 1, 0.1
    )


def test_the_fastest_above_the_target_is_carried_to_the_test() -> None:
    rows = [
        row(1, 0.5, 1),
        row(4, 0.99, 4),
        row(2, 0.96, 2),
        row(8, 0.9, 3, "b"),
        row(9, 0.7, 1, "b"),
    ]
    chosen = {build.name: build.widths for build in chosen_of(rows, 0.95)}
    assert chosen == {"ivf": (2,), "b": (8,)}
    assert row(4, 1, 1).key == "ivf_4"


def test_the_grid_leaves_out_what_does_not_fit() -> None:
    kinds = ("flat", "ivf_pq", "binary")
    names = {build.name for build in builds_for(20, 100, kinds)}
    assert names == {"flat", "prefix16", "pca16"}
    assert "ivf_pq32" in {build.name for build in builds_for(128, 1000, kinds)}


def test_speed_of_known_times() -> None:
    speed = Speed(np.array([1.0, 2.0, 3.0, 4.0]), 10.0)
    assert (speed.p50_ms, speed.qps) == (2.5, 400.0)
    calls: list[int] = []
    measure(lambda queries: calls.append(len(queries)), np.zeros((300, 2)), single=20)
    # Eight to warm up, twenty singles, then 256 and 44.
    assert calls == [1] * 28 + [256, 44]
    with pytest.raises(ValueError, match="no queries"):
        measure(lambda queries: None, np.zeros((0, 2)), single=20)


def test_within_budget_by_hand() -> None:
    assert within_budget(np.array([100, 200]), np.array([2.0, 3.0]), 10) == pytest.approx(900)
    assert within_budget(np.array([100, 200]), np.array([12.0, 23.0]), 0.5) == 0
    assert within_budget(np.array([100, 200]), np.array([3.0, 2.0]), 10) is None
    with pytest.raises(ValueError, match="two sizes"):
        within_budget(np.array([100]), np.array([1.0]), 10)


def test_jittered_vectors_stay_near_their_source() -> None:
    vectors = some_vectors()
    grown = jittered(vectors, 1000, 0.5, 10, seed=0)
    assert grown.gallery.shape == (1000, 16)
    assert len(grown.queries) == 10
    assert "SYNTHETIC" in grown.words
    np.testing.assert_allclose(np.linalg.norm(grown.gallery, axis=1), 1, rtol=1e-5)
    near, _ = build_index("flat", vectors.gallery, np.arange(300)).search(grown.gallery, 1)
    assert (vectors.label[near[:, 0]] == grown.label).mean() > 0.95


def test_held_out_queries_are_not_in_the_gallery() -> None:
    vectors = some_vectors()
    held = vectors.held_out(50, seed=1)
    assert (len(held.gallery), len(held.queries)) == (250, 50)
    assert (held.queries @ held.gallery.T).max() < 0.9999
    with pytest.raises(ValueError, match="at most half"):
        vectors.held_out(200, seed=1)


def test_every_added_row_is_found_at_once() -> None:
    config = IndexConfig(pq_bytes=4, study=IndexConfig().study.model_copy(
        update={"kinds": ("flat", "ivf_flat", "hnsw", "int8")}))  # fmt: skip
    for one in measure_visible(some_vectors(), config, 0, Silent()):
        assert one.missed == 0
        assert len(one.seconds) == 50


# --- commands ---


@pytest.fixture
def tiny_run(tmp_path: Path) -> Run:
    config: Config = load_config(
        None,
        (
            "images.dataset=shapes",
            "images.shapes_per_class=40",
            "embeddings.served=pixels_cosine",
            "embeddings.pixels_side=2",
            "evaluation.resamples=100",
            "index.study.kinds=[flat,ivf_flat,hnsw]",
            "index.study.queries=20",
            "index.study.timed_queries=5",
            "index.study.filter_queries=10",
            "index.study.scale_sizes=[200,400]",
            "index.study.scale_queries=10",
        ),
    )
    return Run(config=config, artifacts=tmp_path, console=Console(quiet=True))


def test_indexes_command(tiny_run: Run) -> None:
    command.run(tiny_run)
    folder = tiny_run.results_folder()
    results = Results.read(folder / "indexes.json")
    assert results["index/flat/recall@10"].value == 1
    assert results["index_filter/price_0.1.before/recall@10"].value == 1
    assert results["index_filter/price_0.1.before/short_pages"].value == 0
    assert "SYNTHETIC" in results["index_scaling/flat_400/p99_ms"].protocol
    assert "index_validation/ivf_flat_64/recall@10" in results
    for name in ("pareto", "scaling", "filters"):
        assert (folder / "plots" / f"indexes_{name}.png").stat().st_size > 5_000


def test_index_changes_command(tiny_run: Run) -> None:
    changes_command.run(tiny_run)
    folder = tiny_run.results_folder()
    results = Results.read(folder / "index_changes.json")
    assert results["index_changes/ivf_new_class.add_10/recall@10_class"].value > 0.5
    assert results["index_changes/hnsw_class.delete_class/recall@10"].value > 0.5
    assert results["index_visible/flat/missed"].value == 0
    assert (folder / "plots" / "index_changes.png").stat().st_size > 5_000


def test_only_what_nothing_else_beats_in_both_is_drawn():
    fast_and_poor, slow_and_good, beaten = (900.0, 0.8), (300.0, 1.0), (200.0, 0.9)
    points = [slow_and_good, beaten, fast_and_poor, (300.0, 0.95)]
    assert undominated(points, larger=True) == [fast_and_poor, slow_and_good]
    assert undominated(points, larger=False) == [beaten, slow_and_good]
    assert undominated([], larger=True) == []
