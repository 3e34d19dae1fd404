"""The knobs of the study of bandits."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml_algorithms.bandits.environment import Outcome
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean

# Click rates of some percent, as a feed has them; the best is twice the next.
CLICK_RATES = (0.10, 0.05, 0.05, 0.05, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01)
NARROW = 0.2  # a width of the bonus that fits such variances


class Config(BaseModel):
    """Sizes of the study; the defaults are the full run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "movielens-100k"
    # K arms.
    runs: int = 200
    horizon: int = 10_000
    # Delay.
    delays: tuple[int, ...] = (0, 100, 1000)
    delay_runs: int = 100
    delay_horizon: int = 5_000
    # Changing arms.
    changing_runs: int = 60
    changing_horizon: int = 8_000
    phases: int = 4
    # Contexts.
    contextual_runs: int = 16
    contextual_horizon: int = 3_000
    contextual_arms: int = 5
    dimension: int = 8
    bend: float = 0.7
    tuning_runs: int = 6
    tuning_horizon: int = 3_000
    # Films.
    films: int = 10
    film_runs: int = 100


def final_regret(outcome: Outcome, at: int) -> Estimate:
    """Cumulative regret after ``at`` steps, with the interval of its mean over runs."""
    return bootstrap_mean(outcome.cumulative[:, at - 1])


def band(outcome: Outcome, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean cumulative regret after the given steps, with the ends of its 95% interval."""
    curves = outcome.cumulative[:, steps - 1]
    mean = curves.mean(axis=0)
    half = 1.96 * curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return mean, mean - half, mean + half


def log_steps(horizon: int, n: int = 60) -> np.ndarray:
    """Steps from 10 to the horizon, evenly spaced in the logarithm. i64."""
    return np.unique(np.geomspace(min(10, horizon), horizon, n).astype(np.int64))
