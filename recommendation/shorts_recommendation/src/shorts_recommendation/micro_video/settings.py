"""Every knob of the micro-video study, with its default and the reason for it.

The grids are what is tried on the validation users; the test users are asked once, at the end.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from ml_platform.evaluation.configuration import Stage


class MicroVideoConfig(Stage):
    """Sizes, grids and seeds."""

    dataset: str = "tiktok-mm"
    k: PositiveInt = 20
    """The published tables' list length."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of what is random: iALS, two-tower, the ranker."""
    resamples: int = Field(default=1000, ge=100)
    heavy_rows: PositiveInt = 10
    """An account with more train rows is heavy; there is nothing between 4 and this one's size."""

    knn_neighbours: tuple[int, ...] = (200,)
    knn_shrink: tuple[float, ...] = (20.0, 1000.0)
    """1,000 is more than any product of norms here: what is left is the count of common users."""
    rp3_neighbours: tuple[int, ...] = (500,)
    rp3_beta: tuple[float, ...] = (0.0, 0.3)
    ials_factors: PositiveInt = 64
    ials_alpha: tuple[float, ...] = (5.0, 20.0, 80.0)
    ials_reg: tuple[float, ...] = (0.3, 1.0, 3.0)
    ials_iterations: PositiveInt = 15
    ease_reg: tuple[float, ...] = (60.0, 200.0)

    content_neighbours: PositiveInt = 10
    """Of a video in the frozen content graph."""
    audio_weight: float = Field(default=0.5, ge=0)
    """Image features tell more than audio here (content_image beside content_audio)."""
    walk_hops: PositiveInt = 3
    walk_decay: tuple[float, ...] = (0.3, 1.0)
    walk_backoff: tuple[float, ...] = (0.3, 1.0, 3.0)
    walk_content: tuple[float, ...] = (0.05, 0.1, 0.2)

    tower_dim: PositiveInt = 64
    tower_hidden: PositiveInt = 128
    tower_epochs: PositiveInt = 5
    tower_batch: PositiveInt = 512
    tower_learning_rate: PositiveFloat = 2e-3
    tower_temperature: PositiveFloat = 0.1

    source_quota: PositiveInt = 120
    """Videos that each source may propose."""
    negatives: PositiveInt = 60
    """Candidates kept for each label when the trees learn; a user's others are drawn away."""
    trees: PositiveInt = 150
    leaves: tuple[int, ...] = (7, 15)
    min_leaf: PositiveInt = 200
    folds: PositiveInt = 4
    """Of the validation users, where their pairs are both counted and learned from."""
    recent_weight: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0)
    """Of popularity among the validation pairs, added to the walk."""
    shift_backoff: tuple[float, ...] = (1.0, 3.0)
    shift_power: tuple[float, ...] = (0.5, 1.0)
    """Of the correction of the prior (``study.prior_shift``)."""

    numbering_power: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Of a video's number; shows what the numbering gives away."""

    rerank_pool: PositiveInt = 60
    rerank_weight: tuple[float, ...] = (0.9, 0.7, 0.5)
    """MMR's lambda; 1 is the ranker's order."""


def smoke_settings() -> MicroVideoConfig:
    """Everything runs, in seconds, on a generated set; nothing of it is a result."""
    return MicroVideoConfig(
        dataset="generated",
        seeds=(0,),
        resamples=100,
        knn_neighbours=(50,),
        knn_shrink=(0.0,),
        rp3_neighbours=(100,),
        rp3_beta=(0.0,),
        ials_factors=8,
        ials_alpha=(20.0,),
        ials_reg=(1.0,),
        ials_iterations=3,
        ease_reg=(30.0,),
        walk_decay=(1.0,),
        walk_backoff=(1.0,),
        walk_content=(0.1,),
        tower_dim=16,
        tower_hidden=16,
        tower_epochs=2,
        source_quota=30,
        negatives=20,
        trees=15,
        leaves=(7,),
        min_leaf=20,
        folds=2,
        recent_weight=(1.0, 3.0),
        shift_backoff=(1.0,),
        shift_power=(0.5,),
        numbering_power=(1.0,),
        rerank_pool=30,
        rerank_weight=(0.7,),
    )
