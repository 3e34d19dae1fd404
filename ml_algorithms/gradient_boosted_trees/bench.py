"""The study of gradient boosted trees: parity, speed, ablations, deep models, explanations.

python -m ml_algorithms.gradient_boosted_trees.bench --config smoke --only parity
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.gradient_boosted_trees import (
    bench_ablations,
    bench_deep,
    bench_explanations,
    bench_parity,
    bench_speed,
)
from ml_algorithms.gradient_boosted_trees.bench_config import SMOKE, TreesStudyConfig
from ml_platform.evaluation.study import Part, Study

STUDY = Study(
    name="gradient_boosted_trees",
    folder=Path(__file__).resolve().parent,
    sizes={"default": TreesStudyConfig(), "smoke": SMOKE},
    parts=[
        Part("parity", "do ours, LightGBM and XGBoost agree at the same parameters?",
             bench_parity.run),
        Part("speed", "how fast are training and inference on one thread?", bench_speed.run),
        Part("ablations", "what does each knob do?", bench_ablations.run),
        Part("deep", "where do trees beat a network and a line, by rows?", bench_deep.run),
        Part("explanations", "which importance is to be believed, and what does it cost?",
             bench_explanations.run),
    ],
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
