"""Labs: what is printed, what is written, and what a wrong name says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

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
