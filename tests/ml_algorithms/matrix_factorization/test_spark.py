"""The Spark job through spark-submit, against our own ALS: the same half-steps, the same path.

Needs the environment in spark/, which `make setup-all` builds; named and skipped without it.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization import spark_local
from ml_algorithms.matrix_factorization.bench import STUDY
from ml_platform.evaluation.results import Results

needs_spark = pytest.mark.skipif(
    not (spark_local.SPARK_FOLDER / ".venv/bin/spark-submit").exists(),
    reason="no Spark environment: make -C ml_algorithms/matrix_factorization setup",
)
# Spark solves in doubles and stores floats; what is left is the rounding of the stored factors.
HALF_STEP_TOLERANCE = 1e-5
TRAJECTORY_TOLERANCE = 1e-4


@needs_spark
@pytest.mark.slow
def test_the_same_als_on_spark(tmp_path: Path) -> None:
    assert STUDY.main(["--config", "smoke", "--only", "spark", "--out", str(tmp_path)]) == 0
    results = Results.read(tmp_path / "spark.json")
    for kind in ("implicit", "explicit"):
        assert results[f"agreement/{kind}/half_step_error"].value < HALF_STEP_TOLERANCE
        # Few iterations from different starts: near, not equal. The full size converges.
        assert abs(results[f"agreement/{kind}/loss_difference"].value) < 0.1
    for side in ("users", "items"):
        error = results[f"agreement/implicit/trajectory_error_{side}"].value
        assert error < TRAJECTORY_TOLERANCE
    overlap = results["agreement/implicit/overlap@10_spark"].value
    assert overlap > 0.5 * results["agreement/implicit/overlap@10_own_restart"].value
    assert results["seconds/spark/iteration"].value > 0


def test_without_its_environment_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spark_local, "SPARK_FOLDER", tmp_path)
    with pytest.raises(spark_local.SparkUnavailableError, match="setup builds it"):
        spark_local.run_job(sparse.eye(3).tocsr(), spark_local.AlsJob(2, 0.1, (1,)))
    assert STUDY.main(["--config", "smoke", "--only", "spark", "--out", str(tmp_path)]) == 1
    assert "not measured" in capsys.readouterr().out


def test_the_jobs_options_are_what_the_job_reads() -> None:
    stars = spark_local.AlsJob(rank=8, reg=0.1, iterations=(1, 5), seed=3)
    assert "--implicit" not in stars.options()
    assert stars.options()[-3:] == ["--iterations", "1", "5"]
    clicks = spark_local.AlsJob(rank=8, reg=0.1, iterations=(5,), alpha=4.0)
    assert clicks.options()[:3] == ["--implicit", "--alpha", "4.0"]
    job = (spark_local.SPARK_FOLDER / "als_job.py").read_text(encoding="utf-8")
    for option in clicks.options():
        assert not option.startswith("--") or f'"{option}"' in job


def test_ratings_are_written_one_row_a_pair(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.array([[0, 2.0], [3.0, 4.0]]))
    spark_local.write_ratings(matrix, tmp_path / "ratings.parquet")
    table = pq.read_table(tmp_path / "ratings.parquet").to_pydict()
    assert table == {"user": [0, 1, 1], "item": [1, 0, 1], "rating": [2.0, 3.0, 4.0]}


def test_a_failure_names_its_error_among_javas_lines() -> None:
    printed = "\n".join(["\tat java.base/Method.invoke"] * 40)
    printed = f"{printed}\njava.lang.StackOverflowError\n{printed}"
    assert spark_local._what_failed(printed) == "java.lang.StackOverflowError"
    assert spark_local._what_failed("a\nb") == "a\nb"


def test_rows_that_spark_never_saw_are_zero(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = tmp_path / "user_factors"
    folder.mkdir()
    pq.write_table(
        pa.table({"id": [2, 0], "features": [[1.0, 2.0], [3.0, 4.0]]}), folder / "a.parquet"
    )
    read = spark_local._read_factors(folder, 4)
    np.testing.assert_array_equal(read, [[3, 4], [0, 0], [1, 2], [0, 0]])
