"""The system as it stands when an experiment starts.

In: the configuration. Out: a ``Ground``: a world that goes on after its log, models that learnt
from the log alone, the service's states and counters at that midnight. Uploads keep coming while
the experiments run, as the world had them planned.
"""

from __future__ import annotations

from dataclasses import replace

from ml_platform.evaluation.progress import Progress
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData
from shorts_recommendation.experiments.settings import ExperimentSettings
from shorts_recommendation.experiments.simulation import Platform
from shorts_recommendation.experiments.studies import Ground
from shorts_recommendation.pipeline import train_system


def log_before(data: ShortsData, end_s: int) -> ShortsData:
    """The data with its log cut at ``end_s``: from there on the people are simulated instead."""
    log = data.log.select(data.log.timestamp < end_s)
    return replace(data, log=log, windows=replace(data.windows, end=end_s))


def prepare(
    data: ShortsData, config: Config, settings: ExperimentSettings, progress: Progress
) -> Ground:
    """Trains on the log before the experiments."""
    start_s = data.windows.validation_end
    before = log_before(data, start_s)
    recommender = train_system(before, config, progress).recommender
    return Ground(
        world=data.world,
        recommender=recommender,
        platform=Platform(recommender.new_states(), recommender.new_counters()),
        log=before.log,
        start_s=start_s,
        settings=settings,
        seed=config.seed,
    )
