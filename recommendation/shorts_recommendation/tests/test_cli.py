from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ml_platform.evaluation.results import Results
from shorts_recommendation.cli import DEMONSTRATIONS, app, settings
from shorts_recommendation.config import Config, load_config

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


@pytest.mark.parametrize("command", ["data", "train", "evaluate", "e2e", "serve", "bench", "lab"])
def test_every_stage_word_is_a_command(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_every_demonstration_exists(name: str) -> None:
    module, _, function = DEMONSTRATIONS[name][0].partition(":")
    found = importlib.import_module(f"shorts_recommendation.{module}")
    assert callable(getattr(found, function or "main"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "ranking.epoch=2"], "Extra inputs are not permitted"),
        (["--set", "retrieval.fresh_quota=10"], "quotas sum to"),
        (["--set", "data.train_days=14"], "none left to test"),
        (["--config", "nowhere.yaml"], "no configuration file"),
        (["--dataset", "movielens-1m"], "no data set 'movielens-1m'"),
        (["--users", "3"], "'--users'"),
    ],
)
def test_a_mistake_ends_with_code_2_and_its_reason(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert said in done.output


def test_sizes_come_from_flags() -> None:
    config = settings(None, None, None, 3, users=500, videos=2000, impressions=30)
    assert (config.world.n_users, config.world.n_videos, config.seed) == (500, 2000, 3)
    assert config.world.impressions_per_user == 30
    assert config.name == "sized"


def test_the_smoke_configuration_is_quick_and_the_default_is_not() -> None:
    assert load_config(SMOKE).quick
    default = load_config(SMOKE.with_name("default.yaml"))
    assert default == Config()


def test_only_the_default_run_refreshes_what_the_documents_quote(tmp_path: Path) -> None:
    from rich.console import Console

    from shorts_recommendation.commands import Run

    def is_full(config: Config) -> bool:
        return Run(config, tmp_path, Console(quiet=True)).is_full

    assert is_full(Config())
    assert not is_full(settings(None, None, ["ranking.epochs=1"], None))
    assert not is_full(settings(None, None, None, 7))
    assert not is_full(settings(None, None, None, None, users=10_000, videos=50_000))
    assert not is_full(load_config(SMOKE))


def test_serve_without_a_bundle_says_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "make train" in done.output


def test_e2e_runs_every_stage(tmp_path: Path) -> None:
    """The whole command on a tiny world: trains, evaluates, serves a load, reports."""
    sizes = ["--users", "150", "--videos", "900", "--impressions", "40"]
    small = [
        *("ranking.epochs=1", "ranking.trees=10", "ranking.distil_requests=40"),
        *("two_tower.epochs=1", "two_tower.n_uniform=128", "two_tower.batch_size=128"),
        *("evaluation.queries=40", "evaluation.resamples=100", "serving.load_seconds=1.5"),
        *("serving.load_rate_qps=60", "serving.load_uncached_rate_qps=20"),
        *("world.days=6", "data.train_days=3", "data.validation_days=1"),
    ]
    overrides = [part for value in small for part in ("--set", value)]
    done = CliRunner().invoke(
        app, ["e2e", "--config", str(SMOKE), *sizes, *overrides, "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output[-3000:]
    assert "QUICK RUN" in done.output
    latest = tmp_path / "latest"
    results = Results.read(latest / "results.json")
    for key in (
        "retrieval/merged/recall@1000",
        "ranking/transformer/truth_ndcg@10",
        "ranking/lightgbm/auc_long_view",
        "reranking/all_rules/ild@10",
        "serving/cached/p99_ms",
        "serving/uncached/p99_ms",
    ):
        assert key in results
    assert results["ranking/oracle/truth_ndcg@10"].value == pytest.approx(1.0)
    assert results["serving/cached/error_rate"].value == 0
    assert (latest / "report.html").stat().st_size > 50_000
    assert (latest / "bundle" / "manifest.json").is_file()
