"""The command line as a user runs it: the smoke configuration in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ml_platform.evaluation.results import Results
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.bundle import check_bundle
from video_recommendation.cli import app, console
from video_recommendation.rollout.registry_commands import open_registry

SMOKE = SYSTEM_FOLDER / "configs" / "smoke.yaml"
RESULTS = SYSTEM_FOLDER / "results"
ENV = {**os.environ, "COLUMNS": "160"}
# An even smaller one, for runs that only have to come through.
SMALLER = (
    "data.synthetic={n_users: 80, n_items: 120, n_interactions: 4000, seed: 1}",
    "two_tower.max_epochs=1",
    "ranking.max_trees=5",
    "evaluation.resamples=100",
    "serving.load_seconds=1",
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "video_recommendation.cli", *arguments]


def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=ENV,
    )


def smaller(out: Path, subcommand: str, *extra: str) -> list[str]:
    settings = [part for value in SMALLER for part in ("--set", value)]
    return [subcommand, "--config", str(SMOKE), "--out", str(out), *settings, *extra]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("artifacts")
    before, started = tree(RESULTS), time.perf_counter()
    done = run("e2e", "--config", str(SMOKE), "--out", str(out))
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(
        out=out,
        run=(out / "latest").resolve(),
        done=done,
        seconds=seconds,
        before=before,
        results=Results.read(out / "latest" / "results.json"),
    )


def value(smoke, key: str) -> float:
    return smoke.results[key].value


@pytest.mark.slow
def test_the_smoke_run_takes_less_than_a_minute(smoke):
    assert smoke.seconds < 60


def test_a_run_leaves_a_bundle_results_and_a_report(smoke):
    assert (smoke.out / "latest").is_symlink()
    assert smoke.run.name.startswith("smoke-")
    assert {"bundle", "results.json", "report.html"} <= {p.name for p in smoke.run.iterdir()}
    assert check_bundle(smoke.run / "bundle")["version"]
    assert (smoke.run / "report.html").stat().st_size > 20_000


def test_a_run_is_registered_with_its_results(smoke):
    version, registry = check_bundle(smoke.run / "bundle")["version"], open_registry(smoke.out)
    assert f"version {version} registered; it is production" in smoke.done.stdout
    assert check_bundle(registry.path(version))["version"] == version
    kept = registry.attachment(version, "results.json")
    assert kept.read_text() == (smoke.run / "results.json").read_text()


def test_the_output_says_what_the_numbers_are_worth(smoke):
    assert "QUICK" in smoke.done.stdout
    assert "SYNTHETIC" in smoke.done.stdout
    assert "report.html" in smoke.done.stdout
    report = (smoke.run / "report.html").read_text()
    assert "QUICK" in report.upper()
    assert "SYNTHETIC" in report.upper()


def test_the_repositorys_results_are_untouched(smoke):
    assert tree(RESULTS) == smoke.before


MODELS = ("random", "popularity", "recent_popularity", "item_knn", "ease", "ials", "oracle",
          "two_tower", "co_visitation", "ease_recency", "merged")  # fmt: skip
KEYS = [
    *(f"retrieval/{name}/{m}" for name in MODELS for m in ("hr@10", "ndcg@10", "recall@100")),
    *(
        f"ranking/{name}/{m}"
        for name in ("ease", "two_tower", "prerank", "lambdarank", "mmoe", "final")
        for m in ("hr@10", "ndcg@10", "map@10")
    ),
    *(f"candidates/{name}/{m}" for name in ("lambdarank", "mmoe") for m in ("auc", "ndcg@10")),
    *(f"calibration/{name}/ece" for name in ("raw", "platt", "isotonic")),
    *(f"index/{kind}/recall@100" for kind in ("flat", "ivf", "hnsw", "pq")),
    *(f"reranking/{name}/{m}" for name in ("none", "mmr_0.9", "dpp_0.9")
      for m in ("ndcg@10", "ild_genre@10", "ild_embedding@10", "coverage@10", "novelty@10")),
    *(f"funnel/{stage}/items" for stage in ("catalogue", "candidates", "ranked", "list")),
    *(f"serving/load/{m}" for m in ("achieved_qps", "error_rate", "p50_ms", "p99_ms")),
    "batch_split/recent_popularity/hr@10",
    "pool/merged/pool_recall",
    "importance/two_tower_score/gain",
    "importance/two_tower_score/mean_abs_shap",
    "ranking_difference/final_minus_ease/hr@10",
    "data/synthetic/test_queries",
    "seconds/all_stages/wall_s",
    "memory/main_process/peak_bytes",
]  # fmt: skip


def test_the_results_are_complete(smoke):
    missing = [key for key in KEYS if key not in smoke.results]
    assert not missing
    run_facts = smoke.results.run
    assert run_facts.dataset.synthetic
    assert run_facts.system == "video_recommendation"


def test_floors(smoke):
    """Tastes are strong in this data (see the file): who learned anything beats popularity."""
    random, popular = (value(smoke, f"retrieval/{n}/hr@10") for n in ("random", "popularity"))
    recent = value(smoke, "retrieval/recent_popularity/hr@10")
    two_tower = value(smoke, "retrieval/two_tower/hr@10")
    final = value(smoke, "ranking/final/hr@10")
    for model in (two_tower, final):
        assert model > random + 0.05
        assert model > popular + 0.02
        assert model > recent + 0.02
    assert value(smoke, "retrieval/oracle/hr@10") > two_tower
    assert (
        value(smoke, "pool/merged/pool_recall") > value(smoke, "retrieval/random/recall@100") + 0.1
    )


def test_the_served_load_had_no_errors(smoke):
    assert value(smoke, "serving/load/error_rate") == 0
    assert smoke.results["serving/load/p50_ms"].n > 20


def test_index_kinds_find_what_exact_search_finds(smoke):
    assert value(smoke, "index/flat/recall@100") == 1.0
    assert value(smoke, "index/hnsw/recall@100") > 0.9


# --- what happens to artifacts ------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV
    )


def test_an_interrupted_run_leaves_the_last_complete_one(smoke):
    before, folders = (smoke.out / "latest").resolve(), set(smoke.out.iterdir())
    endless = ("--set", "two_tower.max_epochs=2000", "--set", "two_tower.patience=2000")
    process = start(*smaller(smoke.out, "train", *endless))
    end = time.monotonic() + 60
    while set(smoke.out.iterdir()) == folders:  # until the run has a folder of its own
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 130, output
    assert "the last complete run is untouched" in output
    assert "Traceback" not in output
    assert (smoke.out / "latest").resolve() == before
    assert check_bundle(smoke.out / "latest" / "bundle")


def test_a_second_run_is_published_beside_the_first(smoke):
    before = check_bundle(smoke.run / "bundle")["version"]
    done = run(*smaller(smoke.out, "train"))
    assert done.returncode == 0, done.stdout + done.stderr
    latest = (smoke.out / "latest").resolve()
    assert latest != smoke.run
    assert f"bundle {check_bundle(latest / 'bundle')['version']} in" in done.stdout
    assert check_bundle(smoke.run / "bundle")["version"] == before


# --- commands in this process: an interpreter for each would be slow ------------------------------


def invoke(monkeypatch, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    monkeypatch.setattr(console, "width", 300)
    with console.capture() as captured:
        done = CliRunner().invoke(app, arguments)
    return done.exit_code, captured.get()


def test_data_says_what_it_is(tmp_path, monkeypatch):
    code, output = invoke(monkeypatch, *smaller(tmp_path, "data"))
    assert code == 0
    for text in ("4,000 interactions", "80 users", "120 items", "licence", "next-event queries"):
        assert text in output


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "two_tower.embeding_dim=8"], "two_tower.embeding_dim: Extra inputs"),
        (["--set", "two_tower.pooling=max"], "'attention' (got 'max')"),
        (["--set", "seed"], "not of the form stage.key=value"),
        (["--set", "name.deep=1"], "name is a value, not a stage"),
        (["--dataset", "nosuch"], "unknown data set; there are movielens-100k"),
        (["--config", "nosuch.yaml"], "no configuration file nosuch.yaml"),
    ],
)
def test_a_mistake_ends_with_its_reason(tmp_path, arguments, message, monkeypatch):
    if "--config" not in arguments:
        arguments = ["--config", str(SMOKE), *arguments]
    code, output = invoke(monkeypatch, "train", "--out", str(tmp_path), *arguments)
    assert code == 2, output
    assert message in output
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    done = run("e2e", "--dataset", "nosuch", "--out", str(tmp_path))
    assert done.returncode == 2
    for text in ("data.dataset", "movielens-100k", "nosuch"):
        assert text in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_serving_without_a_bundle_says_how_to_get_one(tmp_path, monkeypatch):
    code, output = invoke(monkeypatch, "serve", "--out", str(tmp_path))
    assert code == 1
    assert "make train" in output
