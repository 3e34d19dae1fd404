"""``make notebooks``: chooses the system they look at, runs them, says where to read them.

Without a configuration: small models on MovieLens-100K, or on generated data where it cannot be
had. With one: the last run of that configuration in ``artifacts/latest``; a quick configuration
without a run is trained first.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see cli.py

import typer

from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.cli import (
    ConfigFile,
    DatasetName,
    Out,
    Overrides,
    Seed,
    console,
    guarded,
    settings,
)
from video_recommendation.config import Config

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
    plain = config is None and dataset is None and not overrides and seed is None
    chosen = None if plain else settings(config or _small(dataset), dataset, overrides, seed)
    guarded(lambda: run(chosen, artifacts, tuple(only or ())))


def run(config: Config | None, artifacts: Path, only: tuple[str, ...] = ()) -> None:
    """Everything after the options are read.

    Raises:
        typer.Exit: with 1 when a cell fails or there is no run to look at, 2 when none is named so.
    """
    from ml_platform.docs.notebooks import run_on_terminal
    from ml_platform.evaluation.progress import Console as ProgressConsole
    from video_recommendation.notebooks.desk import notebooks

    progress = ProgressConsole(console)
    bundle = partial(_bundle, config, artifacts, progress)
    status = run_on_terminal(notebooks(), only, bundle, artifacts, progress.stage, console)
    if status:
        raise typer.Exit(status)


def _small(dataset: str | None) -> Path:
    from video_recommendation.notebooks.desk import GENERATED, SMALL

    return GENERATED if dataset == "synthetic" else SMALL


def _bundle(config: Config | None, artifacts: Path, progress: object) -> Path:
    """The system they look at."""
    from video_recommendation.data import load_data
    from video_recommendation.notebooks.desk import small_system, trained_bundle

    if config is None:
        return small_system(artifacts, progress)  # type: ignore[arg-type]
    latest = artifacts / "latest" / "bundle"
    if (latest / "config.json").is_file():
        found = Config.model_validate_json((latest / "config.json").read_text())
        if (found.name, found.data, found.seed) == (config.name, config.data, config.seed):
            return latest.resolve()
    if config.quick:
        return trained_bundle(config, load_data(config.data), artifacts, progress)  # type: ignore[arg-type]
    console.print(
        f"[red]{artifacts / 'latest'} is no run of configuration {config.name!r} on "
        f"{config.data.dataset} with seed {config.seed}: run make e2e first, or leave CONFIG away",
        highlight=False,
    )
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
