"""Where a run leaves things: ``artifacts/<run>/``, ``artifacts/latest``, ``results/``; its cost.

A run is written into a folder of its own; ``latest`` is moved to it as the last step, so an
interrupted run leaves the last complete one in place. What the documents quote goes to the system's
``results/``, and only from a full run.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_info import peak_memory_bytes


def new_run_folder(artifacts: Path, name: str) -> Path:
    """An empty folder for a run, named by configuration and local time."""
    folder = artifacts / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=False)
    return folder


def publish(folder: Path) -> Path:
    """Points ``latest`` at a complete run; returns the link."""
    link = folder.parent / "latest"
    draft = folder.parent / f".latest-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name, target_is_directory=True)
    os.replace(draft, link)
    return link


@contextmanager
def published_run(artifacts: Path, name: str) -> Iterator[Path]:
    """A new run folder; published when the block ends well, left as it is when it does not."""
    folder = new_run_folder(artifacts, name)
    yield folder
    publish(folder)


def results_folder(system_folder: Path, artifacts: Path, *, full: bool) -> Path:
    """Where a command writes: ``results/`` for a full run, else beside the artifacts.

    Made if missing, with its folder ``plots``.

    Args:
        system_folder: The system's own folder in the repository.
        artifacts: Where runs go.
        full: Whether what is measured is what the documents quote.
    """
    folder = system_folder / "results" if full else artifacts / "demonstrations"
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    return folder


def record_cost(results: Results, seconds: Mapping[str, float]) -> None:
    """Adds the wall seconds of every stage and of all, processor seconds, peak memory in bytes.

    Processor seconds are of this process from its start and of the processes that it started and
    has waited for: other work on the machine does not lengthen them. The peak is this process's.

    Args:
        results: Takes ``seconds/<stage>/wall_s``, ``seconds/all_processes/processor_s`` and
            ``memory/main_process/peak_bytes``.
        seconds: Stage as it was printed -> wall seconds.
    """
    protocol = "this command, set-up not included"
    for name, value in seconds.items():
        variant = re.sub(r"[^a-z0-9_ -]", "", name.lower()).replace(" ", "_")
        results.add(f"seconds/{variant}/wall_s", value, protocol=protocol)
    results.add("seconds/all_stages/wall_s", sum(seconds.values()), protocol=protocol)
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor_s = sum(u.ru_utime + u.ru_stime for u in used)
    results.add("seconds/all_processes/processor_s", processor_s, protocol=protocol)
    results.add("memory/main_process/peak_bytes", peak_memory_bytes(), protocol=protocol)
