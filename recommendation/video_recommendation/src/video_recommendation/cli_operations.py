"""Commands of the production side: versions, rollout, parity, drift, experiments, labs.

Each one hands over to the module that does the work; importing this file adds the commands to the
``app`` of ``cli.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.cli import (
    ConfigFile,
    DatasetName,
    Out,
    Overrides,
    Seed,
    app,
    console,
    guarded,
    settings,
    started,
)

Quick = Annotated[bool, typer.Option("--quick", help="small and fast; its numbers are no results")]


@app.command()
def versions(
    out: Out = None,
    prune: Annotated[
        int | None, typer.Option(help="first remove all but so many; never one with an alias")
    ] = None,
) -> None:
    """Registered model versions, the newest first, and which of them is production."""
    from video_recommendation.rollout.registry_commands import print_versions

    guarded(lambda: print_versions(artifacts_folder(out), console, prune=prune))


@app.command()
def promote(
    version: Annotated[
        str | None, typer.Argument(help="version, its beginning, or an alias; default: candidate")
    ] = None,
    out: Out = None,
) -> None:
    """Make a version production; a running server swaps to it within a second."""
    from video_recommendation.rollout import registry_commands

    guarded(lambda: registry_commands.promote(artifacts_folder(out), console, version))


@app.command()
def rollback(out: Out = None) -> None:
    """Make the previous version production again; a second rollback undoes the first."""
    from video_recommendation.rollout import registry_commands

    guarded(lambda: registry_commands.rollback(artifacts_folder(out), console))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="version, its beginning, or an alias")] = "production",
    b: Annotated[str, typer.Argument(help="the one to compare with it")] = "candidate",
    out: Out = None,
) -> None:
    """What differs between two versions: configuration, features, data, files, metrics."""
    from video_recommendation.rollout.registry_commands import print_diff

    guarded(lambda: print_diff(artifacts_folder(out), console, a, b))


def artifacts_folder(out: Path | None) -> Path:
    """Where the registry and the runs are."""
    return out or SYSTEM_FOLDER / "artifacts"


@app.command(name="canary-demo")
def canary_demo(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Roll out three candidates, a better, a slow and a bad one; print why each went or stayed."""
    from video_recommendation.rollout.canary_demo import run_canary_demo

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_canary_demo(started(chosen, out), quick=quick or chosen.quick))


@app.command()
def experiments(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """A/A tests over 1,000 seeds, peeking, CUPED, power: what the statistics promise and keep."""
    from video_recommendation.experiments.command import run_experiments

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_experiments(started(chosen, out), quick=quick or chosen.quick))


@app.command(name="drift-demo")
def drift_demo(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Inject three drifts into the features of live requests; the monitor names each."""
    from video_recommendation.monitoring.demo import run_drift_demo

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_drift_demo(started(chosen, out), quick=quick or chosen.quick))


@app.command()
def parity(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Serve requests, rebuild their features offline, compare; then break it, read the report."""
    from video_recommendation.monitoring.parity import run_parity

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_parity(started(chosen, out), quick=quick or chosen.quick))


@app.command(name="feedback-loop")
def feedback_loop(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Days of serving, logging, joining, training and rollout, with and without exploration."""
    from video_recommendation.feedback_loop.command import run_feedback_loop

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_feedback_loop(started(chosen, out), quick=quick or chosen.quick))


@app.command(name="off-policy")
def off_policy(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Estimate a new policy's value from logged propensities, beside the simulator's truth."""
    from video_recommendation.feedback_loop.off_policy_demo import run_off_policy

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_off_policy(started(chosen, out), quick=quick or chosen.quick))


@app.command()
def reliability(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """100 swaps under load, 50 kill -9, a store that stops, hangs and flaps: count what is lost."""
    from video_recommendation.reliability.command import run_reliability

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_reliability(started(chosen, out), quick=quick or chosen.quick))


@app.command()
def lab(
    name: Annotated[str, typer.Argument(help="name of the lab; `list` prints them")],
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """Break one thing, see the symptom, apply the fix. Under a minute each."""
    from video_recommendation.labs.command import run_lab

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_lab(started(chosen, out), name))
