"""The commands ``duplicates``, ``page`` and ``personalisation`` on generated shapes, end to end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from image_search.commands import Run
from image_search.config import load_config
from image_search.personalisation import command as personalisation
from image_search.personalisation import experiment
from image_search.reranking import command as duplicates
from image_search.reranking import page_command as page
from ml_platform.evaluation.results import Results

SETTINGS = (
    "images.dataset=shapes", "images.shapes_per_class=16", "embeddings.served=pixels_cosine",
    "embeddings.pixels_side=16", "quick=true", "evaluation.resamples=100", "reranking.judged=8",
    "reranking.false_alarms=0.05", "personalisation.judged=30", "serving.page=10",
    "clicks={users: 12, pages: 240, page: 10, pool: 30, queries: 20, test_queries: 20}",
    "index.candidates=40",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(load_config(None, SETTINGS), tmp_path, Console(file=io.StringIO(), width=150))


def printed(run: Run) -> str:
    return run.console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_duplicates(run: Run) -> None:
    duplicates.run(run)
    folder = run.results_folder()
    results = Results.read(folder / "duplicates_shapes.json")
    for rule in ("phash", "thumbnail", "embedding", "phash+thumbnail", "served"):
        assert 0 <= results[f"duplicates/{rule}/found"].value <= 1
        assert results[f"duplicates_found/{rule}.jpeg_50/share"].n == 8
    assert "synthetic" in results["duplicates/served/found"].protocol
    leaking = results["leakage/queries/count"].value
    assert results["leakage/without/recall@1"].n == 20 - leaking
    names = sorted(path.name for path in (folder / "plots").iterdir())
    assert names == [f"duplicates_{n}_shapes.png" for n in ("gallery", "leakage", "roc", "survive")]
    assert "SYNTHETIC" in printed(run)


def test_page(run: Run) -> None:
    page.run(run)
    results = Results.read(run.results_folder() / "page_shapes.json")
    plain, spread = (results[f"page/diversity_{w}/distance"].value for w in ("00", "90"))
    assert spread > plain
    assert results["page/with_duplicates/left_out"].value == 0
    assert results["page_latency/diversity_30/p99_ms"].n == 8
    assert (run.results_folder() / "plots" / "page_shapes.png").stat().st_size > 1_000


def test_personalisation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("KNOWN", (0, 1, 3)), ("ROUNDS", 3), ("LOOP_USERS", 8)):
        monkeypatch.setattr(experiment, name, value)
    personalisation.run(run)
    results = Results.read(run.results_folder() / "personalisation_shapes.json")
    assert results["personalisation/similarity.oracle/ndcg@10"].value == pytest.approx(1)
    gains = [results[f"personalisation_gain/{b}.oracle/clicks"] for b in experiment.BASES]
    assert all(gain.low is not None and gain.low > 0 for gain in gains)
    assert results["personalisation_gain/impersonal.feature_told/clicks"].n == 30
    for key in ("similarity.blend", "similarity.shift", "impersonal.feature_told"):
        assert results[f"personalisation_known/{key}_0/clicks"].value == 0
    assert results["personalisation_known/impersonal.feature_told_3/clicks"].value != 0
    for key in results:
        assert "SYNTHETIC" in results[key].protocol, key
    loop = [results[f"personalisation_loop/{n}/clicks"].value for n in ("blend", "none")]
    difference = results["personalisation_loop/difference/clicks"].value
    assert difference == pytest.approx(loop[0] - loop[1], abs=1e-4)
    assert len(list((run.results_folder() / "plots").iterdir())) == 3
