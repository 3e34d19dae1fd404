"""The loop: labels find their impressions, the books add up, the days run and repeat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from ml_platform.evaluation.results import Results
from ml_platform.operations.registry import ModelRegistry
from ml_platform.serving.event_log import EventLog
from video_recommendation.bundle import check_bundle
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.feedback_loop.analysis import Experiment, over_seeds
from video_recommendation.feedback_loop.audience import Audience, DayTruth
from video_recommendation.feedback_loop.command import run_feedback_loop
from video_recommendation.feedback_loop.loop import DayRecord, Loop, run_arm, wrong_negatives
from video_recommendation.feedback_loop.rollout import DayCanary, replay
from video_recommendation.feedback_loop.service import Watch
from video_recommendation.feedback_loop.settings import GREEDY, HIGH, QUICK
from video_recommendation.feedback_loop.training import CREATOR_IDS, first_version, known_data
from video_recommendation.pipeline import Trained
from video_recommendation.serving.engine import REQUEST_LOG
from video_recommendation.serving.state import WATCH_RATING
from video_recommendation.simulation.world import World

DAY_S = 86_400


@dataclass(frozen=True)
class TwoDays:
    """An exploring loop after two days, still open."""

    world: World
    first: Trained
    loop: Loop
    days: list[DayRecord]
    folder: Path


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoDays]:
    folder = tmp_path_factory.mktemp("loop")
    world = QUICK.world_of(0)
    first = first_version(world, QUICK.config_of(GREEDY, 0))
    loop = Loop(world, QUICK, HIGH, first, folder)
    yield TwoDays(world, first, loop, [loop.run_day(0), loop.run_day(1)], folder)
    loop.close()


def same(day: DayRecord) -> dict[str, object]:
    """A day without what depends on the machine."""
    return {name: value for name, value in asdict(day).items() if name != "seconds"}


# --- the loop on the real parts -----------------------------------------------------------------


@pytest.mark.slow
def test_every_answer_and_event_of_the_days_is_in_the_logs(two_days: TwoDays) -> None:
    log = two_days.folder / "serving" / REQUEST_LOG
    give_up_s = time.monotonic() + 10  # a thread of its own writes what was answered
    while len(log.read_bytes().splitlines()) < 2 * QUICK.n_requests:
        assert time.monotonic() < give_up_s, "the log lacks answers"
        time.sleep(0.02)
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    service = two_days.loop._service

    assert len(records) == 2 * QUICK.n_requests == sum(day.requests for day in two_days.days)
    assert sum(day.degraded for day in two_days.days) == 0
    assert sum(day.events for day in two_days.days) == service.engine.log.last_seq()
    assert all(record["exploration_place"] == HIGH.exploration_slot for record in records)
    assert all(0 < record["propensity"] <= 1 for record in records)
    assert all(np.shape(record["features"]["values"])[0] == QUICK.k for record in records)


@pytest.mark.slow
def test_the_join_of_the_second_day_balances(two_days: TwoDays) -> None:
    rows = two_days.loop._rows
    assert rows is not None
    counts = rows.counts

    counts.check()
    assert counts.impressions == QUICK.n_requests * QUICK.k
    assert 0.3 < two_days.days[1].mature_share < 0.9  # the last day's evening is too young
    assert counts.organic > 0
    assert counts.unknown_request == counts.not_shown == counts.duplicates == 0
    assert 0 < counts.positives < counts.first


@pytest.mark.slow
def test_the_new_version_is_tried_on_some_and_decided(two_days: TwoDays) -> None:
    registry = ModelRegistry(two_days.folder / "registry", check_bundle)
    second = two_days.days[1]
    slots = {record["slot"] for record in two_days.loop._service.reader.records}
    slots |= {
        json.loads(line)["slot"]
        for line in (two_days.folder / "serving" / REQUEST_LOG).read_bytes().splitlines()
    }

    assert slots == {"production", "candidate"}
    assert second.shadow_overlap is not None
    assert 0 < second.shadow_overlap < 1
    assert registry.aliases()["production"] == second.version
    assert (second.version != two_days.days[0].version) == (second.canary == "promoted")
    actions = [change.action for change in registry.history()]
    assert actions.count("register") == 2


@pytest.mark.slow
def test_a_version_counts_no_event_twice(two_days: TwoDays) -> None:
    loop, day = two_days.loop, 2
    morning = loop._morning(day)  # trained on all events so far
    assert morning.candidate is not None
    service = loop._service
    service.install(morning.candidate, "candidate", morning.trained_through_seq)
    candidate = service.engine.candidate
    assert candidate is not None
    service.refresh(two_days.world.day_start(day) + DAY_S // 2)
    assert len(candidate.popularity.counter) == len(morning.candidate.log)

    service.submit([Watch(two_days.world.day_start(day) + DAY_S // 2, None, 1, 5)])
    service.refresh(two_days.world.day_start(day) + DAY_S // 2 + 60)

    assert len(candidate.popularity.counter) == len(morning.candidate.log) + 1
    service.engine.remove_candidate()


@pytest.mark.slow
def test_a_replay_by_the_version_that_answered_agrees_best(two_days: TwoDays) -> None:
    production = two_days.first.recommender
    greedy = QUICK.config_of(GREEDY, 0)
    assert greedy.reranking.exploration_slot == -1
    asked = [
        record
        for record in two_days.loop._service.reader.records
        if record["version"] == two_days.days[0].version
    ]
    own = replay(production, asked, k=QUICK.k, n=15, seed=1).agreement["overlap@10"].value

    # The first version answered them with live histories, and explored: nearly the same lists.
    assert own > 0.6
    assert two_days.days[1].shadow_overlap is not None
    assert own > two_days.days[1].shadow_overlap


@pytest.mark.slow
def test_an_interrupted_day_leaves_whole_days(
    two_days: TwoDays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = Audience.visit

    def interrupted(self: Audience, service, day, who, truth: DayTruth) -> bool:  # type: ignore[no-untyped-def]
        if day == 1 and who.number == 5:
            raise KeyboardInterrupt
        return visit(self, service, day, who, truth)

    monkeypatch.setattr(Audience, "visit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_arm(two_days.world, QUICK, HIGH, two_days.first, tmp_path)

    assert [path.name for path in sorted((tmp_path / "days").iterdir())] == ["day_00.json"]
    again = DayRecord(**json.loads((tmp_path / "days" / "day_00.json").read_text()))
    assert same(again) == same(two_days.days[0])  # and the same seed gives the same day
    registry = ModelRegistry(tmp_path / "registry", check_bundle)
    assert check_bundle(registry.path("production"))["version"] == again.version
    with EventLog(tmp_path / "serving" / "events.sqlite") as log:
        assert log.last_seq() >= again.events


def test_a_run_that_is_stopped_ends_before_the_next_day(two_days: TwoDays, tmp_path: Path) -> None:
    assert run_arm(two_days.world, QUICK, HIGH, two_days.first, tmp_path, stop=lambda: True) == []


@pytest.mark.slow
def test_the_command_runs_quickly_and_says_so(tmp_path: Path, two_days: TwoDays) -> None:
    console = Console(record=True, width=100)
    run_feedback_loop(Run(Config(), tmp_path, console), quick=True)

    printed = console.export_text()
    assert "QUICK RUN" in printed
    assert "SYNTHETIC" in printed
    assert "no exploration" in printed
    folder = tmp_path / "demonstrations"
    results = Results.read(folder / "feedback_loop.json")
    assert results.run.dataset.synthetic
    assert results["loop/greedy/regret_day_00"].value > 0
    assert "loop/explore_high/price_day_00" in results
    assert results["loop/books/requests_degraded"].value == 0
    for name in ("regret", "catalogue"):
        picture = folder / "plots" / f"feedback_loop_{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    days = sorted((tmp_path / "feedback_loop" / "seed_0" / "explore_high" / "days").iterdir())
    found = [DayRecord(**json.loads(path.read_text())) for path in days]
    assert [same(day) for day in found] == [same(day) for day in two_days.days]


# --- what is known, and to whom it happened -----------------------------------------------------


def test_known_data_keeps_the_last_opinion_and_cuts_at_the_moment(two_days: TwoDays) -> None:
    world = two_days.world
    start = world.day_start(0)
    new = int(world.available(0)[-1]) + 1
    watches = [
        event(Watch(start + 100, "r1", 3, new)),
        event(Watch(start + 160, "r1", 3, new, 5.0)),
        event(Watch(start + 400, "r2", 3, new - 1)),
        event(Watch(start + 900, "r3", 4, new)),
    ]
    data = known_data(world, watches, 0, QUICK.config_of(GREEDY, 0), as_of=start + 900)
    log = data.log
    mine = [
        (int(log.item_ids[i]), float(r), int(t))
        for u, i, r, t in zip(log.user_idx, log.item_idx, log.rating, log.timestamp, strict=True)
        if log.user_ids[u] == 3 and t >= start
    ]

    assert mine == [(new, 5.0, start + 160), (new - 1, WATCH_RATING, start + 400)]
    assert not ((log.user_ids[log.user_idx] == 4) & (log.timestamp >= start)).any()  # not yet
    creator = log.user_ids[log.user_idx] == CREATOR_IDS + new
    assert log.timestamp[creator].tolist() == [start]
    assert len(data.catalogue) == len(world.available(0))


def test_what_is_on_its_way_at_midnight_arrives_on_the_next_day(two_days: TwoDays) -> None:
    audience, service = Audience(two_days.world, QUICK), Letterbox()
    for at in (10, 20, 30, 40):
        audience._push(Watch(at, "r", 1, at))

    assert [watch.at for watch in audience.deliver(service, 30)] == [10, 20]
    assert audience.n_pending == 2
    assert [watch.at for watch in audience.deliver(service, 100)] == [30, 40]
    assert audience.n_pending == 0
    assert {watch.at for watch in service.got} == {10, 20, 30, 40}


def test_a_retry_names_the_same_event_and_a_rating_another() -> None:
    watch = Watch(50, "d01r00002", 7, 9)

    assert watch.event_id == replace(watch, at=60).event_id == "d01r00002/9/watch"
    assert replace(watch, rating=4.0).event_id == "d01r00002/9/rating"
    assert replace(watch, request_id=None).event_id.startswith("organic/")


def test_arms_meet_the_same_visits(two_days: TwoDays) -> None:
    one, two = Audience(two_days.world, QUICK), Audience(two_days.world, QUICK)

    assert one.visits(3) == two.visits(3)
    assert one.visits(3) != one.visits(4)
    start = two_days.world.day_start(3)
    assert all(start + 8 * 3600 <= visit.at < start + DAY_S for visit in one.visits(3))


# --- canary and sums ----------------------------------------------------------------------------


def run_canary(clicks_of_candidate: float, *, failing: bool = False) -> str:
    rng = np.random.default_rng(0)
    canary = DayCanary("v2", 0)
    for user in range(4_000):
        now = 20 * user
        arm = canary.controller.arm(user)
        canary.served(user, failed=failing and arm == "candidate", now=now)
        rate = clicks_of_candidate if arm == "candidate" else 1.5
        canary.watched([Watch(now + 1, f"r{user}", user, 1)] * int(rng.poisson(rate)))
        if user % 10 == 0 and canary.look(now).final:
            break
    return canary.controller.decisions[-1].action


def test_the_canary_promotes_an_equal_and_sends_back_a_failure() -> None:
    assert run_canary(1.5) == "promote"
    assert run_canary(0.0) == "roll back"
    assert run_canary(1.5, failing=True) == "roll back"


def test_a_rating_or_an_organic_watch_is_no_click_of_a_list() -> None:
    canary = DayCanary("v2", 0)
    canary.served(1, failed=False, now=0)
    canary.watched([Watch(1, "r1", 1, 1, 5.0), Watch(2, None, 1, 1)])
    assert canary.controller.counts._open[1].clicks == 0
    canary.watched([Watch(3, "r1", 1, 1)])
    assert canary.controller.counts._open[1].clicks == 1


def experiment(regret: dict[str, list[list[float]]]) -> Experiment:
    settings = replace(QUICK, seeds=tuple(range(len(regret["greedy"]))), n_days=3)
    blank = {
        name: 0 if kind == "int" else "" if kind == "str" else 0.5
        for name, kind in DayRecord.__annotations__.items()
    }
    days = {
        (arm, seed): [DayRecord(**{**blank, "day": d, "regret": r}) for d, r in enumerate(row)]
        for arm, rows in regret.items()
        for seed, row in enumerate(rows)
    }
    return Experiment(settings, days)


def test_price_gain_and_break_even_by_hand() -> None:
    found = experiment(
        {
            "greedy": [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0]],
            "explore_high": [[2.5, 1.8, 1.6], [1.1, 2.1, 3.1]],
        }
    )

    assert found.price(HIGH).value == pytest.approx(0.3)
    assert found.gain(HIGH).value == pytest.approx((0.4 - 0.1) / 2)
    assert found.balance(HIGH).value == pytest.approx((0.1 - 0.3) / 6)
    balance = [day.value for day in found.running_balance(HIGH)]
    assert balance == pytest.approx([-0.3, -0.25, -0.1])
    assert found.break_even(HIGH) is None
    assert found.break_even_by_seed(HIGH) == [2, None]


def test_the_interval_over_worlds_is_students() -> None:
    values = np.array([1.0, 1.5, 2.5, 2.0])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))

    found = over_seeds(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert over_seeds(np.array([1.0])).low is None
    assert over_seeds(np.array([np.nan, 1.0, 3.0])).value == 2.0


def test_wrong_negatives_need_two_mornings(two_days: TwoDays) -> None:
    rows = two_days.loop._rows
    assert rows is not None
    assert wrong_negatives(None, rows) is None
    young = np.flatnonzero(~rows.mature)
    before = rows.watched.copy()
    before[young] = False
    after = before.copy()
    after[young[:3]] = True  # three watches of young rows became known over night,
    before[young[0]] = True  # one of them was known already

    share = wrong_negatives(replace(rows, watched=before), replace(rows, watched=after))
    assert share == pytest.approx(2 / 3)


class Letterbox:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.got: list[Watch] = []

    def submit(self, watches: list[Watch]) -> None:
        self.got += watches


def event(watch: Watch):  # type: ignore[no-untyped-def]
    from ml_platform.serving.event_log import StoredEvent
    from video_recommendation.feedback_loop.logs import watch_of

    logged = watch.logged()
    return watch_of(StoredEvent(1, logged.event_id, logged.received_at, logged.body))
