"""Break-it labs: what a lab hands back, how it is printed and where its numbers go.

A lab builds a healthy thing, breaks one thing in it, shows what a monitor says, and repairs it. In:
a ``LabReport``, which is tables of symptoms (healthy | broken | fixed), the words of the monitor
and a picture. Out: a table on the terminal, metrics ``lab_<name>/<variant>/<metric>`` and a PNG. A
lab computes; nothing here does.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = Estimate | float


class Dataset(Protocol):
    """What any system's data says of itself."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def sha256(self) -> str:
        """Checksum of its content."""

    @property
    def synthetic(self) -> bool:
        """Whether it was generated."""


@dataclass(frozen=True)
class Source:
    """What a lab ran on: a data set, or a simulation whose truth is known."""

    name: str
    sha256: str
    synthetic: bool

    @staticmethod
    def of(data: Dataset) -> Source:
        """The data set of the run."""
        return Source(data.name, data.sha256, data.synthetic)

    @staticmethod
    def simulation(settings: Any) -> Source:
        """A simulation: its settings, a dataclass, are its content."""
        text = json.dumps(asdict(settings), sort_keys=True)
        return Source("simulation", hashlib.sha256(text.encode()).hexdigest(), True)


@dataclass(frozen=True)
class Symptom:
    """One thing to look at, in every variant.

    Attributes:
        key: Name of the metric in the results.
        label: What it is called in the table.
        values: variant -> value; a variant that has none is left out.
        form: How numbers are written.
    """

    key: str
    label: str
    values: Mapping[str, Value]
    form: str = ".3f"

    def only(self, variants: Iterable[str]) -> Symptom:
        """The same symptom, of some of the variants."""
        return replace(self, values={name: self.values[name] for name in variants})


@dataclass(frozen=True)
class Comparison:
    """Symptoms of several variants.

    Attributes:
        title: A question or a sentence.
        variants: Key in the results -> heading in the table.
        symptoms: In the order of the table.
        by_variant: Whether variants stand beneath each other (many variants, few symptoms).
    """

    title: str
    variants: Mapping[str, str]
    symptoms: tuple[Symptom, ...]
    by_variant: bool = False


@dataclass(frozen=True)
class LabReport:
    """All that a lab found.

    Attributes:
        source: What it ran on.
        protocol: How the numbers came about, one line.
        main: Healthy, broken and fixed.
        alarm: What the monitor says in the broken state, one line.
        more: Further comparisons.
        figure: A picture, where it tells it better.
    """

    source: Source
    protocol: str
    main: Comparison
    alarm: str
    more: tuple[Comparison, ...] = ()
    figure: Figure | None = None

    def value(self, variant: str, key: str) -> float:
        """The value of a symptom, wherever it stands."""
        for comparison in (self.main, *self.more):
            for symptom in comparison.symptoms:
                if symptom.key == key and variant in symptom.values:
                    found = symptom.values[variant]
                    return found.value if isinstance(found, Estimate) else float(found)
        raise KeyError(f"no symptom {key} of variant {variant}")


@dataclass(frozen=True)
class Lab:
    """One lab: its name on the command line and the question to answer before running it."""

    name: str
    question: str

    @property
    def key(self) -> str:
        """Its name in Python and in the results."""
        return self.name.replace("-", "_")


def print_labs(console: Console, labs: Iterable[Lab]) -> None:
    """Names and questions, one lab a line."""
    for lab in labs:
        console.print(f"  lab-{lab.name:<22}{lab.question}", highlight=False)


def find_lab(labs: Iterable[Lab], name: str) -> Lab:
    """The lab of this name.

    Raises:
        ValueError: With the names there are.
    """
    known = {lab.name: lab for lab in labs}
    if name not in known:
        raise ValueError(f"no lab is called {name!r}; there are {', '.join(known)}")
    return known[name]


def perform_lab(
    lab: Lab,
    measure: Callable[[], LabReport],
    start_results: Callable[[Source], Results],
    *,
    folder: Path,
    console: Console,
) -> LabReport:
    """Asks the question, runs the lab, prints and writes what it found.

    Args:
        lab: Which one.
        measure: The lab itself.
        start_results: Makes the empty results for what the lab ran on.
        folder: Takes ``labs_<key>.json`` and ``plots/lab_<key>.png``.
        console: Where it is printed.
    """
    started = time.perf_counter()
    console.print(f"[bold]{lab.question}[/bold] Answer before you read on.", highlight=False)
    report = measure()
    results = start_results(report.source)
    record_report(results, f"lab_{lab.key}", report)
    results.write(folder / f"labs_{lab.key}.json")
    if report.figure is not None:
        from ml_platform.evaluation.plot_style import png

        write_atomic(folder / "plots" / f"lab_{lab.key}.png", png(report.figure))
    print_report(console, report)
    console.print(
        f"{time.perf_counter() - started:.0f} s. The story: labs/{lab.key}.md; numbers and "
        f"picture: {folder}",
        highlight=False,
    )
    return report


def print_report(console: Console, report: LabReport) -> None:
    """The tables, the alarm and the protocol; generated data is named as such."""
    for comparison in (report.main, *report.more):
        console.print(_table(comparison, report.source.synthetic))
    console.print(f"[bold]The monitor says:[/bold] {report.alarm}", highlight=False)
    console.print(f"[dim]{report.protocol}; brackets: 95% intervals[/dim]", highlight=False)


def record_report(results: Results, stage: str, report: LabReport) -> None:
    """Adds every value as ``stage/variant/metric``; one that stands in two tables, once."""
    for comparison in (report.main, *report.more):
        for symptom in comparison.symptoms:
            for variant, value in symptom.values.items():
                key = f"{stage}/{variant}/{symptom.key}"
                if key not in results:
                    results.add(key, value, protocol=report.protocol)


def written(value: Value | None, form: str) -> str:
    """A value with its interval, as text."""
    if value is None:
        return "-"
    if not isinstance(value, Estimate):
        return format(value, form)
    if value.low is None or value.high is None:
        return format(value.value, form)
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def dots(title: str, x_label: str, rows: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """One row per variant, in it one dot with its interval per series; equal series share a style.

    Args:
        title: The question that the picture answers.
        x_label: What is measured, and which interval.
        rows: variant -> series -> estimate; at most three series.
    """
    from ml_platform.evaluation import plot_style as style

    styles = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "^"))
    picture, (axes,) = style.new_figure(title, height=1.4 + 0.4 * len(rows))
    series = list(next(iter(rows.values())))
    for place, estimates in enumerate(rows.values()):
        for number, (name, estimate) in enumerate(estimates.items()):
            colour, marker = styles[number]
            shift = 0.22 * (number - (len(series) - 1) / 2)
            ends = (estimate.value, estimate.low, estimate.high)
            label = name if place == 0 else None
            style.interval_dot(axes, place + shift, ends, colour=colour, marker=marker, label=label)
    style.named_rows(axes, list(rows))
    axes.set_xlabel(x_label)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    return picture


def _table(comparison: Comparison, synthetic: bool) -> Table:
    title = ("SIMULATED DATA: " if synthetic else "") + comparison.title
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=False)
    table.add_column("")
    variants, symptoms = comparison.variants, comparison.symptoms
    if comparison.by_variant:
        for symptom in symptoms:
            table.add_column(symptom.label, justify="right")
        for key, heading in variants.items():
            table.add_row(heading, *(written(s.values.get(key), s.form) for s in symptoms))
        return table
    for heading in variants.values():
        table.add_column(heading, justify="right")
    for symptom in symptoms:
        cells = (written(symptom.values.get(key), symptom.form) for key in variants)
        table.add_row(symptom.label, *cells)
    return table
