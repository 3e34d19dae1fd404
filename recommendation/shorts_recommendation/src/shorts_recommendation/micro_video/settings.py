"""Every knob of the micro-video study, with its default and the reason for it.

A tuple is a grid: what is tried on the validation users. The test users are asked once, at the end.
A single value was chosen by nobody: ``untuned`` lists those of each model, and every row says them.
The grids are as small as a run of four minutes on one core allows.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ml_platform.evaluation.configuration import Stage


class MicroVideoConfig(Stage):
    """Sizes, grids and seeds."""

    dataset: str = "tiktok-mm"
    k: PositiveInt = 20
    """The published tables' list length."""
    seeds: tuple[int, ...] = (0, 1)
    """Of what is random: iALS, two-tower, the ranker."""
    development: bool = False
    """Leaves the test users closed: of the validation users half choose and half are asked."""
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
    ials_reg: tuple[float, ...] = (1.0, 3.0, 10.0)
    ials_iterations: PositiveInt = 15
    ease_reg: tuple[float, ...] = (60.0, 200.0)

    content_neighbours: PositiveInt = 10
    """Of a video in the frozen content graph."""
    audio_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.5, 1.0)
    """Of audio beside image in a video's content. Content kNN chooses one for itself; the walk's
    choice is the one that two-tower, funnel and MMR read too."""
    walk_hops: tuple[PositiveInt, ...] = (2, 3)
    walk_decay: tuple[float, ...] = (0.3, 1.0)
    walk_backoff: tuple[float, ...] = (0.3, 1.0, 3.0)
    walk_content: tuple[float, ...] = (0.1, 0.2)

    tower_dim: PositiveInt = 64
    tower_hidden: PositiveInt = 128
    tower_epochs: PositiveInt = 5
    tower_batch: PositiveInt = 512
    tower_learning_rate: PositiveFloat = 2e-3
    tower_temperature: tuple[PositiveFloat, ...] = (0.05, 0.1)

    source_quota: PositiveInt = 120
    """Videos that each source may propose."""
    negatives: PositiveInt = 60
    """Candidates kept for each label when the trees learn; a user's others are drawn away."""
    trees: PositiveInt = 150
    leaves: tuple[int, ...] = (7, 15)
    min_leaf: PositiveInt = 200
    folds: PositiveInt = 4
    """Of the validation users, where their pairs are both counted and learned from."""
    recent_weight: tuple[float, ...] = (3.0, 10.0, 30.0)
    """Of popularity among the validation pairs, added to the walk."""
    shift_backoff: tuple[float, ...] = (1.0, 3.0)
    shift_power: tuple[float, ...] = (0.5, 1.0)
    """Of the correction of the prior (``study.prior_shift``)."""

    numbering_power: tuple[float, ...] = (2.0, 4.0)
    """Of a video's number; shows what the numbering gives away."""

    rerank_pool: PositiveInt = 60
    rerank_weight: tuple[float, ...] = (0.9, 0.7, 0.5)
    """MMR's lambda; 1 is the ranker's order. A curve, nothing is chosen."""
    rerank_users: PositiveInt = 1000
    """Drawn among those who are asked: MMR is a loop in Python."""


def untuned(name: str, config: MicroVideoConfig) -> str:
    """The knobs of a row that no validation user has chosen, in words; "" where there are none."""
    walk = f"{config.content_neighbours} content neighbours"
    tower = (
        f"dimension {config.tower_dim}, {config.tower_epochs} epochs, "
        f"rate {config.tower_learning_rate:g}"
    )
    trees = f"{config.trees} trees of at least {config.min_leaf}, {config.source_quota} a source"
    neighbours = f"neighbours={config.knn_neighbours[0]}" if len(config.knn_neighbours) == 1 else ""
    return {
        "item_knn": neighbours,
        "item_knn_ordinary": neighbours,
        "rp3beta": "alpha=1"
        + (f", neighbours={config.rp3_neighbours[0]}" if len(config.rp3_neighbours) == 1 else ""),
        "ials": f"{config.ials_factors} factors, {config.ials_iterations} iterations",
        "two_tower": f"{tower}; audio weight of the walk",
        "walk_content": walk,
        "walk_numbering": walk,
        "walk_recent": walk,
        "walk_shifted": f"{walk}, smoothing of the shares",
        "funnel": f"{trees}, the walk's {walk}, the two-tower's {tower}",
        "funnel_recent": f"leaves={config.leaves[-1]}, {trees}, the walk's {walk}, "
        f"the two-tower's {tower}",
    }.get(name, "")


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
        audio_weights=(0.0, 0.5),
        walk_hops=(3,),
        walk_decay=(1.0,),
        walk_backoff=(1.0,),
        walk_content=(0.1,),
        tower_dim=16,
        tower_hidden=16,
        tower_epochs=2,
        tower_temperature=(0.1,),
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
