"""The notebook's helpers, and the notebook itself from first to last cell."""

from pathlib import Path

import numpy as np
import pytest

import ml_algorithms.nearest_neighbour as package
from ml_algorithms.nearest_neighbour import lesson
from ml_platform.evaluation.progress import Silent

FOLDER = Path(package.__file__).parent


def test_recall_by_hand() -> None:
    found = np.array([[1, 2, -1], [4, 5, 6]])
    assert lesson.recall(found, np.array([[1, 2, 3], [6, 5, 4]])) == pytest.approx(5 / 6)


def test_the_toy_vectors_are_hard_enough_to_teach() -> None:
    toy = lesson.toy_vectors()
    np.testing.assert_allclose(np.linalg.norm(toy.base, axis=1), 1, rtol=1e-5)
    table = lesson.codes_table(8, 50)["recall@10"]
    assert table.iloc[0] == 1 > table.iloc[2] > 0.9 > table.iloc[1] + 0.2


def test_weighing_the_parallel_error_trades_as_the_notebook_says() -> None:
    table = lesson.eta_table((1.0, 4.0))
    assert table["|r|^2"].is_monotonic_increasing
    assert table["parallel part of it"].is_monotonic_decreasing
    assert table["recall@10"].is_monotonic_increasing


def test_a_wider_walk_compares_more_points() -> None:
    titles = [lesson.walk_picture(4, ef)._suptitle.get_text() for ef in (5, 60)]  # type: ignore[attr-defined]
    narrow, wide = (int(title.split(":")[1].split()[0]) for title in titles)
    assert 0 < narrow < wide < 350


def test_the_fleet_table_is_the_arithmetic_of_memory() -> None:
    table = lesson.fleet_table(9, 128, 10_000)
    assert table.loc["exact, float32", "memory, GB"] == 512
    assert (table["shards"] * table["replicas"] == table["machines"]).all()


def test_pictures_of_probes_buckets_and_the_heap() -> None:
    for figure in (
        lesson.probes_picture(4),
        lesson.collision_picture(16, 8),
        lesson.selection_picture(),
    ):
        (axes,) = figure.axes
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    probes = lesson.probes_picture(4).axes[0].lines[0].get_ydata()
    assert list(probes) == sorted(probes)
    assert probes[-1] == 1.0  # all lists


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    from ml_platform.docs.notebooks import run_all

    (executed,) = run_all([FOLDER / "notebook.ipynb"], tmp_path, Silent().stage)
    text = executed.read_text(encoding="utf-8")
    assert text.count("image/png") >= 4
    assert "HNSW, 8-bit scalars" in text
