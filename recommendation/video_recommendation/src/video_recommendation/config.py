"""Every knob of the system, with its default and the reason for it.

One frozen model per stage; unknown keys are refused, so a typing error in a YAML file cannot pass
silently. A YAML file under ``configs/`` holds only what differs from these defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from ml_platform.evaluation.configuration import Stage, read_config


class DataConfig(Stage):
    """Which interactions, and how time is cut."""

    dataset: str = "movielens-100k"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Train, validation, test by rows in time order. Rankers learn on the validation window."""
    tie_seed: int = 0
    """Order of a user's events within one second; there is no true order to recover."""
    synthetic: dict[str, Any] = Field(default_factory=dict)
    """Fields of SyntheticConfig, used only with dataset: synthetic."""

    # The data module brings pandas: imported only where one of these is set, so --help stays quick.

    @field_validator("dataset")
    @classmethod
    def _in_the_registry(cls, name: str) -> str:
        from ml_platform.data.datasets import DATASETS

        if name not in DATASETS:
            raise ValueError(f"unknown data set; there are {', '.join(DATASETS)}")
        return name

    @field_validator("synthetic")
    @classmethod
    def _fields_of_the_generator(cls, fields: dict[str, Any]) -> dict[str, Any]:
        from ml_platform.data.synthetic import SyntheticConfig

        try:
            SyntheticConfig(**fields)
        except TypeError as error:  # an unknown name, or text where a number belongs
            raise ValueError(str(error)) from error
        return fields

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError("train, validation and test must be positive and sum to 1")
        return fractions


class TwoTowerConfig(Stage):
    """The retrieval model (docs/07_evaluation.md has the ablations)."""

    embedding_dim: PositiveInt = 64
    history_length: PositiveInt = 50
    """Last events the user tower reads. Older ones still count in the item-item source."""
    pooling: Literal["mean", "recency", "attention"] = "attention"
    item_inputs: Literal["id_and_content", "id", "content"] = "id_and_content"
    negatives: Literal["in_batch", "mixed"] = "mixed"
    n_uniform: PositiveInt = 512
    log_q: bool = True
    temperature: PositiveFloat = 0.1
    """Initial value; it is learned."""
    id_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of training rows whose ids are replaced by hashed ones, so that those get trained."""
    n_hashed_ids: PositiveInt = 64
    dropout: float = Field(default=0.2, ge=0, lt=1)
    learning_rate: PositiveFloat = 2e-3
    weight_decay: float = Field(default=1e-4, ge=0)
    batch_size: PositiveInt = 512
    max_epochs: PositiveInt = 8
    patience: PositiveInt = 2
    """Epochs without a better validation Recall@100 before training stops."""


class ItemItemConfig(Stage):
    """The two item-item sources: co-visitation (this sitting) and EASE (the whole taste)."""

    window_s: PositiveFloat = 3600.0
    max_lag: PositiveInt = 20
    decay_s: PositiveFloat = 300.0
    target_exponent: float = Field(default=0.3, ge=0, le=1)
    neighbours: PositiveInt = 400
    history_length: PositiveInt = 20
    history_decay: PositiveFloat = 5.0
    """Events: the n-th last event votes with exp(-n / history_decay)."""
    ease_reg: PositiveFloat = 300.0
    ease_history_decay: PositiveFloat = 8.0
    ease_floor: float = Field(default=0.05, ge=0)
    """Vote of an old event in EASE: exp(-n / ease_history_decay) + ease_floor."""


class RetrievalConfig(Stage):
    """Quotas of the sources: 500 slots a request; overlaps leave about half as many items."""

    two_tower: PositiveInt = 220
    co_visitation: PositiveInt = 120
    ease: PositiveInt = 80
    recent_popularity: PositiveInt = 60
    fresh: PositiveInt = 20
    popular_days: PositiveFloat = 30.0
    fresh_days: PositiveFloat = 30.0


class IndexConfig(Stage):
    """ANN index over the item tower's vectors."""

    kind: Literal["flat", "ivf", "hnsw", "pq"] = "flat"
    """Exact search wins at this catalogue's size: see the index table of a run."""
    n_lists: PositiveInt = 64
    n_probe: PositiveInt = 8
    hnsw_m: PositiveInt = 32
    ef_construction: PositiveInt = 100
    ef_search: PositiveInt = 64
    pq_bytes: PositiveInt = 16


class RankingConfig(Stage):
    """Pre-ranker, LambdaMART and the multi-task MMoE."""

    ranker: Literal["lambdarank", "mmoe"] = "lambdarank"
    prerank_keep: PositiveInt = 200
    choose_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Last part of the validation window: chooses the number of trees, epochs and calibration."""
    max_trees: PositiveInt = 300
    learning_rate: PositiveFloat = 0.04
    n_leaves: PositiveInt = 7
    """Small trees: the window holds some 200 users, and larger ones learn them by heart."""
    min_rows_in_leaf: PositiveInt = 100
    label_gain: tuple[float, float, float] = (0.0, 1.0, 1.5)
    """Gain of: not watched, watched, watched and liked (rating >= 4)."""
    like_threshold: float = 4.0
    mmoe_experts: PositiveInt = 4
    mmoe_epochs: PositiveInt = 6
    mmoe_negatives: PositiveInt = 40
    """Candidates without a label kept per query when training the MMoE; all positives are kept."""
    watch_weight: float = 1.0
    like_weight: float = 0.2
    """Score of the MMoE: P(watch)^watch_weight * P(like | watch)^like_weight."""


class RerankingConfig(Stage):
    """From the ranked candidates to the list that is shown."""

    method: Literal["mmr", "dpp", "none"] = "mmr"
    k: PositiveInt = 20
    pool: PositiveInt = 100
    """Best-ranked candidates that may enter the list."""
    trade_off: float = Field(default=0.9, ge=0, le=1)
    """1 is relevance only. The run's sweep shows what each value costs and brings."""
    genre_cap: PositiveInt = 10
    """Most items of one (first) genre in a list of k = 20; scaled with k."""
    freshness_boost: float = Field(default=0.02, ge=0)
    """Added to the relevance (scaled to 0..1) of items younger than fresh_days."""
    exploration_slot: int = Field(default=15, ge=-1)
    """0-based place of the one exploration item; -1 for none."""
    exploration_pool: PositiveInt = 50
    """The exploration item is drawn uniformly from so many fresh or low-ranked candidates."""


class ServingConfig(Stage):
    """Budgets of one request; when a stage fails or overruns, the ladder goes one step down."""

    deadline_ms: PositiveFloat = 100.0
    features_budget_ms: PositiveFloat = 20.0
    """Reading the feature store; beyond it item activity is computed in the process."""
    feature_log_share: float = Field(default=0.05, ge=0, le=1)
    """Of the requests; those keep their features in the request log, for parity and training."""
    rank_budget_ms: PositiveFloat = 40.0
    rerank_budget_ms: PositiveFloat = 20.0
    load_rate_qps: PositiveFloat = 100.0
    load_seconds: PositiveFloat = 10.0


class EvaluationConfig(Stage):
    """Lists, intervals and sweeps."""

    resamples: int = Field(default=1000, ge=100)
    """The ends of a 95% interval rest on the outer 2.5% of the resamples."""
    sweep_queries: PositiveInt = 1500
    """Queries of the re-ranking sweep; the sweep repeats the list building some twenty times."""


class Config(Stage):
    """The whole system."""

    name: str = "default"
    quick: bool = False
    """A quick run says so in every table and never refreshes results/."""
    seed: int = 0
    data: DataConfig = DataConfig()
    two_tower: TwoTowerConfig = TwoTowerConfig()
    item_item: ItemItemConfig = ItemItemConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    index: IndexConfig = IndexConfig()
    ranking: RankingConfig = RankingConfig()
    reranking: RerankingConfig = RerankingConfig()
    serving: ServingConfig = ServingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of this system; see ``read_config`` for the errors."""
    return read_config(Config, path, overrides)
