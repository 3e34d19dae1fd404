"""Lab: the counters stop, and trending goes on.

A job that publishes counters dies in the evening. Its last snapshot is still there, well-formed and
fast to read, so every request is answered, in time, with a full list: yesterday's. Uploads since
then do not exist for it, and what it proposes its readers have seen.

The monitor compares two clocks: the time of the request and the ``as_of_s`` of the snapshot. The
obvious fallback, counters with a long half-life that age more slowly, is the wrong one here; the
right one needs no counters for the half of the list that they cannot know: newest uploads.

A list is worth the share of the next hours' long views that fall on it. Those are long views of
what the logging policy showed, itself a mixture with trending and fresh parts, so the lab compares
lists with each other and proves nothing about their worth to people.

In: simulated worlds and their logs, counters and lists of the system. Out: a ``LabReport``.
Legend: V videos, M list length, E events of the next hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ml_platform.evaluation.intervals import student_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom
from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, new_figure
from ml_platform.evaluation.progress import Progress, Step
from shorts_recommendation.config import StateConfig, WorldConfig
from shorts_recommendation.counters import CounterSnapshot, counters_until
from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog
from shorts_recommendation.retrieval.lists import capped_list, trending_score
from shorts_recommendation.world import World, generate_log, make_world

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

HOUR_S = 3600
AHEAD_S = 2 * HOUR_S
"""The long views of so many seconds after the request decide."""
STALE_PERIODS = 3
"""A snapshot older than so many periods is stale: one is normal, two may be a slow job."""
AGES_H = (0, 3, 6, 12, 18, 24)
REPORTED_H = 12
CREATOR_CAP = 5
LISTS = {
    "healthy": "healthy: counters of this quarter of an hour",
    "broken": "broken: counters stopped",
    "fixed": "fixed: half of it, and the newest uploads",
    "long_half_life": "a week's half-life instead",
    "newest": "newest uploads alone",
}
LABELS = {
    "hits": ("long views of the next two hours on the list", ".1%"),
    "uploads": ("list uploaded within a day", ".1%"),
    "seen": ("list that its readers have seen", ".1%"),
    "full": ("places of the list that are filled", ".0%"),
}
METRICS = tuple(LABELS)


@dataclass(frozen=True)
class TrendingSettings:
    """Size of the lab.

    Attributes:
        n_users: People.
        n_videos: V.
        impressions_per_user: Mean rows of the log.
        length: M.
        n_worlds: Independent worlds; intervals are over them. Moments of one world share its videos
            and people and are averaged.
        stop_days: Days of the log on which the job dies, at each of
        stop_hours: these hours.
    """

    n_users: int = 1000
    n_videos: int = 3000
    impressions_per_user: int = 60
    length: int = 100
    n_worlds: int = 5
    stop_days: tuple[int, ...] = (6, 8, 10, 12)
    stop_hours: tuple[int, ...] = (8, 20)


def run(run: Run) -> LabReport:
    """The lab; it brings its own worlds, whatever the data of the run."""
    return measure(TrendingSettings(), run.progress, seed=run.config.seed)


def measure(settings: TrendingSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Stops the counters at several moments of several worlds; looks at the lists as they age."""
    moments = len(settings.stop_days) * len(settings.stop_hours)
    found = np.empty((len(LISTS), len(AGES_H), settings.n_worlds, len(METRICS)))
    with progress.stage("counters stop", settings.n_worlds * moments) as step:
        for number in range(settings.n_worlds):
            world = make_world(_world(settings), seed + number)
            log = generate_log(world, seed + number)
            found[:, :, number] = in_world(settings, world, log, step).mean(axis=2)
    return _report(settings, {name: found[row] for row, name in enumerate(LISTS)})


def in_world(
    settings: TrendingSettings, world: World, log: ImpressionLog, step: Step
) -> np.ndarray:
    """METRICS of every list, f64[lists, ages, moments, metrics]."""
    stops = [
        world.start_s + day * DAY_S + hour * HOUR_S
        for day in settings.stop_days
        for hour in settings.stop_hours
    ]
    found = np.empty((len(LISTS), len(AGES_H), len(stops), len(METRICS)))
    for number, stop_s in enumerate(stops):
        old = snapshot_at(world.catalogue, log, stop_s)
        for place, age in enumerate(AGES_H):
            now_s = stop_s + age * HOUR_S
            fresh = snapshot_at(world.catalogue, log, now_s)
            lists = all_lists(world.catalogue, old, fresh, now_s, settings.length)
            for row, name in enumerate(LISTS):
                found[row, place, number] = judge(world, log, lists[name], now_s)
        step(1)
    return found


def snapshot_at(catalogue: Catalogue, log: ImpressionLog, until_s: int) -> CounterSnapshot:
    """The counters as a job published them last before ``until_s``."""
    state = StateConfig()
    counters = counters_until(
        catalogue,
        log,
        until_s,
        half_lives_h=state.counter_half_lives_h,
        period_s=state.counter_period_s,
    )
    return counters.snapshot


def is_stale(snapshot: CounterSnapshot, now_s: int, period_s: int) -> bool:
    """The monitor: two clocks that must agree within a few periods."""
    return now_s - snapshot.as_of_s > STALE_PERIODS * period_s


def trending_or_newest(
    catalogue: Catalogue, snapshot: CounterSnapshot, now_s: int, period_s: int, length: int
) -> np.ndarray:
    """The trending list i32[M]; of a stale snapshot only half of it, then the newest uploads."""
    hot = best(trending_score(snapshot), catalogue, snapshot.as_of_s, length)
    if not is_stale(snapshot, now_s, period_s):
        return hot
    young = newest(catalogue, now_s, length)
    half = hot[: length // 2]
    return np.concatenate([half, young[~np.isin(young, half)]])[:length]


def all_lists(
    catalogue: Catalogue, old: CounterSnapshot, fresh: CounterSnapshot, now_s: int, length: int
) -> dict[str, np.ndarray]:
    """Every variant's list of this moment, i32[M]."""
    period = StateConfig().counter_period_s
    return {
        "healthy": best(trending_score(fresh), catalogue, fresh.as_of_s, length),
        "broken": best(trending_score(old), catalogue, old.as_of_s, length),
        "fixed": trending_or_newest(catalogue, old, now_s, period, length),
        "long_half_life": best(old.long_views[-1], catalogue, old.as_of_s, length),
        "newest": newest(catalogue, now_s, length),
    }


def best(score: np.ndarray, catalogue: Catalogue, as_of_s: int, length: int) -> np.ndarray:
    """The best that existed then, a few of one creator; i32[M], -1 padded."""
    order = np.argsort(-np.where(catalogue.upload_s <= as_of_s, score, -np.inf), kind="stable")
    target = np.full(length, -1, dtype=np.int32)
    creator = catalogue.creator_idx.astype(np.int64)
    capped_list(order.astype(np.int32), creator, catalogue.n_creators, CREATOR_CAP, target)
    return target


def newest(catalogue: Catalogue, now_s: int, length: int) -> np.ndarray:
    """The last uploads, newest first, i32[M]."""
    there = np.flatnonzero(catalogue.upload_s <= now_s)
    order = np.argsort(-catalogue.upload_s[there], kind="stable")
    return there[order[:length]].astype(np.int32)


def judge(world: World, log: ImpressionLog, videos: np.ndarray, now_s: int) -> tuple[float, ...]:
    """METRICS of a list shown from ``now_s`` on.

    Raises:
        ValueError: If nobody watched anything through in the hours that decide.
    """
    here, end = np.searchsorted(log.timestamp, [now_s, now_s + AHEAD_S])
    watched = log.video_idx[here:end][log.long_view[here:end]]
    if not len(watched):
        raise ValueError(f"no long view within {AHEAD_S} s of {now_s}: the log is too small")
    readers = np.unique(log.user_idx[here:end])
    n_videos = len(world.catalogue)
    known = np.unique(log.user_idx[:here].astype(np.int64) * n_videos + log.video_idx[:here])
    listed = videos[videos >= 0]
    pairs = (readers[:, None].astype(np.int64) * n_videos + listed).ravel()
    return (
        float(np.isin(watched, listed).mean()),
        float((world.catalogue.upload_s[listed] > now_s - DAY_S).mean()),
        float(np.isin(pairs, known, assume_unique=True).mean()),
        float(len(listed) / len(videos)),
    )


def _report(settings: TrendingSettings, found: Mapping[str, np.ndarray]) -> LabReport:
    at = {name: values[AGES_H.index(REPORTED_H)] for name, values in found.items()}  # [worlds, m]
    main = {name: LISTS[name] for name in ("healthy", "broken", "fixed")}
    others = {name: LISTS[name] for name in ("long_half_life", "newest")}
    period_min = StateConfig().counter_period_s // 60
    hits = {name: float(values[:, 0].mean()) for name, values in at.items()}
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {settings.n_users} people, {settings.n_videos} videos, lists of "
            f"{settings.length} without the seen filter; counters stopped {REPORTED_H} hours ago, "
            f"at {len(settings.stop_days) * len(settings.stop_hours)} moments of each of "
            f"{settings.n_worlds} worlds; long views of the logging policy; Student's t over worlds"
        ),
        main=Comparison(f"{REPORTED_H} hours after the counters stopped", main, _rows(at, main)),
        alarm=(
            f"the snapshot is {REPORTED_H * 60 // period_min} periods old, the limit is "
            f"{STALE_PERIODS}. Every other dashboard: lists {at['broken'][:, 3].mean():.0%} full, "
            f"no error. The hits went from {hits['healthy']:.0%} to {hits['broken']:.0%}."
        ),
        more=(
            Comparison("Other things to fall back on", others, _rows(at, others)),
            _by_age(found),
            _differences(at),
        ),
        figure=_figure(found),
    )


def _rows(at: Mapping[str, np.ndarray], variants: Mapping[str, str]) -> tuple[Symptom, ...]:
    return tuple(
        Symptom(key, label, {n: student_mean(at[n][:, place]) for n in variants}, form)
        for place, (key, (label, form)) in enumerate(LABELS.items())
    )


def _by_age(found: Mapping[str, np.ndarray]) -> Comparison:
    symptoms = tuple(
        Symptom(
            f"{name}_hits",
            LISTS[name].split(":")[0],
            {f"age_{h}h": float(found[name][i, :, 0].mean()) for i, h in enumerate(AGES_H)},
            ".1%",
        )
        for name in ("healthy", "broken", "fixed", "long_half_life")
    )
    return Comparison(
        "Hits by the age of the snapshot", {f"age_{h}h": f"{h} h" for h in AGES_H}, symptoms
    )


def _differences(at: Mapping[str, np.ndarray]) -> Comparison:
    names = [name for name in LISTS if name != "broken"]
    values = {f"{n}_minus_broken": student_mean(at[n][:, 0] - at["broken"][:, 0]) for n in names}
    return Comparison(
        "Hits against the stopped list at the same moment",
        {f"{n}_minus_broken": LISTS[n] for n in names},
        (Symptom("hits", "difference", values, "+.1%"),),
        by_variant=True,
    )


def _figure(found: Mapping[str, np.ndarray]) -> Figure:
    picture, (axes,) = new_figure("What is a list worth whose counters stopped?")
    styles = {
        "healthy": (GREEN, "-"),
        "fixed": (BLUE, "-"),
        "broken": (ORANGE, "-"),
        "long_half_life": (GREY, "--"),
    }
    for name, (colour, line) in styles.items():
        values = found[name][:, :, 0].mean(axis=1)
        axes.plot(AGES_H, values, color=colour, linestyle=line, marker="o", label=LISTS[name])
    axes.set_xlabel("hours since the counters stopped")
    axes.set_ylabel("long views of the next two hours on the list")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return picture


def _world(settings: TrendingSettings) -> WorldConfig:
    return WorldConfig(
        n_users=settings.n_users,
        n_videos=settings.n_videos,
        impressions_per_user=settings.impressions_per_user,
        n_languages=1,
        content_dim=64,
    )
