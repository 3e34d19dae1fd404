"""The knobs of the study of mixtures, and how the variants are named and drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY

LOOKS = {
    "dense_active": ("dense, same active", BLACK, "o"),
    "dense_total": ("dense, same total", GREY, "s"),
    "soft": ("soft, all experts", PINK, "P"),
    "top1": ("top-1", BLUE, "^"),
    "top2": ("top-2 of half-width", SKY, "v"),
    "expert_choice": ("expert choice", GREEN, "D"),
}
BALANCE_LOOKS = {
    "none": ("none", BLACK),
    "switch": ("Switch loss", ORANGE),
    "switch_z": ("Switch + z-loss", PINK),
    "importance_load": ("noise, importance + load", SKY),
    "bias": ("selection bias", BLUE),
}
TASK_LOOKS = {
    "single_task": ("single tasks", GREY, "s"),
    "shared_bottom": ("shared bottom", BLACK, "o"),
    "mmoe": ("MMoE", BLUE, "^"),
    "ple": ("PLE", ORANGE, "D"),
}


class Config(BaseModel):
    """Sizes of the study; the defaults are the full run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    # Specialisation, balancing, capacity: one block on generated regimes.
    regimes: int = 16
    width: int = 16
    hidden: int = 32
    experts: int = 16
    batch: int = 512
    steps: int = 700
    test_rows: int = 8192
    learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    expert_counts: tuple[int, ...] = (2, 4, 8, 32)
    skew: float = 1.0
    balance_steps: int = 700
    capacity_factors: tuple[float, ...] = (0.5, 1.0, 1.25, 1.5, 2.0)
    # Multi-task, generated.
    correlations: tuple[float, ...] = (-0.5, 0.0, 0.5, 1.0)
    task_budget: int = 6000
    task_features: int = 32
    task_steps: int = 800
    task_batch: int = 256
    # Multi-task, movies.
    dataset: str = "movielens-100k"
    movie_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    movie_epochs: int = 4
    movie_batch: int = 1024
    movie_embedding: int = 16
    movie_rows: int = 1_000_000
    # Parallel.
    parallel_rows: tuple[int, ...] = (512, 4096)
    parallel_width: int = 128
    parallel_hidden: int = 256
    parallel_repeats: int = 15


SMOKE = Config(
    seeds=(0, 1),
    regimes=4,
    experts=4,
    batch=64,
    steps=15,
    test_rows=128,
    learning_rates=(1e-2,),
    expert_counts=(2,),
    balance_steps=45,
    capacity_factors=(0.5, 1.5),
    correlations=(0.0, 1.0),
    task_budget=2000,
    task_steps=20,
    task_batch=32,
    dataset="synthetic",
    movie_seeds=(0, 1),
    movie_epochs=1,
    movie_rows=4000,
    parallel_rows=(64,),
    parallel_width=16,
    parallel_hidden=16,
    parallel_repeats=2,
)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with Student's 95% interval; no interval for a single seed.

    Wide on purpose: with three seeds the factor is 2.5 standard deviations.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean, None, None, len(array))
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5
    return Estimate(mean, mean - half, mean + half, len(array))


def generated(config: Config) -> str:
    """A checksum that stands for generated data: of the knobs that make it."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()
