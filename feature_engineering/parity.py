"""Skew between two computations of the same rows, feature by feature, to the bit.

In: two matrices f32[N, F] of the same N rows under one schema, one as served (from the log), one as
rebuilt offline. Out: for each feature how many rows differ, by how much at most, and the worst ones
with both values, so that a person can go and look.

Why to the bit, and not "within 1e-6"? Where both sides run the same code on the same inputs there
is nothing to tolerate: a difference of one unit in the last place says that the code or the inputs
differ, and it is cheapest to find while it is small. A tolerance is a decision to stop looking.
Where the sides run different code on purpose (a batch on a GPU, another summation order), compare
``max_abs_difference`` with a stated bound instead of ``is_equal``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feature_engineering.schema import FeatureSchema, Float32Array


@dataclass(frozen=True)
class Example:
    """One row that differs: its id, the value served and the value rebuilt."""

    row_id: str
    online: float
    offline: float


@dataclass(frozen=True)
class FeatureSkew:
    """One feature over all rows.

    Attributes:
        name: Of the feature.
        owner: Whom to ask.
        n_rows: Rows compared.
        n_different: Rows whose bits differ.
        max_abs_difference: Over all rows; infinite where one side is not a number.
        examples: The worst rows, largest difference first.
    """

    name: str
    owner: str
    n_rows: int
    n_different: int
    max_abs_difference: float
    examples: tuple[Example, ...]

    @property
    def share_different(self) -> float:
        """Of the rows; 0 where there are none."""
        return self.n_different / self.n_rows if self.n_rows else 0.0


@dataclass(frozen=True)
class SkewReport:
    """All features of one comparison, in the order of the schema."""

    n_rows: int
    features: tuple[FeatureSkew, ...]

    @property
    def different(self) -> tuple[FeatureSkew, ...]:
        """Features that differ in at least one row, most rows first."""
        found = [feature for feature in self.features if feature.n_different]
        return tuple(sorted(found, key=lambda feature: (-feature.n_different, feature.name)))

    @property
    def is_equal(self) -> bool:
        """Whether rows were compared and every one is equal; no rows prove nothing."""
        return self.n_rows > 0 and not self.different

    def verdict(self) -> str:
        """One line for people."""
        if not self.n_rows:
            return "NO VERDICT: no rows were compared"
        if self.is_equal:
            return f"EQUAL: {self.n_rows} rows, {len(self.features)} features, to the bit"
        names = ", ".join(f"{f.name} ({f.share_different:.1%})" for f in self.different)
        n_equal = len(self.features) - len(self.different)
        return (
            f"SKEW in {len(self.different)} of {len(self.features)} features over {self.n_rows} "
            f"rows ({n_equal} equal): {names}"
        )

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of text: feature, share of rows that differ, largest difference, worst example."""
        return [
            (f.name, f"{f.share_different:.1%}", f"{f.max_abs_difference:.4g}", _worst(f))
            for f in self.different
        ]

    def markdown(self) -> str:
        """The verdict and, where there is skew, one table row for each feature that differs."""
        lines = [self.verdict()]
        if self.different:
            lines += ["", "| feature | rows that differ | largest difference | worst row |"]
            lines += ["|---|---|---|---|"]
            lines += [
                f"| `{n}` | {share} | {most} | {row} |" for n, share, most, row in self.table()
            ]
        return "\n".join(lines)


def skew_report(
    online: Float32Array,
    offline: Float32Array,
    schema: FeatureSchema,
    row_ids: Sequence[str],
    *,
    n_examples: int = 3,
) -> SkewReport:
    """Compares two matrices of the same rows.

    Args:
        online: f32[N, F], as served.
        offline: f32[N, F], as rebuilt.
        schema: Of both.
        row_ids: N names that let a person find the row, for example "request/item".
        n_examples: Rows shown of each feature.

    Raises:
        ValueError: if a shape or type is not the schema's.
    """
    expected = (len(row_ids), len(schema))
    for side, matrix in (("online", online), ("offline", offline)):
        if matrix.shape != expected or matrix.dtype != np.float32:
            raise ValueError(
                f"{side} is {matrix.dtype}{matrix.shape}, expected float32{expected}: rows by "
                "features of the schema"
            )
    # Bits, not values: it tells -0.0 from 0.0, and a NaN equals itself.
    differs = online.view(np.uint32) != offline.view(np.uint32)
    with np.errstate(invalid="ignore"):  # inf - inf
        distance = np.abs(online.astype(np.float64) - offline.astype(np.float64))
    distance = np.where(differs, np.nan_to_num(distance, nan=np.inf, posinf=np.inf), 0.0)
    features = []
    for column, spec in enumerate(schema.specs):
        rows = np.flatnonzero(differs[:, column])
        worst = rows[np.argsort(-distance[rows, column], kind="stable")][:n_examples]
        features.append(
            FeatureSkew(
                name=spec.name,
                owner=spec.owner,
                n_rows=len(row_ids),
                n_different=len(rows),
                max_abs_difference=float(distance[:, column].max(initial=0.0)),
                examples=tuple(
                    Example(row_ids[r], float(online[r, column]), float(offline[r, column]))
                    for r in worst
                ),
            )
        )
    return SkewReport(len(row_ids), tuple(features))


def _worst(feature: FeatureSkew) -> str:
    example = feature.examples[0]
    return f"{example.row_id}: {example.online:.4g} served, {example.offline:.4g} rebuilt"
