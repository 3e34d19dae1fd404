from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.evaluation.command_line import guarded, read_settings
from ml_platform.evaluation.configuration import Stage, read_config
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_folder import (
    new_run_folder,
    publish,
    published_run,
    record_cost,
    results_folder,
)


class Settings(Stage):
    seed: int = 0


def _load(path: Path | None, overrides: tuple[str, ...]) -> Settings:
    return read_config(Settings, path, overrides)


def _console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=200), text


def test_good_settings_come_back() -> None:
    console, text = _console()
    assert read_settings(_load, None, ("seed=3",), console).seed == 3
    assert text.getvalue() == ""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("seeds=3",), "configuration: seeds: Extra inputs"),
        (("seed",), "not of the form"),
        (("seed=[red]",), "configuration: seed: Input should be a valid integer"),
    ],
)
def test_bad_settings_end_with_code_2_and_the_reason(overrides: tuple[str, ...], said: str) -> None:
    console, text = _console()
    with pytest.raises(SystemExit) as ended:
        read_settings(_load, None, overrides, console)
    assert ended.value.code == 2
    assert said in text.getvalue()


def test_a_mendable_error_is_one_line_and_others_are_not_hidden() -> None:
    console, text = _console()

    def fail() -> None:
        raise FileNotFoundError("no bundle in [here]")

    with pytest.raises(SystemExit) as ended:
        guarded(fail, console, (FileNotFoundError,))
    assert ended.value.code == 1
    assert text.getvalue().strip() == "no bundle in [here]"
    with pytest.raises(FileNotFoundError):
        guarded(fail, console, (ValueError,))


def test_an_interrupt_ends_with_code_130() -> None:
    console, text = _console()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        guarded(interrupt, console, ())
    assert ended.value.code == 130
    assert "untouched" in text.getvalue()


def test_latest_moves_only_when_published(tmp_path: Path) -> None:
    first = new_run_folder(tmp_path, "one")
    publish(first)
    second = new_run_folder(tmp_path, "two")
    assert (tmp_path / "latest").resolve() == first
    publish(second)
    assert (tmp_path / "latest").resolve() == second
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["latest", first.name, second.name])


def test_a_run_that_fails_is_kept_and_not_published(tmp_path: Path) -> None:
    with published_run(tmp_path, "good") as good:
        assert not (tmp_path / "latest").exists()
    failing = published_run(tmp_path, "bad")
    bad = failing.__enter__()
    (bad / "part").touch()
    assert not failing.__exit__(ValueError, ValueError("half way"), None)
    assert (tmp_path / "latest").resolve() == good
    assert (bad / "part").exists()


def test_only_a_full_run_writes_what_the_documents_quote(tmp_path: Path) -> None:
    system, artifacts = tmp_path / "system", tmp_path / "artifacts"
    assert results_folder(system, artifacts, full=True) == system / "results"
    assert results_folder(system, artifacts, full=False) == artifacts / "demonstrations"
    assert (system / "results" / "plots").is_dir()
    assert (artifacts / "demonstrations" / "plots").is_dir()
    assert results_folder(system, artifacts, full=True).is_dir()  # twice is no error


def test_cost_by_hand(tmp_path: Path) -> None:
    results = Results.start(
        system="toy", config={}, dataset_name="d", dataset_sha256="0" * 64, synthetic=True,
        seed=0, root=tmp_path,
    )  # fmt: skip
    record_cost(results, {"pre-ranker, on 90% of time": 2.0, "retrieval: two towers": 3.5})
    assert results["seconds/pre-ranker_on_90_of_time/wall_s"].value == 2.0
    assert results["seconds/retrieval_two_towers/wall_s"].value == 3.5
    assert results["seconds/all_stages/wall_s"].value == 5.5
    assert results["seconds/all_processes/processor_s"].value > 0.1
    assert results["memory/main_process/peak_bytes"].value > 1e6
