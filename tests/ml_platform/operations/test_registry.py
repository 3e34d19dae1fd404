"""Versions and aliases: what moves, what is refused, what survives a kill and a race."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import ml_platform
from ml_platform.operations.registry import (
    Change,
    Difference,
    ModelRegistry,
    Promotion,
    RegistryError,
)

ROOT = Path(ml_platform.__file__).parents[1]


def make_bundle(folder: Path, content: str, **more) -> Path:
    """A bundle as small as it gets: one file, and a manifest whose version is its hash."""
    folder.mkdir(parents=True)
    (folder / "weights").write_text(content)
    version = hashlib.sha256(content.encode()).hexdigest()[:12]
    (folder / "manifest.json").write_text(json.dumps({"version": version, **more}))
    return folder


def check(folder: Path) -> dict:
    manifest = json.loads((folder / "manifest.json").read_text())
    found = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:12]
    if found != manifest["version"]:
        raise RuntimeError(f"weights are damaged: {found} is not {manifest['version']}")
    return manifest


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "registry", check)


@pytest.fixture
def register(registry, tmp_path):
    """Registers a bundle with the given content; returns its version."""

    def of(content: str, **options) -> str:
        folder = tmp_path / "bundles" / content
        return registry.register(
            folder if folder.exists() else make_bundle(folder, content), **options
        )

    return of


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- registering ----------------------------------------------------------------------------------


def test_a_registered_version_is_a_copy_of_its_own(registry, register, tmp_path):
    version = register("a", note="first")
    assert version == hashlib.sha256(b"a").hexdigest()[:12]
    assert files(registry.path(version)) == files(tmp_path / "bundles" / "a")
    (tmp_path / "bundles" / "a" / "weights").write_text("written into the original")
    assert check(registry.path(version))["version"] == version
    record = registry.versions()[0]
    assert (record.version, record.note, record.aliases) == (version, "first", ())
    assert record.size_bytes == sum(len(c) for c in files(registry.path(version)).values())
    assert record.registered.endswith("+00:00")


def test_registering_twice_is_registering_once(registry, register, tmp_path):
    version = register("a", note="first")
    before = registry.versions()
    results = tmp_path / "results.json"
    results.write_text("{}")
    assert register("a") == version
    assert registry.versions() == before  # time and note stay
    assert registry.attachment(version, "results.json") is None
    register("a", note="evaluated", attach=[results])
    assert [record.note for record in registry.versions()] == ["evaluated"]
    assert registry.attachment(version, "results.json").read_text() == "{}"
    assert not (registry.path(version) / "results.json").exists()  # beside it, not in it
    assert [change.action for change in registry.history()] == ["register"]


def test_registering_again_mends_a_damaged_copy(registry, register):
    version = register("a", note="first")
    (registry.path(version) / "weights").write_text("rot")
    register("a")
    assert check(registry.path(version))["version"] == version
    assert [record.note for record in registry.versions()] == ["first"]


def test_a_damaged_bundle_leaves_nothing(registry, tmp_path):
    folder = make_bundle(tmp_path / "b", "b")
    (folder / "weights").write_text("rot")
    with pytest.raises(RegistryError, match="weights are damaged"):
        registry.register(folder)
    assert registry.versions() == []
    assert registry.history() == []
    assert not (registry.root / ".drafts").exists()


def test_a_bundle_or_attachment_that_is_not_there(registry, register, tmp_path):
    with pytest.raises(RegistryError, match="nothing does not exist"):
        registry.register(tmp_path / "nothing")
    with pytest.raises(RegistryError, match=r"results\.json does not exist"):
        register("a", attach=[tmp_path / "results.json"])
    assert registry.versions() == []


@pytest.mark.parametrize("version", ["", "../evil", "a/b", ".hidden", "production"])
def test_a_version_that_is_no_folder_name_is_refused(tmp_path, version):
    registry = ModelRegistry(tmp_path / "registry", lambda folder: {"version": version})
    with pytest.raises(RegistryError, match="cannot be a version"):
        registry.register(make_bundle(tmp_path / "b", "b"))
    assert registry.versions() == []


def test_an_error_of_the_check_itself_is_not_hidden(tmp_path):
    registry = ModelRegistry(tmp_path / "registry", lambda folder: {}["version"])
    with pytest.raises(KeyError):
        registry.register(make_bundle(tmp_path / "b", "b"))


# --- names ----------------------------------------------------------------------------------------


def test_a_version_may_be_shortened_while_it_is_unique(registry, tmp_path):
    registry = ModelRegistry(
        tmp_path / "r", lambda f: {"version": (f / "weights").read_text().strip()}
    )
    for name in ("abc1", "abc2", "abc", "x"):
        registry.register(make_bundle(tmp_path / name, name))
    assert registry.resolve("x") == "x"
    assert registry.resolve("abc1") == "abc1"
    assert registry.resolve("abc") == "abc"  # exact, though it begins two others
    with pytest.raises(RegistryError, match="short for abc, abc1, abc2"):
        registry.resolve("ab")
    with pytest.raises(RegistryError, match="it has abc, abc1, abc2, x"):
        registry.resolve("y")
    with pytest.raises(RegistryError, match="no version or alias ''"):
        registry.resolve("")


def test_an_alias_names_a_path(registry, register):
    version = register("a")
    registry.set_candidate(version)
    assert registry.path("candidate") == registry.path(version)
    assert registry.versions()[0].aliases == ("candidate",)
    with pytest.raises(RegistryError, match="no version or alias 'production'"):
        registry.path("production")


def test_an_empty_registry_reads_as_empty(registry):
    assert (registry.versions(), registry.aliases(), registry.history()) == ([], {}, [])
    assert not registry.root.exists()
    with pytest.raises(RegistryError, match="it has none yet"):
        registry.path("production")


# --- promotion ------------------------------------------------------------------------------------


def test_promotion_moves_production_to_previous(registry, register):
    a, b, c = register("a"), register("b"), register("c")
    registry.set_candidate(a)
    assert registry.promote() == Promotion(a, None, changed=True)
    assert registry.aliases() == {"production": a}  # no longer a candidate
    assert registry.promote(b) == Promotion(b, a, changed=True)
    registry.set_candidate(c)
    assert registry.promote(b[:6]) == Promotion(b, a, changed=False)
    assert registry.aliases() == {"production": b, "previous": a, "candidate": c}
    assert registry.promote() == Promotion(c, b, changed=True)
    assert registry.aliases() == {"production": c, "previous": b}


def test_rollback_goes_back_and_a_second_one_forth(registry, register):
    a, b, c = register("a"), register("b"), register("c")
    registry.promote(a)
    registry.promote(b)
    registry.set_candidate(c)
    assert registry.rollback() == Promotion(a, b, changed=True)
    assert registry.rollback(note="no, it was not that") == Promotion(b, a, changed=True)
    assert registry.aliases() == {"production": b, "previous": a, "candidate": c}


def test_rollback_without_a_previous_version(registry, register):
    with pytest.raises(RegistryError, match="no previous version"):
        registry.rollback()
    registry.promote(register("a"))
    with pytest.raises(RegistryError, match="no previous version"):
        registry.rollback()


def test_the_candidate_can_be_withdrawn(registry, register):
    registry.set_candidate(register("a"))
    registry.set_candidate(None, note="slow")
    registry.set_candidate(None)
    assert registry.aliases() == {}
    assert [(c.action, c.note) for c in registry.history()][-2:] == [
        ("candidate", ""),
        ("candidate", "slow"),
    ]
    with pytest.raises(RegistryError, match="no candidate"):
        registry.promote()


@pytest.mark.parametrize("alias", ["candidate", "previous"])
def test_a_damaged_version_never_becomes_production(registry, register, alias):
    a, b, c = register("a"), register("b"), register("c")
    registry.promote(a)
    registry.promote(b)
    registry.set_candidate(c)
    before, told = registry.aliases(), registry.history()
    (registry.path(alias) / "weights").write_text("rot")
    with pytest.raises(RegistryError, match="is refused, nothing was changed: weights are damaged"):
        registry.promote() if alias == "candidate" else registry.rollback()
    assert (registry.aliases(), registry.history()) == (before, told)


def test_a_sound_bundle_under_another_ones_name_is_refused(registry, register):
    a, b = register("a"), register("b")
    shutil.rmtree(registry.path(b))
    shutil.copytree(registry.path(a), registry.path(b))
    with pytest.raises(RegistryError, match=f"the folder of version {b} holds {a}"):
        registry.promote(b)
    assert registry.aliases() == {}
    register("b")  # mends it
    assert registry.promote(b).production == b


def test_an_unknown_version_is_not_promoted(registry, register):
    registry.promote(register("a"))
    before = registry.aliases()
    with pytest.raises(RegistryError, match="no version or alias 'zzz'"):
        registry.promote("zzz")
    assert registry.aliases() == before


def test_a_production_folder_that_somebody_removed(registry, register):
    version = register("a")
    registry.promote(version)
    shutil.rmtree(registry.root / "versions" / version)
    with pytest.raises(RegistryError, match=f"production is {version}, which is gone"):
        registry.path("production")
    assert register("a") == version
    assert check(registry.path("production"))["version"] == version


def test_who_waits_for_a_change_sees_every_one(registry, register):
    seen = [registry.aliases_changed_at()]
    a, b = register("a"), register("b")
    assert registry.aliases_changed_at() is seen[0] is None
    for change in (lambda: registry.promote(a), lambda: registry.promote(b), registry.rollback):
        change()
        seen.append(registry.aliases_changed_at())
    registry.promote(a)  # is production already
    assert registry.aliases_changed_at() == seen[-1]
    assert len(set(seen)) == 4


def test_a_damaged_alias_file_is_named(registry, register):
    registry.promote(register("a"))
    (registry.root / "aliases.json").write_text('{"aliases":')
    with pytest.raises(RegistryError, match=r"aliases\.json is damaged"):
        registry.aliases()


# --- what is told ---------------------------------------------------------------------------------


def test_the_history_tells_every_change(registry, register):
    a, b = register("a", note="first"), register("b")
    registry.promote(a, note="go")
    registry.set_candidate(b)
    registry.promote()
    registry.rollback(note="clicks fell")
    registry.promote(a)  # is production already: nothing to tell
    history = registry.history()
    assert all(isinstance(change, Change) for change in history)
    assert [(c.action, c.version, c.note) for c in history] == [
        ("register", a, "first"),
        ("register", b, ""),
        ("promote", a, "go"),
        ("candidate", b, ""),
        ("promote", b, ""),
        ("rollback", a, "clicks fell"),
    ]
    assert history[-1].aliases == registry.aliases() == {"production": a, "previous": b}
    assert [c.time for c in history] == sorted(c.time for c in history)


def test_diff_names_the_keys_that_differ(registry, tmp_path):
    a = registry.register(make_bundle(tmp_path / "a", "a", data={"events": 10, "name": "x"}))
    b = registry.register(make_bundle(tmp_path / "b", "b", data={"events": 12, "name": "x"}, f=2))
    assert registry.diff(a, b) == [
        Difference("data.events", 10, 12),
        Difference("f", None, 2),
        Difference("version", a, b),
    ]
    assert registry.diff(a, a) == []


def test_prune_keeps_the_newest_and_whatever_an_alias_names(registry, register):
    versions = [register(name) for name in "abcdef"]
    registry.promote(versions[0])
    registry.promote(versions[1])
    registry.set_candidate(versions[2])
    assert sorted(registry.prune(keep=1)) == sorted(versions[3:5])
    assert {r.version for r in registry.versions()} == {*versions[:3], versions[5]}
    assert registry.prune(keep=0) == [versions[5]]
    assert {r.version for r in registry.versions()} == set(versions[:3])
    assert [c.version for c in registry.history() if c.action == "prune"][-1] == versions[5]
    with pytest.raises(ValueError, match="at least 0"):
        registry.prune(keep=-1)


# --- other processes ------------------------------------------------------------------------------

CHILD = """
import hashlib, json, os, shutil, signal, sys
from pathlib import Path
from ml_platform.operations.registry import ModelRegistry

def check(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    if hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:12] != manifest["version"]:
        raise RuntimeError("weights are damaged")
    return manifest

def die():
    os.kill(os.getpid(), signal.SIGKILL)

root, bundles = Path(sys.argv[1]), Path(sys.argv[2])
registry = ModelRegistry(root, check)
"""


def child(code: str, *arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def consistent(registry: ModelRegistry) -> None:
    """Every alias names a sound version, no half version is listed, no draft is left."""
    for version in registry.aliases().values():
        assert check(registry.path(version))["version"] == version
    for record in registry.versions():
        assert check(registry.path(record.version))["version"] == record.version


KILLED_REGISTRATIONS = {
    "while copying": "shutil.copytree = lambda a, b: (Path(b).mkdir(parents=True), "
    "shutil.copyfile(a / 'weights', b / 'weights'), die())",
    "before the rename": "os.replace = lambda a, b: die() if b.name == version else move(a, b)",
    "after the rename": "os.replace = lambda a, b: (move(a, b), b.name == version and die())",
}


@pytest.mark.parametrize("moment", KILLED_REGISTRATIONS)
def test_a_registration_killed_at_any_moment(registry, register, tmp_path, moment):
    registry.promote(register("a"))
    bundle = make_bundle(tmp_path / "bundles" / "b", "b")
    version = check(bundle)["version"]
    process = child(
        f"""
        version, move = {version!r}, os.replace
        {KILLED_REGISTRATIONS[moment]}
        registry.register(bundles / "b", note="killed")
        """,
        registry.root,
        tmp_path / "bundles",
    )
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    consistent(registry)
    assert bool(files(registry.root / ".drafts")) is (moment != "after the rename")
    listed = [record.version for record in registry.versions()]
    assert (version in listed) is (moment == "after the rename")
    assert register("b") == version
    consistent(registry)
    assert not (registry.root / ".drafts").exists()
    assert [c.version for c in registry.history() if c.action == "register"].count(version) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_promotion_killed_at_its_rename(registry, register, tmp_path, moment):
    a, b, c = register("a"), register("b"), register("c")
    registry.promote(a)
    process = child(
        f"""
        move = os.replace
        def replace(source, target):
            if {moment == "after"}:
                move(source, target)
            die()
        os.replace = replace
        registry.promote({b!r}, note="killed")
        """,
        registry.root,
        tmp_path,
    )
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    assert registry.aliases()["production"] == (a if moment == "before" else b)
    consistent(registry)
    registry.promote(c)  # the lock is free, and what was not told is told now
    promoted = [(x.version, x.note) for x in registry.history() if x.action == "promote"]
    assert promoted == [(a, ""), *([(b, "killed")] if moment == "after" else []), (c, "")]


@pytest.mark.slow
def test_kills_at_random_moments_leave_a_working_registry(registry, register, tmp_path):
    rng = random.Random(0)
    for name in "abcd":
        make_bundle(tmp_path / "bundles" / name, name)
    register("a")
    loop = """
    print("ready", flush=True)
    while True:
        for name in "abcd":
            version = registry.register(bundles / name)
            registry.set_candidate(version)
            registry.promote()
        registry.rollback()
        registry.prune(keep=1)
    """
    for _ in range(12):
        with child(loop, registry.root, tmp_path / "bundles") as process:
            process.stdout.readline()
            told = len(registry.history())
            while len(registry.history()) == told and process.poll() is None:
                time.sleep(0.001)  # until it is at work, however busy the machine
            time.sleep(rng.uniform(0.0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL  # not ended by an error of its own
        consistent(registry)
    register("a")
    registry.promote(check(tmp_path / "bundles" / "a")["version"])
    consistent(registry)
    assert {r.version for r in registry.versions()} == versions_by_history(registry)


def versions_by_history(registry: ModelRegistry) -> set[str]:
    known: set[str] = set()
    for change in registry.history():
        if change.action == "register":
            known.add(change.version)
        elif change.action == "prune":
            known.discard(change.version)
    return known


def test_processes_that_promote_at_once_take_turns(registry, register, tmp_path):
    """Each change builds on the one before it: a lost update would break the chain."""
    versions = [register(name) for name in "abcd"]
    code = """
    mine, others = sys.argv[3], sys.argv[4:]
    print("ready", flush=True)
    while not (bundles / "go").exists():
        pass
    for _ in range(10):
        registry.promote(mine)
        registry.promote(others[0])
        registry.rollback()
    """
    processes = [
        child(code, registry.root, tmp_path, mine, *(v for v in versions if v != mine))
        for mine in versions[:3]
    ]
    for process in processes:
        process.stdout.readline()
    (tmp_path / "go").touch()
    for process in processes:
        assert process.wait(timeout=60) == 0
        process.stdout.close()
    moves = [c.aliases for c in registry.history() if c.action in ("promote", "rollback")]
    assert len(moves) >= 30
    for before, after in zip(moves, moves[1:], strict=False):
        assert after["previous"] == before["production"] != after["production"]
    assert registry.aliases() == moves[-1]


def test_a_reader_always_sees_a_whole_alias_file(registry, register, tmp_path):
    a, b = register("a"), register("b")
    registry.promote(a)
    code = f"""
    print("ready", flush=True)
    for _ in range(40):
        registry.promote({b!r})
        registry.rollback()
    """
    with child(code, registry.root, tmp_path) as process:
        process.stdout.readline()
        seen = set()
        while process.poll() is None:
            seen.add(registry.aliases()["production"])
    assert process.returncode == 0
    assert seen == {a, b}
