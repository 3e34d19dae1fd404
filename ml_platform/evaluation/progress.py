"""Progress of long work: a stage has a name, a total and a step to call.

``Silent`` is for tests and libraries; ``Console`` draws rich bars and keeps the seconds of every
stage, which the report prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

Step = Callable[[int], None]


class Progress(Protocol):
    """Who is told how far the work is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Step]:
        """Opens a stage; the context gives a function that advances it by n."""


class Silent:
    """Says nothing, keeps the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Step]:
        """See ``Progress``."""
        started = time.perf_counter()
        yield lambda _: None
        _count(self.seconds, name, started)


class Console:
    """Draws one bar per stage on the terminal."""

    def __init__(self, console: RichConsole) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Step]:
        """See ``Progress``."""
        started = time.perf_counter()
        columns = (
            TextColumn("  {task.description:<46}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=max(total, 1))
            yield lambda n: bars.advance(task, n)
            bars.update(task, completed=max(total, 1))
        _count(self.seconds, name, started)


def _count(seconds: dict[str, float], name: str, started: float) -> None:
    """A stage that runs again, on other data say, costs both times."""
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
