"""The study of matrix factorisation: which parts there are, and at which sizes they run.

    python -m ml_algorithms.matrix_factorization.bench --only quality

Needs movielens-100k (fetched once) and, for `spark`, the environment in spark/,
which `make setup` in this folder builds.
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.matrix_factorization.bench_config import FULL, SMOKE, StudyConfig
from ml_algorithms.matrix_factorization.bench_fold_in import run_fold_in
from ml_algorithms.matrix_factorization.bench_knobs import run_knobs
from ml_algorithms.matrix_factorization.bench_quality import run_quality
from ml_algorithms.matrix_factorization.bench_scaling import run_scaling
from ml_algorithms.matrix_factorization.bench_spark import run_spark
from ml_algorithms.matrix_factorization.bench_tail import run_tail
from ml_platform.evaluation.study import Part, Study

STUDY: Study[StudyConfig] = Study(
    name="matrix_factorization",
    folder=Path(__file__).resolve().parent,
    sizes={"default": FULL, "smoke": SMOKE},
    parts=(
        Part("quality", "who ranks well, and who predicts ratings well?", run_quality),
        Part("tail", "what does each model do to the long tail?", run_tail),
        Part("knobs", "what do factors, regularisation, unobserved weight do?", run_knobs),
        Part("fold_in", "is one solve as good as retraining, and how fast?", run_fold_in),
        Part("scaling", "seconds an iteration against data and factors?", run_scaling),
        Part("spark", "is the same ALS on Spark the same?", run_spark),
    ),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
