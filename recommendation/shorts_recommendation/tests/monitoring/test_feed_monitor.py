"""The feed's monitor: what it counts, and two drifts that it names."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ml_platform.operations.drift_watch import line
from shorts_recommendation.config import Config, WorldConfig
from shorts_recommendation.counters import CounterSnapshot, counters_until, feature_names
from shorts_recommendation.experiments.policies import TagMatch
from shorts_recommendation.features import cross_feature_names, cross_features, replay
from shorts_recommendation.items import ItemTable, fit_projection, make_items
from shorts_recommendation.log import DAY_S
from shorts_recommendation.monitoring.monitor import FeedMonitor, MonitorSettings
from shorts_recommendation.monitoring.reference import (
    CATALOGUE,
    COUNTERS,
    build_reference,
    explain_family,
    load_reference,
    monitored_columns,
    save_reference,
    shown_rows,
)
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import Outcomes
from shorts_recommendation.world.generate import generate_log
from shorts_recommendation.world.world import make_world

CONFIG = Config(
    world=WorldConfig(
        n_users=300, n_videos=600, impressions_per_user=80, days=14, content_dim=32, n_tags=12
    )
)


@dataclass
class TinySlate:
    video_idx: np.ndarray
    value: np.ndarray
    reasons: list[str]


class TagFeed:
    """A recommender that matches tags; its value is the rank it gave."""

    def __init__(self, items: ItemTable) -> None:
        self.config, self.items = CONFIG, items

    def recommend(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> list[TinySlate]:
        videos = TagMatch(self.items).next_videos(batch, snapshot, k)
        value = 1 - np.arange(k, dtype=np.float32) / k
        return [
            TinySlate(row[row >= 0], value[: (row >= 0).sum()], ["fresh"] * k) for row in videos
        ]


@dataclass
class Day:
    """Requests of all people at one moment, and what was known then."""

    feed: TagFeed
    batch: RequestBatch
    snapshot: CounterSnapshot


@pytest.fixture(scope="module")
def days() -> tuple[Day, Day]:
    """Two midnights, a day apart: the reference's, and one on which nothing is wrong."""
    world = make_world(CONFIG.world, 0)
    log = generate_log(world, 0)
    items = make_items(world.catalogue, fit_projection(world.catalogue.content, seed=0))
    found = []
    for day in (12, 13):
        until_s = world.start_s + day * DAY_S
        before = log.select(log.timestamp < until_s)
        _, states = replay(world.catalogue, world.users, items, before, CONFIG.state)
        counters = counters_until(
            world.catalogue,
            before,
            until_s,
            half_lives_h=CONFIG.state.counter_half_lives_h,
            period_s=CONFIG.state.counter_period_s,
        )
        users = np.arange(len(world.users), dtype=np.int32)
        batch = states.batch(users, np.full(len(users), until_s))
        found.append(Day(TagFeed(items), batch, counters.snapshot))
    return found[0], found[1]


def watching(day: Day, reference, **settings) -> FeedMonitor:
    given = {"every": 1, "launch_rows": 10**9, **settings}
    return FeedMonitor(
        CollectorRegistry(),
        CONFIG.state,
        lambda: day.feed.items,
        snapshot_age_s=lambda: 7.0,
        trained=reference,
        settings=MonitorSettings(**given),
    )


def show(monitor: FeedMonitor, day: Day, k: int = 10) -> None:
    slates = day.feed.recommend(day.batch, day.snapshot, k)
    monitor.slates_made(day.batch, day.snapshot, slates, [None] * len(slates))
    monitor.refresh()


@pytest.fixture(scope="module")
def reference(days):
    return build_reference(days[0].feed, days[0].batch, days[0].snapshot)


def alerts(monitor: FeedMonitor, name: str = "training") -> dict[str, str]:
    return {
        f.feature: f.kind for f in monitor.watch.reports[name].findings if f.severity == "alert"
    }


# --- drift --------------------------------------------------------------------------------------


def test_a_day_later_the_catalogues_columns_have_not_moved(days, reference):
    monitor = watching(days[1], reference)
    show(monitor, days[1])
    found = monitor.watch.reports["training"]
    assert found.ready
    assert not {f.feature for f in found.findings} & {"log_duration", "language_match"}


def test_durations_in_another_unit_are_named_with_the_unit(days, reference):
    """An upload service that begins to send milliseconds."""
    day = days[0]
    broken = replace(day.feed.items, log_duration=day.feed.items.log_duration + np.log(1000))
    sick = Day(TagFeed(broken), day.batch, day.snapshot)
    monitor = watching(sick, reference)
    show(monitor, sick)
    assert set(alerts(monitor)) == {"log_duration"}
    (finding,) = (
        f for f in monitor.watch.reports["training"].findings if f.feature == "log_duration"
    )
    assert finding.direction == "up"
    assert "items" in line(finding)


def test_counters_that_stop_are_named_as_one_broken_upstream(days, reference):
    """The stream's consumer hangs for a day: the short windows run empty before anything else."""
    day = days[0]
    fade = np.exp2(-24.0 / np.array(CONFIG.state.counter_half_lives_h, np.float32))
    counts = day.snapshot.counts * fade[None, :, None].astype(np.float32)
    later = CounterSnapshot(day.snapshot.as_of_s, counts, day.snapshot.exposures)
    monitor = watching(day, reference)
    slates = day.feed.recommend(day.batch, day.snapshot, 10)
    monitor.slates_made(day.batch, later, slates, [None] * len(slates))
    monitor.refresh()
    found = alerts(monitor)
    assert "log_impressions_2h" in found
    assert set(found) <= set(feature_names(CONFIG.state.counter_half_lives_h))
    (conclusion,) = monitor.watch.reports["training"].conclusions
    assert conclusion.startswith("counters run empty")
    assert monitor.describe()["training"][0] == conclusion


def test_the_same_requests_again_raise_nothing(days, reference):
    monitor = watching(days[0], reference)
    show(monitor, days[0])
    assert monitor.watch.reports["training"].findings == ()


def test_the_launch_reference_is_what_came_first(days):
    monitor = watching(days[0], None, launch_rows=2_000)
    show(monitor, days[0])
    assert set(monitor.watch.reports) == {"launch"}
    assert monitor.watch.reports["launch"].findings == ()
    waiting = watching(days[0], None, launch_rows=100_000)
    show(waiting, days[0])
    assert waiting.watch.reports == {}


# --- the reference ------------------------------------------------------------------------------


def test_rows_are_the_features_that_the_ranker_reads(days):
    day = days[0]
    request = day.batch.take(slice(5, 6))
    (slate,) = day.feed.recommend(request, day.snapshot, 4)
    rows = shown_rows(request, slate, day.snapshot, day.feed.items)
    assert rows.shape == (4, len(cross_feature_names(CONFIG.state)) + 1)
    expected = cross_features(request, slate.video_idx[None], day.snapshot, day.feed.items)[0]
    assert (rows[:, :-1] == expected).all()
    assert rows[:, -1].tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_every_column_has_an_owner_and_a_family():
    columns = monitored_columns(CONFIG.state)
    assert [c.name for c in columns[:-1]] == cross_feature_names(CONFIG.state)
    assert all(c.owner.startswith("shorts_recommendation.") for c in columns)
    families = {c.name: c.family for c in columns}
    assert families["log_duration"] == CATALOGUE
    assert families["skip_rate_24h"] == families["log_exposures"] == COUNTERS
    assert families["tag_of_late"] == "states"
    assert columns[-1].group == "prediction"


def test_the_reference_travels_in_a_folder(reference, tmp_path):
    assert load_reference(tmp_path) is None
    save_reference(reference, tmp_path)
    loaded = load_reference(tmp_path)
    assert loaded is not None
    for one, other in zip(loaded.columns, reference.columns, strict=True):
        assert (one.info.name, one.info.owner) == (other.info.name, other.info.owner)
        assert (one.cuts == other.cuts).all()
        assert (one.shares.share == other.shares.share).all()


def test_requests_without_an_answer_leave_no_reference(days):
    class Silent(TagFeed):
        def recommend(self, batch, snapshot, k):
            return [TinySlate(np.zeros(0, np.int32), np.zeros(0), []) for _ in range(len(batch))]

    with pytest.raises(ValueError, match="none of 300 requests"):
        build_reference(Silent(days[0].feed.items), days[0].batch, days[0].snapshot)


def test_only_counters_have_a_known_common_cause(days, reference):
    assert explain_family("states", []) is None
    assert explain_family(COUNTERS, []) is None


# --- counts -------------------------------------------------------------------------------------


def test_events_and_their_effect_are_counted(days):
    monitor = watching(days[0], None)
    yes, no = np.array([True, False, False]), np.array([False, False, True])
    watch_s = np.array([20.0, 5.0, 1.0], np.float32)
    monitor.events_applied([4, 9, 9], Outcomes(watch_s, yes, no, yes, no, no))
    two = days[0].batch.take(np.array([4, 6]))
    slates = days[0].feed.recommend(two, days[0].snapshot, 3)
    now = time.perf_counter()
    monitor.slates_made(two, days[0].snapshot, slates, [now, now])
    values = read(monitor)
    assert values["feed_watched_total", "shown"] == 3
    assert values["feed_watched_total", "long_view"] == 1
    assert values["feed_watched_total", "skip"] == 1
    assert values["feed_slots_total", "fresh"] == 6
    assert values["feed_slots_total", "relevance"] == 0
    assert values["feed_event_effect_seconds_count", ""] == 1  # user 9 has not asked yet
    assert values["feed_snapshot_age_seconds", ""] == 7.0


def test_an_effect_is_timed_from_the_question_and_a_slate_made_ahead_has_none(days):
    monitor = watching(days[0], None)
    nothing = np.zeros(2, bool)
    outcomes = Outcomes(np.zeros(2, np.float32), *[nothing] * 5)
    monitor.events_applied([4, 6], outcomes)
    time.sleep(0.3)  # both watch
    two = days[0].batch.take(np.array([4, 6]))
    slates = days[0].feed.recommend(two, days[0].snapshot, 3)
    monitor.slates_made(two, days[0].snapshot, slates, [time.perf_counter(), None])
    values = read(monitor)
    assert values["feed_event_effect_seconds_count", ""] == 1
    assert values["feed_event_effect_seconds_sum", ""] < 0.3


def test_places_are_counted_as_far_as_an_answer_reaches(days):
    """Twenty are computed, ten answered: an upload on the sixteenth has not been seen."""

    class Late(TagFeed):
        def recommend(self, batch, snapshot, k):
            found = super().recommend(batch, snapshot, k)
            return [replace(one, reasons=["relevance"] * 15 + ["fresh"] * 5) for one in found]

    monitor = FeedMonitor(
        CollectorRegistry(),
        CONFIG.state,
        lambda: days[0].feed.items,
        snapshot_age_s=lambda: 7.0,
        answered=10,
        settings=MonitorSettings(),
    )
    two = days[0].batch.take(np.array([4, 6]))
    slates = Late(days[0].feed.items).recommend(two, days[0].snapshot, 20)
    monitor.slates_made(two, days[0].snapshot, slates, [None, None])
    assert read(monitor)["feed_slots_total", "relevance"] == 20
    assert read(monitor)["feed_slots_total", "fresh"] == 0


def read(monitor: FeedMonitor) -> dict[tuple[str, str], float]:
    text = generate_latest(monitor.registry)
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_one_slate_in_so_many_is_compared(days, reference):
    monitor = watching(days[0], reference, every=3)
    show(monitor, days[0], k=5)
    assert monitor.watch.reports["training"].n_rows == 100 * 5


def test_the_thread_reports_by_itself_and_stops(days, reference):
    monitor = watching(days[0], reference, interval_s=0.01)
    before = set(threading.enumerate())
    monitor.start()
    slates = days[0].feed.recommend(days[0].batch, days[0].snapshot, 5)
    monitor.slates_made(days[0].batch, days[0].snapshot, slates, [None] * len(slates))
    end = time.monotonic() + 20
    while not monitor.watch.reports:
        assert time.monotonic() < end
        time.sleep(0.01)
    monitor.close()
    assert set(threading.enumerate()) <= before
