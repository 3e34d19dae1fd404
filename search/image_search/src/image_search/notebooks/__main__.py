"""``make notebooks``: chooses the system they look at, runs them, says where to read them.

Without a configuration: small models on few pictures, trained once. With one: the last run of that
configuration in ``artifacts/latest``; a quick configuration without a run is trained first.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see cli.py

import typer

from image_search.artifacts import SYSTEM_FOLDER
from image_search.cli import (
    ConfigFile,
    DatasetName,
    Out,
    Overrides,
    Pictures,
    Seed,
    console,
    guarded,
    settings,
)
from image_search.config import Config

if TYPE_CHECKING:
    from ml_platform.evaluation.progress import Progress

SMALL = SYSTEM_FOLDER / "configs" / "notebooks.yaml"

Only = Annotated[list[str] | None, typer.Option("--only", help="names that begin so, repeatable")]


def main(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    images: Pictures = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    only: Only = None,
) -> None:
    """Run the notebooks; what they show goes to artifacts/notebooks."""
    artifacts = out or SYSTEM_FOLDER / "artifacts"
    chosen = settings(config or SMALL, dataset, images, overrides, seed)
    guarded(lambda: run(chosen, artifacts, tuple(only or ())))


def run(config: Config, artifacts: Path, only: tuple[str, ...] = ()) -> None:
    """Everything after the options are read.

    Raises:
        typer.Exit: with 1 when a cell fails or there is no run to look at, 2 when none is named so.
    """
    from image_search.notebooks.desk import notebooks
    from ml_platform.docs.notebooks import run_on_terminal
    from ml_platform.evaluation.progress import Console as ProgressConsole

    progress = ProgressConsole(console)
    bundle = partial(_bundle, config, artifacts, progress)
    status = run_on_terminal(notebooks(), only, bundle, artifacts, progress.stage, console)
    if status:
        raise typer.Exit(status)


def _bundle(config: Config, artifacts: Path, progress: Progress) -> Path:
    """The system they look at."""
    from image_search.commands import BUNDLE
    from image_search.notebooks.desk import bundle_config, trained_bundle
    from ml_platform.operations.bundle_manifest import MANIFEST

    latest = artifacts / "latest" / BUNDLE
    # A quick run of a command holds the whole data set, the notebooks' own only a part of it.
    if (latest / MANIFEST).is_file() and not config.quick and bundle_config(latest) == config:
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
