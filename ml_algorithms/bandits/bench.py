"""The study of bandits.

python -m ml_algorithms.bandits.bench [--config smoke] [--only regret]
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.bandits.bench_arms import run_delay, run_nonstationary, run_regret
from ml_algorithms.bandits.bench_config import Config
from ml_algorithms.bandits.bench_contextual import run_contextual, run_real
from ml_platform.evaluation.study import FULL, Part, Study

SMOKE = Config(
    dataset="synthetic",
    runs=20,
    horizon=300,
    delays=(0, 10, 50),
    delay_runs=10,
    delay_horizon=200,
    changing_runs=10,
    changing_horizon=400,
    contextual_runs=4,
    contextual_horizon=250,
    tuning_runs=2,
    tuning_horizon=60,
    films=5,
    film_runs=5,
)

STUDY = Study(
    name="bandits",
    folder=Path(__file__).resolve().parent,
    sizes={FULL: Config(), "smoke": SMOKE},
    parts=[
        Part("regret", "Who loses how many clicks to learning, beside theory?", run_regret),
        Part("contextual", "What do contexts buy, in straight and in bent worlds?", run_contextual),
        Part("delay_and_batch", "Who suffers when rewards are told late?", run_delay),
        Part("nonstationary", "Who notices that the best arm has changed?", run_nonstationary),
        Part("real", "Which popular film would a new user like?", run_real),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
