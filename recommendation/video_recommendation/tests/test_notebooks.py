"""The notebooks: what every one of them has, and that all of them run, their solutions too."""

from __future__ import annotations

import ast
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import typer

from ml_platform.data.download import DatasetUnavailableError
from ml_platform.docs.notebooks import NotebookFailedError, run_all, run_notebook
from ml_platform.evaluation.progress import Silent
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.config import Config, load_config
from video_recommendation.notebooks import __main__ as command
from video_recommendation.notebooks import desk
from video_recommendation.notebooks.desk import BUNDLE_VARIABLE, SOURCES, notebooks
from video_recommendation.notebooks.lessons import auc_within_requests, waiting_ms

NAMES = [
    "01_data",
    "02_features",
    "03_retrieval",
    "04_index",
    "05_ranking",
    "06_reranking",
    "07_evaluation",
    "08_serving_simulation",
]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)  # ruff sees named lambdas
SOLUTION = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
MOST_LINES = 36
each = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == kind]


# --- structure ----------------------------------------------------------------------------------


def test_there_is_one_for_each_phase():
    assert [path.stem for path in notebooks()] == NAMES


@each
def test_nothing_is_stored_with_it(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert notebook.metadata.kernelspec.name == "python3"


@each
def test_it_calls_the_package_and_defines_nothing(path):
    code = cells(path, "code")
    found = [n for text in code for n in ast.walk(ast.parse(text)) if isinstance(n, DEFINITIONS)]
    assert not found
    assert "open_desk()" in code[0]
    assert all(len(text.splitlines()) <= MOST_LINES for text in code)


@each
def test_it_asks_before_it_answers(path):
    kinds = [cell.cell_type for cell in read(path).cells]
    asks = [n for n, cell in enumerate(read(path).cells) if "**Predict" in cell.source]
    assert len(asks) >= 3
    assert all(kinds[n] == "markdown" and kinds[n + 1] == "code" for n in asks)
    assert re.match(r"# \d\d .+\?\n", cells(path, "markdown")[0])


@each
def test_it_shows_pictures(path):
    assert sum("show(" in text for text in cells(path, "code")) >= 2


@each
def test_it_ends_with_exercises_and_folded_solutions(path):
    last = read(path).cells[-1].source
    exercises, *solutions = last.split("<details>")
    assert exercises.count("## Exercises") == 1
    numbers = re.findall(r"^(\d)\. ", exercises, re.MULTILINE)
    assert 3 <= len(numbers) <= 5
    assert [
        f"<summary>Solution {n}</summary>" in s for n, s in zip(numbers, solutions, strict=True)
    ]
    assert last.count("</details>") == len(numbers)


@each
def test_its_links_lead_somewhere(path):
    links = [link for text in cells(path, "markdown") for link in LINK.findall(text)]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


# --- running ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(tiny_system, tmp_path_factory):
    """All of them with their solutions as further cells, on the tiny system."""
    sources, out = (tmp_path_factory.mktemp(name) for name in ("sources", "executed"))
    for path in notebooks():
        notebook = read(path)
        for text in SOLUTION.findall(notebook.cells[-1].source):
            notebook.cells.append(nbformat.v4.new_code_cell(text))
        nbformat.write(notebook, sources / path.name)

    def execute(path: Path) -> None:
        variables = {BUNDLE_VARIABLE: str(tiny_system.bundle)}
        run_all([path], out, Silent().stage, variables)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(execute, sorted(sources.iterdir())))
    return out


@pytest.mark.slow
@each
def test_it_runs_with_its_solutions(executed, path):
    outputs = [o for cell in read(executed / path.name).cells for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 2
    stderr = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert stderr == []
    stdout = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "SYNTHETIC" in stdout
    assert "SMALL" in stdout
    assert (executed / f"{path.stem}.html").stat().st_size > 10_000


def test_a_failing_cell_is_named_and_leaves_no_output(tmp_path):
    source, out = tmp_path / "09_broken.ipynb", tmp_path / "out"
    code = ["right = 1", "right / 0"]
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in code])
    nbformat.write(broken, source)
    out.mkdir()
    (out / "09_broken.html").write_text("of an older run")
    with pytest.raises(NotebookFailedError, match="09_broken, cell 2") as raised:
        run_all([source], out, Silent().stage)
    assert "ZeroDivisionError" in str(raised.value)
    assert "right / 0" in str(raised.value)
    assert list(out.iterdir()) == []


def test_a_kernel_that_dies_is_a_failure(tmp_path):
    cell = nbformat.v4.new_code_cell("import os; os._exit(1)")
    with pytest.raises(NotebookFailedError, match="dead, cell 1"):
        run_notebook(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "dead.ipynb")


def test_control_c_stops_the_kernel_and_is_no_failure(tmp_path):
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_notebook(notebook, tmp_path / "long.ipynb")
    assert signal.getsignal(signal.SIGINT) is before


# --- which system they look at --------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Replaces training; counts it."""
    made = []

    def save(recommender: object, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        made.append(folder)

    monkeypatch.setattr(desk, "train_system", lambda *_: SimpleNamespace(recommender=None))
    monkeypatch.setattr(desk, "save_bundle", save)
    return made


def test_the_small_system_is_trained_once(trainings, tmp_path):
    data, config = SimpleNamespace(name="d", sha256="1"), Config(name="c", quick=True)
    first = desk.trained_bundle(config, data, tmp_path)
    assert desk.trained_bundle(config, data, tmp_path) == first
    assert len(trainings) == 1
    desk.trained_bundle(config.model_copy(update={"seed": 1}), data, tmp_path)
    desk.trained_bundle(config, SimpleNamespace(name="d", sha256="2"), tmp_path)
    assert len(trainings) == 3


def test_without_movielens_the_data_is_generated_and_says_so(
    trainings, tmp_path, monkeypatch, capsys
):
    asked = []

    def load(config):
        asked.append(config.dataset)
        if config.dataset != "synthetic":
            raise DatasetUnavailableError("no network here")
        return SimpleNamespace(name="synthetic", sha256="1")

    monkeypatch.setattr(desk, "load_data", load)
    folder = desk.small_system(tmp_path)
    assert asked == ["movielens-100k", "synthetic"]
    assert folder.parent.name == "smoke-synthetic"
    assert "SYNTHETIC data instead of movielens-100k: no network here" in capsys.readouterr().out


def latest(artifacts: Path, config: Config) -> Path:
    bundle = artifacts / "latest" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text(config.model_dump_json())
    return bundle


def test_a_named_configuration_takes_its_last_run(tmp_path):
    bundle = latest(tmp_path, Config())
    assert command._bundle(Config(), tmp_path, Silent()) == bundle
    with pytest.raises(typer.Exit):
        command._bundle(Config(seed=1), tmp_path, Silent())


def test_a_named_configuration_without_a_run_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.console, "width", 300)
    with command.console.capture() as captured, pytest.raises(typer.Exit):
        command._bundle(Config(), tmp_path, Silent())
    assert "run make e2e first" in captured.get()


def test_the_configuration_of_the_notebooks_is_a_quick_one_on_real_data():
    config = load_config(desk.SMALL)
    assert config.quick
    assert config.data.dataset == "movielens-100k"
    assert SOURCES == SYSTEM_FOLDER / "notebooks"


# --- what they compute ----------------------------------------------------------------------------


def test_auc_within_requests_by_hand():
    watched = np.array([True, False, False, False, True, False, False])
    values = np.array([2.0, 3.0, 1.0, 9.0, 9.0, 5.0, 1.0])
    ptr = np.array([0, 3, 4, 7])  # the second request has one outcome only and does not count
    assert auc_within_requests(watched, values, ptr) == pytest.approx((0.5 + 1.0) / 2)


def test_waiting_is_lindleys_recursion():
    service_ms, rate, n = np.array([1.0, 30.0]), 50.0, 500
    rng = np.random.default_rng(3)
    service, gaps = rng.choice(service_ms, n), rng.exponential(1000 / rate, n)
    wait, expected = 0.0, [service[0]]
    for before, now, gap in zip(service[:-1], service[1:], gaps[1:], strict=True):
        wait = max(0.0, wait + before - gap)
        expected.append(wait + now)
    assert waiting_ms(service_ms, rate, n=n, seed=3) == pytest.approx(expected)


def test_an_idle_server_makes_nobody_wait():
    assert waiting_ms(np.array([2.0]), 0.001, n=100) == pytest.approx(np.full(100, 2.0))


def test_waiting_meets_the_formula_of_pollaczek_and_khinchine():
    """One worker, constant service s, load r: mean wait = r s / (2 (1 - r))."""
    response = waiting_ms(np.array([10.0]), 70.0, n=200_000)
    assert (response - 10).mean() == pytest.approx(0.7 * 10 / (2 * 0.3), rel=0.05)
