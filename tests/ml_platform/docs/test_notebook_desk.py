"""What the systems' notebook desks share: order, fingerprints, a system that is trained once."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path

import nbformat
import pytest
from rich.console import Console

from ml_platform.docs.notebook_desk import BUNDLE_VARIABLE, fingerprint, made_once, notebooks_in
from ml_platform.docs.notebooks import run_chosen, run_on_terminal
from ml_platform.evaluation.progress import Console as ProgressConsole


def test_notebooks_come_in_reading_order_and_nothing_else_does(tmp_path):
    for name in ("02_b.ipynb", "01_a.ipynb", "draft.ipynb", "03_c.html"):
        (tmp_path / name).touch()
    assert [path.name for path in notebooks_in(tmp_path)] == ["01_a.ipynb", "02_b.ipynb"]


@pytest.fixture
def package(tmp_path):
    for name in ("model.py", "deep/layer.py", "notebooks/desk.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("a = 1")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "same"),
    [("model.py", False), ("deep/layer.py", False), ("notebooks/desk.py", True)],
)
def test_a_fingerprint_follows_the_code_that_trains(package, changed, same):
    before = fingerprint("config", package, package / "notebooks")
    (package / changed).write_text("a = 2")
    assert (fingerprint("config", package, package / "notebooks") == before) is same


def test_a_fingerprint_follows_the_text(package):
    left_out = package / "notebooks"
    assert fingerprint("a", package, left_out) != fingerprint("b", package, left_out)


def test_a_bundle_is_made_once_for_a_fingerprint(tmp_path):
    made = []

    def make(bundle: Path) -> None:
        bundle.mkdir(exist_ok=True)
        made.append(bundle)

    for wanted, times in (("a", 1), ("a", 1), ("b", 2)):
        assert made_once(tmp_path / "system", wanted, make) == tmp_path / "system" / "bundle"
        assert len(made) == times


def test_an_interrupted_training_is_begun_again(tmp_path):
    made = []

    def stops(bundle: Path) -> None:
        bundle.mkdir()
        raise KeyboardInterrupt

    made_once(tmp_path, "old", lambda bundle: bundle.mkdir())
    (tmp_path / "bundle").rmdir()
    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path, "old", stops)
    made_once(tmp_path, "old", made.append)
    assert made == [tmp_path / "bundle"]


def choose(folder: Path, code: str, only: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """One notebook of one cell, run as ``make notebooks`` does; status and what was said."""
    cell = nbformat.v4.new_code_cell(code)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "01_one.ipynb")
    said: list[str] = []
    status = run_chosen(
        [folder / "01_one.ipynb"],
        only,
        lambda: folder,
        folder / "out",
        lambda *_: nullcontext(lambda _: None),
        said.append,
    )
    return status, said


def test_the_kernels_are_told_which_bundle(tmp_path):
    code = f"import os; assert os.environ['{BUNDLE_VARIABLE}'] == {str(tmp_path.resolve())!r}"
    status, said = choose(tmp_path, code)
    assert status == 0
    assert said[0] == f"notebooks on {tmp_path}"
    assert (tmp_path / "out" / "01_one.html").is_file()


def test_a_failing_notebook_is_a_status_and_its_traceback_is_printed(tmp_path, capsys):
    status, said = choose(tmp_path, "1 / 0")
    assert status == 1
    assert len(said) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_name_that_no_notebook_has_trains_nothing(tmp_path):
    status, said = choose(tmp_path, "1 / 0", only=("07", "08"))
    assert status == 2
    assert said == ["[red]no notebook begins with 07 or 08"]


def test_on_a_terminal_the_bundle_is_made_under_the_same_bars(tmp_path):
    cell = nbformat.v4.new_code_cell("print(1)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_one.ipynb")
    console = Console(record=True, width=120, force_terminal=False, file=io.StringIO())
    made = []

    progress = ProgressConsole(console)

    def bundle():
        with progress.stage("training", 1) as step:
            step(1)
        made.append(tmp_path)
        return tmp_path

    paths, artifacts = [tmp_path / "01_one.ipynb"], tmp_path / "artifacts"
    assert run_on_terminal(paths, ("07",), bundle, artifacts, progress.stage, console) == 2
    assert not made
    assert run_on_terminal(paths, (), bundle, artifacts, progress.stage, console) == 0
    assert made == [tmp_path]
    assert (artifacts / "notebooks" / "01_one.html").is_file()
    text = console.export_text()
    assert "training" in text
    assert "1 notebooks in" in text
