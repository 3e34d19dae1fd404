"""Command line: one subcommand for each stage word. ``video-recommendation --help``.

Heavy imports (torch, faiss, lightgbm) happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Two threads of a numerical library that spin while they wait for each other lose far more on a
# busy machine than they gain on an idle one. Must be set before the libraries are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.console import Console

from ml_platform.evaluation import command_line
from ml_platform.evaluation.command_line import read_settings
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.config import Config, load_config

if TYPE_CHECKING:
    from video_recommendation.commands import Run

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of differences")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="name in the dataset registry")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, repeatable")]
Seed = Annotated[int | None, typer.Option("--seed", help="of models, sampling and negatives")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of artifacts (default: artifacts)")]


def settings(
    config: Path | None, dataset: str | None, overrides: list[str] | None, seed: int | None
) -> Config:
    """The configuration that the options describe; a mistake ends the command with its reason."""
    extra = list(overrides or [])
    if dataset is not None:
        extra.append(f"data.dataset={dataset}")
    if seed is not None:
        extra.append(f"seed={seed}")
    return read_settings(load_config, config, tuple(extra), console)


def started(config: Config, out: Path | None) -> Run:
    """Threads, logging and the run's folders; imports what the commands share."""
    from video_recommendation.commands import Run

    return Run(config=config, artifacts=out or SYSTEM_FOLDER / "artifacts", console=console)


def guarded(work: Callable[[], Any]) -> None:
    """Runs a command; see ``ml_platform.evaluation.command_line.guarded``."""
    from ml_platform.data.download import CorruptFileError, DatasetUnavailableError
    from ml_platform.operations.registry import RegistryError
    from video_recommendation.bundle_checks import BundleError

    mendable = (DatasetUnavailableError, CorruptFileError, BundleError, RegistryError)
    command_line.guarded(work, console, mendable)


@app.command()
def data(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """Fetch and check the data set; print what is in it."""
    guarded(lambda: started(settings(config, dataset, overrides, seed), out).data())


@app.command()
def train(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """Train every stage and publish a bundle."""
    guarded(lambda: started(settings(config, dataset, overrides, seed), out).train())


@app.command()
def evaluate(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """Train, then measure against the baselines; no serving."""
    run_settings = settings(config, dataset, overrides, seed)
    guarded(lambda: started(run_settings, out).end_to_end(serve=False))


@app.command()
def e2e(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """All of it: data, train, evaluate, serve a load, report."""
    run_settings = settings(config, dataset, overrides, seed)
    guarded(lambda: started(run_settings, out).end_to_end(serve=True))


@app.command()
def serve(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    shadow: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="share of requests copied to the candidate"),
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="roll the candidate out: 1, 5, 25, 50, 100% of users")
    ] = False,
) -> None:
    """Start the service (http://127.0.0.1:8000/docs shows the API).

    It serves the registry's production version and follows `promote` and `rollback`; without a
    registry it serves the last bundle. Deadline and budgets come from --config or --set where
    given, else from the bundle. GET /v1/operations says how the candidate is doing.
    """
    from ml_platform.operations.registry import PRODUCTION
    from video_recommendation.monitoring.monitor import watch_drift
    from video_recommendation.rollout.candidate import candidate_attachments
    from video_recommendation.rollout.registry_commands import open_registry
    from video_recommendation.serving.run import serve_bundle  # not ``commands``: start fast

    artifacts = out or SYSTEM_FOLDER / "artifacts"
    given = config is not None or overrides
    chosen = settings(config, dataset, overrides, seed).serving if given else None

    def run() -> None:
        registry = open_registry(artifacts)
        has_production = PRODUCTION in registry.aliases()
        rollout = candidate_attachments(registry, shadow_share=shadow, with_canary=canary)
        serve_bundle(
            None if has_production else artifacts / "latest" / "bundle",
            registry_root=registry.root if has_production else None,
            host=host,
            port=port,
            data_dir=artifacts / "serving",
            config_serving=chosen,
            attach=[watch_drift(), *rollout],
        )

    guarded(run)


@app.command()
def bench(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    quick: bool = False,
) -> None:
    """Index kinds up to a million vectors, metric speed, and the service under rising load."""
    run_settings = settings(config, dataset, overrides, seed)
    guarded(lambda: started(run_settings, out).bench(quick=quick or run_settings.quick))


@app.command()
def ablations(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    seeds: int = 2,
) -> None:
    """Train the two-tower model with one thing changed at a time (configs/ablations)."""
    run_settings = settings(config, dataset, overrides, seed)
    guarded(lambda: started(run_settings, out).ablations(n_seeds=seeds))


@app.command(name="reproduce-table")
def reproduce_table(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """The published MovieLens-100K protocol, ours beside the published figures."""
    run_settings = settings(config, dataset, overrides, seed)
    guarded(lambda: started(run_settings, out).reproduce_table())


from video_recommendation import cli_operations  # noqa: E402, F401 - adds its commands to ``app``

if __name__ == "__main__":
    app()
