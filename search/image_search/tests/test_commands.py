"""The command line and the whole path at its smallest: data, train, evaluate, e2e."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import encoded
from rich.console import Console
from typer.testing import CliRunner

from image_search.bundle import load_searcher
from image_search.cli import app, settings
from image_search.commands import Run
from image_search.config import Config, load_config
from image_search.evaluation.run import key_of
from image_search.images.shapes import shapes
from image_search.reporting.tables import by_variant
from image_search.searcher import Ask
from ml_platform.evaluation.results import Results
from ml_platform.operations.bundle_manifest import BundleError

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
SMALL = ["--config", str(SMOKE), "--set", "images.shapes_per_class=8"]
WIDE = {"COLUMNS": "200"}


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments), env=WIDE)
    assert done.exit_code == code, done.output
    return done.output


def picture_folder(folder: Path, classes: int = 3, each: int = 4) -> Path:
    made, _ = shapes(8, 0)
    for k in range(classes):
        (folder / made.label_names[k]).mkdir(parents=True)
        for n, row in enumerate(np.flatnonzero(made.label == k)[:each]):
            path = folder / made.label_names[k] / f"{n}.png"
            path.write_bytes(encoded(made.images[row]))
    return folder


@pytest.mark.parametrize("command", ["data", "train", "evaluate", "e2e"])
def test_every_command_explains_itself(command: str) -> None:
    assert "--images" in run(command, "--help")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "images.size=2"], "Extra inputs are not permitted"),
        (["--set", "embeddings.names=[x]"], "embeddings.names.0"),
        (["--dataset", "movielens"], "images.dataset"),
        (["--dataset", "folder"], "name a folder"),
        (["--config", "nowhere.yaml"], "no configuration file"),
    ],
)
def test_a_mistake_ends_with_code_2_and_its_reason(arguments: list[str], said: str) -> None:
    assert said in run("data", *arguments, code=2)


def test_only_a_full_run_refreshes_what_the_documents_quote(tmp_path: Path) -> None:
    def is_full(config: Config) -> bool:
        return Run(config, tmp_path, Console(quiet=True)).is_full

    assert is_full(Config())
    assert is_full(settings(None, "clothing", None, None, None))
    assert not is_full(settings(None, "shapes", None, None, None))
    assert not is_full(settings(None, None, None, ["evaluation.max_queries=9"], None))
    assert not is_full(settings(None, None, None, None, 7))
    assert not is_full(settings(None, None, tmp_path, None, None))
    assert not is_full(load_config(SMOKE))
    assert load_config(SMOKE.with_name("default.yaml")) == Config()


def test_data_prints_what_is_there(tmp_path: Path) -> None:
    said = run("data", *SMALL, "--out", str(tmp_path))
    for part in ("QUICK RUN", "SYNTHETIC", "triangle", "views a day", "Generated here"):
        assert part in said
    assert not list(tmp_path.iterdir())


def measured(out: Path, name: str) -> Results:
    return Results.read(out / "demonstrations" / f"{name}.json")


def test_train_leaves_a_bundle_that_searches(tmp_path: Path) -> None:
    run("train", *SMALL, "--set", "embeddings.served=hog", "--out", str(tmp_path))
    searcher = load_searcher(tmp_path / "latest" / "bundle")
    made, _ = shapes(8, 0)
    vector = searcher.embed_images(made.images[:1])[0]
    assert searcher.search([Ask(vector, k=1)])[0].rows.tolist() == [0]
    with pytest.raises(BundleError, match="run make train"):
        load_searcher(tmp_path)


def test_evaluate_measures_every_embedding(tmp_path: Path) -> None:
    names = ("pixels_cosine", "pixels_l2", "hog")
    run(
        "evaluate", *SMALL, "--set", f"embeddings.names=[{','.join(names)}]", "--out", str(tmp_path)
    )
    results = measured(tmp_path, "evaluate_shapes")
    assert results.run.dataset.synthetic
    for name in names:
        for stage in ("retrieval", "retrieval_unseen"):
            metric = results[f"{stage}/{name}/map@r"]
            assert metric.low is not None
            assert metric.low <= metric.value <= (metric.high or 0)
            assert "own picture excluded" in metric.protocol
            assert "synthetic" in metric.protocol
    assert results["retrieval/hog/recall@1"].n == 10
    assert results["retrieval_unseen/hog/recall@1"].n == 4
    assert "classes 1, 3 only" in results["retrieval_unseen/hog/recall@1"].protocol
    assert results["retrieval_class/hog.cross/recall@1"].n == 2
    assert results["data/query/pictures"].value == 10
    assert results["data/broken/files"].value == 0
    assert set(by_variant(results, "retrieval")) == set(names)


def test_two_runs_measure_the_same(tmp_path: Path) -> None:
    found = []
    for part in ("a", "b"):
        names = "embeddings.names=[hog,cnn_proxy]"
        run("evaluate", *SMALL, "--set", names, "--out", str(tmp_path / part))
        results = measured(tmp_path / part, "evaluate_shapes")
        found.append({k: results[k].value for k in results if k.startswith("retrieval")})
    assert found[0] == found[1]


def test_a_folder_of_ones_own_is_measured_picture_against_picture(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "mine: own")
    (folder / "circle" / "broken.jpg").write_bytes(b"no")
    floors = ("--set", "embeddings.names=[hog]")
    said = run("evaluate", "--images", str(folder), *floors, "--out", str(tmp_path / "out"))
    assert "1 files cannot be read" in said
    assert "circle/broken.jpg: begins with 6e 6f" in said
    results = measured(tmp_path / "out", "evaluate_folder")
    metric = results["retrieval/hog/recall@1"]
    assert metric.n == 12
    assert "each picture against all others" in metric.protocol
    assert results["data/broken/files"].value == 1
    assert not results.run.dataset.synthetic


def test_a_folder_without_classes_is_shown_and_not_judged(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(shapes(4, 0)[0].images[0]))
    options = ("--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "(no class)" in run("data", *options)
    assert "have no classes" in run("evaluate", *options, code=1)
    run("train", *options, "--set", "embeddings.served=hog")
    assert "no folder" in run("data", "--images", str(tmp_path / "none"), code=1)


def test_classes_of_one_picture_each_cannot_be_judged(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "in", each=1)
    said = run("evaluate", "--images", str(folder), "--out", str(tmp_path), code=1)
    assert "no two pictures share a class" in said


def test_class_names_become_keys() -> None:
    assert key_of("T-shirt/top é") == "t-shirt_top__"
