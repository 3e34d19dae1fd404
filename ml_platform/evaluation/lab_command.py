"""What ``lab NAME`` of a system does: finds the lab, runs it, writes its numbers.

In: the system's command, its labs and the package that they stand in. Out: tables on the terminal,
``labs_<key>.json`` and a picture in the command's results folder; an exit status.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from ml_platform.evaluation.lab import Lab, Source, find_lab, perform_lab, print_labs
from ml_platform.evaluation.results import Results


class LabRun(Protocol):
    """What a lab asks of a command: any system's ``Run``."""

    @property
    def config(self) -> Any:
        """The system's configuration, a pydantic model with a ``seed``."""

    @property
    def console(self) -> Console:
        """Where it prints."""

    def results_folder(self) -> Path:
        """Where numbers and the picture go."""


UNKNOWN_LAB = 2
"""Exit status, as for any other mistake in the command line."""


def run_lab(
    run: LabRun, name: str, labs: Sequence[Lab], *, package: str, system: str, root: Path
) -> int:
    """Runs the lab of this name, or lists them all; what ``lab NAME`` of a system does.

    Args:
        run: The command.
        name: A lab's name, or "list".
        labs: The system's labs.
        package: Python package with a module of each lab's ``key``, which has ``run(run)``.
        system: The system's name in the results.
        root: The system's folder.

    Returns:
        The exit status: ``UNKNOWN_LAB`` for a name that no lab has, which is printed with those
        there are.
    """
    if name == "list":
        print_labs(run.console, labs)
        return 0
    try:
        lab = find_lab(labs, name)
    except ValueError as unknown:
        run.console.print(f"[red]{unknown}", highlight=False)
        return UNKNOWN_LAB
    module = importlib.import_module(f"{package}.{lab.key}")

    def start_results(source: Source) -> Results:
        return Results.start(
            system=system,
            config=run.config.model_dump(mode="json"),
            dataset_name=source.name,
            dataset_sha256=source.sha256,
            synthetic=source.synthetic,
            seed=run.config.seed,
            root=root,
        )

    perform_lab(
        lab,
        lambda: module.run(run),
        start_results,
        folder=run.results_folder(),
        console=run.console,
    )
    return 0
