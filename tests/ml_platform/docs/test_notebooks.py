"""The runner of notebooks, by its command: what it writes, and what a failing cell leaves."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from ml_platform.docs.notebooks import main


def notebook(path: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbformat.write(book, path)
    return path


def test_it_runs_in_its_folder_and_keeps_what_it_shows(tmp_path: Path, capsys) -> None:
    (tmp_path / "beside.txt").write_text("found it")
    path = notebook(tmp_path / "one.ipynb", "print(open('beside.txt').read())")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    executed = nbformat.read(tmp_path / "out" / "one.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "found it\n"
    assert "found it" in (tmp_path / "out" / "one.html").read_text()
    assert str(tmp_path / "out" / "one.html") in capsys.readouterr().out


def test_a_failing_cell_is_named_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    path = notebook(tmp_path / "two.ipynb", "1", "1 / 0")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "two, cell 2" in said
    assert "ZeroDivisionError" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_a_notebook_that_is_not_there_is_said(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.ipynb"), "--out", str(tmp_path)])
    assert "no such notebook" in capsys.readouterr().err


SLIDER = """
from ipywidgets import interact
from IPython.display import display, Markdown
interact(lambda n: display(Markdown("n is %d" % (1 // n))), n=({low}, 3, 1));
"""


def test_what_a_slider_shows_is_the_cells_output(tmp_path: Path) -> None:
    path = notebook(tmp_path / "slider.ipynb", SLIDER.format(low=-1))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    executed = nbformat.read(tmp_path / "out" / "slider.ipynb", as_version=4)
    shown = [o.data for o in executed.cells[0].outputs if o.output_type == "display_data"]
    assert {"n is 1"} <= {data.get("text/markdown") for data in shown}


def test_an_error_under_a_slider_is_a_failure(tmp_path: Path, capsys) -> None:
    path = notebook(tmp_path / "slider.ipynb", SLIDER.format(low=-3))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    assert "slider, cell 1" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
