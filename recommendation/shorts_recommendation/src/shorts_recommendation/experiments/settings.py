"""How much is simulated: the full run, and a small one that only shows that it works."""

from __future__ import annotations

from dataclasses import dataclass

from shorts_recommendation.config import Config


@dataclass(frozen=True)
class ExperimentSettings:
    """Sizes.

    Attributes:
        n_users: Of the world of the experiments. Smaller than the system's default: time goes into
            days that are simulated, not into a log.
        n_videos: Of it.
        log_days: Days that the logging policy runs and models learn from.
        validation_days: The last of them: calibration.
        days: Of an ordinary experiment.
        long_days: Of the one about retention, which moves slowly.
        people: In an experiment, over all arms.
        trap_people: In the one about retention. All there are, for twenty days: 60% of them for
            half as long stopped one run in three, as visits fall by a few per cent and differ
            between people by far more.
        market_people: In the one about uploads: each arm is a platform of its own.
        slate_length: Videos asked for at once.
        refetch_after: Videos played before the next slate is asked for: the whole slate, as the
            place that is guaranteed to an upload stands in its second half.
        market_seeds: Runs of the experiment about uploads.
        trap_repeats: Runs of the one about retention, each with another assignment and chance.
        aa_splits: Splits of the same people in the A/A test.
    """

    n_users: int = 3_000
    n_videos: int = 15_000
    log_days: int = 12
    validation_days: int = 2
    days: int = 7
    long_days: int = 20
    people: int = 1_000
    trap_people: int = 3_000
    market_people: int = 800
    slate_length: int = 10
    refetch_after: int = 10
    market_seeds: int = 3
    trap_repeats: int = 3
    aa_splits: int = 1_000

    def config(self, config: Config) -> Config:
        """The system's configuration on this world: the log's density stays as it was."""
        days = self.log_days + self.long_days
        old = config.world
        world = old.model_copy(
            update={
                "n_users": self.n_users,
                "n_videos": self.n_videos,
                "days": days,
                "impressions_per_user": round(old.impressions_per_user * days / old.days),
                "n_creators": None,
            }
        )
        data = config.data.model_copy(
            update={
                "train_days": self.log_days - self.validation_days,
                "validation_days": self.validation_days,
            }
        )
        # Counters every hour instead of every quarter: people of one period share the models' work,
        # and a study takes a third of the time. Training reads the same grid.
        state = config.state.model_copy(update={"counter_period_s": 3600})
        return config.model_copy(update={"world": world, "data": data, "state": state})


FULL = ExperimentSettings()
QUICK = ExperimentSettings(
    n_users=300,
    n_videos=1_000,
    log_days=5,
    validation_days=1,
    days=2,
    long_days=3,
    people=200,
    trap_people=200,
    market_people=160,
    market_seeds=1,
    trap_repeats=1,
    aa_splits=40,
)
