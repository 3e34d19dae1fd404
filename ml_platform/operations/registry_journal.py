"""The small files of a model registry: who is called what now, and every change so far.

In: a folder. Out: aliases that change by one rename, and a line for each change.

    aliases.json    alias to version, with the change that set them
    history.jsonl   the changes, the oldest first
    .lock           held by the one process that changes something

The change travels inside aliases.json because two files cannot be written as one: a process killed
after the rename and before the line has left enough for the next one to write that line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class RegistryError(RuntimeError):
    """What cannot be done, why, and what to do instead. Nothing was changed."""


@dataclass(frozen=True)
class Change:
    """A line of the history: time in ISO 8601, UTC; ``aliases`` are those after the change."""

    time: str
    action: str  # "register", "candidate", "promote", "rollback", "prune"
    version: str
    aliases: dict[str, str]
    note: str = ""


class Journal:
    """Aliases and history in ``root``. Readers take no lock; writers call within ``locked``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._aliases, self._history = root / "aliases.json", root / "history.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One changing process at a time; the system takes the lock back from a dead one."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            last = self._content().get("change")
            if last is not None and Change(**last) not in self.history():
                self._append(Change(**last))
            yield

    def aliases(self) -> dict[str, str]:
        """Alias to version; empty before the first one is set.

        Raises:
            RegistryError: if the file is damaged.
        """
        return dict(self._content().get("aliases", {}))

    def stamp(self) -> tuple[int, int] | None:
        """Identity of the aliases' file as it stands: every change renames a new one into place."""
        try:
            found = self._aliases.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def history(self) -> list[Change]:
        """All changes, the oldest first."""
        if not self._history.is_file():
            return []
        text = self._history.read_text()
        whole = text[: text.rfind("\n") + 1]  # a line may be being written
        return [Change(**json.loads(line)) for line in whole.splitlines()]

    def set_aliases(self, aliases: dict[str, str], action: str, version: str, note: str) -> None:
        """Replaces all aliases by one rename, then tells it."""
        change = Change(now(), action, version, aliases, note)
        content = {"aliases": aliases, "change": asdict(change)}
        write_and_rename(self._aliases, json.dumps(content, indent=1).encode())
        self._append(change)

    def tell(self, action: str, version: str, note: str) -> None:
        """A change that leaves the aliases as they are."""
        self._append(Change(now(), action, version, self.aliases(), note))

    def _append(self, change: Change) -> None:
        with self._history.open("a") as file:
            file.write(json.dumps(asdict(change)) + "\n")

    def _content(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._aliases.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RegistryError(
                f"{self._aliases} is damaged ({error}): remove it, then promote a version"
            ) from error
        return content


def write_and_rename(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one. The caller holds the lock: one draft at a time."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def now() -> str:
    """UTC, to the microsecond: versions registered in one second keep their order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
