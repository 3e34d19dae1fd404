"""The notebook runs, and its pictures are drawn from knobs at their ends."""

from contextlib import nullcontext
from pathlib import Path

from ml_algorithms.bandits import lesson
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.plot_style import png

FOLDER = Path(lesson.__file__).parent


def test_the_notebook_runs(tmp_path: Path) -> None:
    run_all([FOLDER / "notebook.ipynb"], tmp_path, lambda *_: nullcontext(lambda _: None))
    assert (tmp_path / "notebook.html").exists()


def test_pictures_are_drawn() -> None:
    figures = [
        lesson.draw_beliefs(30, seed=2),
        lesson.draw_regret(0.0, 0.0, horizon=100),
        lesson.draw_delay(20, horizon=100),
        lesson.draw_contexts(1.0, 0.0, horizon=50),
    ]
    for figure in figures:
        assert png(figure).startswith(b"\x89PNG")
    plays = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert sum(int(line.split(": ")[1].split()[0]) for line in plays) == 30
