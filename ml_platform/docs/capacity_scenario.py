"""The file of inputs behind the capacity arithmetic: its schema, and what is wrong with one.

In: a capacity.yaml (`capacity` shows one) and the results files that its measured inputs refer to.
Out: a `Scenario` whose names are all known to the formulas, and the value of each input.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    ValidationError,
    model_validator,
)

from ml_platform.docs import capacity_costs, capacity_serving
from ml_platform.docs.capacity_quantities import CapacityError, Quantity
from ml_platform.evaluation.results import Results

QUANTITIES: tuple[Quantity, ...] = tuple(
    quantity
    for formulas in (
        capacity_serving.traffic,
        capacity_serving.index,
        capacity_serving.serving,
        capacity_serving.network,
        capacity_costs.log,
        capacity_costs.store,
        capacity_costs.tables,
        capacity_costs.training,
        capacity_costs.cost,
    )
    for quantity in formulas.quantities
)
DERIVED = {quantity.name: quantity for quantity in QUANTITIES}
INPUTS = frozenset(name for quantity in QUANTITIES for name in quantity.needs) - DERIVED.keys()
SCENARIO = "scenario"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Input(_Part):
    """One number that goes in, and why anyone should believe it.

    Exactly one of `assumed`, `cited` (each with a value and the reason or the source) and
    `measured` (FILE#KEY of a results file, which then has the value).
    """

    value: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    unit: str = Field(min_length=1)
    assumed: str | None = Field(default=None, min_length=8)
    cited: str | None = Field(default=None, min_length=8)
    measured: str | None = Field(default=None, pattern=r"^[^#\s]+#[^#\s]+$")
    note: str = ""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        if sum(given is not None for given in (self.assumed, self.cited, self.measured)) != 1:
            raise ValueError("say one of assumed, cited or measured")
        if (self.value is None) != (self.measured is not None):
            raise ValueError("a value stands here, or is taken from `measured`: one of the two")
        return self

    @property
    def basis(self) -> str:
        """Where it comes from, for a reader."""
        if self.measured is not None:
            return f"measured: {self.note or self.measured}"
        return f"assumed: {self.assumed}" if self.assumed else f"cited: {self.cited}"


class Case(_Part):
    """The scenario with some inputs changed, each in the unit that the input is given in."""

    note: str = Field(min_length=8)
    set: dict[str, NonNegativeFloat] = Field(min_length=1)


class Scenario(_Part):
    """The whole file."""

    system: str = Field(min_length=1)
    title: str = Field(min_length=8)
    total: str
    report: list[str] = Field(min_length=1)
    inputs: dict[str, Input]
    cases: dict[str, Case] = {}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        _refuse_unknown("input", self.inputs, INPUTS)
        missing = sorted(INPUTS - self.inputs.keys())
        if missing:
            raise ValueError(f"inputs are missing: {', '.join(missing)}")
        _refuse_unknown("quantity", [self.total, *self.report], DERIVED)
        for case in self.cases.values():
            _refuse_unknown("input", case.set, INPUTS)
        if SCENARIO in self.cases:
            raise ValueError(f"no case may be called {SCENARIO}: that is the file as it is")
        return self


def read_scenario(path: Path) -> tuple[Scenario, dict[str, float]]:
    """The file, and the value of each input as given or measured.

    Raises:
        CapacityError: If the file, or one that it refers to, cannot be used; with the reason.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        scenario = Scenario.model_validate(content)
    except FileNotFoundError:
        raise CapacityError(f"no such file: {path}") from None
    except yaml.YAMLError as error:
        raise CapacityError(f"{path.name} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CapacityError(f"{path.name}: {place + ': ' if place else ''}{first['msg']}") from None
    given = {
        name: _measured(name, str(part.measured), path.parent) if part.value is None else part.value
        for name, part in scenario.inputs.items()
    }
    return scenario, given


def _measured(name: str, reference: str, folder: Path) -> float:
    file, _, key = reference.partition("#")
    try:
        return Results.read(folder / file)[key].value
    except FileNotFoundError:
        raise CapacityError(f"{name}: no results file {file} beside the inputs") from None
    except KeyError as error:
        raise CapacityError(f"{name}: {file}: {error.args[0]}") from None


def _refuse_unknown(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"no formula knows the {what} {name!r}{hint}")
