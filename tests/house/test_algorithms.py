"""House rules about ml_algorithms: what a deep dive consists of, and that its notebook is clean."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from ml_platform.docs.interview import read_bank
from ml_platform.evaluation.results import Results

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = sorted(path.parent for path in ROOT.glob("ml_algorithms/*/Makefile"))
REQUIRED = ("README.md", "interview.yaml", "bench.py", "notebook.ipynb", "results", "__init__.py")
BUCKETS = {"commonly_asked", "tricky", "answered_wrong"}
each = pytest.mark.parametrize("folder", ALGORITHMS, ids=lambda path: path.name)


def test_all_deep_dives_are_looked_at() -> None:
    assert {folder.name for folder in ALGORITHMS} == {
        "bandits",
        "diversity",
        "gradient_boosted_trees",
        "matrix_factorization",
        "metrics_and_calibration",
        "mixture_of_experts",
        "nearest_neighbour",
        "sequence_models",
        "two_tower_and_contrastive",
    }


@each
def test_a_deep_dive_is_complete(folder: Path) -> None:
    assert [name for name in REQUIRED if not (folder / name).exists()] == []
    assert (ROOT / "tests" / "ml_algorithms" / folder.name).is_dir()
    assert (folder / "Makefile").read_text().startswith("include ../../scripts/algorithm.mk\n")
    page = (folder / "README.md").read_text()
    assert "Asked as" in page
    assert "<!-- questions:README -->" in page


@each
def test_questions_come_in_three_buckets(folder: Path) -> None:
    bank = read_bank(folder / "interview.yaml")
    assert {question.bucket for question in bank.questions} == BUCKETS
    assert len(bank.questions) >= 8
    assert len(bank.quiz) >= 4


@each
def test_committed_results_are_of_the_full_size_and_a_clean_tree(folder: Path) -> None:
    files = sorted((folder / "results").glob("*.json"))
    assert files
    for file in files:
        results = Results.read(file)
        assert results.run.system == folder.name
        assert len(results) > 0
        assert not results.run.commit.endswith("-dirty"), f"{file.name}: run it on a clean tree"


@each
def test_every_committed_picture_is_shown_on_the_page(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    pictures = sorted((folder / "results").rglob("*.png"))
    assert pictures
    assert [p.name for p in pictures if p.relative_to(folder).as_posix() not in page] == []


@each
def test_the_notebook_is_stored_without_outputs_and_defines_nothing(folder: Path) -> None:
    cells = json.loads((folder / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 3
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert not [n for text in code for n in ast.walk(ast.parse(text)) if isinstance(n, kinds)]
