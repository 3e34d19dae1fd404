"""Labs: what is printed, what is written, and what a wrong name says."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from ml_platform.evaluation.configuration import Stage
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.lab import (
    Comparison,
    Lab,
    LabReport,
    Source,
    Symptom,
    dots,
    find_lab,
    perform_lab,
    print_labs,
    written,
)
from ml_platform.evaluation.lab_command import UNKNOWN_LAB, run_lab
from ml_platform.evaluation.results import Results

LAB = Lab("one-thing", "What breaks?")
LOSS = Symptom("loss", "loss", {"healthy": 0.1, "broken": Estimate(0.5, 0.4, 0.6, 9)}, ".2f")


def report() -> LabReport:
    seen = Symptom("seen", "seen by the monitor", {"broken": 1.0}, ".0f")
    main = Comparison("Two states", {"healthy": "healthy", "broken": "broken"}, (LOSS, seen))
    again = Comparison("The same", {"broken": "broken"}, (LOSS.only(["broken"]),), by_variant=True)
    picture = dots("Loss?", "loss", {"broken": {"loss": Estimate(0.5, 0.4, 0.6, 9)}})
    return LabReport(
        Source("toy", "0" * 64, True), "two numbers", main, "it rings", (again,), picture
    )


def start(source: Source) -> Results:
    return Results.start(
        system="toy",
        config={},
        dataset_name=source.name,
        dataset_sha256=source.sha256,
        synthetic=source.synthetic,
        seed=0,
        root=Path(__file__).parent,
    )


def test_a_lab_prints_and_writes_what_it_found(tmp_path: Path) -> None:
    console = Console(record=True, width=120, force_terminal=False)
    perform_lab(LAB, report, start, folder=tmp_path, console=console)
    text = console.export_text()
    for words in ("What breaks?", "SIMULATED DATA: Two states", "0.50 [0.40, 0.60]", "it rings"):
        assert words in text
    found = Results.read(tmp_path / "labs_one_thing.json")
    assert set(found) == {
        "lab_one_thing/healthy/loss",
        "lab_one_thing/broken/loss",
        "lab_one_thing/broken/seen",
    }
    assert found["lab_one_thing/broken/loss"].low == 0.4
    assert found.run.dataset.synthetic
    assert (tmp_path / "plots" / "lab_one_thing.png").read_bytes()[:4] == b"\x89PNG"


def test_values_are_found_wherever_they_stand() -> None:
    assert report().value("broken", "loss") == 0.5
    with pytest.raises(KeyError, match="no symptom seen of variant healthy"):
        report().value("healthy", "seen")


def test_a_wrong_name_says_which_there_are() -> None:
    labs = (LAB, Lab("other", "?"))
    assert find_lab(labs, "other").key == "other"
    with pytest.raises(ValueError, match="'onething'; there are one-thing, other"):
        find_lab(labs, "onething")
    console = Console(record=True, width=120, force_terminal=False)
    print_labs(console, labs)
    assert console.export_text().split()[:3] == ["lab-one-thing", "What", "breaks?"]


@dataclass(frozen=True)
class Settings:
    n: int


def test_a_simulation_is_named_by_its_settings() -> None:
    first, same, other = (Source.simulation(Settings(n)) for n in (1, 1, 2))
    assert first == same
    assert first.sha256 != other.sha256
    assert first.synthetic


def test_numbers_as_text() -> None:
    assert written(None, ".3f") == "-"
    assert written(0.25, ".1%") == "25.0%"
    assert written(Estimate(0.5, None, None, 1), ".2f") == "0.50"


class Settings7(Stage):
    """A configuration."""

    seed: int = 7


@dataclass
class Command:
    """What a system's command is to a lab."""

    folder: Path
    console: Console
    config: Settings7

    def results_folder(self) -> Path:
        return self.folder


def command(folder: Path) -> Command:
    return Command(folder, Console(record=True, width=120, force_terminal=False), Settings7())


def run_named(run: Command, name: str) -> int:
    labs = (LAB, Lab("other", "?"))
    return run_lab(run, name, labs, package="toy.labs", system="toy", root=Path(__file__).parent)


def test_a_system_s_lab_is_found_by_name_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(run: Command) -> LabReport:
        asked.append(run)
        return report()

    for name in ("toy", "toy.labs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "toy.labs.one_thing", SimpleNamespace(run=measure))
    run = command(tmp_path)
    assert run_named(run, "one-thing") == 0
    assert asked == [run]
    found = Results.read(tmp_path / "labs_one_thing.json")
    assert (found.run.system, found.run.seed, found.run.dataset.name) == ("toy", 7, "toy")
    assert found["lab_one_thing/broken/seen"].value == 1.0


def test_labs_are_listed_and_a_wrong_name_is_a_status(tmp_path: Path) -> None:
    run = command(tmp_path)
    assert run_named(run, "list") == 0
    assert run_named(run, "onething") == UNKNOWN_LAB
    text = run.console.export_text()
    assert "lab-one-thing" in text
    assert "no lab is called 'onething'; there are one-thing, other" in text
    assert not list(tmp_path.iterdir())
