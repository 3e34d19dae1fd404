"""The study of diversity: how good greedy is, how fast, and what diversity costs.

    python -m ml_algorithms.diversity.bench [--config smoke] [--only optimality]

Parts: ``optimality`` (greedy against exhaustive search), ``speed`` (1,000 candidates),
``trade_off`` (relevance against variety on movie ratings, each method along its knob).
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.diversity.bench_config import Config
from ml_algorithms.diversity.bench_optimality import run_optimality
from ml_algorithms.diversity.bench_speed import run_speed
from ml_algorithms.diversity.bench_trade_off import run_trade_off
from ml_platform.evaluation.study import FULL, Part, Study

SMOKE = Config(
    dataset="synthetic",
    instances=20,
    speed_candidates=60,
    speed_lists=(5, 10),
    fast_repeats=5,
    slow_repeats=1,
    queries=40,
    candidates=40,
    bootstrap=200,
)

STUDY = Study(
    name="diversity",
    folder=Path(__file__).resolve().parent,
    sizes={FULL: Config(), "smoke": SMOKE},
    parts=[
        Part("optimality", "How far is greedy from the best list there is?", run_optimality),
        Part("speed", "What does a list of 20 or 50 from 1,000 candidates cost?", run_speed),
        Part("trade_off", "What does variety cost in relevance, method by method?", run_trade_off),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
