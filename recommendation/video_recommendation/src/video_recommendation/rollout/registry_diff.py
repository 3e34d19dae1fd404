"""What differs between two versions of the system, in the words of somebody who must choose.

In: a registry and two names (version, beginning of one, or alias). Out: rows, grouped as
configuration, features, data, files and metrics.

Metrics come from the ``results.json`` of the run that made the version. They are put side by side
only if both runs measured on the same data; a metric whose protocols differ says so. Two intervals
side by side are no test of the difference: that takes paired queries (``ablations``) or users
(``experiments``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_platform.evaluation.results import Metric, Results
from ml_platform.operations.registry import Difference, ModelRegistry

RESULTS = "results.json"
HEADLINES = (
    "ranking/final/hr@10",
    "ranking/final/ndcg@10",
    "retrieval/merged/recall@100",
    "retrieval/two_tower/recall@100",
    "serving/load/p99_ms",
    "serving/load/error_rate",
)
"""The metrics that a diff shows; all others stand in the results file."""
ABSENT = "-"


@dataclass(frozen=True)
class Row:
    """One line of a diff, ready to print."""

    group: str  # "configuration", "features", "data", "files", "metrics"
    what: str
    before: str
    after: str


def diff_rows(registry: ModelRegistry, a: str, b: str) -> list[Row]:
    """All differences of version ``b`` from version ``a``; empty for the same version.

    Raises:
        RegistryError: if a name stands for no version or for several.
    """
    if registry.resolve(a) == registry.resolve(b):
        return []
    manifest = registry.diff(a, b)
    return [
        *_configuration(registry.path(a), registry.path(b)),
        *_features(manifest),
        *_data(manifest),
        *_files(manifest),
        *_metrics(registry.attachment(a, RESULTS), registry.attachment(b, RESULTS)),
    ]


def _configuration(a: Path, b: Path) -> list[Row]:
    before, after = (_flat(json.loads((path / "config.json").read_text())) for path in (a, b))
    return [
        Row("configuration", key, _text(before.get(key)), _text(after.get(key)))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _features(manifest: list[Difference]) -> list[Row]:
    """One row a feature that came or went, one for each thing that changed in another."""
    rows = []
    for difference in manifest:
        if not difference.key.startswith("features."):
            continue
        _, name, part = difference.key.split(".", 2)
        if difference.before is None or difference.after is None:
            if part == "column":  # every feature has one: the row for all its parts
                there = [ABSENT if x is None else "there" for x in _values(difference)]
                rows.append(Row("features", name, *there))
        else:
            rows.append(Row("features", f"{name}: {part}", *map(_text, _values(difference))))
    return rows


def _data(manifest: list[Difference]) -> list[Row]:
    rows = []
    for difference in manifest:
        if difference.key.startswith(("data.", "trained_through.")):
            name = difference.key.removeprefix("data.").replace("_timestamp", " event, UTC")
            shown = _when if difference.key.endswith("_timestamp") else _text
            rows.append(Row("data", name, *map(shown, _values(difference))))
    return rows


def _files(manifest: list[Difference]) -> list[Row]:
    return [
        Row("files", d.key.removeprefix("files."), *(_text(x)[:12] for x in _values(d)))
        for d in manifest
        if d.key.startswith("files.")
    ]


def _metrics(a: Path | None, b: Path | None) -> list[Row]:
    runs = [None if path is None else Results.read(path) for path in (a, b)]
    if runs[0] is None or runs[1] is None:
        words = ["not evaluated" if run is None else "evaluated" for run in runs]
        return [Row("metrics", "results of the run", *words)]
    measured_on = [f"{run.run.dataset.name} {run.run.dataset.sha256[:12]}" for run in runs if run]
    if measured_on[0] != measured_on[1]:
        return [Row("metrics", "measured on other data, not comparable", *measured_on)]
    rows = []
    for key in HEADLINES:
        found = [run[key] if run is not None and key in run else None for run in runs]
        if found[0] != found[1]:
            same = len({metric.protocol for metric in found if metric}) == 1
            what = key if same else f"{key} (protocols differ)"
            rows.append(Row("metrics", what, *map(_metric, found)))
    return rows


def _values(difference: Difference) -> tuple[Any, Any]:
    return difference.before, difference.after


def _metric(metric: Metric | None) -> str:
    if metric is None:
        return ABSENT
    interval = "" if metric.low is None else f" [{metric.low:.4g}, {metric.high:.4g}]"
    return f"{metric.value:.4g}{interval}"


def _text(value: Any) -> str:
    return ABSENT if value is None else str(value)


def _when(timestamp: int | None) -> str:
    if timestamp is None:
        return ABSENT
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as ``stage.key``, as ``--set`` takes it."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        found.update(_flat(item, f"{name}.") if isinstance(item, Mapping) else {name: item})
    return found
