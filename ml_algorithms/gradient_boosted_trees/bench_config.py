"""The sizes of the study: everything that its parts can be told."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig


class TreesStudyConfig(BaseModel):
    """Of all parts; ``synthetic`` puts generated tasks in the place of the public ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    synthetic: bool = False
    n_seeds: int = 3
    table_trees: int = 200
    ranking_trees: int = 100
    # speed
    fit_rows: tuple[int, ...] = (5_000, 20_000, 80_000)
    fit_features: int = 28
    fit_trees: int = 30
    inference_trees: int = 300
    inference_leaves: int = 63
    inference_train_rows: int = 20_000
    inference_rows: tuple[int, ...] = (1, 100, 500, 10_000)
    repeats: int = 7
    # ablations
    ablation_trees: int = 100
    leaves: tuple[int, ...] = (7, 15, 31, 63)
    bins: tuple[int, ...] = (8, 32, 128, 255)
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    curve_trees: int = 300
    small_rows: int = 2_000
    # deep
    train_rows: tuple[int, ...] = (500, 4_000, 1_000_000)
    mlp_epochs: int = 20
    max_trees: int = 400
    # explanations
    explained_rows: int = 1_000
    permutation_repeats: int = 3

    def table(self, loss: str, categorical: tuple[int, ...], **changes: object) -> BoostingConfig:
        """The common setting for tables: LightGBM's defaults, ``table_trees`` trees."""
        values = {"loss": loss, "categorical": categorical, "n_trees": self.table_trees}
        return BoostingConfig.model_validate({**values, **changes})

    def ablation(
        self, loss: str, categorical: tuple[int, ...], **changes: object
    ) -> BoostingConfig:
        """``table`` with fewer trees: many settings are tried."""
        return self.table(loss, categorical, **{"n_trees": self.ablation_trees, **changes})

    def ranking(self, seed: int, **changes: object) -> BoostingConfig:
        """The common setting for ranking: small trees, rows and features drawn by seed."""
        values = {
            "loss": "lambdamart",
            "n_trees": self.ranking_trees,
            "learning_rate": 0.05,
            "n_leaves": 15,
            "min_rows_in_leaf": 50,
            "row_fraction": 0.8,
            "feature_fraction": 0.8,
            "seed": seed,
        }
        return BoostingConfig.model_validate({**values, **changes})


SMOKE = TreesStudyConfig(
    synthetic=True,
    n_seeds=1,
    table_trees=6,
    ablation_trees=3,
    ranking_trees=5,
    fit_rows=(300, 600),
    fit_features=5,
    fit_trees=3,
    inference_trees=5,
    inference_leaves=7,
    inference_train_rows=300,
    inference_rows=(1, 50),
    repeats=2,
    leaves=(3, 7),
    bins=(13, 32),
    learning_rates=(0.1, 0.5),
    curve_trees=6,
    small_rows=200,
    train_rows=(200,),
    mlp_epochs=2,
    max_trees=5,
    explained_rows=20,
    permutation_repeats=1,
)
