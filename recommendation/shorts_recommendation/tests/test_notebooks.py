"""The notebooks: what every one of them has, and that all of them run, their solutions too."""

from __future__ import annotations

import ast
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import typer

from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent
from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.config import Config, load_config
from shorts_recommendation.counters import counters_until
from shorts_recommendation.notebooks import __main__ as command
from shorts_recommendation.notebooks import desk
from shorts_recommendation.notebooks.desk import BUNDLE_VARIABLE, SOURCES, Desk, notebooks
from shorts_recommendation.notebooks.lessons import (
    by_duration,
    ground_of,
    judged_impressions,
    small_settings,
    turn_of_sessions,
)
from shorts_recommendation.ranking.heads import TASKS

NAMES = [
    "01_world",
    "02_recall",
    "03_duration_bias",
    "04_ranking",
    "05_reranking",
    "06_real_time",
    "07_experiments",
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
    assert SOURCES == SYSTEM_FOLDER / "notebooks"


@each
def test_nothing_is_stored_with_it(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert notebook.metadata.kernelspec.name == "python3"
    assert 8 <= len(notebook.cells) <= 14


@each
def test_it_calls_the_package_and_defines_nothing(path):
    code = cells(path, "code")
    found = [n for text in code for n in ast.walk(ast.parse(text)) if isinstance(n, DEFINITIONS)]
    assert not found
    assert "open_desk()" in code[0]
    assert all(len(text.splitlines()) <= MOST_LINES for text in code)


@each
def test_it_asks_before_it_answers(path):
    found = read(path).cells
    asks = [n for n, cell in enumerate(found) if "**Predict" in cell.source and n > 0]
    assert len(asks) >= 3
    assert all(found[n].cell_type == "markdown" for n in asks)
    assert all(found[n + 1].cell_type == "code" for n in asks)
    first = cells(path, "markdown")[0]
    assert re.match(r"# \d\d .+\?\n", first)
    assert "Afterwards you can" in first


@each
def test_it_shows_pictures(path):
    assert sum("show(" in text for text in cells(path, "code")) >= 2


@each
def test_it_ends_with_exercises_and_folded_solutions(path):
    last = read(path).cells[-1].source
    exercises, *solutions = last.split("<details>")
    assert exercises.count("## Exercises") == 1
    numbers = re.findall(r"^(\d)\. ", exercises, re.MULTILINE)
    assert numbers == ["1", "2"]
    for number, solution in zip(numbers, solutions, strict=True):
        assert f"<summary>Solution {number}</summary>" in solution
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
    variables = {
        BUNDLE_VARIABLE: str(tiny_system.bundle),
        "MLSD_CACHE_DIR": str(tiny_system.bundle.parent / "cache"),  # where its world is
    }

    def execute(path: Path) -> None:
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


# --- which system they look at --------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Replaces world and training; counts the trainings."""
    made = []

    def save(recommender: object, folder: Path) -> None:
        folder.mkdir()  # as the real one: never over an older bundle
        made.append(folder)

    world = SimpleNamespace(sha256="1")
    monkeypatch.setattr(desk, "load_data", lambda *_, **__: world)
    monkeypatch.setattr(desk, "train_system", lambda *_: SimpleNamespace(recommender=None))
    monkeypatch.setattr(desk, "save_bundle", save)
    return SimpleNamespace(made=made, world=world)


def test_the_small_system_is_trained_once(trainings, tmp_path):
    config = Config(name="c", quick=True)
    first = desk.trained_bundle(config, tmp_path)
    assert desk.trained_bundle(config, tmp_path) == first
    assert len(trainings.made) == 1
    desk.trained_bundle(config.model_copy(update={"seed": 1}), tmp_path)
    trainings.world.sha256 = "2"
    desk.trained_bundle(config, tmp_path)
    assert len(trainings.made) == 3


def test_a_named_configuration_takes_its_last_run(tiny_system, tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(tiny_system.bundle)
    found = command._bundle(tiny_system.config, tmp_path, Silent())
    assert found == tiny_system.bundle.resolve()


def test_another_seed_is_another_run(trainings, tiny_system, tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(tiny_system.bundle)
    other = tiny_system.config.model_copy(update={"seed": 9})
    found = command._bundle(other, tmp_path, Silent())
    assert trainings.made == [found]


def test_a_full_configuration_without_a_run_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(command.console, "width", 300)
    with command.console.capture() as captured, pytest.raises(typer.Exit):
        command._bundle(Config(), tmp_path, Silent())
    assert "run make e2e first" in captured.get()


def test_a_name_that_is_none_is_said(tmp_path):
    with command.console.capture() as captured, pytest.raises(typer.Exit) as raised:
        command.run(Config(), tmp_path, ("99",))
    assert raised.value.exit_code == 2
    assert "no notebook begins with 99" in captured.get()


def test_the_configuration_of_the_notebooks_is_a_quick_one():
    config = load_config(desk.SMALL)
    assert config.quick
    assert config.world.days - config.data.train_days - config.data.validation_days >= 4
    assert command.SMALL == desk.SMALL


# --- what they compute ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_desk(tiny_system):
    return Desk(tiny_system.data, tiny_system.trained.recommender, tiny_system.bundle)


def test_by_duration_by_hand():
    duration_s = np.array([30.0, 5.0, 10.0, 60.0])
    values = np.array([3.0, 1.0, 2.0, 5.0])
    assert by_duration(duration_s, values, groups=2).tolist() == [[7.5, 1.5], [45.0, 4.0]]


def test_the_desk_says_what_it_is(tiny_desk):
    words = str(tiny_desk)
    assert words.startswith("SYNTHETIC")
    assert "SMALL" in words
    assert tiny_desk.recommender.version in words


def test_judged_impressions_are_those_of_the_test_days(tiny_desk, tiny_system):
    rows, heads = judged_impressions(tiny_desk, 100)
    log, windows = tiny_system.data.log, tiny_system.data.windows
    test = np.flatnonzero(log.timestamp >= windows.validation_end)
    assert len(rows) == 100 <= len(test)
    assert set(rows.session) <= set(log.session_id[test])
    assert set(heads) == {"transformer", "lightgbm"}
    assert all(h.skip.shape == (100,) and np.isfinite(h.skip).all() for h in heads.values())
    assert np.isnan(rows.labels[:, TASKS.index("watch")]).all()


def test_the_heads_of_an_impression_are_those_of_the_logged_protocol(tiny_desk, tiny_system):
    """Another way to the same prediction: training rows replayed, one pass over the log."""
    trees = tiny_system.trained.trees
    sequences = tiny_system.trained.transformer.sequences
    windows = tiny_system.data.windows
    wanted = sequences.time_s >= windows.validation_end
    rows, heads = judged_impressions(tiny_desk, 10**6)
    there = np.argsort(sequences.rows.log_row[wanted])
    expected = trees.score_rows(sequences, wanted).long_view[there]
    assert len(rows) == wanted.sum()
    # Rows keep user and context in half precision: a tree may split between the two.
    assert np.isclose(heads["lightgbm"].long_view, expected, atol=1e-3).mean() > 0.95


def test_a_turn_of_sessions_counts_the_tag_and_changes_no_state(tiny_desk):
    system = tiny_desk.recommender
    before = system.new_states()
    share = turn_of_sessions(tiny_desk, {"one": system, "other": system}, n_people=6, n_videos=2)
    assert np.array_equal(share["one"], share["other"])
    assert share["one"].shape == (3,)
    assert ((share["one"] >= 0) & (share["one"] <= 1)).all()
    assert np.array_equal(before.video, system.new_states().video)
    people = np.argsort(-before.last_s)[:6].astype(np.int32)
    batch = before.batch(people, before.last_s[people] + 30)
    slates = system.recommend(batch, system.new_counters().snapshot, 10)
    tags = np.argsort(-before.tag_profile[people], axis=1)[:, 4]
    all_tags = system.catalogue.tags
    hits = [
        tag in all_tags[video].tolist()
        for slate, tag in zip(slates, tags, strict=True)
        for video in slate.video_idx
    ]
    assert share["one"][0] == pytest.approx(np.mean(hits))


def test_experiments_start_where_the_system_s_knowledge_ends(tiny_desk, tiny_system):
    ground = ground_of(tiny_desk, small_settings(tiny_desk))
    data, state = tiny_system.data, tiny_system.config.state
    assert ground.start_s == data.windows.validation_end
    assert ground.log.timestamp.max() < ground.start_s
    assert (ground.platform.states.last_s < ground.start_s).all()
    before = np.bincount(ground.log.user_idx, minlength=len(data.users))
    assert (ground.platform.states.n_events == before).all()
    counters = counters_until(
        data.catalogue,
        data.log,
        ground.start_s,
        half_lives_h=state.counter_half_lives_h,
        period_s=state.counter_period_s,
    )
    assert np.array_equal(ground.platform.counters.snapshot.counts, counters.snapshot.counts)


def test_an_experiment_lasts_no_longer_than_the_test_days(tiny_desk):
    settings = small_settings(tiny_desk)
    assert settings.days == settings.long_days == 2
    assert settings.people == len(tiny_desk.data.users)
