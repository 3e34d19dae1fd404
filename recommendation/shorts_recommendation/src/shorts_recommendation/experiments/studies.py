"""The experiments: which arms, and what each changes in the funnel.

In: a ``Ground``, the system as it stands when an experiment starts. Out: ``Study`` descriptions
and, from ``run_study``, what happened. The first arm of a study is its control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_platform.evaluation.progress import Step
from ml_platform.operations.assignment import N_BUCKETS, buckets
from ml_platform.operations.experiments import SampleRatio, sample_ratio
from shorts_recommendation.experiments.market import Market, market, panel_worth
from shorts_recommendation.experiments.measures import Measured, measure, trace_of_log
from shorts_recommendation.experiments.policies import RecommenderPolicy
from shorts_recommendation.experiments.reading import (
    ALPHA,
    GUARDRAIL_ALPHA,
    GUARDRAILS,
    Look,
    Reading,
    Stop,
    guardrail_stop,
    looks,
    read_all,
)
from shorts_recommendation.experiments.settings import ExperimentSettings
from shorts_recommendation.experiments.simulation import Platform, Policy, Simulation, Trace
from shorts_recommendation.log import DAY_S, ImpressionLog
from shorts_recommendation.world.audience import Audience
from shorts_recommendation.world.world import World

if TYPE_CHECKING:
    from shorts_recommendation.recommender import Recommender

FRESH_PLACES = (0.0, 0.05, 0.1, 0.2)
"""Shares of the places that the arms of the exploration study guarantee to uploads."""
FIRST_LOOK = 2  # days: before that nobody has had 24 hours to return


@dataclass(frozen=True)
class Ground:
    """Where every experiment starts.

    Attributes:
        world: The people and the truth.
        recommender: Trained on the log before ``start_s``.
        platform: States and counters at ``start_s``.
        log: Of the time before; the past that CUPED knows.
        start_s: Midnight.
        settings: Sizes.
        seed: Of everything.
    """

    world: World
    recommender: Recommender
    platform: Platform
    log: ImpressionLog
    start_s: int
    settings: ExperimentSettings
    seed: int


@dataclass(frozen=True)
class ArmSpec:
    """One arm.

    Attributes:
        name: Its word in the results.
        words: For tables.
        policy: Makes it.
    """

    name: str
    words: str
    policy: Callable[[Ground], Policy]


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: Its word in the results, and the salt of its assignment.
        title: For tables.
        arms: The control first.
        days: How long.
        people: In all arms together.
        shared_counters: See ``simulation``.
        slate_length, refetch_after: See ``simulation``; None takes those of the settings.
        caveat: What a reader of its numbers must know; stands in every protocol.
    """

    name: str
    title: str
    arms: tuple[ArmSpec, ...]
    days: int
    people: int
    shared_counters: bool = True
    slate_length: int | None = None
    refetch_after: int | None = None
    caveat: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What happened in a study.

    Attributes:
        study: Which.
        arm: i8[P].
        measured: Metrics of the P people over the whole time.
        by_day: The same up to each day from ``FIRST_LOOK`` on.
        before: Of the same people in the log.
        readings: By arm (without the control) and metric.
        markets: By arm.
        ratio: Whether the split is the one asked for, by arm against the control.
        n_impressions, n_requests: How much was simulated.
    """

    study: Study
    arm: np.ndarray
    measured: Mapping[str, Measured]
    by_day: Sequence[Mapping[str, Measured]]
    before: Mapping[str, Measured]
    readings: Mapping[str, Mapping[str, Reading]]
    markets: Mapping[str, Market]
    ratio: Mapping[str, SampleRatio]
    n_impressions: int
    n_requests: int

    def of_arm(self, name: str) -> np.ndarray:
        """bool[P]."""
        names = [arm.name for arm in self.study.arms]
        return np.asarray(self.arm == names.index(name))

    def looks(self, arm: str, metric: str) -> list[Look]:
        """The daily looks at one metric of one arm against the control.

        A guardrail is looked at with its share of the 5%, so that what is shown of it is what
        stops the arm; every other metric by itself with 5%.
        """
        control, alpha = self.of_arm(self.study.arms[0].name), ALPHA
        if metric in GUARDRAILS:
            alpha = GUARDRAIL_ALPHA
        treated = self.of_arm(arm)
        return looks(metric, self.by_day, self.before, control, treated, FIRST_LOOK, alpha)

    def guardrail_stop(self, arm: str) -> Stop | None:
        """When the guardrails would have stopped the arm; see ``reading``."""
        control = self.of_arm(self.study.arms[0].name)
        return guardrail_stop(self.by_day, self.before, control, self.of_arm(arm), FIRST_LOOK)


def run_study(ground: Ground, study: Study, step: Step, *, repeat: int = 0) -> Outcome:
    """Plays a study and reads it.

    Args:
        ground: Where it starts.
        study: What is tried.
        step: Hears of every simulated period.
        repeat: Another number draws other chance and another assignment.
    """
    people = draw_people(ground, study.people)
    ids = ground.world.users.user_ids[people]
    arm = assign(ids, f"{study.name}-{ground.seed}-{repeat}", len(study.arms))
    settings = ground.settings
    audience = Audience(ground.world, seed=1_000 * (ground.seed + 1) + repeat)
    first = audience.first_visits_s()[people] - ground.world.start_s + ground.start_s
    simulation = Simulation(
        ground.platform,
        audience,
        [spec.policy(ground) for spec in study.arms],
        people,
        arm,
        start_s=ground.start_s,
        first_visit_s=first,
        slate_length=study.slate_length or settings.slate_length,
        refetch_after=study.refetch_after or settings.refetch_after,
        shared_counters=study.shared_counters,
    )
    trace = simulation.run(ground.start_s + study.days * DAY_S, step)
    return _read(ground, study, people, arm, trace, simulation.n_requests)


def draw_people(ground: Ground, n: int) -> np.ndarray:
    """i32[n] users, the same for every study of a ground.

    Raises:
        ValueError: If the world has fewer.
    """
    n_users = len(ground.world.users)
    if n > n_users:
        raise ValueError(f"{n} people wanted, the world has {n_users}")
    rng = np.random.default_rng((ground.seed, 77))
    return np.sort(rng.permutation(n_users)[:n]).astype(np.int32)


def assign(user_ids: np.ndarray, salt: str, n_arms: int) -> np.ndarray:
    """i8[P]: arms of equal shares by salted hash."""
    return (buckets(user_ids, salt) * n_arms // N_BUCKETS).astype(np.int8)


def _read(
    ground: Ground,
    study: Study,
    people: np.ndarray,
    arm: np.ndarray,
    trace: Trace,
    n_requests: int,
) -> Outcome:
    catalogue, start_s = ground.world.catalogue, ground.start_s
    fresh_hours = ground.recommender.config.retrieval.fresh_hours

    def measured(until_day: int) -> dict[str, Measured]:
        end_s = start_s + until_day * DAY_S
        return measure(
            trace, people, catalogue, start_s=start_s, end_s=end_s, fresh_hours=fresh_hours
        )

    by_day = [measured(day) for day in range(FIRST_LOOK, study.days + 1)]
    before = measure(
        trace_of_log(ground.log),
        people,
        catalogue,
        start_s=ground.world.start_s,
        end_s=start_s,
        fresh_hours=fresh_hours,
    )
    control = arm == 0
    readings, ratios = {}, {}
    for number, spec in enumerate(study.arms[1:], start=1):
        treated = arm == number
        readings[spec.name] = read_all(by_day[-1], before, control, treated)
        ratios[spec.name] = sample_ratio(int(control.sum()), int(treated.sum()))
    return Outcome(
        study=study,
        arm=arm,
        measured=by_day[-1],
        by_day=by_day,
        before=before,
        readings=readings,
        markets=_markets(ground, study, people, arm, trace),
        ratio=ratios,
        n_impressions=len(trace),
        n_requests=n_requests,
    )


def _markets(
    ground: Ground, study: Study, people: np.ndarray, arm: np.ndarray, trace: Trace
) -> dict[str, Market]:
    start_s, end_s = ground.start_s, ground.start_s + study.days * DAY_S
    worth = panel_worth(ground.world, start_s, end_s, ground.seed)
    arm_of = np.full(len(ground.world.users), -1, dtype=np.int8)
    arm_of[people] = arm
    found = {}
    for number, spec in enumerate(study.arms):
        mine = trace.select(arm_of[trace.user] == number)
        found[spec.name] = market(mine, ground.world.catalogue, worth, start_s=start_s, end_s=end_s)
    return found


# --- the arms -----------------------------------------------------------------------------------


def funnel(ground: Ground, **changes: Mapping[str, Any]) -> Policy:
    """The recommender with settings changed, as ``funnel(ground, reranking={"tag_cap": 0})``.

    Every arm has a view of its own, also where nothing changes: lists, budgets and the pre-ranker's
    counters of one arm are not those of another, nor of the next study.
    """
    config = ground.recommender.config
    stages = {
        name: getattr(config, name).model_copy(update=dict(what)) for name, what in changes.items()
    }
    return RecommenderPolicy(ground.recommender.with_config(**stages))


def ranker_study(settings: ExperimentSettings) -> Study:
    """A: the transformer. B: the trees on the same features.

    Both read candidates that the same pre-ranker let through, and that was distilled from A: what
    B would have kept and A's student dropped, B never sees. The study compares the last stage.
    """
    return Study(
        "ranker",
        "Ranker: transformer against LightGBM",
        (
            ArmSpec("transformer", "transformer", _with_ranker("transformer")),
            ArmSpec("lightgbm", "LightGBM", _with_ranker("lightgbm")),
        ),
        settings.days,
        settings.people,
        caveat="both arms rank what a pre-ranker distilled from the transformer lets through",
    )


def aa_study(settings: ExperimentSettings) -> Study:
    """The same on both sides."""
    return Study(
        "aa",
        "A/A: the same funnel on both sides",
        (ArmSpec("first", "funnel", funnel), ArmSpec("second", "funnel again", funnel)),
        settings.days,
        settings.people,
    )


def diversity_study(settings: ExperimentSettings) -> Study:
    """Re-ranking by MMR, fatigue and caps, or the order of value alone."""
    off = {"relevance_weight": 1.0, "fatigue": 0.0, "tag_cap": 0}
    return Study(
        "diversity",
        "Diversity: on against off",
        (
            ArmSpec("on", "diversity on", funnel),
            ArmSpec("off", "order of value", lambda ground: funnel(ground, reranking=off)),
        ),
        settings.days,
        settings.people,
    )


def exploration_study(settings: ExperimentSettings) -> Study:
    """How many places of twenty go to uploads that have impressions to come."""
    arms = []
    for slots in (round(20 * share) for share in FRESH_PLACES):
        words = f"{slots} of 20" if slots else "none"
        arms.append(ArmSpec(f"fresh_{slots}_of_20", words, _with_slots(slots)))
    return Study(
        "exploration",
        "Places for fresh uploads",
        tuple(arms),
        settings.days,
        settings.market_people,
        shared_counters=False,
        slate_length=20,
        refetch_after=20,
    )


LIKES_FIRST = {"like": 10.0, "long_view": 1.0}
"""Set by hand: a long view is some ten times as frequent as a like (35% and 3% of impressions in
the default world), so both heads carry about the same weight. The world holds clickbait, and this
control is one that steps out of it. How many controls were looked at before it is not recorded, so
the study shows that the machinery finds a fall that is there, not how often there is one."""
LONG_VIEWS = {"long_view": 1.0}


def trap_study(settings: ExperimentSettings) -> Study:
    """A feed led by likes is moved to long views alone: the step that a click metric asks for.

    The third arm is what validation chose, a weight on both: it shows whether one has to choose.
    """
    return Study(
        "trap",
        "The trap: from likes to long views",
        (
            ArmSpec("likes_first", "likes first", _with_weights(LIKES_FIRST)),
            ArmSpec("long_views", "long views alone", _with_weights(LONG_VIEWS)),
            ArmSpec("weighted", "chosen weights", funnel),
        ),
        settings.long_days,
        settings.trap_people,
    )


def _with_weights(weights: dict[str, float]) -> Callable[[Ground], Policy]:
    return lambda ground: funnel(ground, ranking={"value_weights": weights})


def _with_ranker(name: str) -> Callable[[Ground], Policy]:
    return lambda ground: funnel(ground, ranking={"ranker": name})


def _with_slots(slots: int) -> Callable[[Ground], Policy]:
    # The pool keeps the same room for uploads in every arm: only the guarantee differs.
    # Slots are counted in every k places, and these are counted in twenty.
    reserve = {"fresh_slots": slots, "fresh_reserve": 8, "k": 20}
    return lambda ground: funnel(ground, reranking=reserve)
