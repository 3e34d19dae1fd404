"""``video-recommendation parity``: do served features equal those that training would compute?

In: the production version (or the last bundle) and the test window of its data. Out: tables on the
terminal and ``parity.json``.

First the system as it is. The window is played through the real service, every answer logs its
features, and each is rebuilt from the event log by the offline path: they must be equal to the bit.
Then it is broken five times, and the report has to name the features, or a guard has to act before
a wrong number is served:

    late_2_minutes    the materialiser hangs behind, its rows younger than their time to live
    late_10_minutes   the same beyond the time to live: rows are refused, the ladder steps down
    old_input         it runs on time over input that is 10 minutes old: rows say they are fresh
    default_changed   a copy of the declaration fills another default for unknown users
    time_zone         the offline reader takes the log's UTC for local time
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feature_engineering.feature_sets import FeatureSetChangedError
from video_recommendation.data import SystemData
from video_recommendation.monitoring.rebuild import (
    Comparison,
    compare,
    read_events,
    read_requests,
)
from video_recommendation.monitoring.service_replay import (
    Keeper,
    Replayed,
    ReplayPlan,
    on_time,
    replay,
)
from video_recommendation.recommender import Recommender
from video_recommendation.serving.engine import ServingEngine
from video_recommendation.serving.feature_home import FeatureHome, ReadsStoredFeatures
from video_recommendation.stored_features import (
    ITEM_ACTIVITY,
    USER_PROFILE,
    item_activity,
)

if TYPE_CHECKING:
    from video_recommendation.commands import Run

FULL = ReplayPlan(n_events=1200, ask_every=8)
QUICK = ReplayPlan(n_events=120, ask_every=10, k=10)
MINUTES_10_S = 600
ZONE_S = 3600
OTHER_DEFAULT = -1.0
CHANGED_PROFILE = replace(
    USER_PROFILE, specs=tuple(replace(spec, default=OTHER_DEFAULT) for spec in USER_PROFILE.specs)
)


@dataclass(frozen=True)
class Scenario:
    """One way to serve and rebuild.

    Attributes:
        name: Key in the results.
        title: For people.
        keep: The materialiser's work before each request.
        prepare: Done before the first event.
        shift_s: Added to the timestamps of live events when they are read offline.
    """

    name: str
    title: str
    keep: Keeper = on_time
    prepare: Keeper = lambda engine: None
    shift_s: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to."""

    scenario: Scenario
    replayed: Replayed
    comparison: Comparison

    @property
    def stale_share(self) -> float:
        """Of the rows of item activity that were read."""
        return self.replayed.outcome_share(ITEM_ACTIVITY.name, "stale")

    @property
    def missing_profiles(self) -> float:
        """Share of requests whose user has no profile: the unknown ones."""
        return self.replayed.outcome_share(USER_PROFILE.name, "missing")


def late(seconds: int) -> Keeper:
    """A materialiser that is so far behind the clock, and says so in its rows."""

    def keep(engine: ServingEngine) -> None:
        model, now = engine.production, engine.clock.now()
        model.state.recheck()
        model.popularity.refresh(now)
        _home(engine).materialise(model.popularity.counter, now - seconds)

    return keep


def old_input(seconds: int) -> Keeper:
    """A materialiser on time whose input is so old: the timestamps of its rows are a lie."""

    def keep(engine: ServingEngine) -> None:
        model, now = engine.production, engine.clock.now()
        model.state.recheck()
        model.popularity.refresh(now)
        counter, tick = model.popularity.counter, ITEM_ACTIVITY.tick(now)
        rows = item_activity(counter, np.arange(counter.n_items), tick - seconds)
        _home(engine).items.write_many(model.recommender.catalogue.item_ids, tick, rows)

    return keep


def other_default(engine: ServingEngine) -> None:
    """Reads by a copied declaration, under keys of its own: the same keys would refuse it."""
    engine.production.features = _changed_home(engine, engine.production.state.prefix + "copy:")


def refusal(engine: ServingEngine) -> str:
    """What a reader with the changed declaration is told where the right rows are."""
    recommender = engine.production.recommender
    try:
        _changed_home(engine, engine.production.state.prefix).read(
            np.zeros(1, dtype=np.int32), int(recommender.catalogue.item_ids[0]), engine.clock.now()
        )
    except FeatureSetChangedError as error:
        return str(error)
    return "NOT REFUSED"


SCENARIOS = (
    Scenario("on_time", "as it is"),
    Scenario("late_2_minutes", "materialiser 2 min behind", keep=late(120)),
    Scenario("late_10_minutes", "materialiser 10 min behind", keep=late(MINUTES_10_S)),
    Scenario("old_input", "on time, input 10 min old", keep=old_input(MINUTES_10_S)),
    Scenario("default_changed", "reader's default changed", prepare=other_default),
    Scenario("time_zone", "offline, log 1 hour off", shift_s=ZONE_S),
)


def run_scenarios(
    recommender: Recommender,
    data: SystemData,
    plan: ReplayPlan,
    scenarios: Sequence[Scenario] = SCENARIOS,
    *,
    done: Callable[[int], None] = lambda n: None,
) -> tuple[list[Outcome], str]:
    """Plays and rebuilds each scenario, in folders that are removed afterwards.

    Returns:
        The outcomes, and what the store told a reader with a changed declaration.
    """
    outcomes, told = [], []
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        for scenario in scenarios:
            folder = Path(scratch) / scenario.name

            def prepare(engine: ServingEngine, scenario: Scenario = scenario) -> None:
                told.append(refusal(engine))
                scenario.prepare(engine)

            played = replay(recommender, data, folder, plan, keep=scenario.keep, prepare=prepare)
            events = read_events(played.events, recommender).shifted(scenario.shift_s)
            requests = read_requests(played.requests)
            compared = compare(recommender, requests, events, folder / "offline")
            outcomes.append(Outcome(scenario, played, compared))
            done(1)
    return outcomes, told[0]


def run_parity(run: Run, quick: bool = False) -> None:
    """See the module's docstring.

    Args:
        run: The command.
        quick: A few requests; writes beside the artifacts.
    """
    from video_recommendation.monitoring.demo import open_recommender
    from video_recommendation.monitoring.parity_report import print_parity, write_parity
    from video_recommendation.monitoring.store_latency import read_latencies

    data = run.load()
    results = run.start_results(data)
    recommender = open_recommender(run, data)
    plan = QUICK if quick else FULL
    stage = run.progress.stage("replaying, rebuilding, comparing", len(SCENARIOS))
    with _expected_degradations(), stage as step:
        outcomes, refused = run_scenarios(recommender, data, plan, done=step)
    with run.progress.stage("reading features, five ways", 1):
        n_items = min(run.config.ranking.prerank_keep, data.log.n_items)
        latencies = read_latencies(recommender, n_reads=50 if quick else 1000, n_items=n_items)
    folder = run.results_folder() if not quick else run.artifacts / "demonstrations"
    print_parity(run.console, outcomes, refused, latencies, data, quick=quick)
    write_parity(folder, results, outcomes, latencies, data, items_asked=n_items)
    run.console.print(f"numbers in {folder / 'parity.json'}", highlight=False)


@contextmanager
def _expected_degradations() -> Iterator[None]:
    """A late materialiser degrades every answer: counted in the table, not logged line by line."""
    log = logging.getLogger("ml_platform.serving.stages")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _home(engine: ServingEngine) -> FeatureHome:
    home = engine.production.features
    if home is None:
        raise TypeError(f"version {engine.production.version} reads no stored features")
    return home


def _changed_home(engine: ServingEngine, prefix: str) -> FeatureHome:
    recommender = engine.production.recommender
    if not isinstance(recommender, ReadsStoredFeatures):
        raise TypeError(f"version {recommender.version} reads no stored features")
    count = engine.metrics.feature_rows_read
    return FeatureHome(recommender, engine.store, prefix, count=count, profile_set=CHANGED_PROFILE)
