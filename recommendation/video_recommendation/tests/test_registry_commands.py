"""Versions, promotion, rollback and diff as the commands give them; how a run registers itself."""

from __future__ import annotations

import json
import time

import faiss
import numpy as np
import pytest
from fastapi.testclient import TestClient
from rich.console import Console
from tampering import rewrite_checksums
from typer.testing import CliRunner

from ml_platform.evaluation.results import Results
from ml_platform.operations.registry import RegistryError
from video_recommendation import cli, commands
from video_recommendation.bundle import BundleError, check_bundle, load_bundle, save_bundle
from video_recommendation.commands import Run
from video_recommendation.rollout.registry_commands import open_registry, register_run
from video_recommendation.rollout.registry_diff import Row, diff_rows
from video_recommendation.serving import run as serving_run
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings

FINAL = "ranking/final/hr@10"


@pytest.fixture
def artifacts(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture
def make_run(tiny_system, artifacts):
    """A run's folder: the tiny bundle, its pre-ranker shifted so that it is another version."""

    def make(name: str, *, shift: float = 0.0, hit_rate: float | None = None, **metric):
        folder = artifacts / name
        recommender = load_bundle(tiny_system.bundle)
        recommender.preranker.weight[0] += shift
        if shift:
            config = recommender.config
            reranking = config.reranking.model_copy(update={"trade_off": 0.5})
            recommender.config = config.model_copy(update={"reranking": reranking})
        save_bundle(recommender, folder / "bundle")
        if hit_rate is not None:
            results_file(folder / "results.json", hit_rate, **metric)
        return folder

    return make


@pytest.fixture
def one_run(monkeypatch):
    """A run in this process leaves its number of threads alone: sums depend on it."""
    monkeypatch.setattr(commands.torch, "set_num_threads", lambda _: None)
    return Run


def results_file(path, hit_rate, *, dataset="synthetic", protocol="test window"):
    results = Results.start(
        system="video_recommendation",
        config={},
        dataset_name=dataset,
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=path.parent,
    )
    results.add(FINAL, hit_rate, protocol=protocol)
    results.write(path)


def invoke(monkeypatch, *arguments) -> tuple[int, str]:
    """Exit code and what was printed."""
    monkeypatch.setattr(cli.console, "width", 200)
    with cli.console.capture() as captured:
        done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return done.exit_code, captured.get()


@pytest.fixture
def command(monkeypatch, artifacts):
    return lambda *arguments: invoke(monkeypatch, *arguments, "--out", artifacts)


def register(run, artifacts, note="") -> tuple[str, str]:
    """The version, and the line that the user reads."""
    console = Console(width=200)
    with console.capture() as captured:
        version = register_run(run, artifacts, console, note=note)
    return version, captured.get()


@pytest.fixture
def two(make_run, artifacts):
    """A production version and a candidate."""
    first, _ = register(make_run("first", hit_rate=0.2), artifacts, "train first")
    second, _ = register(make_run("second", shift=1.0, hit_rate=0.25), artifacts, "train second")
    return first, second


# --- a run registers itself --------------------------------------------------------------------


def test_the_first_version_is_production_the_next_a_candidate(make_run, artifacts):
    first, line = register(make_run("first"), artifacts)
    assert line == f"version {first} registered; it is production, for there was none\n"
    second, line = register(make_run("second", shift=1.0), artifacts)
    assert line == (
        f"version {second} registered as candidate; `make promote` puts it in place of {first}\n"
    )
    registry = open_registry(artifacts)
    assert registry.aliases() == {"production": first, "candidate": second}
    assert load_bundle(registry.path("production")).version == first
    again, line = register(make_run("third"), artifacts)
    assert again == first
    assert "is what production is already" in line
    assert registry.aliases() == {"production": first, "candidate": second}


def test_the_results_of_a_run_lie_beside_its_version(make_run, artifacts):
    without, _ = register(make_run("train"), artifacts)
    registry = open_registry(artifacts)
    assert registry.attachment(without, "results.json") is None
    evaluated, _ = register(make_run("e2e", hit_rate=0.2), artifacts)
    assert evaluated == without  # no part of the version
    assert Results.read(registry.attachment(without, "results.json"))[FINAL].value == 0.2


def test_a_damaged_run_is_not_registered(make_run, artifacts):
    run = make_run("first")
    (run / "bundle" / "mmoe.pt").write_bytes(b"rot")
    with pytest.raises(RegistryError, match=r"mmoe\.pt is damaged"):
        register(run, artifacts)
    assert open_registry(artifacts).versions() == []


def test_train_registers_what_it_published(tiny_system, artifacts, monkeypatch, one_run):
    """The command, with training itself replaced by what the fixture trained."""
    monkeypatch.setattr(commands, "train_system", lambda *_: tiny_system.trained)
    console = Console(width=200)
    with console.capture() as captured:
        one_run(tiny_system.trained.recommender.config, artifacts, console).train()
    version = check_bundle(artifacts / "latest" / "bundle")["version"]
    assert f"version {version} registered; it is production" in captured.get()
    (record,) = open_registry(artifacts).versions()
    assert record.version == version
    assert record.note.startswith("train tiny-")
    assert record.note.endswith("synthetic, seed 0, QUICK RUN, SYNTHETIC")


@pytest.mark.parametrize("error", [KeyboardInterrupt, BundleError])
def test_an_interrupted_run_registers_nothing(tiny_system, artifacts, monkeypatch, one_run, error):
    def interrupted(*_):
        raise error

    config = tiny_system.trained.recommender.config
    monkeypatch.setattr(commands, "train_system", lambda *_: tiny_system.trained)
    for part in ("save_bundle", "evaluate_system"):
        monkeypatch.setattr(commands, part, interrupted)
        with pytest.raises(error):
            one_run(config, artifacts / part, Console(quiet=True)).end_to_end(serve=False)
        monkeypatch.setattr(commands, part, save_bundle)
        assert not (artifacts / part / "registry").exists()
        assert not (artifacts / part / "latest").exists()


# --- versions, promote, rollback ---------------------------------------------------------------


def test_versions_before_there_is_one(command, artifacts):
    code, printed = command("versions")
    assert code == 0
    assert printed.replace("\n", "").endswith("registry yet: `make train` registers one")
    assert not artifacts.exists()  # looking makes nothing


def test_versions_is_a_table_with_the_newest_first(two, command):
    first, second = two
    code, printed = command("versions")
    lines = [line for line in printed.splitlines() if "MB" in line]
    assert code == 0
    assert second in lines[0]
    assert "candidate" in lines[0]
    assert "train second" in lines[0]
    assert first in lines[1]
    assert "production" in lines[1]
    assert f"`make promote` promotes {second}" in printed
    assert "make rollback" not in printed  # there is nothing to go back to


def test_promote_and_rollback(two, command, artifacts):
    first, second = two
    registry = open_registry(artifacts)
    assert command("promote") == (
        0,
        f"{second} is production, {first} previous: `make rollback` goes back\n",
    )
    assert command("promote", "production") == (0, f"{second} is production already\n")
    code, printed = command("rollback")
    assert code == 0
    assert printed.startswith(f"{first} is production again, {second} previous")
    assert command("promote", second[:7])[0] == 0
    assert registry.aliases() == {"production": second, "previous": first}
    assert f"would make {first} production again" in command("versions")[1]


def test_what_cannot_be_done_is_one_line_and_changes_nothing(two, command, artifacts):
    registry = open_registry(artifacts)
    before = registry.aliases()
    code, printed = command("rollback")
    assert (code, "no previous version" in printed) == (1, True)
    code, printed = command("promote", "[nonsense]")
    assert (code, "no version or alias '[nonsense]'" in printed) == (1, True)
    (registry.path("candidate") / "index.faiss").write_bytes(b"rot")
    code, printed = command("promote")
    assert (code, "index.faiss is damaged" in printed) == (1, True)
    assert registry.aliases() == before


def test_a_candidate_whose_index_is_stale_is_refused(two, command, artifacts):
    """Another tower's index, all checksums and the version written anew."""
    registry = open_registry(artifacts)
    folder = registry.path("candidate")
    stored = np.load(folder / "arrays.npz")["item_vectors"]
    index = faiss.IndexFlatIP(stored.shape[1])
    index.add(stored[::-1].copy())
    faiss.write_index(index, str(folder / "index.faiss"))
    rewrite_checksums(folder, lineage=True)
    code, printed = command("promote")
    assert code == 1
    assert "the index does not belong to the item vectors" in " ".join(printed.split())
    assert registry.aliases()["production"] == two[0]


def test_old_versions_can_be_removed(two, command, make_run, artifacts):
    third, _ = register(make_run("third", shift=2.0), artifacts)
    code, printed = command("versions", "--prune", "0")
    assert code == 0
    assert f"removed: {two[1]}\n" in printed  # neither production nor the candidate
    assert {r.version for r in open_registry(artifacts).versions()} == {two[0], third}


# --- diff --------------------------------------------------------------------------------------


def test_diff_names_what_differs(two, artifacts):
    rows = diff_rows(open_registry(artifacts), "production", "candidate")
    groups = {row.group for row in rows}
    assert groups == {"configuration", "files", "metrics"}  # same data, same features
    assert Row("configuration", "reranking.trade_off", "0.9", "0.5") in rows
    assert {row.what for row in rows if row.group == "files"} == {"arrays.npz", "config.json"}
    assert Row("metrics", FINAL, "0.2", "0.25") in rows
    assert diff_rows(open_registry(artifacts), "production", two[0]) == []


def test_diff_of_features_and_data(two, artifacts):
    """Another schema cannot be built here, so the manifest that was kept is edited."""
    registry = open_registry(artifacts)
    path = artifacts / "registry" / "versions" / two[1] / "record.json"
    record = json.loads(path.read_text())
    manifest = record["manifest"]
    name, other, *_ = manifest["features"]
    manifest["features"]["shiny"] = manifest["features"].pop(name)
    manifest["features"][other]["default"] = 4.5
    manifest["data"].update(events=99, last_timestamp=86_400)
    manifest["trained_through"] = {"log-1": 7}
    path.write_text(json.dumps(record))
    before = check_bundle(registry.path(two[0]))["data"]
    rows = diff_rows(registry, *two)
    assert [row for row in rows if row.group == "features"] == [
        Row("features", f"{other}: default", "0", "4.5"),
        Row("features", "shiny", "-", "there"),
        Row("features", name, "there", "-"),
    ]
    data = {row.what: (row.before, row.after) for row in rows if row.group == "data"}
    assert data["events"] == (str(before["events"]), "99")
    assert data["last event, UTC"][1] == "1970-01-02 00:00:00"
    assert data["trained_through.log-1"] == ("-", "7")


@pytest.mark.parametrize(
    ("second", "row"),
    [
        ({}, Row("metrics", "results of the run", "evaluated", "not evaluated")),
        (
            {"hit_rate": 0.3, "dataset": "other"},
            Row(
                "metrics",
                "measured on other data, not comparable",
                "synthetic 000000000000",
                "other 000000000000",
            ),
        ),
        (
            {"hit_rate": 0.3, "protocol": "another window"},
            Row("metrics", f"{FINAL} (protocols differ)", "0.2", "0.3"),
        ),
    ],
)
def test_metrics_are_compared_only_where_they_can_be(make_run, artifacts, second, row):
    a, _ = register(make_run("first", hit_rate=0.2), artifacts)
    b, _ = register(make_run("second", shift=1.0, **second), artifacts)
    rows = diff_rows(open_registry(artifacts), a, b)
    assert [r for r in rows if r.group == "metrics"] == [row]


def test_diff_prints_a_table(two, command):
    code, printed = command("diff")
    assert code == 0
    assert "reranking.trade_off" in printed
    assert f"production {two[0]}" in printed
    code, printed = command("diff", two[0][:5], two[0])
    assert (code, "are the same version" in printed) == (0, True)
    assert command("diff", "previous", two[0])[0] == 1


# --- serve -------------------------------------------------------------------------------------


def test_serve_takes_production_where_there_is_one(command, artifacts, make_run, monkeypatch):
    calls = []
    monkeypatch.setattr(
        serving_run, "serve_bundle", lambda folder, **options: calls.append((folder, options))
    )
    assert command("serve")[0] == 0
    register(make_run("first"), artifacts)
    assert command("serve")[0] == 0
    (without, with_registry) = calls
    assert without[0] == artifacts / "latest" / "bundle"
    assert without[1]["registry_root"] is None
    assert with_registry[0] is None
    assert with_registry[1]["registry_root"] == artifacts / "registry"


def test_serve_refuses_a_rollout_without_a_candidate(command, artifacts, make_run):
    code, printed = command("serve", "--shadow", "0.2")
    assert code == 1
    assert "no production version" in printed
    register(make_run("first"), artifacts)
    code, printed = command("serve", "--canary")
    assert code == 1
    assert "no candidate version" in printed
    assert "make train" in printed


def test_serve_rolls_the_candidate_out(command, artifacts, make_run, monkeypatch, tmp_path):
    """The attachments that ``serve`` makes, on the app, with real requests."""
    made = []
    monkeypatch.setattr(
        serving_run, "serve_bundle", lambda folder, *, attach, **_: made.extend(attach)
    )
    register(make_run("first"), artifacts)
    register(make_run("second", shift=1.0), artifacts)
    code, printed = command("serve", "--shadow", "1.0", "--canary")
    assert code == 0, printed
    registry = open_registry(artifacts)
    settings = ServingSettings(tmp_path / "serving", deadline_ms=5000.0)
    app = create_app(load_bundle(registry.path("production")), settings, made)
    with TestClient(app) as client:
        end = time.monotonic() + 60
        while True:
            client.get("/v1/recommendations", params={"user_id": 1})
            found = client.get("/v1/operations").json()
            if found["shadow"]["counts"].get("answered") or time.monotonic() > end:
                break
            time.sleep(0.1)
    assert found["shadow"]["counts"]["answered"] > 0, found["shadow"]
    assert found["canary"]["candidate"] == registry.aliases()["candidate"]
    assert found["canary"]["share"] == 0.01
