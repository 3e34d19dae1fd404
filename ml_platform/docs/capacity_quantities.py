"""Quantities that follow from others, each with its formula in words; and the units of inputs.

In: functions whose parameters are the names of inputs or of earlier quantities. Out: `Quantity`
records in the order of definition, and their values for a set of inputs (`evaluate`).

    traffic = Formulas("traffic")

    @traffic("requests/s")
    def mean_requests_per_second(requests_per_day: float) -> float:
        '''Requests a day / 86,400 s.'''
        return requests_per_day / DAY_S

The docstring is the formula as a reader sees it, the body is the formula as it is computed, and
they stand three lines apart. An input's unit is read off its name: `server_memory_bytes` is held
in bytes, and a file may give it in GB or GiB (`convert`).
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

DAY_S = 86_400.0
MONTH_H = 730.0  # 365 days x 24 h / 12
MONTH_DAYS = 365.0 / 12

# Factors to the first unit of each dimension. SI steps are 1000, IEC steps 1024.
_DIMENSIONS: dict[str, dict[str, float]] = {
    "bytes": {
        "bytes": 1.0,
        **{unit: 1000.0**power for power, unit in enumerate(("KB", "MB", "GB", "TB", "PB"), 1)},
        **{unit: 1024.0**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)},
    },
    "ms": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "days": {"days": 1.0, "h": 1 / 24, "weeks": 7.0, "years": 365.0},
    "share": {"share": 1.0, "%": 0.01},
    "flops": {"FLOP/s": 1.0, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15},
    "usd_hour": {"USD/h": 1.0, "USD/day": 1 / 24},
    "usd_gb": {"USD/GB": 1.0, "USD/TB": 1e-3},
    "usd_gb_month": {"USD/GB/month": 1.0, "USD/TB/month": 1e-3},
}
# An input called ..._share is a share, and so on; the longest suffix that fits counts.
_SUFFIXES = sorted(_DIMENSIONS, key=len, reverse=True)


class CapacityError(ValueError):
    """Inputs that cannot be computed with; the message says which one, and what to do."""


@dataclass(frozen=True)
class Quantity:
    """One derived number.

    Attributes:
        group: What it belongs to: traffic, index, serving, ...
        name: Unique among all quantities and inputs.
        unit: Unit of the value.
        words: The formula as a reader sees it.
        needs: Names of the inputs and quantities it is computed from.
        compute: The formula itself, called with the values of `needs` in their order.
    """

    group: str
    name: str
    unit: str
    words: str
    needs: tuple[str, ...]
    compute: Callable[..., float]


class Formulas:
    """The formulas of one group, in the order in which they were defined."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.quantities: list[Quantity] = []

    def __call__(self, unit: str) -> Callable[[Callable[..., float]], Callable[..., float]]:
        """Decorator: the function's name, parameters and docstring make the quantity."""

        def register(function: Callable[..., float]) -> Callable[..., float]:
            words = " ".join((inspect.getdoc(function) or "").split()).rstrip(".")
            needs = tuple(inspect.signature(function).parameters)
            self.add(function.__name__, unit, words, needs, function)
            return function

        return register

    def add(
        self,
        name: str,
        unit: str,
        words: str,
        needs: tuple[str, ...],
        compute: Callable[..., float],
    ) -> None:
        """Register one formula of a family that differs only in its names."""
        self.quantities.append(Quantity(self.group, name, unit, words, needs, compute))


def evaluate(quantities: Iterable[Quantity], inputs: Mapping[str, float]) -> dict[str, float]:
    """All quantities, computed in order.

    Args:
        quantities: As registered; each may use inputs and the quantities before it.
        inputs: Value of each input by name, in the unit that its name says.

    Returns:
        Inputs and quantities by name.

    Raises:
        CapacityError: If a formula divides by zero or leaves the finite numbers; with its inputs.
    """
    values = dict(inputs)
    for quantity in quantities:
        arguments = {name: values[name] for name in quantity.needs}
        try:
            value = float(quantity.compute(*arguments.values()))
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            raise CapacityError(_failure(quantity, arguments, str(error))) from None
        if not math.isfinite(value) or value < 0:
            raise CapacityError(_failure(quantity, arguments, f"it gives {value}"))
        values[quantity.name] = value
    return values


def convert(name: str, value: float, unit: str) -> float:
    """An input's value in the unit that its name asks for.

    Args:
        name: For instance server_memory_bytes; a name without a known suffix is a plain count.
        value: As given.
        unit: As given; for a count any word that is not a unit of something else.

    Raises:
        CapacityError: If the unit does not fit the name, or a share is above 1.
    """
    dimension = next((suffix for suffix in _SUFFIXES if name.endswith(f"_{suffix}")), None)
    if dimension is None:
        owner = next((d for d, units in _DIMENSIONS.items() if unit in units), None)
        if owner is not None:
            raise CapacityError(f"{name} is a count, but its unit {unit!r} measures {owner}")
        return value
    factors = _DIMENSIONS[dimension]
    if unit not in factors:
        raise CapacityError(f"{name}: unit {unit!r} is none of {', '.join(factors)}")
    converted = value * factors[unit]
    if dimension == "share" and converted > 1:
        raise CapacityError(f"{name} = {value} {unit} is more than the whole")
    return converted


def is_share(name: str) -> bool:
    """Whether an input's value cannot exceed 1."""
    return name.endswith("_share")


def _failure(quantity: Quantity, arguments: Mapping[str, float], reason: str) -> str:
    given = ", ".join(f"{name} = {value:g}" for name, value in arguments.items())
    return f"{quantity.group}/{quantity.name} ({quantity.words}) fails: {reason}; with {given}"
