"""The benchmark: catalogues that resemble ours, knobs by rule, findings computed from rows."""

import io
import json

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console
from tiny_system import TINY

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results
from video_recommendation import benchmark_indexes, benchmark_plots, benchmarks
from video_recommendation.benchmark_catalogues import (
    CatalogueGenerator,
    bundle_source,
    nearness,
    stand_in_source,
)
from video_recommendation.benchmark_indexes import (
    CurvePoint,
    IndexRow,
    benchmark_index_sizes,
    choose_effort,
    effort_ladder,
    scaled_config,
    smallest_winning_sizes,
    split_queries,
)
from video_recommendation.config import Config, IndexConfig
from video_recommendation.data import load_data


@pytest.fixture(scope="module")
def source():
    return stand_in_source(0)


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    monkeypatch.setattr(benchmark_indexes, "CHOOSING_QUERIES", 30)
    monkeypatch.setattr(benchmark_indexes, "REPORTED_QUERIES", 40)


def row(kind, n_vectors, p50_ms, recall=0.97, curve=()):
    return IndexRow(
        config=IndexConfig(kind=kind),
        n_vectors=n_vectors,
        recall=Estimate(recall, None, None, 10),
        build_s=1.0,
        build_threads=2,
        bytes_per_vector=256.0,
        p50_ms=p50_ms,
        p99_ms=2 * p50_ms,
        load_average=0.5,
        curve=curve,
    )


# --- catalogues ---------------------------------------------------------------------------------


def test_sampled_catalogue_is_as_near_to_requests_as_the_real_one(source):
    sampled = CatalogueGenerator.fit(source.items).sample(len(source.items), 1)
    assert sampled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(sampled, axis=1), 1, atol=1e-5)
    queries = source.queries[:500]
    # An item's own request sits at cosine .7; rank 100 is the density that an index meets.
    ours, theirs = (nearness(v, queries, (100,))[100] for v in (source.items, sampled))
    assert theirs == pytest.approx(ours, abs=0.03)
    # Isotropic vectors, the usual stand-in, are nowhere near that.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=sampled.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert nearness(noise, queries, (100,))[100] < ours - 0.06


def test_samples_keep_mean_and_spread(source):
    sampled = CatalogueGenerator.fit(source.items).sample(20_000, 1)
    np.testing.assert_allclose(sampled.mean(axis=0), source.items.mean(axis=0), atol=0.03)
    ours, theirs = (np.linalg.eigvalsh(np.cov(v.T)) for v in (source.items, sampled))
    assert theirs[-1] == pytest.approx(ours[-1], rel=0.25)
    assert theirs[:32].sum() == pytest.approx(ours[:32].sum(), rel=0.25)


def test_samples_repeat_by_seed_and_blocks_differ(source, monkeypatch):
    generator = CatalogueGenerator.fit(source.items)
    np.testing.assert_array_equal(generator.sample(50, 3), generator.sample(50, 3))
    assert not np.array_equal(generator.sample(50, 3), generator.sample(50, 4))
    monkeypatch.setattr("video_recommendation.benchmark_catalogues.SAMPLE_BLOCK", 20)
    blocks = generator.sample(50, 3)
    assert len(np.unique(blocks, axis=0)) == 50


def test_bundle_gives_its_item_vectors_and_the_users_of_its_requests(tiny_system):
    source = bundle_source(tiny_system.bundle, tiny_system.data)
    retriever = tiny_system.trained.recommender.proposer.retriever
    np.testing.assert_array_equal(source.items, retriever.item_vectors)
    assert source.is_real
    assert len(source.queries) == len(source.owner) > 100
    np.testing.assert_allclose(np.linalg.norm(source.queries, axis=1), 1, atol=1e-5)


def test_a_bundle_of_other_data_is_refused(tiny_system):
    from dataclasses import replace

    other = replace(tiny_system.data, name="movielens-1m")
    with pytest.raises(
        ValueError, match="trained on synthetic, this benchmark is for movielens-1m"
    ):
        bundle_source(tiny_system.bundle, other)


# --- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_vectors", "n_lists", "ef_construction"),
    # 4 sqrt(1682) = 164, but 1682 / 39 = 43; 4 sqrt(1e4) = 400 but 256; 4 sqrt(1e5) = 1265.
    [
        (20, 1, 100),
        (1_682, 43, 100),
        (10_000, 256, 100),
        (100_000, 1_265, 100),
        (4_000_000, 4_096, 40),
    ],
)
def test_knobs_follow_the_catalogue(n_vectors, n_lists, ef_construction):
    config = scaled_config(IndexConfig(), "ivf", n_vectors)
    assert (config.kind, config.n_lists, config.ef_construction) == (
        "ivf",
        n_lists,
        ef_construction,
    )


def test_ladders():
    assert effort_ladder(IndexConfig(kind="flat")) == [0]
    assert effort_ladder(IndexConfig(kind="ivf", n_lists=10)) == [1, 2, 3, 4, 6, 8, 10]
    assert effort_ladder(IndexConfig(kind="pq", n_lists=1)) == [1]
    graph = effort_ladder(IndexConfig(kind="hnsw"))
    assert graph[:3] == [100, 141, 200]
    assert graph[-1] == 3_200


def test_the_smallest_effort_that_reaches_the_target_is_chosen():
    assert choose_effort({1: 0.5, 2: 0.96, 4: 0.99}) == 2
    # None reaches .95: the smallest within .01 of the best.
    assert choose_effort({1: 0.5, 2: 0.715, 4: 0.72, 8: 0.721}) == 2


def test_no_user_chooses_and_is_reported(source):
    from dataclasses import replace

    owner = np.arange(len(source.queries)) // 10
    split = split_queries(replace(source, owner=owner), 0)
    choosers = {int(owner[(source.queries == query).all(axis=1)][0]) for query in split.choosing}
    assert len(split.choosing) == 30
    assert len(split.reported) == len(split.reported_owner) == 40
    assert not choosers & set(split.reported_owner.tolist())


# --- findings -----------------------------------------------------------------------------------


def test_crossover_is_computed_from_the_rows():
    rows = [
        row("flat", 1_000, 1.0), row("ivf", 1_000, 0.51), row("hnsw", 1_000, 0.6),
        row("flat", 5_000, 4.0), row("ivf", 5_000, 2.0), row("hnsw", 5_000, 0.1, recall=0.94),
        row("flat", 9_000, 8.0), row("ivf", 9_000, 1.0), row("hnsw", 9_000, 0.2),
        row("pq", 9_000, 0.1, recall=0.7),
    ]  # fmt: skip
    # Half of flat's is enough; a fast index below the target recall does not count.
    assert smallest_winning_sizes(rows) == {"ivf": 5_000, "hnsw": 9_000}
    assert smallest_winning_sizes(rows[::-1]) == {"ivf": 5_000, "hnsw": 9_000}
    assert smallest_winning_sizes(rows[:3]) == {}
    speed = benchmarks.MetricSpeed(10, 0.1, 0.2)
    assert "ivf 5,000, hnsw 9,000" in benchmarks.summary(rows, speed)
    assert "no approximate index" in benchmarks.summary(rows[:3], speed)


def test_rows_at_like_recall_and_a_curve_at_one_size(source):
    rows = benchmark_index_sizes(
        Config(), (500, 1_682), ("flat", "ivf", "hnsw"), source=source, curve_size=500
    )
    assert [(r.n_vectors, r.kind) for r in rows] == [
        (n, kind) for n in (500, 1_682) for kind in ("flat", "ivf", "hnsw")
    ]
    for measured in rows:
        assert measured.recall.value > 0.9  # chosen for .95 on other queries
        assert measured.recall.n == 40
        assert 0 < measured.p50_ms <= measured.p99_ms
        assert bool(measured.curve) == (measured.n_vectors == 500)
    curve = rows[1].curve
    assert [point.effort for point in curve] == sorted(point.effort for point in curve)
    assert curve[0].recall < curve[-1].recall == pytest.approx(1.0, abs=0.01)


def test_metric_speed_measures_lists_without_repeats():
    speed = benchmarks.benchmark_metrics(500, seed=1)
    assert speed.n_users == 500
    assert speed.metrics_s > 0
    assert speed.interval_s > 0


# --- the whole ----------------------------------------------------------------------------------


def run_quick(out, bundle):
    text = io.StringIO()
    console = Console(file=text, width=160)
    rows = benchmarks.run_index_bench(TINY, out, quick=True, bundle=bundle, console=console)
    return rows, text.getvalue()


def test_quick_run_writes_results_plots_and_table(tiny_system, tmp_path):
    rows, text = run_quick(tmp_path, tiny_system.bundle)
    results = Results.read(tmp_path / "bench.json")
    assert results.run.dataset.synthetic
    for measured in rows:
        variant = f"index/{measured.kind}_{measured.n_vectors}"
        assert results[f"{variant}/p50_ms"].value == pytest.approx(measured.p50_ms, rel=1e-4)
        recall = results[f"{variant}/recall@100"]
        assert recall.low <= recall.value <= recall.high
        assert "QUICK RUN" in recall.protocol
        assert "item tower" in recall.protocol
        assert "load average" in results[f"{variant}/p99_ms"].protocol
    assert any("ivf_3000_effort=" in key for key in results)
    assert "evaluation/ranking_metrics/seconds" in results
    assert "QUICK RUN" in text
    assert "x flat" in text
    for name in benchmark_plots.FILES:
        assert matplotlib.image.imread(tmp_path / "plots" / name).std() > 0.05
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_without_a_bundle_the_table_and_the_results_say_so(tmp_path):
    _, text = run_quick(tmp_path, tmp_path / "none")
    assert "STAND-IN" in text
    assert "STAND-IN" in Results.read(tmp_path / "bench.json")["index/flat_600/p50_ms"].protocol


def test_an_interrupted_run_leaves_the_old_files(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "bench.json").write_text("old")
    monkeypatch.setattr(benchmarks, "benchmark_metrics", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_quick(tmp_path, tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert (tmp_path / "bench.json").read_text() == "old"


def test_a_picture_that_fails_leaves_the_old_ones(tmp_path, monkeypatch):
    for name in benchmark_plots.FILES:
        (tmp_path / name).write_text("old")

    def full(_):
        raise OSError("full")

    monkeypatch.setattr(benchmark_plots, "png", full)
    with pytest.raises(OSError, match="full"):
        benchmark_plots.plot_index_benchmark(
            [row("flat", 10, 1.0)], tmp_path, target_recall=0.95, origin="a test"
        )
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    assert len(list(tmp_path.iterdir())) == len(benchmark_plots.FILES)


def test_the_serving_half_of_the_same_run_stays_and_another_run_is_replaced(tmp_path):
    data = load_data(TINY.data)

    def start(seed):
        return Results.start(
            system="video_recommendation",
            config={},
            dataset_name=data.name,
            dataset_sha256=data.sha256,
            synthetic=True,
            seed=seed,
            root=tmp_path,
        )

    path = tmp_path / "bench.json"
    serving = start(0)
    serving.add("serving/sweep/qps", 100.0, protocol="a test")
    serving.write(path)
    index = start(0)
    index.add("index/flat_10/p50_ms", 1.0, protocol="a test")
    benchmarks._write(index, path)
    assert list(Results.read(path)) == ["index/flat_10/p50_ms", "serving/sweep/qps"]
    other = start(1)
    other.add("index/flat_10/p50_ms", 2.0, protocol="a test")
    benchmarks._write(other, path)
    assert list(json.loads(path.read_text())["metrics"]) == ["index/flat_10/p50_ms"]


# --- pictures -----------------------------------------------------------------------------------


def test_names_at_the_lines_ends_do_not_touch():
    rows = [row(kind, n, ms) for n in (10, 1_000) for kind, ms in
            (("flat", 1.0), ("ivf", 1.01), ("hnsw", 1.02), ("pq", 30.0))]  # fmt: skip
    figure = benchmark_plots.latency_by_size(rows, 0.95)
    figure.canvas.draw()
    names = set(benchmark_plots.NAMES.values())
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in names]
    assert len(boxes) == 4
    bounds = sorted((box.y0, box.y1) for box in boxes)
    assert all(below[1] <= above[0] + 1 for below, above in zip(bounds, bounds[1:], strict=False))
    right = figure.get_window_extent().x1
    assert max(box.x1 for box in boxes) <= right


def test_below_the_target_recall_the_marker_is_hollow():
    rows = [row("flat", 10, 1.0, recall=1.0), row("pq", 10, 0.5, recall=0.7)]
    axes = benchmark_plots.latency_by_size(rows, 0.95).axes[0]
    faces = {
        line.get_color(): line.get_markerfacecolor()
        for line in axes.lines
        if line.get_marker() not in ("None", None)
    }
    assert faces[benchmark_plots.COLOURS["pq"]] == "white"
    assert faces[benchmark_plots.COLOURS["flat"]] == benchmark_plots.COLOURS["flat"]


def test_recall_curve_names_the_range_of_the_knob():
    curve = (CurvePoint(1, 0.5, 0.1), CurvePoint(64, 0.99, 0.4))
    figure = benchmark_plots.recall_latency([row("ivf", 10, 0.4, curve=curve)], 0.95)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["IVF, n_probe 1 to 64"]
