"""The results file: schema, keys, rounding, atomic writing, merging, run information."""

import json
import subprocess

import pytest
from pydantic import ValidationError

from ml_platform.evaluation import results as results_module
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_info import UNKNOWN_COMMIT, Hardware, git_commit

PROTOCOL = "next-event, full catalogue"


def start(tmp_path, **changes):
    arguments = {
        "system": "video_recommendation",
        "config": {"top_k": 20, "reg": [0.5, 1.0]},
        "dataset_name": "movielens-100k",
        "dataset_sha256": "ab" * 32,
        "synthetic": False,
        "seed": 0,
        "root": tmp_path,
    }
    return Results.start(**(arguments | changes))


def test_round_trip_and_layout(tmp_path):
    results = start(tmp_path)
    results.add(
        "retrieval/ease/recall@100", Estimate(0.57312345, 0.56, 0.58, 9800), protocol=PROTOCOL
    )
    results.add("index/flat/p50_ms", 1.25, protocol="one thread", n=1000)
    results.add("data/train/interactions", 25_000_095, protocol="counted")
    path = tmp_path / "results" / "full.json"
    results.write(path)
    text = path.read_text()
    content = json.loads(text)
    assert list(content) == ["run", "metrics"]
    assert list(content["run"]) == [
        "system", "commit", "config", "config_sha256", "dataset", "seed", "hardware", "date",
        "seconds",
    ]  # fmt: skip
    assert content["run"]["dataset"] == {
        "name": "movielens-100k", "sha256": "ab" * 32, "synthetic": False,
    }  # fmt: skip
    assert list(content["metrics"]) == [
        "data/train/interactions", "index/flat/p50_ms", "retrieval/ease/recall@100",
    ]  # fmt: skip
    assert content["metrics"]["retrieval/ease/recall@100"] == {
        "value": 0.573123, "low": 0.56, "high": 0.58, "n": 9800, "protocol": PROTOCOL,
    }  # fmt: skip
    assert '"value": 25000095, "low": null' in text  # counts stay exact
    assert len([line for line in text.splitlines() if '"value"' in line]) == 3
    again = Results.read(path)
    assert again.to_json() == text
    assert again["retrieval/ease/recall@100"].n == 9800


def test_the_order_of_adding_does_not_show(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    second.run = first.run
    for results, keys in ((first, "ab"), (second, "ba")):
        for key in keys:
            results.add(f"ranking/{key}/auc", 0.5, protocol=PROTOCOL)
    assert first.to_json() == second.to_json()
    assert list(second) == ["ranking/a/auc", "ranking/b/auc"]
    assert len(second) == 2
    assert "ranking/a/auc" in second


@pytest.mark.parametrize(
    "key",
    ["retrieval/ease", "a/b/c/d", "Retrieval/ease/auc", "a/b/", "/b/c", "a/b c/d", "a/b@3/c", ""],
)
def test_malformed_keys(tmp_path, key):
    with pytest.raises(ValueError, match="expected stage/variant/metric"):
        start(tmp_path).add(key, 1.0, protocol=PROTOCOL)


@pytest.mark.parametrize("key", ["reranking/mmr_0.7/ild_genre@10", "index/ivf-256/recall@100"])
def test_good_keys(tmp_path, key):
    results = start(tmp_path)
    results.add(key, 1.0, protocol=PROTOCOL)
    assert results[key].value == 1.0


def test_what_add_refuses(tmp_path):
    results = start(tmp_path)
    results.add("ranking/mmoe/auc", 0.5, protocol=PROTOCOL)
    with pytest.raises(ValueError, match=r"recorded before, with value 0\.5"):
        results.add("ranking/mmoe/auc", 0.6, protocol=PROTOCOL)
    with pytest.raises(ValueError, match="do not pass n"):
        results.add("ranking/a/auc", Estimate(0.5, None, None, 3), protocol=PROTOCOL, n=3)
    for wrong in (float("nan"), float("inf"), Estimate(0.5, 0.6, 0.4, 3)):
        with pytest.raises(ValidationError):
            results.add("ranking/a/auc", wrong, protocol=PROTOCOL)
    with pytest.raises(ValidationError):
        results.add("ranking/a/auc", 0.5, protocol="")
    assert len(results) == 1


def test_a_missing_key_names_its_neighbours(tmp_path):
    results = start(tmp_path)
    results.add("retrieval/ease/recall@100", 0.5, protocol=PROTOCOL)
    with pytest.raises(KeyError, match="near it: retrieval/ease/recall@100"):
        results["retrieval/ease/recall@10"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.update(extra=1),
        lambda c: c["run"].update(extra=1),
        lambda c: c["run"].pop("commit"),
        lambda c: c["run"].update(config_sha256="xyz"),
        lambda c: c["run"]["dataset"].pop("synthetic"),
        lambda c: c["metrics"]["ranking/mmoe/auc"].update(extra=1),
        lambda c: c["metrics"]["ranking/mmoe/auc"].update(low=0.1),
        lambda c: c["metrics"].update({"Bad": c["metrics"]["ranking/mmoe/auc"]}),
    ],
)
def test_read_refuses_what_breaks_the_schema(tmp_path, damage):
    results = start(tmp_path)
    results.add("ranking/mmoe/auc", 0.5, protocol=PROTOCOL)
    content = json.loads(results.to_json())
    damage(content)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValidationError):
        Results.read(path)


def test_records_are_frozen(tmp_path):
    results = start(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        results.run.seed = 1


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "out" / "results.json"
    start(tmp_path).write(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(results_module.os, "replace", fail)
    later = start(tmp_path)
    later.add("ranking/mmoe/auc", 0.5, protocol=PROTOCOL)
    with pytest.raises(OSError, match="disk gone"):
        later.write(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_seconds_run_from_start_to_write(tmp_path, monkeypatch):
    clock = iter([100.0, 102.5, 103.0])
    monkeypatch.setattr(results_module.time, "perf_counter", lambda: next(clock))
    results = start(tmp_path)
    results.write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json").run.seconds == 2.5
    results.write(tmp_path / "r.json")
    assert results.run.seconds == 3.0


def test_merge_is_explicit(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    first.add("ranking/mmoe/auc", 0.5, protocol=PROTOCOL)
    second.add("serving/full/p99_ms", 40.0, protocol="open loop")
    first.run = first.run.model_copy(update={"seconds": 10.0})
    second.run = second.run.model_copy(update={"seconds": 5.0})
    first.merge(second)
    assert list(first) == ["ranking/mmoe/auc", "serving/full/p99_ms"]
    assert first.run.seconds == 15.0
    third = start(tmp_path)
    third.add("ranking/mmoe/auc", 0.7, protocol=PROTOCOL)
    with pytest.raises(ValueError, match="recorded in both parts: ranking/mmoe/auc"):
        first.merge(third)
    assert first["ranking/mmoe/auc"].value == 0.5
    first.merge(third, replace=True)
    assert first["ranking/mmoe/auc"].value == 0.7


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"config": {"top_k": 10}}, {"dataset_sha256": "cd"}, {"system": "x"}]
)
def test_different_runs_do_not_merge(tmp_path, change):
    with pytest.raises(ValueError, match="not the same run"):
        start(tmp_path).merge(start(tmp_path, **change))


def test_config_hash_sees_content_and_not_order(tmp_path):
    first = start(tmp_path, config={"a": 1, "b": [1, 2]}).run.config_sha256
    assert start(tmp_path, config={"b": [1, 2], "a": 1}).run.config_sha256 == first
    assert start(tmp_path, config={"b": [2, 1], "a": 1}).run.config_sha256 != first
    with pytest.raises(TypeError):
        start(tmp_path, config={"path": tmp_path})


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True
    )


def test_commit_and_dirt(tmp_path):
    assert git_commit(tmp_path) == UNKNOWN_COMMIT
    git(tmp_path, "init")
    assert git_commit(tmp_path) == UNKNOWN_COMMIT
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "system" / "results").mkdir(parents=True)
    (tmp_path / "system" / "results" / "full.json").write_text("{}")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "system" / "results" / "full.json").write_text('{"a": 1}')
    assert git_commit(tmp_path / "system") == clean  # a run's own results are no change of code
    (tmp_path / "new.py").write_text("2")
    assert git_commit(tmp_path / "system") == f"{clean}-dirty"


def test_hardware_is_that_of_this_machine():
    hardware = Hardware.detect()
    assert hardware.cpu
    assert hardware.cores >= 1
    assert hardware.memory_gib >= 1
    assert str(Hardware(cpu="X", cores=1, memory_gib=4)) == "X, 1 core, 4 GiB"
