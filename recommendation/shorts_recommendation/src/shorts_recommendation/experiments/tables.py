"""What the experiments say, as tables on the terminal and as results by key.

In: ``Outcome``s and false alarms. Out: rich tables, and ``experiment_<name>/<arm>/<metric>`` keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from ml_platform.evaluation.intervals import Estimate, bootstrap_mean, student_mean
from ml_platform.evaluation.results import Results
from ml_platform.operations.experiments import Effect, unit_values
from shorts_recommendation.experiments.false_alarms import STOPS, TESTS, FalseAlarms
from shorts_recommendation.experiments.measures import BY_NAME, METRICS
from shorts_recommendation.experiments.reading import (
    ALPHA,
    GUARDRAILS,
    Look,
    first_alarm,
)
from shorts_recommendation.experiments.studies import Outcome

RESAMPLES = 500
_TEST_WORDS = {
    "once": "once, at the end",
    "once_cuped": "once, CUPED",
    "peeking": "every day, fixed-size test",
    "always_valid": "every day, always-valid",
}
_STOP_WORDS = {
    "guardrail_stop": "any guardrail falls, 5% in all: the rule in use",
    "any_guardrail_uncorrected": "any guardrail falls, 5% each",
    "any_metric": "any metric moves, 5% each",
    "any_metric_peeking": "any metric moves, fixed-size test",
}


# --- on the terminal ----------------------------------------------------------------------------


def effects_table(outcome: Outcome, note: str) -> Table:
    """A row a metric, a column an arm: value of the control, relative differences."""
    control, *others = outcome.study.arms
    table = _table(outcome.study.title, note)
    table.add_column("metric")
    table.add_column(control.words, justify="right")
    for arm in others:
        table.add_column(arm.words, justify="right")
    table.add_column("CUPED saves", justify="right")
    for metric in METRICS:
        readings = [outcome.readings[arm.name].get(metric.name) for arm in others]
        first = next((one for one in readings if one is not None), None)
        if first is None:
            continue
        saved = "" if first.variance_saved is None else f"{first.variance_saved:.0%}"
        cells = ["" if one is None else _relative(one.best) for one in readings]
        table.add_row(metric.words, f"{first.plain.control:.3f}", *cells, saved)
    return table


def market_table(markets: Mapping[str, Mapping[str, Estimate]], title: str, note: str) -> Table:
    """A row an arm, a column a measure; means over runs."""
    table = _table(title, note)
    names = list(next(iter(markets.values())))
    table.add_column("arm")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for arm, measures in markets.items():
        table.add_row(arm, *(_with_half(measures[name]) for name in names if name in measures))
    return table


def false_alarm_table(found: Mapping[str, FalseAlarms], note: str) -> Table:
    """A row a way to read, a column a metric."""
    table = _table("A/A tests: share that find a difference where there is none", note)
    table.add_column("test")
    for name in found:
        table.add_column(BY_NAME[name].words, justify="right")
    for test in TESTS:
        table.add_row(_TEST_WORDS[test], *(_percent(one.rates[test]) for one in found.values()))
    return table


def stop_alarm_table(found: Mapping[str, Estimate], note: str) -> Table:
    """A row a rule: how often it ends an experiment in which nothing happens."""
    table = _table("A/A tests: share that a daily rule would have stopped", note)
    table.add_column("stop when")
    table.add_column("stopped", justify="right")
    for rule in STOPS:
        table.add_row(_STOP_WORDS[rule], _percent(found[rule]))
    return table


def stop_table(outcomes: Sequence[Outcome], note: str) -> Table:
    """A row a run, a column an arm: the day on which the guardrails stop it, and which did."""
    study = outcomes[0].study
    table = _table(f"{study.title}: stopped by a guardrail, {', '.join(GUARDRAILS)}", note)
    table.add_column("run")
    for arm in study.arms[1:]:
        table.add_column(arm.words, justify="right")
    for number, outcome in enumerate(outcomes, start=1):
        stops = [outcome.guardrail_stop(arm.name) for arm in study.arms[1:]]
        words = [f"day {one.day}: {one.metric}" if one else "never" for one in stops]
        table.add_row(str(number), *words)
    return table


def guardrail_table(outcome: Outcome, arm: str, note: str) -> Table:
    """When each metric of an arm first left 0, either way; ``stop_table`` is what decides.

    A guardrail is read with its share of the 5%, each other metric by itself with 5%.
    """
    words = next(spec.words for spec in outcome.study.arms if spec.name == arm)
    table = _table(f"{outcome.study.title}: when it shows, {words}", note)
    for column in ("metric", "kind"):
        table.add_column(column)
    for column in ("at the end", "always-valid finds it after", "a peeker stops after"):
        table.add_column(column, justify="right")
    for metric in METRICS:
        if metric.name not in outcome.readings[arm]:
            continue
        looks = outcome.looks(arm, metric.name)
        found = alarm_day(looks)
        peeker = next((one.day for one in looks if one.fixed.p_value < ALPHA), None)
        table.add_row(
            metric.words,
            metric.kind,
            _relative(outcome.readings[arm][metric.name].best),
            "not found" if found is None else f"{found} days",
            "never" if peeker is None else f"{peeker} days",
        )
    return table


def alarm_day(looks: Sequence[Look]) -> int | None:
    """The first day on which the always-valid interval excludes 0, either way."""
    days = [first_alarm(looks, down=down) for down in (True, False)]
    return min((day for day in days if day is not None), default=None)


def _table(title: str, note: str) -> Table:
    words = f"{title} ({note})" if note else title
    return Table(title=words, title_justify="left", title_style="bold")


def _relative(effect: Effect) -> str:
    if effect.relative is None or effect.relative_low is None or effect.relative_high is None:
        return f"{effect.difference:+.3f}"
    if abs(effect.relative) > 1:  # of almost nothing; a percentage of it says nothing
        return f"{effect.difference:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"
    low, high = 100 * effect.relative_low, 100 * effect.relative_high
    return f"{100 * effect.relative:+.1f}% [{low:+.1f}, {high:+.1f}]"


def _with_half(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ±{(found.high - found.low) / 2:.3f}"


def _percent(rate: Estimate) -> str:
    if rate.low is None or rate.high is None:
        return f"{rate.value:.1%}"
    return f"{rate.value:.1%} ±{50 * (rate.high - rate.low):.1f}"


# --- as results ---------------------------------------------------------------------------------


def record(results: Results, outcome: Outcome, protocol: str) -> None:
    """Arms with intervals by person, and differences to the control."""
    study = outcome.study
    stage = f"experiment_{study.name}"
    for arm in study.arms:
        rows = outcome.of_arm(arm.name)
        for name, measured in outcome.measured.items():
            values = unit_values(measured.arm(rows))
            found = bootstrap_mean(values, resamples=RESAMPLES)
            results.add(f"{stage}/{arm.name}/{name}", found, protocol=protocol)
    for arm in study.arms[1:]:
        for name, reading in outcome.readings[arm.name].items():
            key = f"{stage}_difference/{arm.name}/{name}"
            how = "CUPED on the log" if reading.cuped else "no CUPED"
            words = f"{protocol}; minus {study.arms[0].name}, {how}, Welch's t by person"
            best = reading.best
            results.add(
                key, _estimate(best.difference, best.low, best.high, best.n), protocol=words
            )
            if best.relative is not None:
                ends = _estimate(best.relative, best.relative_low, best.relative_high, best.n)
                results.add(f"{key}_relative", ends, protocol=words)
        results.add(
            f"{stage}_difference/{arm.name}/sample_ratio_p",
            outcome.ratio[arm.name].p_value,
            protocol=f"{protocol}; chi-square of the split",
        )


def record_precision(results: Results, outcome: Outcome, protocol: str) -> None:
    """What CUPED saves, and the smallest effect that so many people find."""
    for arm, readings in outcome.readings.items():
        for name, reading in readings.items():
            words = f"{protocol}; arm {arm}"
            if reading.variance_saved is not None:
                saved = reading.variance_saved
                results.add(f"experiment_cuped/{name}/variance_saved", saved, protocol=words)
            if reading.detectable is not None:
                words += "; 80% power, two-sided 5%, CUPED where there is a past"
                key = f"experiment_power/{name}/detectable_relative"
                results.add(key, reading.detectable, protocol=words)


def record_false_alarms(results: Results, found: Mapping[str, FalseAlarms], protocol: str) -> None:
    """A/A tests."""
    for name, alarms in found.items():
        for test, rate in alarms.rates.items():
            words = f"{protocol}; {_TEST_WORDS[test]}, {alarms.n_looks} looks where daily"
            results.add(f"experiment_aa/{test}/{name}_false_alarm_rate", rate, protocol=words)


def record_guardrail(results: Results, outcome: Outcome, arm: str, protocol: str) -> None:
    """After how many days each metric speaks; -1 where it does not. ``record_stops`` decides."""
    for name in outcome.readings[arm]:
        looks = outcome.looks(arm, name)
        day = alarm_day(looks)
        words = f"{protocol}; daily looks from day {looks[0].day}, always-valid, guardrails "
        words += "5% together, others 5% each; -1: never"
        key = f"experiment_{outcome.study.name}_guardrail/{arm}/{name}_first_day"
        results.add(key, float(-1 if day is None else day), protocol=words)


def record_stops(results: Results, outcomes: Sequence[Outcome], protocol: str) -> None:
    """The guardrails' verdict in every run, and the trap's two sides over the runs."""
    study = outcomes[0].study
    rule = f"{protocol}; stopped when any of {', '.join(GUARDRAILS)} is lower, 5% over all looks"
    apart = f"{protocol}; relative to {study.arms[0].name}, Student's t over the runs; one world"
    for arm in study.arms[1:]:
        stops = [outcome.guardrail_stop(arm.name) for outcome in outcomes]
        key = f"experiment_{study.name}_stop/{arm.name}"
        for number, stop in enumerate(stops, start=1):
            day = float(stop.day if stop else -1)
            results.add(f"{key}/run_{number}_day", day, protocol=f"{rule}; -1: never")
        share = sum(stop is not None for stop in stops) / len(stops)
        results.add(f"{key}/stopped_share", share, protocol=rule)
        for name in ("ctr", *GUARDRAILS, "satisfaction"):
            readings = [outcome.readings[arm.name].get(name) for outcome in outcomes]
            moved = [one.best.relative for one in readings if one is not None]
            values = [value for value in moved if value is not None]
            if values:
                key_of = f"experiment_{study.name}_runs/{arm.name}/{name}_relative"
                results.add(key_of, student_mean(np.array(values)), protocol=apart)


def record_stop_alarms(results: Results, found: Mapping[str, Estimate], protocol: str) -> None:
    """How often rules end A/A tests."""
    for rule, rate in found.items():
        words = f"{protocol}; stop when {_STOP_WORDS[rule]}"
        results.add(f"experiment_aa_stop/{rule}/false_alarm_rate", rate, protocol=words)


def record_markets(
    results: Results, stage: str, markets: Mapping[str, Mapping[str, Estimate]], protocol: str
) -> None:
    """Creators and uploads, by arm."""
    for arm, measures in markets.items():
        for name, found in measures.items():
            results.add(f"{stage}/{arm}/{name}", found, protocol=protocol)


def _estimate(value: float, low: float | None, high: float | None, n: int) -> Estimate:
    return Estimate(value, low, high, n)
