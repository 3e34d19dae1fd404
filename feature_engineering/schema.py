"""A feature schema: what each feature is, who owns it, how fresh it is, what stands for missing.

In: one array [C] for every feature of C candidates. Out: one matrix f32[C, F] whose column order is
the schema's, checked for completeness, length and finiteness. The same call builds training rows
and serving rows, so the two cannot disagree about order, default or type; the schema's hash travels
in the model bundle, so that a model cannot meet a matrix it was not trained on.

Why not a bare list of names: Sculley et al., "Hidden Technical Debt in Machine Learning Systems",
NeurIPS 2015, section 3, call undeclared consumers and unstable data dependencies the debt that
costs most. A schema is the cheapest declaration there is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Group = Literal["item", "user", "user_item", "context", "source"]


@dataclass(frozen=True)
class FeatureSpec:
    """One feature.

    Attributes:
        name: Column name, unit as suffix where it has one.
        group: Whose property it is: item, user, user_item, context, or source (retrieval).
        owner: The module that computes it; the one to ask when it drifts.
        freshness: How old the value may be at serving, in words ("bundle", "60 s", "request").
        default: What stands for a missing value.
        description: One line, what it means.
    """

    name: str
    group: Group
    owner: str
    freshness: str
    default: float
    description: str


class FeatureSchema:
    """An ordered set of ``FeatureSpec``; builds and names the matrix f32[C, F]."""

    def __init__(self, specs: tuple[FeatureSpec, ...]) -> None:
        names = [spec.name for spec in specs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            raise ValueError(f"feature names must be unique and at least one, repeated: {repeated}")
        self.specs = specs
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.specs)

    @cached_property
    def sha256(self) -> str:
        """Hash of all the specs: changes when order, default or meaning changes."""
        text = json.dumps([asdict(spec) for spec in self.specs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def defaults(self) -> Float32Array:
        """f32[F]: what stands for a missing value of each feature."""
        return np.array([spec.default for spec in self.specs], dtype=np.float32)

    def positions(self, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Column numbers of ``names``.

        Raises:
            KeyError: for a name that is not in the schema.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise KeyError(f"not in the feature schema: {unknown}; it has {list(self.names)}")
        return np.array([self.names.index(name) for name in names], dtype=np.int64)

    def assemble(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> Float32Array:
        """Stacks columns [C] into f32[C, F] in the schema's order; NaN becomes the default.

        Raises:
            ValueError: if a feature is missing or unknown, lengths differ, or a value is infinite.
        """
        missing = [name for name in self.names if name not in columns]
        unknown = [name for name in columns if name not in self.names]
        if missing or unknown:
            raise ValueError(f"features missing: {missing}, not in the schema: {unknown}")
        n_rows = len(columns[self.names[0]])
        matrix = np.empty((n_rows, len(self)), dtype=np.float32)
        for position, spec in enumerate(self.specs):
            if len(columns[spec.name]) != n_rows:
                raise ValueError(
                    f"feature {spec.name} has {len(columns[spec.name])} rows, expected {n_rows}"
                )
            matrix[:, position] = columns[spec.name]
        self._fill_missing(matrix)
        return matrix

    def _fill_missing(self, matrix: Float32Array) -> None:
        bad = ~np.isfinite(matrix)
        if not bad.any():
            return
        infinite = np.isinf(matrix).any(axis=0)
        if infinite.any():
            raise ValueError(
                f"infinite values in {[self.names[i] for i in np.flatnonzero(infinite)]}"
            )
        matrix[bad] = np.broadcast_to(self.defaults, matrix.shape)[bad]

    def markdown(self) -> str:
        """The schema as a Markdown table, for the docs."""
        lines = [
            "| feature | group | freshness | default | what it is |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{s.name}` | {s.group} | {s.freshness} | {s.default:g} | {s.description} |"
            for s in self.specs
        ]
        return "\n".join(lines)
