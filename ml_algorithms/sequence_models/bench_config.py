"""The sizes of the study, and the data at each of them.

In: a ``Config``. Out: logs with a short name for the keys. ``default`` is what the page quotes,
``ml1m`` the published rows' data set at their size (hours on two cores), ``smoke`` a generated log
for the tests.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml_algorithms.sequence_models.sequences import frequent_items
from ml_algorithms.sequence_models.training import TrainSettings
from ml_algorithms.study_data import SYNTHETIC, study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.interactions import InteractionLog, build_interaction_log

MIN_ITEM_EVENTS = 5


class Config(BaseModel):
    """One size of the study. Seeds are of start, batches, negatives and dropout alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: tuple[str, ...] = ("movielens-100k", "movielens-latest-small")
    synthetic_users: int = 0
    length: int = 50
    width: int = 64
    n_layers: int = 1
    n_heads: int = 2
    dropout: float = 0.2
    train: TrainSettings = TrainSettings()
    seeds: tuple[int, ...] = (0, 1)
    # of the leaderboard on every data set but the first, with the first seed only
    second_variants: tuple[str, ...] = ("sasrec_sampled", "hstu_history")
    # losses
    loss_epochs: int = 5
    negatives: tuple[int, ...] = (1, 16, 256)
    calibrations: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    # baselines, tuned on validation
    smoothings: tuple[float, ...] = (30.0, 300.0, 1000.0)
    ease_regs: tuple[float, ...] = (100.0, 300.0, 1000.0, 3000.0)
    half_lives: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    ials_factors: tuple[int, ...] = (32, 64, 128)
    ials_weights: tuple[float, ...] = (0.1, 0.3)
    # ties
    hash_seeds: tuple[int, ...] = (0, 1, 2)
    network_orders: tuple[str, ...] = ("hash_0", "item_up")
    # cost
    cost_lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    cost_repeats: int = 15


@dataclass(frozen=True)
class Data:
    """A log under the name that result keys use."""

    name: str
    title: str
    log: InteractionLog
    sha256: str
    synthetic: bool


TITLES = {
    "movielens-100k": ("ml_100k", "MovieLens-100K"),
    "movielens-latest-small": ("ml_latest_small", "MovieLens latest-small"),
    "movielens-1m": ("ml_1m", "MovieLens-1M"),
    "synthetic": ("synthetic", "generated data"),
}


def load(config: Config, dataset: str, *, seed: int = 0) -> Data:
    """One data set without items of fewer than five events (the published rows' filter).

    Raises:
        MissingInputError: If no source has the data.
    """
    small = None
    if dataset == SYNTHETIC:
        n_users = config.synthetic_users
        small = SyntheticConfig(n_users=n_users, n_items=60, n_interactions=12 * n_users, days=60)
    table = study_dataset(dataset, small=small)
    name, title = TITLES[dataset]
    log = frequent_items(build_interaction_log(table, seed=seed), MIN_ITEM_EVENTS)
    return Data(name, title, log, table.sha256, table.synthetic)


def label(data: list[Data]) -> dict[str, object]:
    """What ``StudyRun.results`` wants to know of the data."""
    sha256 = data[0].sha256
    if len(data) > 1:
        sha256 = hashlib.sha256("".join(one.sha256 for one in data).encode()).hexdigest()
    return {
        "dataset_name": " + ".join(one.title for one in data),
        "dataset_sha256": sha256,
        "synthetic": any(one.synthetic for one in data),
    }


def tied_share(log: InteractionLog) -> np.ndarray:
    """bool[U'], for users with two events: the last one shares its second with the one before."""
    users = np.diff(log.user_ptr) >= 2
    last = log.user_ptr[1:][users] - 1
    return np.asarray(log.timestamp[last] == log.timestamp[last - 1])
