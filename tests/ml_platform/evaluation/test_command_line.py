from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.evaluation.command_line import guarded, read_settings
from ml_platform.evaluation.configuration import Stage, read_config
from ml_platform.evaluation.run_folder import new_run_folder, publish


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
