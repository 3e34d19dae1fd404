"""Runs the notebooks from first to last cell and keeps what they show.

In: ``notebooks/*.ipynb``, committed without outputs, and the bundle they look at. Out:
``artifacts/notebooks/<name>.ipynb`` with outputs, and ``<name>.html``, which needs no Jupyter to be
read. Each notebook has a kernel of its own. A notebook's files are written when all of its cells
have run, each by one rename; one that fails leaves none, and the run stops at its cell.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from traitlets.config import Config

from ml_platform.evaluation.results import write_atomic
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.notebooks.desk import BUNDLE_VARIABLE
from video_recommendation.progress import Progress

SOURCES = SYSTEM_FOLDER / "notebooks"
CELL_TIMEOUT_S = 300


class NotebookFailedError(RuntimeError):
    """A cell did not come through; the message has the notebook, the cell and its traceback."""


def notebooks() -> list[Path]:
    """The committed notebooks, in reading order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.ipynb"))


def run_all(paths: Sequence[Path], bundle: Path, out: Path, progress: Progress) -> list[Path]:
    """Executes the notebooks one after the other; returns the executed files.

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
        with progress.stage(path.stem, n_cells) as step:
            run_notebook(notebook, path.stem, bundle, step)
        page, _ = HTMLExporter(embed_images=True).from_notebook_node(
            notebook, resources={"metadata": {"name": path.stem}}
        )
        for target, content in zip(targets, (nbformat.writes(notebook), page), strict=True):
            write_atomic(target, content)
        written.append(targets[0])
    return written


def run_notebook(notebook: Any, name: str, bundle: Path, step: Any = lambda _: None) -> None:
    """Executes one notebook in place.

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
            resources={"metadata": {"path": str(SOURCES)}},
            on_cell_start=lambda cell, cell_index: started.append(cell_index),
            on_cell_executed=lambda **_: step(1),
        )
        said = Path(scratch) / "said"  # what the kernel itself says, not its cells
        try:
            with said.open("wb") as sink:
                # Not `execute`: it would leave its event loop open.
                asyncio.run(_execute(client, _environment(Path(scratch), bundle), sink, stopped))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            if stopped.is_set():
                raise KeyboardInterrupt from error
            cell = started[-1] if started else 0
            told = "" if isinstance(error, CellExecutionError) else said.read_text()[-2000:]
            raise NotebookFailedError(f"{name}, cell {cell + 1}: {error}\n{told}") from error


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


def _environment(scratch: Path, bundle: Path) -> dict[str, str]:
    """This interpreter's kernel, and nothing of the user's own Jupyter or IPython set-up."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # read here, where the kernel is looked up
    return {
        **os.environ,
        BUNDLE_VARIABLE: str(bundle.resolve()),
        "IPYTHONDIR": str(scratch / "ipython"),
        "OMP_WAIT_POLICY": "PASSIVE",  # see cli.py
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the debugger that nobody asked for
    }
