"""``make notebooks``: chooses the system they look at, runs them, says where to read them.

Without a configuration: small models on a small world, trained once. With one: the last run of that
configuration in ``artifacts/latest``; a quick configuration without a run is trained first.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see cli.py

import typer

from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.cli import (
    ConfigFile,
    DatasetName,
    Out,
    Overrides,
    Seed,
    console,
    guarded,
    settings,
)
from shorts_recommendation.config import Config

if TYPE_CHECKING:
    from ml_platform.evaluation.progress import Progress

SMALL = SYSTEM_FOLDER / "configs" / "notebooks.yaml"

Only = Annotated[list[str] | None, typer.Option("--only", help="names that begin so, repeatable")]


def main(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    only: Only = None,
) -> None:
    """Run the notebooks; what they show goes to artifacts/notebooks."""
    artifacts = out or SYSTEM_FOLDER / "artifacts"
    chosen = settings(config or SMALL, dataset, overrides, seed)
    guarded(lambda: run(chosen, artifacts, tuple(only or ())))


def run(config: Config, artifacts: Path, only: tuple[str, ...] = ()) -> None:
    """Everything after the options are read.

    Raises:
        typer.Exit: with 1 when a cell fails or there is no run to look at, 2 when none is named so.
    """
    from ml_platform.docs.notebooks import run_on_terminal
    from ml_platform.evaluation.progress import Console as ProgressConsole
    from shorts_recommendation.notebooks.desk import notebooks

    progress = ProgressConsole(console)
    bundle = partial(_bundle, config, artifacts, progress)
    status = run_on_terminal(notebooks(), only, bundle, artifacts, progress.stage, console)
    if status:
        raise typer.Exit(status)


def _bundle(config: Config, artifacts: Path, progress: Progress) -> Path:
    """The system they look at."""
    from shorts_recommendation.notebooks.desk import bundle_config, trained_bundle

    latest = artifacts / "latest" / "bundle"
    if (latest / "manifest.json").is_file():
        found = bundle_config(latest)
        if (found.name, found.world, found.data, found.seed) == (
            config.name,
            config.world,
            config.data,
            config.seed,
        ):
            return latest.resolve()
    if config.quick:
        return trained_bundle(config, artifacts, progress)
    console.print(
        f"[red]{artifacts / 'latest'} is no run of configuration {config.name!r} with seed "
        f"{config.seed}: run make e2e first, or leave CONFIG away",
        highlight=False,
    )
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
