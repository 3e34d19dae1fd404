"""``video-recommendation off-policy``: the value of policies that never ran, beside the truth.

In: a generated world, whose truth is known. Out: three tables (estimates by log size; what a log
without propensities says; what a log without exploration says), ``off_policy.json``, one picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    new_figure,
    png,
)
from ml_platform.evaluation.results import Results, write_atomic
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.feedback_loop.off_policy_study import (
    ESTIMATORS,
    LABELS,
    PAGE,
    PLACE,
    POOL,
    Record,
    Slot,
    build_slot,
    narrowed,
    study,
)
from video_recommendation.reporting.console import MAX_WIDTH, draw
from video_recommendation.reporting.grid import Cell, Grid, sentences, text
from video_recommendation.simulation.world import World, WorldConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from video_recommendation.commands import Run

SYSTEM = "video_recommendation"
Studies = dict[int, dict[tuple[str, str], Record]]
COLOURS = dict(zip(ESTIMATORS, (GREY, ORANGE, PINK, BLUE, GREEN), strict=True))
DASHES = {"doubly_robust": "--"}  # it often lies upon SNIPS


@dataclass(frozen=True)
class OffPolicySettings:
    """Sizes.

    Attributes:
        world: The world.
        log_sizes: Decisions of a log.
        n_logs: Logs of each size.
        faulty_size: Decisions of the faulty logs.
        shown_only: Items of a pool that the log without exploration ever shows.
    """

    world: WorldConfig = field(default_factory=lambda: WorldConfig(n_days=1))
    log_sizes: tuple[int, ...] = (500, 2_000, 8_000, 32_000)
    n_logs: int = 300
    faulty_size: int = 8_000
    shown_only: int = 5


FULL = OffPolicySettings()
QUICK = OffPolicySettings(
    world=WorldConfig(n_users=80, n_items=120, n_sessions=600, n_days=1),
    log_sizes=(200, 800),
    n_logs=15,
    faulty_size=800,
)


def run_off_policy(run: Run, *, quick: bool) -> None:
    """Estimates three policies from logs of a fourth, in four ways, and says how good that was."""
    settings = QUICK if quick else FULL
    note = sentences("QUICK RUN, not a result." if quick else "", "SYNTHETIC data, truth known.")
    world = World(WorldConfig(**{**vars(settings.world), "seed": run.config.seed}))
    results = _results(run, world)
    slot = build_slot(world)
    seed = run.config.seed
    studies: Studies = {}
    with run.progress.stage("logs of several sizes", len(settings.log_sizes)) as step:
        for n in settings.log_sizes:
            studies[n] = study(slot, n, settings.n_logs, seed)
            step(1)
    with run.progress.stage("faulty logs", 2) as step:
        unlogged = study(slot, settings.faulty_size, settings.n_logs, seed, uniform=True)
        step(1)
        narrow_slot = narrowed(slot, settings.shown_only)
        narrow = study(narrow_slot, settings.faulty_size, settings.n_logs, seed)
        step(1)
    width = min(run.console.width, MAX_WIDTH)
    for n in (settings.log_sizes[0], settings.log_sizes[-1]):
        draw(run.console, _size_grid(slot, studies[n], n, settings.n_logs, note), width)
    draw(run.console, _unlogged_grid(unlogged, settings.faulty_size, note), width)
    draw(run.console, _narrow_grid(narrow_slot, narrow, settings, note), width)
    _record_all(results, slot, studies, settings)
    _record_faulty(results, "no_propensities", slot, unlogged, settings)
    _record_faulty(results, "no_exploration", narrow_slot, narrow, settings)
    folder = _folder(run, quick=quick)
    results.write(folder / "off_policy.json")
    write_atomic(folder / "plots" / "off_policy_error.png", png(error_figure(studies, note)))
    run.console.print(f"Numbers and picture: {folder}", highlight=False, soft_wrap=True)


def error_figure(studies: Studies, note: str) -> Figure:
    """Root mean squared error, as a share of the truth, by log size; a panel for each target."""
    sizes = sorted(studies)
    targets = list(dict.fromkeys(target for target, _ in studies[sizes[0]]))
    figure, panels = new_figure(
        "How large a log does an estimate need?", panels=len(targets), height=3.6, share_y=True
    )
    for axes, target in zip(panels, targets, strict=True):
        for name in ESTIMATORS:
            errors = [studies[n][target, name].rmse / studies[n][target, name].truth for n in sizes]
            axes.plot(sizes, errors, color=COLOURS[name], marker="o", markersize=4,
                      label=LABELS[name], linestyle=DASHES.get(name, "-"))  # fmt: skip
        axes.set_title(f"target: {target}", loc="left", fontsize=10)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("logged decisions")
    panels[0].yaxis.set_major_locator(FixedLocator([0.03, 0.1, 0.3, 1.0]))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("typical error, share of the truth")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.text(0.99, 0.965, note, ha="right", fontsize=8, color="0.4")
    return figure


def _size_grid(
    slot: Slot, found: dict[tuple[str, str], Record], n: int, n_logs: int, note: str
) -> Grid:
    rows = []
    for (target, name), record in found.items():
        first = name == next(iter(ESTIMATORS))
        rows.append(
            (
                text(f"{target}, {record.truth:.3f}" if first else ""),
                text(LABELS[name]),
                text(f"{record.value.mean():.3f}"),
                text(f"{record.bias / record.truth:+.0%}"),
                text(f"{record.rmse / record.truth:.0%}"),
                _coverage(record),
                text(f"{record.effective_n.mean():,.0f}"),
            )
        )
    return Grid(
        f"Watches a request at the slot, estimated from {n:,} logged decisions",
        ("target, truth", "estimator", "mean", "bias", "error", "covers", "worth"),
        tuple(rows),
        sentences(
            note,
            f"Means over {n_logs} logs. Slot: place {PLACE + 1} of {PAGE}, filled from {POOL} "
            f"items; the logging policy itself earns {slot.truth(slot.logging):.3f}. Bias and "
            "error (root mean square) as shares of the truth. Covers: 95% intervals that hold the "
            "truth. Worth: effective sample size. The direct method is precise about the wrong "
            "number: its interval knows nothing of its model's error.",
        ),
        breaks=tuple(range(len(ESTIMATORS), len(rows), len(ESTIMATORS))),
    )


def _unlogged_grid(found: dict[tuple[str, str], Record], n: int, note: str) -> Grid:
    return Grid(
        f"The same from {n:,} decisions without logged propensities: uniform is assumed",
        ("target", "estimator", "bias", "covers", "weights pass"),
        _faulty_rows(found),
        sentences(
            note,
            "The log shows what the old policy liked far more often than 1 in 20, and IPS takes "
            "all of it as the target's doing. SNIPS divides a constant propensity away, which is "
            "luck of targets that always take one item: it then averages the rows that agree "
            "with them. Weights pass: logs in which the weights average 1 within three standard "
            "errors; with true propensities they all but always do.",
        ),
    )


def _narrow_grid(
    slot: Slot, found: dict[tuple[str, str], Record], settings: OffPolicySettings, note: str
) -> Grid:
    shares = ", ".join(
        f"{slot.unsupported(policy):.0%} of {name}" for name, policy in slot.targets.items()
    )
    return Grid(
        f"The same from a log without exploration: only the {settings.shown_only} best of a pool "
        "are shown",
        ("target", "estimator", "bias", "covers", "weights pass"),
        _faulty_rows(found),
        sentences(
            note,
            f"The log cannot judge {shares}. IPS counts the missing choices as 0; SNIPS assumes "
            "they are like the others; DR falls back on the model. None can know.",
        ),
    )


def _faulty_rows(found: dict[tuple[str, str], Record]) -> tuple[tuple[Cell, ...], ...]:
    rows = []
    for (target, name), record in found.items():
        first = name == next(iter(ESTIMATORS))
        rows.append(
            (
                text(target if first else ""),
                text(LABELS[name]),
                text(f"{record.bias / record.truth:+.0%}"),
                _coverage(record),
                text(f"{record.plausible.mean():.0%}" if first else ""),
            )
        )
    return tuple(rows)


def _coverage(record: Record) -> Cell:
    share = record.covered / len(record.value)
    most = stats.binomtest(record.covered, len(record.value)).proportion_ci(method="wilson").high
    return text(f"{share:.0%}", "bad" if most < 0.95 else "")


def _record_all(
    results: Results, slot: Slot, studies: Studies, settings: OffPolicySettings
) -> None:
    protocol = f"generated world, {settings.n_logs} logs; exact truth"
    for target, policy in slot.targets.items():
        results.add(f"off_policy/{target}/truth", slot.truth(policy), protocol=protocol)
    results.add("off_policy/logging/truth", slot.truth(slot.logging), protocol=protocol)
    for n, found in studies.items():
        _record_study(results, "off_policy", f"_at_{n}", found, protocol)


def _record_faulty(
    results: Results,
    stage: str,
    slot: Slot,
    found: dict[tuple[str, str], Record],
    settings: OffPolicySettings,
) -> None:
    protocol = f"generated world, {settings.n_logs} logs of {settings.faulty_size:,}; exact truth"
    _record_study(results, stage, "", found, protocol)
    for target, policy in slot.targets.items():
        results.add(f"{stage}/{target}/unsupported", slot.unsupported(policy), protocol=protocol)
        plausible = float(found[target, "ips"].plausible.mean())
        results.add(f"{stage}/{target}/weights_pass", plausible, protocol=protocol)


def _record_study(
    results: Results,
    stage: str,
    suffix: str,
    found: dict[tuple[str, str], Record],
    protocol: str,
) -> None:
    for (target, name), record in found.items():
        n_logs = len(record.value)
        interval = stats.binomtest(record.covered, n_logs).proportion_ci(method="wilson")
        covered = Estimate(
            record.covered / n_logs, float(interval.low), float(interval.high), n_logs
        )
        key = f"{stage}/{target}.{name}"
        error, bias = record.rmse / record.truth, record.bias / record.truth
        results.add(f"{key}/relative_error{suffix}", error, protocol=protocol)
        results.add(f"{key}/relative_bias{suffix}", bias, protocol=protocol)
        results.add(f"{key}/coverage{suffix}", covered, protocol=protocol)
        worth = float(np.mean(record.effective_n))
        results.add(f"{key}/effective_n{suffix}", worth, protocol=protocol)


def _results(run: Run, world: World) -> Results:
    dataset = world.dataset()
    return Results.start(
        system=SYSTEM,
        config=run.config.model_dump(mode="json"),
        dataset_name=dataset.name,
        dataset_sha256=dataset.sha256,
        synthetic=True,
        seed=run.config.seed,
        root=SYSTEM_FOLDER,
    )


def _folder(run: Run, *, quick: bool) -> Path:
    folder = run.artifacts / "demonstrations" if quick else run.results_folder()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    return folder
