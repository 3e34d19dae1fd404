"""The loop on the terminal, in the results and in pictures.

In: an ``Experiment``. Out: a line for each day, a table of the arms, metrics, two figures.
"""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from video_recommendation.feedback_loop.analysis import MEASURES, Experiment
from video_recommendation.feedback_loop.loop import DayRecord
from video_recommendation.feedback_loop.settings import Arm
from video_recommendation.reporting.grid import (
    Cell,
    Grid,
    difference,
    estimate,
    interval_text,
    sentences,
    text,
)

COLOURS = {"greedy": ORANGE, "explore_low": BLUE, "explore_high": GREEN}
MARKERS = {"greedy": "s", "explore_low": "o", "explore_high": "^"}
DAY_HEAD = (
    "arm          day version  events (+again)  rows  mature late  shadow canary        "
    "regret  hits"
)


def day_line(arm: str, day: DayRecord) -> str:
    """One day as a line of the log, under ``DAY_HEAD``."""
    shadow = "   –" if day.shadow_overlap is None else f"{day.shadow_overlap:4.2f}"
    hits = "   –" if day.hits_found is None else f"{day.hits_found:4.0%}"
    return (
        f"{arm:<12} {day.day:>3} {day.version[:7]} {day.events:>7,} (+{day.duplicates:>3}) "
        f"{day.rows:>9,} {day.mature_share:>6.0%} {day.late:>4} {shadow:>7} {day.canary:<13} "
        f"{day.regret:>5.2f}  {hits}"
    )


def arms_grid(found: Experiment, flag: str) -> Grid:
    """The arms at the end, and what exploring cost and brought."""
    rows = [
        (
            text(arm.label),
            estimate(found.at_the_end(arm, "regret"), 2),
            _price(found, arm),
            _gain(found, arm),
            text(_break_even_text(found, arm)),
            estimate(found.at_the_end(arm, "hits_found"), 2),
            estimate(found.at_the_end(arm, "ever_shown"), 2),
            estimate(found.at_the_end(arm, "top_share"), 2),
        )
        for arm in found.settings.arms
    ]
    heads = ("arm", "regret", "price", "gain", "paid back", "hits", "ever shown", "top tenth")
    return Grid(
        f"After {found.settings.n_days} days: what is lost without exploration",
        heads,
        tuple(rows),
        sentences(
            flag,
            f"Mean of the last {found.last_days} days over {len(found.settings.seeds)} worlds; ± "
            "is half the width of a 95% t interval over worlds. regret: expected watches a request "
            "below the best list. price: regret that exploring adds on day 0, with the same "
            "models. gain: regret that it saves in the last days, both within a world. paid back: "
            "the day from which the mean running balance stays positive, and in how many worlds it "
            "does. hits: new items of the best "
            "tenth that were shown 20 times. ever shown: share of the catalogue. top tenth: share "
            "of a day's impressions that the most shown tenth of the items takes.",
        ),
    )


def story(found: Experiment) -> list[str]:
    """What exploration costs and when it pays, and what the loop's own books say."""
    lines = [_verdict(found, arm) for arm in found.exploring]
    books = _books(found)
    lines.append(
        f"{books['versions_promoted']} of {books['versions_tried']} new versions were promoted, "
        f"{books['requests_degraded']} of {books['requests']:,} requests answered by a fallback; "
        f"{books['events_accepted']:,} events, {books['events_sent_again']:,} more sent again and "
        "counted once."
    )
    wrong = _wrong_negatives(found)
    if wrong is not None:
        lines.append(
            f"Of the watches on rows that were too young to train on, {wrong:.1%} were unknown at "
            "six in the morning: as negatives they would have been wrong."
        )
    return lines


def record(results: Results, found: Experiment) -> None:
    """Every measure of every day, and the summary."""
    settings = found.settings
    protocol = (
        f"SYNTHETIC world, {len(settings.seeds)} worlds, {settings.n_days} days of "
        f"{settings.n_requests} requests, t interval over worlds"
    )
    for arm in settings.arms:
        for measure in MEASURES:
            for day, value in enumerate(found.by_day(arm, measure)):
                _add(results, f"loop/{arm.name}/{measure}_day_{day:02d}", value, protocol)
            end = found.at_the_end(arm, measure)
            _add(results, f"loop/{arm.name}/{measure}_at_the_end", end, protocol)
    for arm in found.exploring:
        key = f"loop/{arm.name}"
        _add(results, f"{key}/price_day_00", found.price(arm), protocol)
        _add(results, f"{key}/gain_at_the_end", found.gain(arm), protocol)
        _add(results, f"{key}/balance_all_days", found.balance(arm), protocol)
        paid = found.break_even(arm)
        if paid is not None:  # absent where it is not paid back within the run
            results.add(f"{key}/break_even_day", paid, protocol=protocol, n=len(settings.seeds))
        in_time = sum(day is not None for day in found.break_even_by_seed(arm))
        results.add(f"{key}/worlds_paid_back", in_time, protocol=protocol, n=len(settings.seeds))
    _record_books(results, found, protocol)


def regret_figure(found: Experiment, note: str) -> Figure:
    """Regret by day, and the running balance of exploring."""
    figure, (left, right) = new_figure("A loop that never explores, and two that do", panels=2)
    for arm in found.settings.arms:
        _band(left, arm, found.by_day(arm, "regret"))
    left.set_ylabel("regret, expected watches a request")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    right.axhline(0, color=GREY, linewidth=1)
    for arm in found.exploring:
        _band(right, arm, found.running_balance(arm))
        paid = found.break_even(arm)
        if paid:
            right.axvline(paid, color=COLOURS[arm.name], linewidth=1, linestyle=":")
    right.set_ylabel("watches gained so far,\nfor each daily request")
    for axes in (left, right):
        axes.set_xlabel("day")
    figure.supxlabel(note, fontsize=7, color="0.4", wrap=True)
    return figure


def catalogue_figure(found: Experiment, note: str) -> Figure:
    """What of the catalogue is known and shown."""
    panels = {
        "hits_found": "best new items that were found",
        "ever_shown": "catalogue ever shown",
        "top_share": "impressions of the top tenth",
    }
    figure, many = new_figure("What the loop knows of its catalogue", panels=len(panels))
    for axes, (measure, title) in zip(many, panels.items(), strict=True):
        for arm in found.settings.arms:
            _band(axes, arm, found.by_day(arm, measure))
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_ylim(0, 1)
        axes.set_xlabel("day")
    many[0].legend(frameon=False, fontsize=7, loc="upper left")
    figure.supxlabel(note, fontsize=7, color="0.4", wrap=True)
    return figure


def _band(axes: Any, arm: Arm, values: list[Estimate]) -> None:
    """A line over days with its interval as a band."""
    colour = COLOURS[arm.name]
    days = list(range(len(values)))
    means = [value.value for value in values]
    marker = MARKERS[arm.name]
    axes.plot(days, means, color=colour, marker=marker, markersize=4, label=arm.label)
    ends = [(day, v.low, v.high) for day, v in enumerate(values) if v.low is not None]
    if ends:
        x, low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _price(found: Experiment, arm: Arm) -> Cell:
    return estimate(found.price(arm), 2) if arm in found.exploring else text("")


def _gain(found: Experiment, arm: Arm) -> Cell:
    return difference(found.gain(arm), 2) if arm in found.exploring else text("")


def _break_even_text(found: Experiment, arm: Arm) -> str:
    if arm not in found.exploring:
        return ""
    paid, by_seed = found.break_even(arm), found.break_even_by_seed(arm)
    worlds = f"in {sum(day is not None for day in by_seed)}/{len(by_seed)}"
    return f"{'no' if paid is None else f'day {paid}'}, {worlds}"


def _verdict(found: Experiment, arm: Arm) -> str:
    price, balance = found.price(arm), found.balance(arm)
    cost = f"costs {price.value:.2f}" if price.value > 0 else "costs nothing that can be seen"
    n_days, paid = found.settings.n_days, found.break_even(arm)
    when = f"is not paid back within {n_days} days"
    if paid is not None:
        when = f"is paid back on day {paid}"
    by_seed = found.break_even_by_seed(arm)
    return (
        f"{arm.label}: {cost} watches a request on day 0 and {when} in the mean "
        f"({sum(day is not None for day in by_seed)} of {len(by_seed)} worlds); over all days "
        f"{interval_text(balance, 2, signed=True)} a request."
    )


def _books(found: Experiment) -> dict[str, int]:
    """What the loop itself counted, over all arms and worlds."""
    every = [day for days in found.days.values() for day in days]
    return {
        "requests": sum(day.requests for day in every),
        "requests_degraded": sum(day.degraded for day in every),
        "events_accepted": sum(day.events for day in every),
        "events_sent_again": sum(day.duplicates for day in every),
        "versions_tried": sum(day.canary != "none" for day in every),
        "versions_promoted": sum(day.canary == "promoted" for day in every),
        "versions_rolled_back": sum(day.canary == "rolled back" for day in every),
    }


def _wrong_negatives(found: Experiment) -> float | None:
    shares = [
        day.wrong_negatives
        for days in found.days.values()
        for day in days
        if day.wrong_negatives is not None
    ]
    return sum(shares) / len(shares) if shares else None


def _record_books(results: Results, found: Experiment, protocol: str) -> None:
    for name, value in _books(found).items():
        results.add(f"loop/books/{name}", value, protocol=protocol)
    wrong = _wrong_negatives(found)
    if wrong is not None:
        results.add("loop/books/wrong_negatives", wrong, protocol=protocol)


def _add(results: Results, key: str, value: Estimate, protocol: str) -> None:
    if not math.isnan(value.value):
        results.add(key, value, protocol=protocol)
