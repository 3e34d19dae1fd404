"""The one results file of the repository: what a run measured, and under which circumstances.

    {"run": {"system", "commit", "config", "config_sha256", "dataset": {...}, "seed", "hardware",
             "date", "seconds"},
     "metrics": {"<stage>/<variant>/<metric>": {"value", "low", "high", "n", "protocol"}}}

A run starts a `Results`, adds metrics as it goes, and writes once at its end. The docs quote the
file by key (`ml_platform.docs.render`), so that a number in a page always has a run behind it.

Made for diffs: metrics are sorted by key and stand one to a line, floats carry six significant
digits (whole numbers stay exact), and the file is replaced atomically.
"""

import difflib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.run_info import Hardware, git_commit

# stage / variant / metric; a metric may name its cut-off: retrieval/ease/recall@100
KEY_PATTERN = re.compile(r"[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_.+=-]*/[a-z0-9][a-z0-9_.+=@-]*")
SIGNIFICANT_DIGITS = 6


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DatasetInfo(_Record):
    """The data a run used. `synthetic` data never proves quality, and every table says so."""

    name: str = Field(min_length=1)
    sha256: str = Field(min_length=1)
    synthetic: bool


class RunInfo(_Record):
    """The circumstances of a run. `commit` ends in -dirty where the tree had changes."""

    system: str = Field(min_length=1)
    commit: str = Field(min_length=1)
    config: dict[str, Any]
    config_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    dataset: DatasetInfo
    seed: int
    hardware: Hardware
    date: datetime
    seconds: float = Field(ge=0)


class Metric(_Record):
    """One number with its 95% interval (null where there is none), its n, and its protocol."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = Field(default=None, ge=0)
    protocol: str = Field(min_length=1)

    @model_validator(mode="after")
    def _interval_is_whole(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high stand together, or both are null")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class ResultsFile(_Record):
    """The file as a whole; what `Results.read` accepts and `Results.write` produces."""

    run: RunInfo
    metrics: dict[str, Metric]

    @model_validator(mode="after")
    def _keys_are_well_formed(self) -> Self:
        for key in self.metrics:
            _check_key(key)
        return self


class Results:
    """The metrics of one run, gathered and written."""

    def __init__(self, run: RunInfo, metrics: Mapping[str, Metric] | None = None) -> None:
        self.run = run
        self._metrics = dict(metrics or {})
        self._started: float | None = None

    @classmethod
    def start(
        cls,
        *,
        system: str,
        config: Mapping[str, Any],
        dataset_name: str,
        dataset_sha256: str,
        synthetic: bool,
        seed: int,
        root: Path,
    ) -> Self:
        """Open the results of a run that begins now; the clock behind `run.seconds` starts.

        Args:
            system: The system's import name.
            config: The run's whole configuration as JSON-able values (`model_dump(mode="json")`).
            dataset_name: As in the registry.
            dataset_sha256: Checksum of the data's canonical content.
            synthetic: Whether a generator made the data.
            seed: The run's seed.
            root: A folder in the repository, for the commit.

        Raises:
            TypeError: If `config` holds something that JSON cannot say.
        """
        plain = json.loads(_canonical(dict(config)))
        run = RunInfo(
            system=system,
            commit=git_commit(root),
            config=plain,
            config_sha256=hashlib.sha256(_canonical(plain).encode()).hexdigest(),
            dataset=DatasetInfo(name=dataset_name, sha256=dataset_sha256, synthetic=synthetic),
            seed=seed,
            hardware=Hardware.detect(),
            date=datetime.now(UTC).replace(microsecond=0),
            seconds=0.0,
        )
        results = cls(run)
        results._started = time.perf_counter()
        return results

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load a file and check it against the schema.

        Raises:
            FileNotFoundError: If there is no such file.
            pydantic.ValidationError: If it is no results file, with the field and the reason.
        """
        content = ResultsFile.model_validate_json(Path(path).read_bytes())
        return cls(content.run, content.metrics)

    def add(
        self, key: str, estimate: Estimate | float, *, protocol: str, n: int | None = None
    ) -> None:
        """Record one metric.

        Args:
            key: "stage/variant/metric", for instance "retrieval/ease/recall@100".
            estimate: An `Estimate` (value, interval, n), or a bare number without an interval.
            protocol: How it was measured, in a few words that stand beneath a table: split,
                filtering, full catalogue or not; for latency the load and the concurrency.
            n: Number of queries or observations; only for bare numbers.

        Raises:
            ValueError: On a malformed key, a key added before, a value that is not finite, or an
                n beside an Estimate, which has its own.
        """
        _check_key(key)
        if key in self._metrics:
            raise ValueError(f"{key} was recorded before, with value {self._metrics[key].value}")
        if isinstance(estimate, Estimate):
            if n is not None:
                raise ValueError(f"{key}: the Estimate holds n = {estimate.n}; do not pass n")
            value, low, high, n = estimate.value, estimate.low, estimate.high, estimate.n
        else:
            value, low, high = float(estimate), None, None
        self._metrics[key] = Metric(value=value, low=low, high=high, n=n, protocol=protocol)

    def merge(self, other: "Results", *, replace: bool = False) -> None:
        """Take over the metrics of another part of the same run; the seconds add up.

        Args:
            other: Same system, commit, configuration, data, seed and machine; otherwise one file
                would pretend that one run measured all of it.
            replace: Whether a key that both hold is taken from `other`. Default: refused.

        Raises:
            ValueError: If the runs differ, or a key is in both and `replace` is False.
        """
        fields = ("system", "commit", "config_sha256", "dataset", "seed", "hardware")
        for field in fields:
            mine, theirs = getattr(self.run, field), getattr(other.run, field)
            if mine != theirs:
                raise ValueError(f"not the same run: {field} is {mine!r} here, {theirs!r} there")
        both = sorted(self._metrics.keys() & other._metrics.keys())
        if both and not replace:
            raise ValueError(f"recorded in both parts: {', '.join(both)}; pass replace=True")
        self._metrics.update(other._metrics)
        self.run = self.run.model_copy(update={"seconds": self.run.seconds + other.run.seconds})

    def write(self, path: Path) -> None:
        """Write the file whole or not at all; a reader never sees half of it."""
        if self._started is not None:
            now = time.perf_counter()
            seconds = self.run.seconds + now - self._started
            self._started = now
            self.run = self.run.model_copy(update={"seconds": seconds})
        ResultsFile(run=self.run, metrics=self._metrics)
        write_atomic(Path(path), self.to_json())

    def to_json(self) -> str:
        """The file's text: `run` indented, one metric to a line, in the order of the keys."""
        run = json.dumps(_rounded(self.run.model_dump(mode="json")), indent=2, ensure_ascii=False)
        lines = [
            f"    {json.dumps(key)}: "
            + json.dumps(_rounded(self._metrics[key].model_dump(mode="json")), ensure_ascii=False)
            for key in sorted(self._metrics)
        ]
        indented = run.replace("\n", "\n  ")
        body = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        return f'{{\n  "run": {indented},\n  "metrics": {body}\n}}\n'

    def __getitem__(self, key: str) -> Metric:
        if key not in self._metrics:
            near = difflib.get_close_matches(key, self._metrics, n=3, cutoff=0.5)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise KeyError(f"no metric {key}{hint}")
        return self._metrics[key]

    def __contains__(self, key: object) -> bool:
        return key in self._metrics

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._metrics))

    def __len__(self) -> int:
        return len(self._metrics)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) through a temporary file beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's 0600 would follow the file: keep the old file's mode, or a plain file's.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_key(key: str) -> None:
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(
            f"malformed key {key!r}: expected stage/variant/metric in lower case, "
            "for instance retrieval/ease/recall@100"
        )


def _canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal configurations have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _rounded(value: Any) -> Any:
    """Floats to six significant digits, whole floats as exact integers; containers in depth."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value
