"""Runs the notebooks from first to last cell and keeps what they show.

In: ``*.ipynb`` files, committed without outputs. Out: ``<out>/<name>.ipynb`` with outputs, and
``<name>.html``, which needs no Jupyter to be read. Each notebook has a kernel of its own. A
notebook's files are written when all of its cells have run, each by one rename; one that fails
leaves none, and the run stops at its cell.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from rich.console import Console as RichConsole
from rich.progress import Progress as RichProgress
from traitlets.config import Config

from ml_platform.docs.notebook_desk import BUNDLE_VARIABLE
from ml_platform.evaluation.results import write_atomic

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
CELL_TIMEOUT_S = 300


class NotebookFailedError(RuntimeError):
    """A cell did not come through; the message has the notebook, the cell and its traceback."""


def run_all(
    paths: Sequence[Path], out: Path, stage: Stage, variables: Mapping[str, str] | None = None
) -> list[Path]:
    """Executes the notebooks one after the other; returns the executed files.

    Args:
        paths: Notebooks; each runs in its own folder.
        out: Folder of what they show, made if missing.
        stage: Opens a named stage of so many cells and gives its step, as ``Progress.stage`` does.
        variables: Added to the kernels' environment.

    Raises:
        NotebookFailedError: at the first cell that fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        targets = [out / path.name, out / f"{path.stem}.html"]
        for target in targets:
            target.unlink(missing_ok=True)  # an older run's must not pass for this one's
        n_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        with stage(path.stem, n_cells) as step:
            run_notebook(notebook, path, step, variables)
        page, _ = HTMLExporter(embed_images=True).from_notebook_node(
            notebook, resources={"metadata": {"name": path.stem}}
        )
        for target, content in zip(targets, (nbformat.writes(notebook), page), strict=True):
            write_atomic(target, content)
        written.append(targets[0])
    return written


def run_chosen(
    paths: Sequence[Path],
    only: Sequence[str],
    bundle: Callable[[], Path],
    out: Path,
    stage: Stage,
    say: Callable[[str], object],
) -> int:
    """What ``make notebooks`` of a system does; returns the exit status.

    Args:
        paths: The system's notebooks.
        only: Beginnings of names; none takes all.
        bundle: Finds or trains the system that they look at.
        out: Folder of what they show.
        stage: As in ``run_all``.
        say: Prints a line.
    """
    chosen = [path for path in paths if not only or path.name.startswith(tuple(only))]
    if not chosen:
        say(f"[red]no notebook begins with {' or '.join(only)}")
        return 2
    folder = bundle()
    say(f"notebooks on {folder}")
    try:
        written = run_all(chosen, out, stage, {BUNDLE_VARIABLE: str(folder.resolve())})
    except NotebookFailedError as error:
        print(error)  # not by a console, which would fold the traceback's lines
        return 1
    say(f"{len(written)} notebooks in {out}: open the .html")
    return 0


def run_on_terminal(
    paths: Sequence[Path],
    only: Sequence[str],
    bundle: Callable[[], Path],
    artifacts: Path,
    stage: Stage,
    console: RichConsole,
) -> int:
    """``run_chosen`` with bars and lines on a terminal; outputs go to ``artifacts/notebooks``.

    Args:
        paths: The system's notebooks.
        only: Beginnings of names; none takes all.
        bundle: Finds or trains the system that they look at.
        artifacts: The system's.
        stage: Draws the bars.
        console: The terminal.
    """
    return run_chosen(
        paths,
        only,
        bundle,
        artifacts / "notebooks",
        stage,
        partial(console.print, highlight=False),
    )


def run_notebook(
    notebook: Any,
    path: Path,
    step: Callable[[int], None] = lambda _: None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Executes one notebook (as read from ``path``, in whose folder it runs) in place.

    Raises:
        NotebookFailedError: at the first cell that fails, takes too long or kills its kernel.
        KeyboardInterrupt: at Control-C; the kernel is gone then.
    """
    started: list[int] = []
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="notebook-") as scratch:
        # Sockets in the scratch folder: no port that others on the machine could reach.
        sockets = {"transport": "ipc", "connection_file": str(Path(scratch) / "kernel")}
        client = NotebookClient(
            notebook,
            config=Config(KernelManager=sockets),
            kernel_name="python3",
            timeout=CELL_TIMEOUT_S,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=lambda cell, cell_index: started.append(cell_index),
            on_cell_executed=lambda **_: step(1),
        )
        # The library plays a front end for output widgets and answers the kernel on the socket on
        # which it awaits the cell's end; in between it can miss that end and wait for its time
        # limit. Without the play, what a slider shows becomes the cell's own output.
        client.widget_registry = {}
        said = Path(scratch) / "said"  # what the kernel itself says, not its cells
        try:
            with said.open("wb") as sink:
                # Not `execute`: it would leave its event loop open.
                asyncio.run(
                    _execute(client, _environment(Path(scratch), variables or {}), sink, stopped)
                )
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            if stopped.is_set():
                raise KeyboardInterrupt from error
            cell = started[-1] if started else 0
            told = "" if isinstance(error, CellExecutionError) else said.read_text()[-2000:]
            raise NotebookFailedError(f"{path.stem}, cell {cell + 1}: {error}\n{told}") from error
    _refuse_errors_under_sliders(notebook, path.stem)


def _refuse_errors_under_sliders(notebook: Any, name: str) -> None:
    """`interact` catches what its function raises and shows it; here that is a failure.

    Raises:
        NotebookFailedError: at the first output that is an error.
    """
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = "\n".join(output.traceback)
                raise NotebookFailedError(f"{name}, cell {number}: {output.evalue}\n{trace}")


async def _execute(
    client: NotebookClient, environment: dict[str, str], sink: Any, stopped: threading.Event
) -> None:
    """Executes, and stops at Control-C.

    The library's handler of SIGINT kills the kernel and then stumbles over its absence. Put back is
    that of ``asyncio.run``, which cancels this coroutine and with it the kernel; the library takes
    that for a dead kernel, so ``stopped`` says what it was.
    """
    handler = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        if callable(handler):
            handler(number, frame)

    def put_back(**_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # others have no handlers
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, stop)

    client.on_notebook_start = put_back
    try:
        await client.async_execute(env=environment, stderr=sink)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _environment(scratch: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """This interpreter's kernel, and nothing of the user's own Jupyter or IPython set-up."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # read here, where the kernel is looked up
    return {
        **os.environ,
        **variables,
        "IPYTHONDIR": str(scratch / "ipython"),
        "OMP_WAIT_POLICY": "PASSIVE",  # no spinning threads between calls
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the debugger that nobody asked for
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run notebooks from the command line; 0 when all came through."""
    parser = argparse.ArgumentParser(
        prog="python -m ml_platform.docs.notebooks",
        description="Run notebooks, keep what they show.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, required=True, help="folder of the executed files")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if not path.is_file():
            parser.error(f"no such notebook: {path}")
    try:
        written = run_all([path.resolve() for path in options.paths], options.out, _bars)
    except NotebookFailedError as error:
        print(error, file=sys.stderr)
        return 1
    for path in written:
        print(path.with_suffix(".html"))
    return 0


@contextmanager
def _bars(name: str, total: int) -> Iterator[Callable[[int], None]]:
    with RichProgress() as bars:
        task = bars.add_task(name, total=total)
        yield lambda n: bars.advance(task, n)


if __name__ == "__main__":
    sys.exit(main())
