"""The notebooks: what every one of them has, and that all of them run, their solutions too."""

from __future__ import annotations

import ast
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import typer
from tiny_search import TOKEN

from image_search.artifacts import SYSTEM_FOLDER
from image_search.config import Config, load_config
from image_search.images.decoding import Limits, decode
from image_search.images.folder import read_folder
from image_search.images.image_set import QUERY, validation_rows
from image_search.images.shapes import SHAPES, shapes
from image_search.images.traits import traits_of
from image_search.notebooks import __main__ as command
from image_search.notebooks import desk
from image_search.notebooks.desk import BUNDLE_VARIABLE, SOURCES, Desk, few, notebooks, open_desk
from image_search.notebooks.pictures import (
    announced,
    class_likeness,
    files_of_a_stranger,
    picture_sheet,
    refusal_of,
)
from image_search.notebooks.service import (
    Reply,
    ask_delete,
    ask_json,
    ask_picture,
    pictures_of_hits,
    service_of,
)
from image_search.notebooks.studies import (
    log_lesson,
    rates_of_items,
    retrieved,
    without_negatives,
    without_some_classes,
)
from image_search.serving.traffic import encoded
from ml_platform.data.download import DatasetUnavailableError
from ml_platform.docs.links import dead_links
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent
from ml_platform.operations import drift_watch
from ml_platform.serving.server_process import ServerProcess

NAMES = [
    "01_pictures",
    "02_embeddings",
    "03_index",
    "04_ranking",
    "05_page_and_taste",
    "06_text",
    "07_serving",
]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)  # ruff sees named lambdas
SOLUTION = re.compile(r"```python\n(.*?)```", re.DOTALL)
QUESTION = re.compile(r"^- (?:.|\n(?!- |\n))+", re.MULTILINE)
PAGE = re.compile(r"\]\(\.\./docs/[^)#]+\.md#[^)]+\)")
MOST_LINES = 36
SMALLER = (
    "images.dataset=shapes",
    "images.shapes_per_class=40",
    "embeddings.cnn.width=8",
    "embeddings.cnn.epochs=4",
    "embeddings.cnn.view_epochs=2",
    "text.epochs=2",
    "clicks.users=60",
    "clicks.pages=1500",
    "ranking.trees=10",
    "ranking.judged_pages=60",
    "personalisation.judged=60",
    "reranking.judged=20",
)
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
    assert "Afterwards you can" in " ".join(first.split())


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
def test_it_leaves_questions_that_a_document_answers(path):
    _, found, asked = cells(path, "markdown")[-1].rpartition("## Questions for the documents")
    assert found
    questions = QUESTION.findall(asked)
    assert len(questions) >= 3
    assert all("?" in question and PAGE.search(question) for question in questions)


@each
def test_its_links_lead_somewhere(path):
    text = "\n\n".join(cells(path, "markdown"))
    assert text.count("](../src/") >= 2
    assert dead_links(path, text) == []


# --- running ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The notebooks' system, on generated shapes and smaller still."""
    config = load_config(desk.SMALL, SMALLER)
    return desk.trained_bundle(config, tmp_path_factory.mktemp("notebooks"), Silent())


@pytest.fixture(scope="module")
def tiny_desk(bundle):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BUNDLE_VARIABLE, str(bundle))
        return open_desk()


@pytest.fixture(scope="module")
def executed(bundle, tmp_path_factory):
    """All of them with their solutions as further cells, on the tiny system."""
    sources, out = (tmp_path_factory.mktemp(name) for name in ("sources", "executed"))
    for path in notebooks():
        notebook = read(path)
        for text in SOLUTION.findall(notebook.cells[-1].source):
            notebook.cells.append(nbformat.v4.new_code_cell(text))
        nbformat.write(notebook, sources / path.name)

    def execute(path: Path) -> None:
        run_all([path], out, Silent().stage, {BUNDLE_VARIABLE: str(bundle)})

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
    assert "GENERATED SHAPES" in stdout
    assert (executed / f"{path.stem}.html").stat().st_size > 10_000


# --- which system they look at ------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Replaces pictures and training; counts the trainings."""
    made = []

    def save(parts: object, folder: Path, *_: object) -> None:
        folder.mkdir(parents=True)  # as the real one: never over an older bundle
        made.append(folder)

    pictures = SimpleNamespace(sha256="1")
    monkeypatch.setattr(desk, "pictures_of", lambda *_: pictures)
    monkeypatch.setattr(desk, "train_system", lambda *_: None)
    monkeypatch.setattr(desk, "save_trained", save)
    return SimpleNamespace(made=made, pictures=pictures)


def test_the_small_system_is_trained_once(trainings, tmp_path):
    config = Config(name="c", quick=True)
    first = desk.trained_bundle(config, tmp_path)
    assert desk.trained_bundle(config, tmp_path) == first
    assert len(trainings.made) == 1
    desk.trained_bundle(config.model_copy(update={"seed": 1}), tmp_path)
    trainings.pictures.sha256 = "2"
    desk.trained_bundle(config, tmp_path)
    assert len(trainings.made) == 3


def test_a_full_configuration_takes_its_last_run(bundle, tmp_path, monkeypatch):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(bundle)
    monkeypatch.setattr(desk, "bundle_config", lambda _: Config(seed=3))
    found = command._bundle(Config(seed=3), tmp_path, Silent())
    assert found == bundle.resolve()


def test_a_full_configuration_without_a_run_is_an_error(bundle, tmp_path, monkeypatch):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(bundle)  # of another configuration
    monkeypatch.setattr(command.console, "width", 300)
    with command.console.capture() as captured, pytest.raises(typer.Exit):
        command._bundle(Config(), tmp_path, Silent())
    assert "run make e2e first" in captured.get()


def test_a_quick_run_of_a_command_is_not_the_notebooks_own(trainings, bundle, tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(bundle)
    found = command._bundle(desk.bundle_config(bundle), tmp_path, Silent())
    assert trainings.made == [found]


def test_a_name_that_is_none_is_said(tmp_path):
    with command.console.capture() as captured, pytest.raises(typer.Exit) as raised:
        command.run(Config(), tmp_path, ("99",))
    assert raised.value.exit_code == 2
    assert "no notebook begins with 99" in captured.get()


def test_the_configuration_of_the_notebooks_is_a_quick_one():
    config = load_config(desk.SMALL)
    assert config.quick
    assert config.images.dataset == "fashion-mnist"
    assert command.SMALL == desk.SMALL


def test_shapes_stand_in_where_the_data_set_cannot_be_had(monkeypatch, tiny):
    def load(config, **_):
        if config.dataset != "shapes":
            raise DatasetUnavailableError("nobody has it")
        return tiny

    monkeypatch.setattr(desk, "load_images", load)
    config, images = desk.reachable(load_config(desk.SMALL))
    assert config.images.dataset == "shapes"
    assert images is tiny


def test_a_desk_refuses_pictures_of_another_training(bundle, monkeypatch, tiny):
    monkeypatch.setenv(BUNDLE_VARIABLE, str(bundle))
    monkeypatch.setattr(desk, "pictures_of", lambda _: tiny)
    with pytest.raises(ValueError, match=r"is not what .* was trained on"):
        open_desk()


def test_few_pictures_keep_what_is_known_of_them(tiny):
    small = few(tiny, 0, gallery=30, queries=10)
    assert (small.split == QUERY).sum() == 10
    assert (small.split != QUERY).sum() == 30  # of gallery and validation alike
    assert (np.diff(small.item_id) > 0).all()
    at = small.item_id  # of the shapes, an id is a row
    assert np.array_equal(small.images, tiny.images[at])
    assert np.array_equal(small.label, tiny.label[at])
    assert few(tiny, 0, gallery=30, queries=10).sha256 == small.sha256
    assert few(tiny, 1, gallery=30, queries=10).sha256 != small.sha256
    assert len(few(tiny, 0)) == len(tiny)


def test_only_a_quick_run_of_a_public_set_is_cut(monkeypatch, tiny):
    monkeypatch.setattr(desk, "load_images", lambda *_, **__: tiny)
    monkeypatch.setattr(desk, "few", lambda *_: "few")
    quick = Config(quick=True)
    assert desk.pictures_of(quick) == "few"
    assert desk.pictures_of(Config()) is tiny
    shapes_only = quick.images.model_copy(update={"dataset": "shapes"})
    assert desk.pictures_of(quick.model_copy(update={"images": shapes_only})) is tiny


def test_the_desk_says_what_it_is(tiny_desk):
    words = str(tiny_desk)
    assert words.startswith("SYNTHETIC")
    assert "SMALL" in words
    assert "GENERATED SHAPES" in words
    assert tiny_desk.searcher.version in words
    assert tiny_desk.run.latest_bundle == tiny_desk.bundle


def test_the_desk_has_the_vectors_of_its_pictures(tiny_desk):
    embedder, images = tiny_desk.searcher.embedder, tiny_desk.images
    for vectors, rows in (
        (tiny_desk.gallery, tiny_desk.rows.gallery),
        (tiny_desk.queries, tiny_desk.rows.queries),
    ):
        np.testing.assert_allclose(vectors[:3], embedder.embed(images.images[rows[:3]]), atol=1e-4)
        assert len(vectors) == len(rows)


# --- what they compute --------------------------------------------------------------------------


def test_classes_that_are_each_others_negative_correlate_by_minus_one(tiny):
    half = np.zeros((28, 28, 1), dtype=np.uint8)
    half[:, :14] = 200
    pictures = np.stack([half, half, 200 - half, 200 - half])
    images = SimpleNamespace(
        images=pictures, label=np.array([0, 0, 1, 1]), label_names=("left", "right")
    )
    np.testing.assert_allclose(class_likeness(images, np.arange(4)), [[1, -1], [-1, 1]])


def test_a_strangers_files_are_read_or_refused_by_their_content(tmp_path, tiny):
    files_of_a_stranger(tmp_path / "files", tiny.images[0])
    found = read_folder(tmp_path / "files", side=None)
    assert sorted(found.broken) == ["bomb.png", "cut_off.jpg", "empty.png", "line.png", "page.jpg"]
    assert len(found) == 6  # notes.txt is no candidate
    assert len(list((tmp_path / "files").iterdir())) == 12


def test_the_turned_file_is_turned_when_it_is_decoded(tmp_path, tiny):
    files_of_a_stranger(tmp_path / "files", tiny.images[2])
    plain, turned = (
        decode((tmp_path / "files" / name).read_bytes()).astype(int)
        for name in ("plain.jpg", "turned.jpg")
    )
    right = np.rot90(plain, -1)  # tag 6: a quarter turn clockwise makes it upright
    assert np.abs(right - turned).mean() < 3 < np.abs(plain - turned).mean()


def test_why_bytes_are_refused(tiny):
    assert refusal_of(encoded(tiny.images[0], "PNG"), Limits())[0] == ""
    assert refusal_of(announced(30_000), Limits())[0] == "too_many_pixels"
    assert refusal_of(announced(500), Limits())[0] == "broken"
    assert len(announced(30_000)) < 200


def test_a_sheet_has_a_line_for_each_name_and_a_word_for_each_picture(tiny):
    lines = {"one": list(tiny.images[:3]), "two": [tiny.images[4][..., :1]]}
    (axes,) = picture_sheet("title", lines, {"one": ["a", "b", "c"], "two": ["d"]}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c", "d"]
    canvas = axes.images[0].get_array()
    assert (canvas[60:, 60:] == 255).all()  # the second line has one picture only


def test_halves_are_judged_among_their_own_classes(tiny_desk):
    found = without_some_classes(tiny_desk, ["pixels_cosine"])["pixels_cosine"]
    assert set(found.seen.label) == {0, 2, 4}
    assert set(found.unseen.label) == {1, 3}
    gallery = tiny_desk.images.label[tiny_desk.rows.gallery]
    assert found.unseen.n_gallery == np.isin(gallery, [1, 3]).sum()


def test_candidates_of_the_page_come_by_falling_similarity(tiny_desk):
    found = retrieved(tiny_desk)
    assert len(found) == 20
    assert (found.rows >= 0).all()
    assert (np.diff(found.score, axis=1) <= 0).all()
    best = (tiny_desk.queries[:20] @ tiny_desk.gallery.T).max(axis=1)
    np.testing.assert_allclose(found.score[:, 0], best, atol=1e-5)


def test_what_is_no_negative_changes_the_training_and_not_the_prompts(tiny_desk):
    rows = validation_rows(tiny_desk.images, 40, seed=0)
    text = tiny_desk.config.text.model_copy(update={"epochs": 1})
    found = without_negatives(tiny_desk, traits_of(tiny_desk.images.images), rows, text)
    none, same, true = (found[mask] for mask in ("none", "same", "true"))
    assert len(none) == len(same) == len(true) > 0
    assert all(((values >= 0) & (values <= 1)).all() for values in found.values())
    assert not np.array_equal(none, same)
    assert not np.array_equal(none, true)


def test_rates_by_hand():
    log = SimpleNamespace(
        shown=np.array([[0, 1], [1, 0], [0, 2]]),
        clicked=np.array([[True, True], [False, False], [True, False]]),
        examination=np.array([1.0, 0.5]),
        user_idx=np.zeros(3),
        query_row=np.zeros(3),
        time_s=np.zeros(3),
    )
    attraction = np.array([[0.2, 0.4], [0.6, 0.8], [0.5, 0.1]])
    truth = SimpleNamespace(item_class=np.zeros(3), attraction=lambda *_: attraction)
    lesson = SimpleNamespace(clicks=SimpleNamespace(log=log, truth=truth))
    rates = rates_of_items(lesson, least=2)
    np.testing.assert_allclose(rates["clicks an impression"], [2 / 3, 1 / 2])
    np.testing.assert_allclose(rates["clicks a look"], [2 / 2.5, 1 / 1.5])
    np.testing.assert_allclose(rates["attraction"], [1.5 / 3, 1.0 / 2])


def test_the_lesson_on_the_log_judges_test_days_alone(tiny_desk):
    lesson = log_lesson(tiny_desk)
    log = lesson.clicks.log
    assert set(lesson.test.query_row) <= set(log.query_row[log.test])
    assert not set(lesson.test.query_row) & set(log.query_row[log.train])
    assert lesson.test.attraction.shape == lesson.test.rows.shape


@pytest.fixture
def service(search_server):
    return ServerProcess(*search_server, start_s=0.0)


def test_a_service_is_asked_by_picture_by_words_and_by_item(service, tiny):
    by_picture = ask_picture(service, encoded(tiny.images[0], "PNG"), {"k": "3"})
    by_words = ask_json(service, "/v1/search", {"text": "a ring", "k": 3})
    assert by_picture.status == by_words.status == 200
    assert {hit["category"] for hit in by_words.body["results"]} == {"ring"}
    assert by_picture.ms > 0
    found = pictures_of_hits(SimpleNamespace(images=tiny), by_picture)
    assert np.array_equal(found[0], tiny.images[0])  # the query is an item itself


def test_what_a_stranger_sends_is_refused_by_status(service):
    assert ask_picture(service, b"no picture").status == 415
    assert ask_picture(service, announced(30_000)).status in (413, 422)
    assert ask_json(service, "/v1/items/123456789").status == 404


def test_an_item_is_added_and_deleted_with_the_token(service, tiny):
    picture = encoded(tiny.images[-1], "PNG")
    fields = {"category": SHAPES[0], "price": "3"}
    assert ask_picture(service, picture, fields, path="/v1/items").status == 401
    added = ask_picture(service, picture, fields, path="/v1/items", token=TOKEN)
    assert added.status == 201
    gone = ask_delete(service, f"/v1/items/{added.body['item_id']}", TOKEN)
    assert (gone.status, gone.body["deleted"]) == (200, True)


def test_the_service_of_a_desk_stops_with_its_block(tiny_desk):
    items = len(tiny_desk.searcher.catalogue)
    picture = encoded(tiny_desk.images.images[0], "PNG")
    with service_of(tiny_desk, token=TOKEN) as server:
        fields = {"category": SHAPES[1], "price": "3"}
        assert ask_picture(server, picture, fields, path="/v1/items", token=TOKEN).status == 201
        assert ask_picture(server, picture, {"k": "2"}).status == 200
        large = bytes(tiny_desk.config.serving.upload_bytes + 1)
        assert ask_picture(server, large).status == 413
    with pytest.raises(ConnectionRefusedError):
        ask_json(server, "/healthz")
    assert logging.getLogger(drift_watch.__name__).level == logging.NOTSET  # speaks again
    assert len(tiny_desk.searcher.catalogue) == items


def test_pictures_of_hits_follow_the_order_of_the_answer():
    images = shapes(4, seed=0)[0]
    reply = Reply(200, {"results": [{"item_id": 5}, {"item_id": 2}]}, 1.0)
    found = pictures_of_hits(Desk(images, None, Config(), Path()), reply)
    assert np.array_equal(found[0], images.images[5])
    assert np.array_equal(found[1], images.images[2])
