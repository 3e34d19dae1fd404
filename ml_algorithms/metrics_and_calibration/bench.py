"""The study of metrics and calibration.

python -m ml_algorithms.metrics_and_calibration.bench [--config smoke] [--only sampled]
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.metrics_and_calibration.bench_calibration import run_calibration
from ml_algorithms.metrics_and_calibration.bench_config import Config
from ml_algorithms.metrics_and_calibration.bench_ranking import (
    run_averaging,
    run_degenerate,
    run_sampled,
    run_worked,
)
from ml_platform.evaluation.study import FULL, Part, Study

SMOKE = Config(
    dataset="synthetic",
    queries=150,
    sampled=(10, 50),
    bootstrap=100,
    calibration_sizes=(100, 300),
    calibration_seeds=2,
    trees=20,
    null_draws=5,
)

STUDY = Study(
    name="metrics_and_calibration",
    folder=Path(__file__).resolve().parent,
    sizes={FULL: Config(), "smoke": SMOKE},
    parts=[
        Part("worked", "What do the functions say of the page's examples?", run_worked),
        Part("degenerate", "What does a metric say of a scorer without a model?", run_degenerate),
        Part("sampled", "Does a sample of negatives keep the order of models?", run_sampled),
        Part("averaging", "Over rows, over users or within users?", run_averaging),
        Part("calibration", "Which map turns a score into a probability?", run_calibration),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
