"""What the study measures, at which size."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ml_algorithms.study_data import SYNTHETIC


class StudyConfig(BaseModel):
    """All parts' settings; the grids that are searched stand in bench_models.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "movielens-100k"
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Reported splits; settings are chosen inside the train part of seed 0."""

    # knobs: iALS around one point, one knob at a time
    factors: tuple[int, ...] = (4, 8, 16, 32, 64)
    regs: tuple[float, ...] = (0.001, 0.003, 0.006, 0.012, 0.024, 0.048)
    unobserved_weights: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5, 1.0, 4.0)
    knob_iterations: int = 8

    # fold_in
    newcomers: int = 150
    """Users left out of training, then folded in."""
    events: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    fold_in_factors: tuple[int, ...] = (16, 32, 64, 128)
    timing_repeats: int = 200

    # scaling: generated interactions, so that nnz and factors can be chosen
    scaling_users: int = 3_000
    scaling_items: int = 2_000
    scaling_nnz: tuple[int, ...] = (25_000, 50_000, 100_000, 200_000)
    scaling_factors: tuple[int, ...] = (16, 32, 64, 128)
    scaling_point: tuple[int, int] = (100_000, 64)
    """nnz and factors that are held while the other varies."""
    scaling_repeats: int = 3

    # spark: agreement
    spark_rank: int = 16
    spark_iterations: int = 20
    spark_quick: bool = False
    """Java starting fast instead of running fast: for tests, not for timing."""


FULL = StudyConfig()
SMOKE = StudyConfig(
    dataset=SYNTHETIC,
    seeds=(1,),
    factors=(2, 4),
    regs=(0.01, 0.05),
    unobserved_weights=(0.1, 0.5),
    knob_iterations=2,
    newcomers=20,
    events=(1, 5),
    fold_in_factors=(4, 8),
    timing_repeats=3,
    scaling_users=200,
    scaling_items=100,
    scaling_nnz=(1_000, 2_000),
    scaling_factors=(4, 8),
    scaling_point=(2_000, 8),
    scaling_repeats=1,
    spark_rank=4,
    spark_iterations=4,
    spark_quick=True,
)
