"""The study of mixtures of experts: five parts, each a results file and its pictures.

    python -m ml_algorithms.mixture_of_experts.bench [--config smoke] [--only balancing]

``specialisation``, ``balancing``, ``capacity`` and half of ``multi_task`` run on generated data
with known structure: they prove mechanics, not quality. The other half of ``multi_task`` is real
ratings.
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.mixture_of_experts import (
    bench_balancing,
    bench_multi_task,
    bench_parallel,
    bench_specialisation,
)
from ml_algorithms.mixture_of_experts.bench_config import SMOKE, Config
from ml_platform.evaluation.study import Part, Study

STUDY = Study(
    name="mixture_of_experts",
    folder=Path(__file__).resolve().parent,
    sizes={"default": Config(), "smoke": SMOKE},
    parts=(
        Part(
            "specialisation",
            "what do sparse experts buy at equal compute?",
            bench_specialisation.run,
        ),
        Part("balancing", "who works, with and without balancing?", bench_balancing.run_balancing),
        Part(
            "capacity", "what does a place per expert cost and save?", bench_balancing.run_capacity
        ),
        Part("multi_task", "do gates relieve conflicts between tasks?", bench_multi_task.run),
        Part("parallel", "do two processes compute what one does?", bench_parallel.run),
    ),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
