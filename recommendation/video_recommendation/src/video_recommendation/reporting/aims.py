"""The aims of the system against EASE, judged from the numbers of one run.

In: the tables of an ``Evaluation``. Out: one ``Aim`` each with its paired difference, clustered by
user, and its verdict. The verdict is about the value; whether the interval lies wholly on its side
of the target is said beside it, because a value just above a target may well be luck.
"""

from __future__ import annotations

from dataclasses import dataclass

from ml_platform.evaluation.intervals import Estimate
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.reporting.grid import Cell, Grid, interval_text, sentences, short, text

TARGETS = (
    ("two_tower", "recall@100", 0.0),
    ("merged", "recall@100", 0.05),
    ("final", "hr@10", 0.07),
)
"""(variant, metric, how much it should be above EASE), on MovieLens-100K, next-event."""
BASELINE = "ease"


@dataclass(frozen=True)
class Aim:
    """One aim and how it came out.

    Attributes:
        variant: Whose metric.
        metric: Which.
        target: Wanted difference to EASE.
        found: Measured paired difference.
    """

    variant: str
    metric: str
    target: float
    found: Estimate

    @property
    def reached(self) -> bool:
        """Whether the value is at or above the target."""
        return self.found.value >= self.target

    @property
    def sure(self) -> bool:
        """Whether the whole interval lies on the value's side of the target."""
        if self.found.low is None or self.found.high is None:
            return False
        return self.found.low >= self.target if self.reached else self.found.high < self.target

    @property
    def verdict(self) -> str:
        """For instance "reached" or "not reached, within the interval"."""
        word = "reached" if self.reached else "not reached"
        return word if self.sure else f"{word}, within the interval"

    @property
    def sentence(self) -> str:
        """For instance "two_tower minus ease, recall@100: +.012 [-.003, +.027]; reached"."""
        return (
            f"{self.variant} minus {BASELINE}, {self.metric}: "
            f"{interval_text(self.found, signed=True)}, "
            f"wanted {_wanted(self.target)}: {self.verdict}"
        )


def aims(evaluation: Evaluation) -> tuple[Aim, ...]:
    """All aims, each from the table that holds its variant."""
    found = []
    for variant, metric, target in TARGETS:
        in_retrieval = variant in evaluation.retrieval.rows
        table = evaluation.retrieval if in_retrieval else evaluation.ranking
        found.append(Aim(variant, metric, target, table.difference(variant, BASELINE, metric)))
    return tuple(found)


def aims_grid(evaluation: Evaluation, flag: str) -> Grid:
    """The aims as a table."""
    rows = []
    for aim in aims(evaluation):
        value = short(aim.found.value, signed=True)
        ends = interval_text(aim.found, signed=True).removeprefix(value)
        rows.append(
            (
                text(f"{aim.variant} vs {BASELINE}"),
                text(aim.metric),
                text(_wanted(aim.target)),
                Cell(value, spread=ends, interval=ends),
                text(aim.verdict, "good" if aim.reached else "bad"),
            )
        )
    note = (
        "Paired differences with 95% intervals by user. “within the interval”: the target lies "
        "inside it, so another month could have said otherwise."
    )
    scope = "The aims were set for the full run on MovieLens-100K." if flag else ""
    heads = ("aim", "metric", "wanted", "measured", "")
    return Grid("Aims", heads, tuple(rows), sentences(flag, scope, note))


def _wanted(target: float) -> str:
    return "≥ 0" if target == 0 else f"≥ {short(target, 2, signed=True)}"
