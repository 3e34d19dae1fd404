"""The notebook runs, and what it draws says what the page says."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.diversity import lesson
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.plot_style import png

FOLDER = Path(lesson.__file__).parent


def test_the_notebook_runs(tmp_path: Path) -> None:
    run_all([FOLDER / "notebook.ipynb"], tmp_path, lambda *_: nullcontext(lambda _: None))
    assert (tmp_path / "notebook.html").exists()


def test_relevance_alone_stays_in_one_cluster_and_mmr_leaves_it() -> None:
    assert lesson.choose("relevance", 1.0, 8).max() < lesson.SIZES[0] + lesson.SIZES[1]
    varied = lesson.choose("mmr", 0.3, 8)
    assert varied.max() >= sum(lesson.SIZES[:2])
    np.testing.assert_array_equal(lesson.choose("mmr", 1.0, 8), lesson.choose("relevance", 1, 8))
    with pytest.raises(ValueError, match="unknown method"):
        lesson.choose("magic", 0.5, 3)


def test_pictures_are_drawn() -> None:
    for figure in (lesson.draw_choice("dpp"), lesson.draw_mix(0.97), lesson.draw_feed(4, 30)):
        assert png(figure).startswith(b"\x89PNG")
    legend = lesson.draw_feed(6, 60).axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names[1] == "DPP over all: 18 items"  # eighteen genres, eighteen items
    assert names[2].endswith("60 items")
