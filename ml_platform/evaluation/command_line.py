"""What the command lines of all systems do alike: read the settings, end with a clear line.

In: functions of the system. Out: its configuration, or the end of the process with code 2 (bad
settings), 1 (an error that the user can mend) or 130 (interrupted).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

BAD_SETTINGS, FAILED, INTERRUPTED = 2, 1, 130
C = TypeVar("C")


def read_settings(
    load: Callable[[Path | None, tuple[str, ...]], C],
    path: Path | None,
    overrides: tuple[str, ...],
    console: Console,
) -> C:
    """The configuration; a mistake ends the command with its place and reason.

    Args:
        load: The system's ``load_config``.
        path: The YAML file of differences, if any.
        overrides: ``stage.key=value``.
        console: Where the reason is printed.

    Raises:
        SystemExit: With code 2.
    """
    try:
        return load(path, overrides)
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            said = f"configuration: {place}: {problem['msg']} (got {problem['input']!r})"
            console.print(f"[red]{escape(said)}", highlight=False)
    except (FileNotFoundError, ValueError) as error:
        console.print(f"[red]configuration: {escape(str(error))}", highlight=False)
    raise SystemExit(BAD_SETTINGS)


def guarded(
    work: Callable[[], Any], console: Console, mendable: tuple[type[Exception], ...]
) -> None:
    """Runs a command; errors that a user can mend are printed as one line, others are traced.

    Raises:
        SystemExit: With code 1 for an error of a mendable kind, 130 after Ctrl-C.
    """
    try:
        work()
    except mendable as error:
        console.print(f"[red]{escape(str(error))}", highlight=False)
        raise SystemExit(FAILED) from error
    except KeyboardInterrupt:
        console.print("\n[yellow]interrupted; the last complete run is untouched")
        raise SystemExit(INTERRUPTED) from None
