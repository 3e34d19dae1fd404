"""Who takes part, how much, and when: the settings of the loop.

The world is small so that a day takes seconds: the loop is about what happens between days. The
clock of a simulated day:

    00:00  new items are published
    06:00  the next version is trained on all that is known by then
    08:00  requests begin; half of the users get the new version (canary), which is promoted or
           rolled back as soon as the controller is sure enough
    24:00  the last request; a candidate that is still undecided goes
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from video_recommendation.config import Config
from video_recommendation.simulation.world import World, WorldConfig

HOUR_S = 3600
TRAIN_AT_S = 6 * HOUR_S
OPEN_AT_S = 8 * HOUR_S
CLOSE_AT_S = 24 * HOUR_S

SYSTEM: dict[str, Any] = {
    "name": "feedback-loop",
    "quick": True,
    "data": {"dataset": "synthetic"},
    "two_tower": {
        "embedding_dim": 24,
        "history_length": 30,
        "pooling": "recency",
        "n_uniform": 128,
        "batch_size": 256,
        "max_epochs": 4,
        "patience": 1,
        "log_q": True,
    },
    "item_item": {"neighbours": 100, "ease_reg": 100.0},
    "retrieval": {
        "two_tower": 60,
        "co_visitation": 30,
        "ease": 30,
        "recent_popularity": 20,
        "fresh": 40,
        "fresh_days": 5.0,
    },
    # The pools are small enough to rank whole: no pre-ranker stands between exploration and users.
    "ranking": {
        "prerank_keep": 200,
        "max_trees": 80,
        "learning_rate": 0.06,
        "min_rows_in_leaf": 30,
        "mmoe_epochs": 1,
        "mmoe_negatives": 5,
    },
    "reranking": {"k": 10, "pool": 40, "exploration_pool": 50},
}
"""The real system with small models."""


@dataclass(frozen=True)
class Arm:
    """One way to run the loop.

    Attributes:
        name: For keys and files.
        label: For people.
        exploration_slot: 0-based place of the exploration item; -1 for none.
    """

    name: str
    label: str
    exploration_slot: int


GREEDY = Arm("greedy", "greedy: no exploration", -1)
LOW = Arm("explore_low", "explores at place 9 of 10", 8)
HIGH = Arm("explore_high", "explores at place 2 of 10", 1)
ARMS = (GREEDY, LOW, HIGH)


WORLD = WorldConfig(
    n_users=250,
    n_items=200,
    n_sessions=2_500,
    n_new_items_per_day=10,
    quality_strength=1.5,
    bias=-2.5,
)
"""One item in twenty is new every day, and a few items are far better than the rest."""


@dataclass(frozen=True)
class LoopSettings:
    """One experiment.

    Attributes:
        world: The world, but for its seed.
        n_days: Simulated days.
        n_requests: Requests a day.
        k: Items of a list.
        window_s: Attribution window of the join.
        organic_share: Visits on which the user also finds an item without a list.
        retry_share: Batches of events that the client sends twice.
        n_shadow: Requests of yesterday that the new version answers again before it may serve.
        seeds: Of the world and of the models.
        arms: Which ways are compared.
        system: Configuration of the system.
    """

    world: WorldConfig = WORLD
    n_days: int = 12
    n_requests: int = 250
    k: int = 10
    window_s: int = 12 * HOUR_S
    organic_share: float = 0.1
    retry_share: float = 0.03
    n_shadow: int = 40
    seeds: tuple[int, ...] = tuple(range(12))
    arms: tuple[Arm, ...] = ARMS
    system: Config = field(default_factory=lambda: Config.model_validate(SYSTEM))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the results."""
        values = asdict(replace(self, system=None))  # type: ignore[arg-type]
        return {**values, "system": self.system.model_dump(mode="json")}

    def world_of(self, seed: int) -> World:
        """The world of a seed, long enough for the days asked for."""
        return World(replace(self.world, seed=seed, n_days=self.n_days))

    def config_of(self, arm: Arm, seed: int) -> Config:
        """The system's configuration in one arm."""
        reranking = self.system.reranking.model_copy(
            update={"exploration_slot": arm.exploration_slot, "k": self.k}
        )
        return self.system.model_copy(update={"reranking": reranking, "seed": seed})


FULL = LoopSettings()
QUICK = LoopSettings(
    world=replace(WORLD, n_users=100, n_items=100, n_sessions=600, n_new_items_per_day=8),
    n_days=2,
    n_requests=90,
    n_shadow=10,
    seeds=(0,),
    arms=(GREEDY, HIGH),
    system=Config.model_validate(
        {
            **SYSTEM,
            "two_tower": {**SYSTEM["two_tower"], "embedding_dim": 16, "max_epochs": 2},
            "ranking": {**SYSTEM["ranking"], "max_trees": 20},
        }
    ),
)
