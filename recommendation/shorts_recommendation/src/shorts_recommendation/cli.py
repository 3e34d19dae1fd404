"""Command line: one subcommand for each stage word. ``shorts-recommendation --help``.

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
from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.config import Config, load_config

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of differences")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="simulated (the only one that the funnel runs on)")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, repeatable")]
Seed = Annotated[int | None, typer.Option("--seed", help="of the world, the models, sampling")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of artifacts (default: artifacts)")]
Users = Annotated[int | None, typer.Option("--users", min=50, help="people in the world")]
Videos = Annotated[int | None, typer.Option("--videos", min=200, help="videos in the world")]
Impressions = Annotated[
    int | None, typer.Option("--impressions", min=5, help="mean impressions of a person")
]


def settings(
    config: Path | None,
    dataset: str | None,
    overrides: list[str] | None,
    seed: int | None,
    *,
    users: int | None = None,
    videos: int | None = None,
    impressions: int | None = None,
) -> Config:
    """The configuration that the options describe; a mistake ends the command with its reason."""
    if dataset not in (None, "simulated"):
        console.print(
            f"[red]no data set {dataset!r}: the funnel runs on the simulated world, the real "
            "micro-videos have a command of their own, make micro-video",
            highlight=False,
        )
        raise typer.Exit(command_line.BAD_SETTINGS)
    sizes = {"n_users": users, "n_videos": videos, "impressions_per_user": impressions}
    extra = list(overrides or [])
    extra += [f"world.{name}={value}" for name, value in sizes.items() if value is not None]
    if any(value is not None for value in sizes.values()):
        extra.append("name=sized")
    if seed is not None:
        extra.append(f"seed={seed}")
    return read_settings(load_config, config, tuple(extra), console)


def started(config: Config, out: Path | None) -> Run:
    """Threads, logging and the run's folders; imports what the commands share."""
    from shorts_recommendation.commands import Run

    return Run(config=config, artifacts=out or SYSTEM_FOLDER / "artifacts", console=console)


def guarded(work: Callable[[], Any]) -> None:
    """Runs a command; see ``ml_platform.evaluation.command_line.guarded``."""
    from ml_platform.data.download import CorruptFileError, DatasetUnavailableError
    from ml_platform.operations.bundle_manifest import BundleError

    command_line.guarded(work, console, (DatasetUnavailableError, CorruptFileError, BundleError))


def _add(name: str, text: str, work: Callable[[Run], object]) -> None:
    """A command that does ``work`` on the configured world; any size of it by flags."""

    def command(
        config: ConfigFile = None,
        dataset: DatasetName = None,
        overrides: Overrides = None,
        seed: Seed = None,
        out: Out = None,
        users: Users = None,
        videos: Videos = None,
        impressions: Impressions = None,
    ) -> None:
        chosen = settings(
            config, dataset, overrides, seed, users=users, videos=videos, impressions=impressions
        )
        guarded(lambda: work(started(chosen, out)))

    app.command(name=name, help=text)(command)


def _of_module(place: str) -> Callable[[Run], object]:
    """``main(run)`` of a module, or ``module:function``, imported when it is called."""

    def work(run: Run) -> object:
        import importlib

        module, _, function = place.partition(":")
        found = importlib.import_module(f"shorts_recommendation.{module}")
        return getattr(found, function or "main")(run)

    return work


_add("data", "Make the world, or read it from the cache; print what is in it.", lambda r: r.data())
_add("train", "Train every stage and publish a bundle.", lambda r: r.train())
_add(
    "evaluate",
    "Train, then measure against the baselines and the oracle; no serving.",
    lambda r: r.end_to_end(serve=False),
)
_add(
    "e2e",
    "All of it: world, training, evaluation, a served load, the report.",
    lambda r: r.end_to_end(serve=True),
)
_add(
    "bench",
    "The service under rising load, event to effect, where the time of a request goes.",
    lambda r: r.bench(),
)

DEMONSTRATIONS = {
    "world-statistics": ("world.command", "the log's shapes beside published ones"),
    "indexes": ("retrieval.command", "FAISS kinds on these embeddings: recall, speed, memory"),
    "recall-choices": ("retrieval.choices_command", "recall's knobs by uniform recall"),
    "incremental": ("retrieval.incremental_command", "towers updated hourly, daily, never"),
    "duration": ("evaluation.duration_command", "seconds, ratio or D2Q as the watch label"),
    "micro-video": ("micro_video.command:run", "the real set with its published split"),
    "experiments": ("experiments.command", "A/B tests on the simulated people"),
    "scaling": ("scaling", "time and memory as the world grows"),
}
for _name, (_place, _text) in DEMONSTRATIONS.items():
    _add(_name, _text, _of_module(_place))


@app.command()
def serve(
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Start the service on the last bundle (http://127.0.0.1:8000/docs shows the API)."""
    from shorts_recommendation.serving.run import serve_bundle

    artifacts = out or SYSTEM_FOLDER / "artifacts"
    given = config is not None or overrides
    chosen = settings(config, dataset, overrides, seed).serving if given else None
    guarded(
        lambda: serve_bundle(
            artifacts / "latest" / "bundle",
            host=host,
            port=port,
            data_dir=artifacts / "serving",
            config_serving=chosen,
        )
    )


@app.command()
def lab(
    name: str,
    config: ConfigFile = None,
    dataset: DatasetName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Out = None,
) -> None:
    """Break one thing, see the symptom, fix it (``lab list`` names them)."""
    from shorts_recommendation.labs.command import run_lab

    chosen = settings(config, dataset, overrides, seed)
    guarded(lambda: run_lab(started(chosen, out), name))


if __name__ == "__main__":
    app()
