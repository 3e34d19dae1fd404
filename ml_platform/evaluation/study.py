"""A study: what is measured about an algorithm, as named parts with a results file each.

In: for each part a function ``run(StudyRun)``, and the configurations by name ("default", "smoke").
Out: ``<part>.json`` and ``plots/<part>_*.png``. The full size ("default") writes them into
``results/`` beside the algorithm, where its page quotes them; any other size, or ``--out``, into a
folder that git ignores. A part's files appear together when it has come through, so that an
interrupted study keeps the parts it finished and nothing half-written.

    python -m ml_algorithms.diversity.bench --config smoke --only optimality

A part that cannot get its data, or lacks an optional library, fails by name; the others still run,
and the command ends with 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from matplotlib.figure import Figure
from pydantic import BaseModel
from rich.console import Console as RichConsole

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.progress import Console, Progress
from ml_platform.evaluation.results import Results, write_atomic

FULL = "default"
Config = TypeVar("Config", bound=BaseModel)


class MissingInputError(RuntimeError):
    """A part lacks what it needs (a data set, a library); the message says what to do."""


class Label(Protocol):
    """Whatever says which data it is: a ``Dataset``, or a task or problem made of one."""

    @property
    def name(self) -> str:
        """As in the registry, or in words."""

    @property
    def sha256(self) -> str:
        """Of the content."""

    @property
    def synthetic(self) -> bool:
        """Generated: its quality numbers prove nothing."""


@dataclass
class StudyRun(Generic[Config]):
    """What one part gets, and what it hands back.

    Attributes:
        config: The study's configuration, at the size that was asked for.
        seed: Of everything random.
        progress: Whom to tell how far the work is.
        scratch: A folder for large intermediate files; it exists.
    """

    study: str
    part: str
    folder: Path
    config: Config
    seed: int
    progress: Progress
    scratch: Path
    written: Results | None = None
    figures: dict[str, Figure] = field(default_factory=dict)

    def results(self, *, dataset_name: str, dataset_sha256: str, synthetic: bool) -> Results:
        """Opens the part's results file; once, before the work, since its clock starts here.

        Raises:
            ValueError: On a second call.
        """
        if self.written is not None:
            raise ValueError(f"part {self.part} has opened its results before")
        self.written = Results.start(
            system=self.study,
            config=self.config.model_dump(mode="json"),
            dataset_name=dataset_name,
            dataset_sha256=dataset_sha256,
            synthetic=synthetic,
            seed=self.seed,
            root=self.folder,
        )
        return self.written

    def results_of(self, data: Label) -> Results:
        """``results``, for data that carry their own name and checksum."""
        return self.results(
            dataset_name=data.name, dataset_sha256=data.sha256, synthetic=data.synthetic
        )

    def picture(self, name: str, figure: Figure) -> None:
        """Keeps a figure for ``plots/<part>_<name>.png``."""
        self.figures[name] = figure


@dataclass(frozen=True)
class Part(Generic[Config]):
    """One question and the function that measures its answer."""

    name: str
    question: str
    run: Callable[[StudyRun[Config]], None]


@dataclass(frozen=True)
class Study(Generic[Config]):
    """All parts of one algorithm's study, and its sizes.

    Attributes:
        name: Of the algorithm's package.
        folder: Where its ``results/`` and ``artifacts/`` stand.
        sizes: Configurations by name; "default" is the full one.
    """

    name: str
    folder: Path
    sizes: Mapping[str, Config]
    parts: Sequence[Part[Config]]

    def out(self, size: str, seed: int = 0) -> Path:
        """Where a run writes unless told otherwise; pages quote the full size with seed 0."""
        if size == FULL and seed == 0:
            return self.folder / "results"
        return self.folder / "artifacts" / (size if seed == 0 else f"{size}-seed{seed}")

    def run(
        self, part: Part[Config], size: str, out: Path, *, seed: int = 0, progress: Progress
    ) -> Results:
        """Runs one part and writes its files.

        Raises:
            MissingInputError: If the part lacks a data set or a library.
            ValueError: If the part opened no results.
        """
        scratch = self.folder / "artifacts" / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        run = StudyRun(self.name, part.name, self.folder, self.sizes[size], seed, progress, scratch)
        part.run(run)
        if run.written is None:
            raise ValueError(f"part {part.name} of {self.name} measured nothing")
        for name, figure in run.figures.items():
            write_atomic(out / "plots" / f"{part.name}_{name}.png", png(figure))
        run.written.write(out / f"{part.name}.json")
        return run.written

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The command line; 0 when every chosen part came through."""
        names = [part.name for part in self.parts]
        parser = argparse.ArgumentParser(
            prog=f"python -m ml_algorithms.{self.name}.bench",
            description=f"Measures {self.name.replace('_', ' ')}.",
            epilog="parts: " + "; ".join(f"{part.name}: {part.question}" for part in self.parts),
        )
        parser.add_argument("--config", choices=sorted(self.sizes), default=FULL)
        parser.add_argument("--only", action="append", choices=names, metavar="PART", default=[])
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--out", type=Path, help="folder instead of results/ or artifacts/")
        options = parser.parse_args(arguments)
        out = options.out or self.out(options.config, options.seed)
        console = RichConsole()
        chosen = [part for part in self.parts if not options.only or part.name in options.only]
        missing = []
        for part in chosen:
            console.print(f"[bold]{self.name}/{part.name}[/bold]: {part.question}")
            try:
                results = self.run(
                    part, options.config, out, seed=options.seed, progress=Console(console)
                )
            except MissingInputError as error:
                missing.append(part.name)
                console.print(f"  [red]not measured[/red]: {error}", highlight=False)
                continue
            quoted = out == self.out(FULL)
            note = "" if quoted else f" (size {options.config}, seed {options.seed}: not quoted)"
            seconds = results.run.seconds
            console.print(
                f"  {len(results)} figures in {seconds:.0f} s: {out / part.name}.json{note}",
                highlight=False,
            )
        if missing:
            console.print(f"[red]not measured: {', '.join(missing)}")
        return 1 if missing else 0


__all__ = ["FULL", "MissingInputError", "Part", "Study", "StudyRun"]
