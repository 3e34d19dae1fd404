"""The commands ``versions``, ``promote``, ``rollback``, ``diff``, and how a run registers itself.

In: a folder of artifacts. Out: its registry (``<artifacts>/registry``) changed, and what happened
in words.

A first version becomes production at once, for there is nothing to lose. Every later one becomes
the candidate and waits: for shadow traffic, a canary, or somebody who says ``make promote``.
"""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ml_platform.operations.registry import (
    CANDIDATE,
    PREVIOUS,
    PRODUCTION,
    ModelRegistry,
    Promotion,
    VersionRecord,
)
from video_recommendation.bundle import check_bundle
from video_recommendation.rollout.registry_diff import RESULTS, Row, diff_rows

SHOWN = {PRODUCTION: "[green]production[/]", CANDIDATE: "[yellow]candidate[/]"}


def open_registry(artifacts: Path) -> ModelRegistry:
    """The registry of a folder of artifacts; it need not exist yet."""
    return ModelRegistry(artifacts / "registry", check_bundle)


def register_run(run: Path, artifacts: Path, console: Console, *, note: str) -> str:
    """Registers the bundle of a complete run, with its results where it has some.

    Args:
        run: The run's folder, with ``bundle`` and perhaps ``results.json``.
        artifacts: Where the registry is.
        console: Gets one line: what the version is now, and what would make it production.
        note: How it came about.

    Raises:
        RegistryError: if the bundle is refused.
    """
    registry = open_registry(artifacts)
    results = run / RESULTS
    attach = [results] if results.is_file() else []
    version = registry.register(run / "bundle", note=note, attach=attach)
    production = registry.aliases().get(PRODUCTION)
    if production is None:
        registry.promote(version, note="the first version")
        line = "registered; it is production, for there was none"
    elif production == version:
        line = "is what production is already: the same content"
    else:
        registry.set_candidate(version)
        line = f"registered as candidate; `make promote` puts it in place of {production}"
    console.print(f"version {version} {line}", highlight=False)
    return version


def print_versions(artifacts: Path, console: Console, *, prune: int | None = None) -> None:
    """A table of all versions, the newest first; ``prune`` first removes all but so many."""
    registry = open_registry(artifacts)
    if prune is not None:
        removed = registry.prune(prune)
        console.print(f"removed: {', '.join(removed) or 'nothing'}", highlight=False)
    versions = registry.versions()
    if not versions:
        console.print(f"no versions in {registry.root} yet: `make train` registers one")
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("version", "alias", "registered, UTC", "size", "note"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for record in versions:
        table.add_row(*_version_row(record))
    console.print(table)
    aliases = registry.aliases()
    if CANDIDATE in aliases:
        command = f"make diff A={PRODUCTION} B={CANDIDATE}"
        console.print(f"`{command}` compares, `make promote` promotes {aliases[CANDIDATE]}")
    if PREVIOUS in aliases:
        console.print(f"`make rollback` would make {aliases[PREVIOUS]} production again")


def promote(artifacts: Path, console: Console, version: str | None = None) -> Promotion:
    """Makes a version production, by default the candidate.

    Raises:
        RegistryError: if it is unknown or refused; production stays.
    """
    done = open_registry(artifacts).promote(version)
    if done.changed:
        after = f", {done.previous} previous: `make rollback` goes back" if done.previous else ""
        console.print(f"{done.production} is production{after}", highlight=False)
    else:
        console.print(f"{done.production} is production already", highlight=False)
    return done


def rollback(artifacts: Path, console: Console) -> Promotion:
    """Makes the previous version production again.

    Raises:
        RegistryError: if there is none or it is refused; production stays.
    """
    done = open_registry(artifacts).rollback()
    console.print(
        f"{done.production} is production again, {done.previous} previous: "
        "a second rollback would undo this one",
        highlight=False,
    )
    return done


def print_diff(artifacts: Path, console: Console, a: str, b: str) -> list[Row]:
    """A table of what differs between two versions.

    Raises:
        RegistryError: if a name stands for no version or for several.
    """
    registry = open_registry(artifacts)
    rows = diff_rows(registry, a, b)
    before, after = (_titled(name, registry.resolve(name)) for name in (a, b))
    if not rows:
        console.print(f"{before} and {after} are the same version", highlight=False)
        return rows
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("", "what", before, after):
        table.add_column(heading, overflow="fold")
    for row, last in zip(rows, [None, *rows], strict=False):
        if last is not None and last.group != row.group:
            table.add_section()
        group = row.group if last is None or last.group != row.group else ""
        table.add_row(group, *(escape(text) for text in (row.what, row.before, row.after)))
    console.print(table)
    return rows


def _version_row(record: VersionRecord) -> tuple[str, str, str, str, str]:
    names = ", ".join(SHOWN.get(name, name) for name in record.aliases)
    time = record.registered[:19].replace("T", " ")
    size = f"{record.size_bytes / 1e6:.1f} MB"
    return record.version, names, time, size, escape(record.note)


def _titled(name: str, version: str) -> str:
    return version if version.startswith(name) else f"{name} {version}"
