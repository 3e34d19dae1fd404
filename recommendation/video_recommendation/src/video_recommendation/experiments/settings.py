"""How much is simulated: the full run, and a quick one that only shows that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExperimentSettings:
    """Sizes of the studies.

    Attributes:
        n_seeds: Repetitions of every simulated experiment.
        n_users: Users of one A/A test, both arms together.
        looks: Days on which the peeker looks.
        power_users: Users of both arms on the power curve.
        power_seeds: Repetitions of each point of the power curve.
        loss_users: Sizes of an experiment that loses some of its users.
        loss_seeds: Repetitions of it.
        ratio_users: Sizes at which a 49/51 split is to be noticed.
        n_interleavings: Different coins for every query.
        ranker_users: Users on the curves of interleaving and A/B test.
        seed: Of all of it.
    """

    n_seeds: int = 1_000
    n_users: int = 4_000
    looks: int = 20
    power_users: tuple[int, ...] = (500, 1_000, 2_000, 3_000, 4_000, 6_000)
    power_seeds: int = 500
    loss_users: tuple[int, ...] = (20_000, 100_000)
    loss_seeds: int = 200
    ratio_users: tuple[int, ...] = (1_000, 5_000, 10_000, 20_000, 50_000, 100_000)
    n_interleavings: int = 20
    ranker_users: tuple[int, ...] = (20, 40, 80, 160, 320, 640)
    seed: int = 0


FULL = ExperimentSettings()
QUICK = ExperimentSettings(
    n_seeds=25,
    n_users=600,
    looks=5,
    power_users=(300, 1_000),
    power_seeds=25,
    loss_users=(2_000,),
    loss_seeds=10,
    ratio_users=(1_000, 20_000),
    n_interleavings=3,
    ranker_users=(20, 200),
)
