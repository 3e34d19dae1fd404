"""The notebook runs; a repair that the picture shows is one."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from ml_algorithms.metrics_and_calibration import lesson
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.plot_style import png

FOLDER = Path(lesson.__file__).parent


def test_the_notebook_runs(tmp_path: Path) -> None:
    run_all([FOLDER / "notebook.ipynb"], tmp_path, lambda *_: nullcontext(lambda _: None))
    assert (tmp_path / "notebook.html").exists()


def ece_of(label: str) -> float:
    return float(label.split("ECE ")[1].split(",")[0])


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic", "histogram"])
def test_a_repair_repairs(method: str) -> None:
    figure = lesson.draw_repair(method, rows=3000)
    before, after = (text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert ece_of(after) < 0.35 * ece_of(before)


def test_pictures_are_drawn_and_methods_named() -> None:
    for figure in (lesson.draw_noise(200, 5), lesson.draw_sampled(20, 500)):
        assert png(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="unknown method"):
        lesson.draw_repair("magic")
