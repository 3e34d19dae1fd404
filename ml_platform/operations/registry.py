"""A model registry on a file system: immutable versions, and names that move between them.

In: folders that a ``check`` function accepts. Out: the folder of a version, or of an alias.

    versions/<version>/bundle/     the copy that is served; never written again
    versions/<version>/record.json when it was registered, a note, its manifest
    versions/<version>/<name>      what was attached (the run's results); no part of the version
    aliases.json, history.jsonl    production, candidate, previous; every change (registry_journal)

The version is the one that the manifest states; a bundle's manifest derives it from its content, so
registering the same content twice gives one version. Promotion and rollback move names and no data,
which is why a rollback takes as long as a rename. MLflow's and Vertex AI's registries have the same
two notions, versions and aliases that move, as a service with a database.

Every change is made under one lock between processes, and every change is one rename: a process
that is killed leaves the state before or the state after. Leftovers (drafts, a missing line of the
history) are put right by the next process that changes something. Readers take no lock. What a
power cut tears is refused by ``check``.

The copy is a real one: through a hard link, a write into the original would change the version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_platform.operations.registry_journal import (
    Change,
    Journal,
    RegistryError,
    now,
    write_and_rename,
)

__all__ = ["Change", "Difference", "ModelRegistry", "Promotion", "RegistryError", "VersionRecord"]

ALIASES = PRODUCTION, CANDIDATE, PREVIOUS = "production", "candidate", "previous"
REFUSALS = (RuntimeError, ValueError, OSError)
"""What ``check`` may raise to refuse a folder; anything else is a defect and passes through."""


@dataclass(frozen=True)
class VersionRecord:
    """A registered version: when (ISO 8601, UTC), why, which aliases name it, how large it is."""

    version: str
    registered: str
    note: str
    aliases: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Promotion:
    """The aliases after a promotion or rollback; ``changed`` is false if it was so before."""

    production: str
    previous: str | None
    changed: bool


@dataclass(frozen=True)
class Difference:
    """A key whose values differ; None where a version does not have it."""

    key: str
    before: Any
    after: Any


class ModelRegistry:
    """Versions and aliases below ``root``, which is made by the first registration."""

    def __init__(self, root: Path, check: Callable[[Path], Mapping[str, Any]]) -> None:
        """``check`` returns a folder's manifest (with ``version``) or raises one of REFUSALS."""
        self.root = root
        self._check, self._journal = check, Journal(root)
        self._versions, self._drafts = root / "versions", root / ".drafts"

    def versions(self) -> list[VersionRecord]:
        """All versions, the newest first."""
        aliases = self.aliases()
        found = []
        for version in self._known():
            record = self._record(version)
            names = tuple(name for name, target in aliases.items() if target == version)
            size = sum(p.stat().st_size for p in (self._versions / version / "bundle").rglob("*"))
            found.append(VersionRecord(version, record["registered"], record["note"], names, size))
        return sorted(found, key=lambda record: record.registered, reverse=True)

    def aliases(self) -> dict[str, str]:
        """Alias to version; empty before the first one is set."""
        return self._journal.aliases()

    def aliases_changed_at(self) -> object:
        """A value that differs after every change of an alias; costs one ``stat``."""
        return self._journal.stamp()

    def resolve(self, name: str) -> str:
        """The version that an alias, a version or a unique beginning of one stands for.

        Raises:
            RegistryError: if it stands for none or for several.
        """
        wanted, known = self.aliases().get(name, name), self._known()
        matches = [v for v in known if wanted and v.startswith(wanted)]
        if wanted in known or len(matches) == 1:
            return wanted if wanted in known else matches[0]
        if matches:
            raise RegistryError(f"{name!r} is short for {', '.join(matches)}: write more of it")
        if wanted != name:
            raise RegistryError(f"{name} is {wanted}, which is gone from {self.root}: register it")
        has = ", ".join(known) or "none yet"
        raise RegistryError(f"no version or alias {name!r} in {self.root}; it has {has}")

    def path(self, version_or_alias: str) -> Path:
        """The folder to load. It does not change; an alias may name another one a moment later."""
        return self._versions / self.resolve(version_or_alias) / "bundle"

    def attachment(self, version_or_alias: str, name: str) -> Path | None:
        """A file that was registered beside the bundle, or None."""
        path = self._versions / self.resolve(version_or_alias) / name
        return path if path.is_file() else None

    def diff(self, a: str, b: str) -> list[Difference]:
        """Where two manifests differ, nested keys joined by dots, by key."""
        before, after = (_flat(self._record(self.resolve(name))["manifest"]) for name in (a, b))
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        return [Difference(key, before.get(key), after.get(key)) for key in keys]

    def history(self) -> list[Change]:
        """All changes, the oldest first."""
        return self._journal.history()

    # --- changing ------------------------------------------------------------------------------

    def register(self, folder: Path, *, note: str = "", attach: Sequence[Path] = ()) -> str:
        """Copies a bundle in, checks the copy and returns its version.

        Registered before, it stays as it is (a damaged copy is replaced); a note and attachments
        that are given take the place of the old ones.

        Raises:
            RegistryError: if ``folder`` is missing or ``check`` refuses the copy.
        """
        for path in (folder, *attach):
            if not path.exists():
                raise RegistryError(f"{path} does not exist: nothing is registered")
        with self._locked():
            draft = self._drafts / "version"
            try:
                shutil.copytree(folder, draft / "bundle")
                manifest = self._accepted(draft / "bundle", str(folder))
                return self._take_in(draft, manifest, note, attach)
            finally:
                shutil.rmtree(self._drafts, ignore_errors=True)

    def set_candidate(self, version: str | None, *, note: str = "") -> None:
        """Names the version that ``promote`` would take; None: there is none.

        Raises:
            RegistryError: if it is unknown or ``check`` refuses it.
        """
        with self._locked():
            aliases = self.aliases()
            before = aliases.pop(CANDIDATE, None)
            if version is not None:
                aliases[CANDIDATE] = self._usable(version)
            if aliases.get(CANDIDATE) != before:
                self._journal.set_aliases(aliases, "candidate", aliases.get(CANDIDATE, ""), note)

    def promote(self, version: str | None = None, *, note: str = "") -> Promotion:
        """Makes a version (by default the candidate) production; production becomes previous.

        Promoting what is production already changes nothing.

        Raises:
            RegistryError: if it is unknown or ``check`` refuses it, with the reason.
        """
        with self._locked():
            if version is None and CANDIDATE not in self.aliases():
                raise RegistryError("there is no candidate: train a model, or name a version")
            target = self._usable(CANDIDATE if version is None else version)
            return self._make_production(target, "promote", note)

    def rollback(self, *, note: str = "") -> Promotion:
        """Makes the previous version production again, and production previous.

        A second rollback therefore undoes the first. The way further back is ``promote(version)``.

        Raises:
            RegistryError: if there is no previous version or ``check`` refuses it.
        """
        with self._locked():
            if PREVIOUS not in self.aliases():
                raise RegistryError("there is no previous version: promote one by its name")
            return self._make_production(self._usable(PREVIOUS), "rollback", note)

    def prune(self, keep: int) -> list[str]:
        """Removes all but the newest ``keep`` versions; one that an alias names always stays."""
        if keep < 0:
            raise ValueError(f"keep must be at least 0, got {keep}")
        with self._locked():
            removed = [record.version for record in self.versions()[keep:] if not record.aliases]
            for version in removed:
                self._drafts.mkdir(exist_ok=True)
                os.replace(self._versions / version, self._drafts / version)
                self._journal.tell("prune", version, f"keep={keep}")
            shutil.rmtree(self._drafts, ignore_errors=True)
        return removed

    # --- parts ---------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone, and after what a killed process left: its drafts go, its missing lines come."""
        self._versions.mkdir(parents=True, exist_ok=True)
        with self._journal.locked():
            shutil.rmtree(self._drafts, ignore_errors=True)
            told: set[str] = set()
            for change in self.history():
                if change.action in ("register", "prune"):
                    (told.add if change.action == "register" else told.discard)(change.version)
            for version in sorted(told ^ set(self._known())):
                action = "prune" if version in told else "register"
                self._journal.tell(action, version, "by a process that was stopped")
            yield

    def _take_in(
        self, draft: Path, manifest: Mapping[str, Any], note: str, attach: Sequence[Path]
    ) -> str:
        version = str(manifest["version"])
        if not re.fullmatch(r"[0-9A-Za-z][\w.-]*", version) or version in ALIASES:
            raise RegistryError(f"{version!r} cannot be a version: it must do as a folder's name")
        place = self._versions / version
        known = place.is_dir()
        record = self._record(version) if known else {"version": version, "registered": now()}
        record = {**record, "note": note or record.get("note", ""), "manifest": dict(manifest)}
        home = place if known else draft
        write_and_rename(home / "record.json", json.dumps(record, indent=1).encode())
        for path in attach:
            write_and_rename(home / path.name, path.read_bytes())
        if not known:
            os.replace(draft, place)
            self._journal.tell("register", version, note)
            return version
        try:
            self._usable(version)
        except RegistryError:
            shutil.rmtree(place / "bundle", ignore_errors=True)
            os.replace(draft / "bundle", place / "bundle")
        return version

    def _make_production(self, target: str, action: str, note: str) -> Promotion:
        before = self.aliases()
        after = {name: version for name, version in before.items() if version != target}
        after[PRODUCTION] = target
        changed = before.get(PRODUCTION) != target
        if changed and PRODUCTION in before:
            after[PREVIOUS] = before[PRODUCTION]
        if after != before:
            self._journal.set_aliases(after, action, target, note)
        return Promotion(target, after.get(PREVIOUS), changed)

    def _usable(self, name: str) -> str:
        version = self.resolve(name)
        found = self._accepted(self.path(version), f"version {version}")["version"]
        if found != version:
            raise RegistryError(f"the folder of version {version} holds {found}: register both")
        return version

    def _accepted(self, folder: Path, what: str) -> Mapping[str, Any]:
        try:
            return self._check(folder)
        except REFUSALS as error:
            raise RegistryError(f"{what} is refused, nothing was changed: {error}") from error

    def _known(self) -> list[str]:
        return sorted(path.name for path in self._versions.glob("*"))

    def _record(self, version: str) -> dict[str, Any]:
        return dict(json.loads((self._versions / version / "record.json").read_text()))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        found.update(_flat(item, f"{name}.") if isinstance(item, Mapping) else {name: item})
    return found
