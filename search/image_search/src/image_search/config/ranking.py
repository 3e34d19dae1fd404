"""The click log, and how candidates are ordered (clicks/, ranking/)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ml_platform.evaluation.configuration import Stage


class ClicksConfig(Stage):
    """The simulated click log (clicks/). SYNTHETIC."""

    users: PositiveInt = 3_000
    pages: PositiveInt = 50_000
    """Of ``page`` items: a million impressions, some seventeen an item of Fashion-MNIST."""
    page: PositiveInt = 20
    """Items of a page, as the service answers."""
    days: PositiveInt = 28
    """Four weeks; popularity and age change little in them."""
    validation_days: PositiveInt = 3
    test_days: PositiveInt = 4
    queries: PositiveInt = 5_000
    """Pictures that the days of training and validation ask with."""
    test_queries: PositiveInt = 2_000
    """Pictures that the days of test ask with; no other day does."""
    pool: PositiveInt = 200
    """The most similar items by the old embedding, out of which a page is drawn."""
    policy_noise: float = Field(default=0.5, ge=0)
    """Of the old order: standard deviations of the pool's similarities."""
    explore: float = Field(default=0.1, ge=0, le=1)
    """Share of the places that hold any item at all: without them the log says nothing of items
    that the old embedding never found."""
    position_bias: float = Field(default=1.0, ge=0)
    """A person looks at place k with probability k to the power of minus this: at place 20 one
    in twenty. 0: everybody looks at everything."""
    style_dim: PositiveInt = 8
    """Directions of taste."""

    @model_validator(mode="after")
    def _days_and_places_suffice(self) -> ClicksConfig:
        if self.validation_days + self.test_days >= self.days:
            raise ValueError(
                f"{self.days} days with {self.validation_days} to validate and {self.test_days} "
                "to test: none is left to train"
            )
        if self.page > self.pool:
            raise ValueError(f"a page of {self.page} out of a pool of {self.pool}")
        return self


class RankingConfig(Stage):
    """How candidates are ordered (ranking/)."""

    served: Literal["trees", "cross_mlp", "none"] = "trees"
    """Trees train faster and read no vectors; `rankers` compares the two on the validation days.
    none: by similarity."""
    correction: Literal["none", "feature", "ips", "examination"] = "examination"
    """What is done about the place that an item was shown at; see ``ranking.positions``."""
    neighbours: PositiveInt = 20
    """Of the query's candidates, those whose classes and prices describe the query."""
    prior_looks: float = Field(default=20.0, gt=0)
    """Looks at nobody in particular that an item's click rate starts with. Some seventeen places of
    a page are about three looks, so that one click moves a rate by little."""
    rows: PositiveInt = 400_000
    """Impressions that a ranker learns from, at most: the latest pages."""
    trees: PositiveInt = 200
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.08, gt=0)
    patience: PositiveInt = 20
    """Trees without a better loss on the validation days, after which no more are added."""
    width: PositiveInt = 16
    """Numbers that query and item vector are projected to, before product and difference."""
    cross_layers: PositiveInt = 2
    hidden: tuple[PositiveInt, ...] = (64, 32)
    epochs: PositiveInt = 3
    batch: PositiveInt = 4_096
    network_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    judged_pages: PositiveInt = 2_000
    """Searches of users with test pictures, whose candidates the truth judges."""
