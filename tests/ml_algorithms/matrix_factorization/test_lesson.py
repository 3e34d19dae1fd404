"""The notebook runs from first to last cell; its helpers say what the notebook claims."""

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.matrix_factorization import lesson
from ml_algorithms.study_data import SYNTHETIC
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent

NOTEBOOK = Path(lesson.__file__).with_name("notebook.ipynb")


@pytest.fixture(scope="module")
def data() -> lesson.Lesson:
    return lesson.open_lesson(SYNTHETIC)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    (written,) = run_all([NOTEBOOK], tmp_path, Silent().stage)
    text = written.read_text(encoding="utf-8")
    assert text.count("image/png") >= 2
    assert written.with_suffix(".html").exists()


def test_the_two_ways_to_sum_all_cells_agree(data: lesson.Lesson) -> None:
    table = lesson.cost_of_all_cells(data, factors=8)
    assert table["sum"][0] == pytest.approx(table["sum"][1], rel=1e-9)


def test_a_newcomer_gets_a_list_without_what_is_known(data: lesson.Lesson) -> None:
    liked = lesson.favourites(data, 2)
    table = lesson.newcomer(data, liked, k=5)
    assert len(table) == 5
    assert not set(table["title"]) & {data.titles[i] for i in liked}
    assert (np.diff(table["score"]) <= 0).all()
    assert table["score"].iloc[0] > 0
    nobody = lesson.newcomer(data, [], k=5)
    assert not nobody["score"].any()
    assert "nothing" in nobody.attrs["caption"]


def test_a_quiet_empty_cell_spreads_the_lists(data: lesson.Lesson) -> None:
    quiet, loud = (lesson.quality_of(data, 8, weight)["coverage@10"] for weight in (0.01, 4.0))
    assert quiet > loud


def test_titles_are_found_by_a_part(data: lesson.Lesson) -> None:
    assert data.titles[lesson.find_title(data, "item 7 ")].startswith("Item 7 ")
    with pytest.raises(ValueError, match="no title holds 'zzz'"):
        lesson.find_title(data, "zzz")


def test_pictures_have_axes_with_names(data: lesson.Lesson) -> None:
    for figure in (
        lesson.figure_spectrum(data, rank=10),
        lesson.figure_unobserved_weight(data, (0.1, 1.0), factors=4),
    ):
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
