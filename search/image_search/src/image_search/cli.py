"""Command line: one subcommand for each stage word. ``image-search --help``.

Heavy imports (torch, faiss) happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Two threads of a numerical library that spin while they wait for each other lose far more on a
# busy machine than they gain on an idle one. Must be set before the libraries are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.console import Console

from image_search.artifacts import SYSTEM_FOLDER
from image_search.config import Config, load_config
from ml_platform.evaluation import command_line
from ml_platform.evaluation.command_line import read_settings

if TYPE_CHECKING:
    from image_search.commands import Run

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of differences")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="fashion-mnist, clothing or shapes (generated)")
]
Pictures = Annotated[
    Path | None, typer.Option("--images", help="folder of your own pictures (jpg, png, webp)")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, repeatable")]
Seed = Annotated[int | None, typer.Option("--seed", help="of what is drawn and trained")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of artifacts (default: artifacts)")]


def settings(
    config: Path | None,
    dataset: str | None,
    pictures: Path | None,
    overrides: list[str] | None,
    seed: int | None,
) -> Config:
    """The configuration that the options describe; a mistake ends the command with its reason."""
    extra = list(overrides or [])
    if dataset is not None:
        extra.append(f"images.dataset={dataset}")
    if seed is not None:
        extra.append(f"seed={seed}")
    if pictures is None:
        return read_settings(load_config, config, tuple(extra), console)

    def with_folder(path: Path | None, given: tuple[str, ...]) -> Config:
        # A folder's name may hold anything, also what YAML would read otherwise.
        read = load_config(path, given).model_dump()
        read["images"] |= {"dataset": "folder", "folder": pictures}
        return Config.model_validate(read | {"name": "folder"})

    return read_settings(with_folder, config, tuple(extra), console)


def started(config: Config, out: Path | None) -> Run:
    """The run's folders and progress; imports what the commands share."""
    from image_search.commands import Run

    return Run(config=config, artifacts=out or SYSTEM_FOLDER / "artifacts", console=console)


def guarded(work: Callable[[], Any]) -> None:
    """Runs a command; see ``ml_platform.evaluation.command_line.guarded``."""
    from image_search.embeddings.base import EmbedderUnavailableError
    from image_search.evaluation.run import NothingToJudgeError
    from image_search.images.folder import EmptyFolderError, TooManyFilesError
    from ml_platform.data.download import CorruptFileError, DatasetUnavailableError
    from ml_platform.operations.bundle_manifest import BundleError

    mendable = (
        BundleError, CorruptFileError, DatasetUnavailableError, EmbedderUnavailableError,
        EmptyFolderError, NotADirectoryError, NothingToJudgeError, TooManyFilesError,
    )  # fmt: skip
    command_line.guarded(work, console, mendable)


def _add(name: str, text: str, work: Callable[[Run], object]) -> None:
    """A command that does ``work`` on the configured pictures."""

    def command(
        config: ConfigFile = None,
        dataset: DatasetName = None,
        images: Pictures = None,
        overrides: Overrides = None,
        seed: Seed = None,
        out: Out = None,
    ) -> None:
        chosen = settings(config, dataset, images, overrides, seed)
        guarded(lambda: work(started(chosen, out)))

    app.command(name=name, help=text)(command)


_add("data", "Fetch or make the pictures; print what is in them.", lambda r: r.data())
_add("train", "Fit the embeddings and save them.", lambda r: r.train())
_add(
    "evaluate",
    "Fit the embeddings, then measure retrieval with each, on all classes and on unseen ones.",
    lambda r: r.evaluate(),
)
_add(
    "e2e",
    "All of it: data, training, evaluation, a served load.",
    lambda r: r.end_to_end(),
)


def _of_module(place: str) -> Callable[[Run], object]:
    """The function ``package.module:function`` (``run`` where none is named), imported late."""
    module, _, function = place.partition(":")

    def work(run: Run) -> object:
        found = importlib.import_module(f"image_search.{module}")
        return getattr(found, function or "run")(run)

    return work


DEMONSTRATIONS = {
    "embedding-choices": ("embeddings.command", "losses, lengths, epochs, on validation"),
    "text-search": ("text.command", "words to pictures, against simpler ways"),
    "indexes": ("retrieval.command", "FAISS kinds on these vectors: recall, speed, filters"),
    "index-changes": ("retrieval.changes_command", "adding, deleting, rebuilding"),
    "compatible": ("retrieval.compatible_command", "a new model beside an old index"),
    "rankers": ("ranking.command", "trees and a network on the simulated log"),
    "duplicates": ("reranking.command", "near-duplicates: hashes against vectors"),
    "page": ("reranking.page_command", "diversity against relevance"),
    "personalisation": ("personalisation.command", "a user's clicks, on the simulated log"),
    "bench": ("serving.command:bench", "the service under rising load"),
    "fuzz": ("serving.fuzzing:fuzz", "hostile requests at a running service"),
    "serve": ("serving.command:serve", "the service on the last bundle, at 127.0.0.1:8000"),
}
for _name, (_place, _text) in DEMONSTRATIONS.items():
    _add(_name, _text, _of_module(_place))


if __name__ == "__main__":
    app()
