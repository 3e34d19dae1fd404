from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.evaluation.results import Results
from shorts_recommendation import scaling
from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.commands import Run
from shorts_recommendation.config import Config


def _results() -> Results:
    return Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="simulated",
        dataset_sha256="0",
        synthetic=True,
        seed=0,
        root=SYSTEM_FOLDER,
    )


def _measured(impressions: int) -> Results:
    results = _results()
    results.add("data/log/impressions", impressions, protocol="by hand")
    results.add("seconds/all_stages/wall_s", impressions / 100, protocol="by hand")
    results.add("seconds/features/wall_s", impressions / 1000, protocol="by hand")
    results.add("memory/main_process/peak_bytes", 2.0**30, protocol="by hand")
    return results


def test_what_a_size_took_is_recorded_and_drawn() -> None:
    results, found = (
        _results(),
        {(100, 500): (_measured(4000), 50.0), (1000, 5000): (_measured(40_000), 500.0)},
    )
    for (users, videos), (measured, processor_s) in found.items():
        scaling._record(results, users, videos, measured, processor_s)
    assert results["scaling/users_100/processor_s"].value == 50
    assert results["scaling/users_1000/wall_s"].value == 400
    assert results["scaling_users_100/features/wall_s"].value == 4
    assert scaling._picture(found).startswith(b"\x89PNG")


def test_a_size_that_fails_says_why(tmp_path: Path) -> None:
    run = Run(Config(), tmp_path, Console(quiet=True))
    with pytest.raises(RuntimeError, match="50 users x 20 videos failed"):
        scaling._run_size(run, 50, 20)
