"""The drift demonstration as tables, numbers and one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import new_figure, png
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.operations.drift_monitor import DriftReport
from ml_platform.operations.reference_profile import FALSE_ALARM_RATE
from video_recommendation.data import SystemData
from video_recommendation.monitoring.demo import FAULTS, POPULARITY, DriftDemo
from video_recommendation.monitoring.drift_replay import Detection, EventWatch

STAGE = "drift"
PLOT = "drift_psi.png"
MOST_FINDINGS = 8
CAP = 1.0
"""PSI in excess of the noise at which the picture's colour is full."""


def print_demo(console: Console, found: DriftDemo, data: SystemData, *, quick: bool) -> None:
    """Tables: skew to training, undrifted windows, each fault."""
    sizes = found.sizes
    if found.skew is not None:
        console.print(
            f"\n[bold]Nothing injected: {found.skew.n_rows:,} shown items against the training "
            "reference[/bold]",
            highlight=False,
        )
        _print_report(console, found.skew)
    low, high = _rate_interval(found.alarms)
    console.print(
        f"\n[bold]Nothing injected, against the launch reference[/bold]: "
        f"{int(found.alarms.sum())} of {len(found.alarms)} undrifted windows of {sizes.window} "
        f"requests gave an alarm ({low:.1%} to {high:.1%}; promised: {FALSE_ALARM_RATE:.0%})",
        highlight=False,
    )
    for fault, detection in zip(FAULTS, found.detections, strict=True):
        console.print(f"\n[bold]{fault.name}[/bold]: {fault.truth}", highlight=False)
        console.print(f"  in the lists: {_delays(detection)}", highlight=False)
        if fault is POPULARITY and found.events is not None:
            _print_events(console, found.events)
        for line in detection.report.conclusions:
            console.print(Text(f"  => {line}", style="bold yellow"))
        _print_report(console, detection.report)
    _print_calibration(console, found)
    console.print(Text(_caption(found, data, quick), style="bright_black"))


def write_demo(
    folder: Path, results: Results, found: DriftDemo, data: SystemData, *, quick: bool
) -> None:
    """``drift.json`` and the picture."""
    record_demo(results, found, data)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    results.write(folder / "drift.json")
    write_atomic(folder / "plots" / PLOT, heat_strip(found, _caption(found, data, quick)))


def record_demo(results: Results, found: DriftDemo, data: SystemData) -> None:
    """Numbers of the demonstration."""
    sizes = found.sizes
    origin = "generated data" if data.synthetic else "real requests of the test window, shuffled"
    against = f"windows of {sizes.window} requests against {sizes.launch} of the same version"
    low, high = _rate_interval(found.alarms)
    rate = Estimate(float(found.alarms.mean()), low, high, len(found.alarms))
    results.add(
        f"{STAGE}/undrifted/false_alarm_rate",
        rate,
        protocol=f"{origin}; {against}, {sizes.splits} random divisions, any finding counts",
    )
    for fault, detection in zip(FAULTS, found.detections, strict=True):
        key = f"{STAGE}/{fault.name.replace(' ', '_')}"
        how = f"{origin}; injected: {fault.truth}; {against}"
        by_events = fault is POPULARITY and found.events is not None and found.events.finding
        named = detection.named is not None or bool(by_events)
        results.add(f"{key}/named", float(named), protocol=how)
        if detection.seen is not None:
            results.add(f"{key}/seen_after_requests", detection.seen, protocol=how)
        if detection.named is not None:
            results.add(f"{key}/named_after_requests", detection.named, protocol=how)
        findings = detection.report.findings
        results.add(f"{key}/features_found", float(len(findings)), protocol=how)
        if findings:
            worst = max(findings, key=lambda f: f.psi - f.noise)
            results.add(f"{key}/largest_psi", worst.psi, protocol=f"{how}; of {worst.feature}")
    if found.events is not None:
        n = len(found.events.sound)
        how = f"{data.name}; events of the test window by time, against blocks of the training log"
        results.add(f"{STAGE}/events/false_alarms", found.events.sound.sum(), protocol=how, n=n)
        if found.events.delay is not None:
            how += f"; injected from the middle on: {POPULARITY.truth}"
            results.add(f"{STAGE}/events/named_after_events", found.events.delay, protocol=how)
    if found.skew is not None:
        how = f"{origin}; nothing injected; all shown items against the training reference"
        results.add(f"{STAGE}/training/features_found", len(found.skew.findings), protocol=how)
        for finding in found.skew.findings:
            results.add(f"{STAGE}/training/psi_{finding.feature}", finding.psi, protocol=how)
    names = ("sound", *(fault.name.replace(" ", "_") for fault in FAULTS))
    for name, calibration in zip(names, found.calibration, strict=True):
        value, low, high = calibration.ratio
        results.add(
            f"{STAGE}/{name}/calibration_ratio",
            Estimate(value, low, high, calibration.n),
            protocol=f"{origin}; watched next over predicted, shown items; users resampled",
        )
    how = "one process, one thread, a list of 20 items"
    results.add(f"{STAGE}/monitor/observe_us", found.observe_us, protocol=how)
    results.add(f"{STAGE}/monitor/report_ms", found.report_ms, protocol=against)


def heat_strip(found: DriftDemo, caption: str) -> bytes:
    """PSI in excess of the noise for each feature in four phases, as a PNG."""
    phases = ("nothing injected", *(fault.name for fault in FAULTS))
    reports = (found.clean, *(detection.report for detection in found.detections))
    names = [c.column.info.name for c in reports[0].comparisons]
    if not all(report.ready for report in reports):
        raise ValueError("a phase held too few users for a report; use more requests")
    excess = np.array([[c.excess for c in report.comparisons] for report in reports]).T
    moved = [{f.feature for f in report.findings} for report in reports]
    figure, (axes,) = new_figure("Which features moved, in which phase?", height=7.4)
    axes.imshow(np.clip(excess, 0, CAP), cmap="Oranges", vmin=0, vmax=CAP, aspect="auto")
    for row, name in enumerate(names):
        for column, features in enumerate(moved):
            mark = f"{excess[row, column]:.2f}" + (" *" if name in features else "")
            weight = "bold" if name in features else "normal"
            colour = "white" if excess[row, column] > CAP / 2 else "black"
            axes.text(
                column, row, mark, ha="center", va="center", fontsize=7.5, weight=weight,
                color=colour,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(phases)), phases, fontsize=9)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.supxlabel(
        f"PSI less its expectation without drift; * reported. {caption}",
        fontsize=7, color="0.4", wrap=True,
    )  # fmt: skip
    return png(figure)


def _print_report(console: Console, report: DriftReport) -> None:
    """The numbers of each finding in a line, and below it what the monitor makes of them."""
    if not report.findings:
        console.print("  nothing moved", highlight=False)
    for finding in report.findings[:MOST_FINDINGS]:
        line = (
            f"  {finding.severity:7} {finding.feature:22} {finding.kind:11} "
            f"PSI {finding.psi:5.2f} (noise {finding.noise:.2f})  KS {finding.ks:.2f}"
        )
        console.print(Text(line, style="bold" if finding.severity == "alert" else ""))
        console.print(Padding(Text(finding.sentence), (0, 0, 0, 10)))
    more = len(report.findings) - MOST_FINDINGS
    if more > 0:
        console.print(f"  and {more} more", highlight=False)


def _print_events(console: Console, events: EventWatch) -> None:
    named = f"named after {events.delay} events" if events.finding else "NOT NAMED"
    console.print(
        f"  in the events: {named}; without the burst {int(events.sound.sum())} of "
        f"{len(events.sound)} windows gave an alarm",
        highlight=False,
    )
    if events.finding is not None:
        console.print(Text(f"  => {events.finding.sentence}", style="bold yellow"))


def _delays(detection: Detection) -> str:
    if detection.seen is None:
        return "nothing was found"
    if detection.named is None:
        return f"something was found after {detection.seen} requests, the cause was not named"
    return f"found after {detection.seen} requests, named after {detection.named}"


def _print_calibration(console: Console, found: DriftDemo) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Calibration of what is shown")
    for head in ("requests", "watched / predicted", "95% interval", "ECE", "over its noise"):
        table.add_column(head, justify="left" if head == "requests" else "right")
    names = ["in training, held out"] if found.trained else []
    names += ["served, nothing injected", *(fault.name for fault in FAULTS)]
    rows = (*([found.trained] if found.trained else []), *found.calibration)
    for name, calibration in zip(names, rows, strict=True):
        value, low, high = calibration.ratio
        error = (f"{calibration.error[0]:.4f}", f"{calibration.excess:.4f}")
        table.add_row(name, f"{value:.2f}", f"{low:.2f} to {high:.2f}", *error)
    console.print(table)


def _rate_interval(alarms: np.ndarray) -> tuple[float, float]:
    """95% Wilson interval. Windows of one division share a reference, so it is a little narrow."""
    interval = stats.binomtest(int(alarms.sum()), len(alarms)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _caption(found: DriftDemo, data: SystemData, quick: bool) -> str:
    parts = [f"{data.name}, bundle {found.version}, faults injected"]
    if quick:
        parts.append("QUICK RUN, not a result")
    if data.synthetic:
        parts.append("SYNTHETIC data")
    return "; ".join(parts) + "."
