"""Capacity arithmetic of a system: from a file of assumptions to machines and dollars.

    python -m ml_platform.docs.capacity capacity.yaml --out results/capacity.json

In: a YAML file of inputs, each with value, unit and where it comes from. Out: every derived
quantity with its formula, how much the total moves with each input, and the same for named cases
(other inputs, same formulas): a table on the screen, and the ordinary results file that the docs
quote. Change a value, run it again; nothing here is random, and a run that finds what the file
already says leaves the file alone.

    system: video_recommendation
    title: A home feed for two billion monthly users
    total: usd_per_month                  # what the sensitivity is of
    report: [peak_requests_per_second, cores]      # what is kept of each case
    inputs:
      monthly_users: {value: 2.0e+9, unit: users, cited: YouTube's own figure, 2019}
      server_memory_bytes: {value: 256, unit: GiB, assumed: a common two-socket server}
      rank_ms: {measured: results/bench.json#serving/rank/p50_ms, unit: ms, note: one core}
    cases:
      half_the_users: {set: {monthly_users: 1.0e+9}, note: why it is interesting}

Keys written: capacity/INPUT/value (as given), capacity/INPUT/doubled and /halved (change of the
total as a fraction; a share stops at 1), capacity/GROUP/QUANTITY, and capacity/CASE/QUANTITY for
what `report` lists, with the case `scenario` for the inputs as they are.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ml_platform.docs.capacity_quantities import CapacityError, convert, evaluate, is_share
from ml_platform.docs.capacity_scenario import QUANTITIES, SCENARIO, Scenario, read_scenario
from ml_platform.evaluation.results import Results


def values_of(scenario: Scenario, given: Mapping[str, float]) -> dict[str, float]:
    """All inputs and quantities, for inputs in the units of the file."""
    inputs = {
        name: convert(name, value, scenario.inputs[name].unit) for name, value in given.items()
    }
    return evaluate(QUANTITIES, inputs)


def sensitivity(scenario: Scenario, given: Mapping[str, float], factor: float) -> dict[str, float]:
    """Change of the total, as a fraction of it, when one input at a time is multiplied.

    A share is not taken beyond 1. An input that its formula cannot follow (one region, none to
    spare) is left out.
    """
    before = values_of(scenario, given)[scenario.total]
    changes = {}
    for name, value in given.items():
        moved = value * factor
        if is_share(name):
            whole = 1 / convert(name, 1.0, scenario.inputs[name].unit)  # 100 for percent
            moved = min(moved, whole)
        try:
            after = values_of(scenario, {**given, name: moved})[scenario.total]
        except CapacityError:
            continue
        changes[name] = round(after / before - 1, 9)  # the same on every machine
    return changes


def compute(path: Path) -> Results:
    """All of a file's arithmetic as results; see the module for the keys.

    Raises:
        CapacityError: If the file cannot be used; with the reason.
    """
    scenario, given = read_scenario(path)
    config = {**scenario.model_dump(mode="json"), "given": given}
    results = Results.start(
        system=scenario.system,
        config=config,
        dataset_name=path.name,
        dataset_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        synthetic=False,
        seed=0,
        root=path.resolve().parent,
    )
    _add_inputs(results, scenario, given)
    values = values_of(scenario, given)
    for quantity in QUANTITIES:
        key = f"capacity/{quantity.group}/{quantity.name}"
        protocol = f"{quantity.unit}; {quantity.words}"
        results.add(key, values[quantity.name], protocol=protocol)
    _add_cases(results, scenario, given)
    return results


def write_if_changed(results: Results, path: Path) -> bool:
    """Write the file unless one with the same inputs and the same numbers stands there.

    Only the run's date, commit, machine and seconds would differ, and they say nothing about
    arithmetic: leaving the file alone keeps them those of the run that made the numbers.
    """
    if path.is_file():
        old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(results.to_json())
        same_inputs = old["run"]["config_sha256"] == new["run"]["config_sha256"]
        if same_inputs and old["metrics"] == new["metrics"]:
            return False
    results.write(path)
    return True


def _add_inputs(results: Results, scenario: Scenario, given: Mapping[str, float]) -> None:
    moves = {
        "doubled": sensitivity(scenario, given, 2.0),
        "halved": sensitivity(scenario, given, 0.5),
    }
    for name, part in scenario.inputs.items():
        results.add(f"capacity/{name}/value", given[name], protocol=f"{part.unit}; {part.basis}")
        for move, changes in moves.items():
            if name in changes:
                protocol = f"change of {scenario.total} with this input alone {move}"
                results.add(f"capacity/{name}/{move}", changes[name], protocol=protocol)


def _add_cases(results: Results, scenario: Scenario, given: Mapping[str, float]) -> None:
    protocol = "computed from the assumptions, not measured"
    cases: dict[str, Mapping[str, float]] = {SCENARIO: {}}
    cases.update({name: case.set for name, case in scenario.cases.items()})
    for name, changed in cases.items():
        values = values_of(scenario, {**given, **changed})
        for reported in scenario.report:
            results.add(f"capacity/{name}/{reported}", values[reported], protocol=protocol)


def print_tables(path: Path, results: Results, console: Console) -> None:
    """Inputs, then quantities with their formulas, then what moves the total most."""
    scenario, given = read_scenario(path)
    table = Table(title=scenario.title)
    for column in ("input", "value", "unit", "where it comes from"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, part in scenario.inputs.items():
        table.add_row(name, f"{given[name]:,.6g}", part.unit, part.basis)
    console.print(table)
    table = Table(title="derived")
    for column in ("group", "quantity", "value", "unit", "formula"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for quantity in QUANTITIES:
        value = results[f"capacity/{quantity.group}/{quantity.name}"].value
        row = (quantity.group, quantity.name, f"{value:,.4g}", quantity.unit, quantity.words)
        table.add_row(*row)
    console.print(table)
    table = Table(title=f"change of {scenario.total} with one input doubled, and halved")
    for column in ("input", "doubled", "halved"):
        table.add_column(column, justify="left" if column == "input" else "right")
    keys = [name for name in given if f"capacity/{name}/halved" in results]
    for name in sorted(keys, key=lambda name: -abs(_move(results, name, "doubled")))[:12]:
        moves = [f"{_move(results, name, move):+.1%}" for move in ("doubled", "halved")]
        table.add_row(name, *moves)
    console.print(table)


def _move(results: Results, name: str, move: str) -> float:
    key = f"capacity/{name}/{move}"
    return results[key].value if key in results else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute, print, and with --out write; 0, or 2 with a message if the inputs are no good."""
    parser = argparse.ArgumentParser(
        prog="python -m ml_platform.docs.capacity", description="Machines and dollars."
    )
    parser.add_argument("inputs", type=Path, metavar="FILE", help="the inputs, YAML")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results file to write")
    options: Any = parser.parse_args(arguments)
    try:
        results = compute(options.inputs)
        print_tables(options.inputs, results, Console())
    except CapacityError as error:
        parser.error(str(error))
    if options.out:
        written = write_if_changed(results, options.out)
        print(f"{options.out} {'written' if written else 'says the same already: left alone'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
