"""A table before it is drawn: the terminal and the HTML report draw the same ``Grid``.

In: estimates and numbers. Out: cells of text. A cell of an estimate carries its spread twice: short
for the terminal (half the width of the 95% interval) and whole for the report (both ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ml_platform.evaluation.intervals import Estimate
from video_recommendation.config import Config
from video_recommendation.data import SystemData

Tone = Literal["", "good", "bad", "dim", "strong"]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What both outputs show.
        spread: Suffix on the terminal, for instance " ±.013".
        interval: Suffix in the report, for instance " [.130, .156]".
        tone: "good" and "bad" for differences whose interval excludes 0; never the only sign.
    """

    text: str
    spread: str = ""
    interval: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: What it is about.
        columns: Heads; the first column is text, the others are right-aligned numbers.
        rows: Cells, one tuple a row.
        caption: What one must know to read it; says so when the run was quick or data generated.
        breaks: Row numbers before which a line is drawn.
        marked: Row numbers to stress.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    breaks: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: a row of {len(row)} cells, {len(self.columns)} heads"
                )


BLANK = Cell("")


def text(value: str, tone: Tone = "") -> Cell:
    """A cell of words."""
    return Cell(value, tone=tone)


def number(value: float, digits: int = 3) -> Cell:
    """A cell of one number without an interval."""
    return Cell(short(value, digits))


def estimate(found: Estimate, digits: int = 3) -> Cell:
    """A mean with its interval."""
    return Cell(short(found.value, digits), *_spread(found, digits, signed=False))


def difference(found: Estimate, digits: int = 3) -> Cell:
    """A paired difference with its sign; toned where the interval excludes 0."""
    tone: Tone = "dim"
    if found.excludes_zero:
        tone = "good" if found.value > 0 else "bad"
    return Cell(short(found.value, digits, signed=True), *_spread(found, digits, signed=True), tone)


def interval_text(found: Estimate, digits: int = 3, *, signed: bool = False) -> str:
    """Like .143 [.130, .156], or signed like +.052 [+.041, +.063]; the value alone without ends."""
    return short(found.value, digits, signed=signed) + _spread(found, digits, signed=signed)[1]


def short(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number without its leading zero: .143, -.020, 1.000; "–" where there is none."""
    if value != value:
        return "–"
    sign = "+" if signed else ""
    shown = f"{value:{sign}.{digits}f}"
    if float(shown) == 0:  # never "-.000": a zero has no side
        shown = shown.replace("-", "").replace("+", "")
    return shown.replace("0.", ".", 1) if shown.lstrip("+-").startswith("0.") else shown


def flags(config: Config, data: SystemData) -> str:
    """What must be said under every table of a run that proves nothing; "" for a real one."""
    parts = []
    if config.quick:
        parts.append("QUICK RUN, not a result.")
    if data.synthetic:
        parts.append("SYNTHETIC data: says that it works, not how good it is.")
    return " ".join(parts)


def sentences(*parts: str) -> str:
    """Joins what is not empty with blanks."""
    return " ".join(part for part in parts if part)


def ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Names in the given order; those it does not know stand before its last known one."""
    known = [name for name in order if name in names]
    extra = [name for name in names if name not in order]
    return [*known[:-1], *extra, *known[-1:]]


def _spread(found: Estimate, digits: int, *, signed: bool) -> tuple[str, str]:
    if found.low is None or found.high is None:
        return "", ""
    ends = (
        f"[{short(found.low, digits, signed=signed)}, {short(found.high, digits, signed=signed)}]"
    )
    return f" ±{short((found.high - found.low) / 2, digits)}", f" {ends}"
