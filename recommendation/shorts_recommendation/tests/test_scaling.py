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
    results.add(scaling.PROCESSOR_S, impressions / 50, protocol="by hand")
    results.add("memory/main_process/peak_bytes", 2.0**30, protocol="by hand")
    return results


def test_what_a_size_took_is_recorded_and_drawn() -> None:
    results, found = (
        _results(),
        {(100, 500): _measured(4000), (1000, 5000): _measured(40_000)},
    )
    for (users, videos), measured in found.items():
        scaling._record(results, users, videos, measured)
    assert results["scaling/users_100/processor_s"].value == 80
    assert results["scaling/users_1000/wall_s"].value == 400
    assert results["scaling_users_100/features/wall_s"].value == 4
    assert scaling._picture(found).startswith(b"\x89PNG")


def test_a_size_that_fails_says_why(tmp_path: Path) -> None:
    run = Run(Config(), tmp_path, Console(quiet=True))
    with pytest.raises(RuntimeError, match="50 users x 20 videos failed"):
        scaling._run_size(run, 50, 20)


def test_a_size_of_this_commit_is_kept_and_one_of_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = Run(Config(), tmp_path, Console(quiet=True)), _measured(4000)
    folder = tmp_path / "scaling" / "50x20" / "latest"
    folder.mkdir(parents=True)
    made.write(folder / "results.json")
    monkeypatch.setattr(scaling, "git_commit", lambda _: "0123456789ab")
    with pytest.raises(RuntimeError, match="failed"):  # another commit's: it is made, and fails
        scaling._run_size(run, 50, 20)
    text = (folder / "results.json").read_text().replace(made.run.commit, "0123456789ab")
    (folder / "results.json").write_text(text)
    assert scaling._run_size(run, 50, 20)["data/log/impressions"].value == 4000
