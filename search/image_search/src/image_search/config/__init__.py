"""Every knob of the system, with its default and the reason for it.

One frozen model per stage; unknown keys are refused. A YAML file under ``configs/`` holds only what
differs from these defaults.
"""

from __future__ import annotations

from pathlib import Path

from image_search.config.embeddings import (
    ChoicesConfig,
    CnnConfig,
    EmbeddingName,
    EmbeddingsConfig,
    HeadConfig,
    WeightFilesConfig,
)
from image_search.config.evaluation import EvaluationConfig
from image_search.config.images import DatasetName, ImagesConfig
from image_search.config.page import PersonalisationConfig, RerankingConfig
from image_search.config.ranking import ClicksConfig, RankingConfig
from image_search.config.retrieval import IndexConfig, IndexKind, IndexStudyConfig, Reduction
from image_search.config.serving import ServingConfig
from image_search.config.text import TextConfig
from ml_platform.evaluation.configuration import Stage, read_config

__all__ = [
    "ChoicesConfig",
    "ClicksConfig",
    "CnnConfig",
    "Config",
    "DatasetName",
    "EmbeddingName",
    "EmbeddingsConfig",
    "EvaluationConfig",
    "HeadConfig",
    "ImagesConfig",
    "IndexConfig",
    "IndexKind",
    "IndexStudyConfig",
    "PersonalisationConfig",
    "RankingConfig",
    "Reduction",
    "RerankingConfig",
    "ServingConfig",
    "TextConfig",
    "WeightFilesConfig",
    "load_config",
]


class Config(Stage):
    """The whole system."""

    name: str = "default"
    quick: bool = False
    """A quick run says so in every table and never refreshes results/."""
    seed: int = 0
    images: ImagesConfig = ImagesConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    index: IndexConfig = IndexConfig()
    clicks: ClicksConfig = ClicksConfig()
    ranking: RankingConfig = RankingConfig()
    reranking: RerankingConfig = RerankingConfig()
    personalisation: PersonalisationConfig = PersonalisationConfig()
    text: TextConfig = TextConfig()
    serving: ServingConfig = ServingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of this system; see ``read_config`` for the errors."""
    return read_config(Config, path, overrides)
