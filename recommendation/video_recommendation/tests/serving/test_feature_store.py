"""The feature store in the service: parity, five ways to break it, and a store that is gone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from feature_engineering.feature_sets import NO_ROW
from ml_platform.evaluation.results import Results
from ml_platform.serving.store import StoreUnavailableError, open_store
from video_recommendation.bundle import load_bundle
from video_recommendation.commands import Run
from video_recommendation.config import ServingConfig
from video_recommendation.features import SCHEMA
from video_recommendation.monitoring.parity import (
    Scenario,
    late,
    old_input,
    other_default,
    run_parity,
    run_scenarios,
)
from video_recommendation.monitoring.rebuild import LoggedRequest
from video_recommendation.monitoring.service_replay import ReplayPlan
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.feature_home import FeatureHome, FeaturesUnusableError
from video_recommendation.stored_features import (
    DAY_S,
    ITEM_ACTIVITY,
    USER_PROFILE,
    item_activity,
    user_profile,
)

PLAN = ReplayPlan(n_events=120, ask_every=6, k=10)
ACTIVITY = {*ITEM_ACTIVITY.schema.names[:5], "age_days"}
NOW = 10_000 * DAY_S + 30


@pytest.fixture(scope="module")
def recommender(tiny_system):
    return load_bundle(tiny_system.bundle)


@pytest.fixture(scope="module")
def played(tiny_system, recommender):
    """All scenarios, by name; ages and shifts large enough for a small, slow data set."""
    scenarios = [
        Scenario("on_time", ""),
        Scenario("late", "", keep=late(10 * DAY_S)),
        Scenario("old_input", "", keep=old_input(10 * DAY_S)),
        Scenario("default", "", prepare=other_default),
        Scenario("zone", "", shift_s=3600),
    ]
    outcomes, refused = run_scenarios(recommender, tiny_system.data, PLAN, scenarios)
    return SimpleNamespace(refused=refused, **{one.scenario.name: one for one in outcomes})


def names(outcome):
    return {feature.name for feature in outcome.comparison.report.different}


def test_logged_requests_are_rebuilt_offline_to_the_bit(played):
    report = played.on_time.comparison.report
    assert report.is_equal, report.markdown()
    assert report.n_rows == 10 * played.on_time.comparison.n_requests > 150
    assert played.on_time.comparison.n_unmatched == 0
    assert played.on_time.replayed.degraded_share == 0
    rows = played.on_time.replayed.feature_rows
    assert rows[("item_activity", "hit")] > 1000
    assert rows[("user_profile", "missing")] > 0  # unknown users asked too


def test_input_that_is_old_is_named_though_its_rows_say_they_are_fresh(played):
    found = names(played.old_input)
    assert {"log_count_all", "log_count_30d"} <= found <= ACTIVITY
    assert played.old_input.replayed.degraded_share == 0


def test_a_materialiser_beyond_its_time_to_live_is_refused_and_nothing_wrong_is_served(played):
    assert played.late.stale_share > 0.9
    assert played.late.replayed.degraded_share > 0.9
    degraded = [d for answer in played.late.replayed.answers for d in answer["degradations"]]
    assert {(d["stage"], d["reason"]) for d in degraded} == {("features", "error")}
    assert played.late.comparison.report.is_equal


def test_a_default_changed_in_a_copy_is_named_and_under_our_keys_refused(played):
    assert names(played.default) == {"age_group", "gender"}
    unknown = played.default.missing_profiles
    share = played.default.comparison.report.different[0].share_different
    assert share == pytest.approx(unknown, abs=0.01)
    assert "user_profile:v1" in played.refused
    assert "needs version 2" in played.refused


def test_an_offline_reader_in_another_time_zone_is_named(played):
    assert "log_gap_s" in names(played.zone)
    assert not {"age_group", "gender", "mean_rating", "year"} & names(played.zone)


def test_requests_with_incomplete_inputs_are_set_aside_not_called_skew(played):
    request = LoggedRequest("r", 1, NOW, *[np.empty(0)] * 4, degraded_stages=("state",))
    assert not request.is_comparable
    assert dataclasses.replace(request, degraded_stages=("features",)).is_comparable
    assert dataclasses.replace(request, degraded_stages=()).is_comparable
    assert played.late.comparison.n_requests > 0  # degraded at "features" alone, and compared


# --- one version's home ---------------------------------------------------------------------------


@pytest.fixture
def home(recommender, tmp_path):
    with open_store(None, tmp_path, retry_after_s=0.0) as store:
        counted = []
        home = FeatureHome(recommender, store, "t:", count=lambda *seen: counted.append(seen))
        yield SimpleNamespace(
            home=home,
            store=store,
            counted=counted,
            counter=recommender.proposer.retriever.counter,
            now=recommender.data_end + 3600,
            user_id=int(recommender.users.user_ids[2]),
        )


ITEMS = np.array([5, 1, 9], dtype=np.int32)


def test_what_is_read_is_what_is_computed(home, recommender):
    assert home.home.materialise(home.counter, home.now)
    stored = home.home.read(ITEMS, home.user_id, home.now)
    tick = ITEM_ACTIVITY.tick(home.now)
    np.testing.assert_array_equal(stored.item_activity, item_activity(home.counter, ITEMS, tick))
    np.testing.assert_array_equal(
        stored.user_profile, user_profile(recommender.users, np.array([2]))
    )
    assert stored.as_of.tolist() == [tick] * 3
    assert sorted(home.counted) == [("item_activity", "hit", 3), ("user_profile", "hit", 1)]


def test_rows_are_written_once_a_minute_and_again_for_a_late_event(home):
    assert home.home.materialise(home.counter, home.now)
    assert not home.home.materialise(home.counter, home.now + 1)
    assert home.home.materialise(home.counter, home.now + 60)
    late_event = home.counter.extended(np.array([5], np.int32), np.array([home.now - 300]))
    assert home.home.materialise(late_event, home.now + 61)  # the same minute, corrected
    row = home.home.read(ITEMS, home.user_id, home.now + 61).item_activity[0]
    np.testing.assert_array_equal(
        row, item_activity(late_event, ITEMS, ITEM_ACTIVITY.tick(home.now + 61))[0]
    )


def test_a_store_that_comes_back_empty_is_filled_again(home):
    home.home.materialise(home.counter, home.now)
    home.store.server.stop()
    with pytest.raises(StoreUnavailableError):
        home.home.read(ITEMS, home.user_id, home.now)
    assert home.store.revive()
    with pytest.raises(FeaturesUnusableError, match="of 3 rows of item_activity:v1, 3 are missing"):
        home.home.read(ITEMS, home.user_id, home.now)
    assert home.home.materialise(home.counter, home.now)
    assert home.home.read(ITEMS, home.user_id, home.now).as_of.min() > NO_ROW


def test_single_missing_rows_are_filled_and_many_are_refused(home, recommender):
    home.home.materialise(home.counter, home.now)
    item_ids = recommender.catalogue.item_ids
    home.store.client.delete(f"t:fs:item_activity:v1:{item_ids[1]}")
    stored = home.home.read(ITEMS, home.user_id, home.now)
    np.testing.assert_array_equal(stored.item_activity[1], ITEM_ACTIVITY.schema.defaults)
    assert stored.as_of[1] == -1
    home.store.client.delete(f"t:fs:item_activity:v1:{item_ids[5]}")
    with pytest.raises(FeaturesUnusableError, match="2 are missing and 0 stale"):
        home.home.read(ITEMS, home.user_id, home.now)


# --- in the service -------------------------------------------------------------------------------


@pytest.fixture
def service(recommender, tmp_path):
    settings = ServingSettings(
        tmp_path, refresh_s=3600.0, deadline_ms=60_000.0, budgets_ms={}, feature_log_share=1.0
    )
    with TestClient(create_app(recommender, settings)) as client:
        while client.get("/readyz").status_code != 200:
            pass
        yield SimpleNamespace(client=client, engine=client.app.state.engine, folder=tmp_path)


def ask(service, user_id=1):
    return service.client.get("/v1/recommendations", params={"user_id": user_id, "k": 5}).json()


def logged(service):
    """The request log, once everything is written."""
    service.engine.requests.close()
    lines = (service.folder / "requests.jsonl").read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


def test_the_first_request_finds_rows_and_the_counters_say_so(service):
    body = ask(service)
    assert body["degraded"] is False
    assert "features" in body["stages_ms"]
    assert "features_in_process" not in body["stages_ms"]
    text = service.client.get("/metrics").text
    assert 'feature_rows_total{feature_set="item_activity",outcome="hit"} 60.0' in text


def test_store_down_the_counter_in_the_process_answers_and_is_counted(service):
    healthy = ask(service)
    service.engine.store.server.start = lambda: None
    service.engine.store.server.stop()
    body = ask(service)
    assert ("features", "error") in [(d["stage"], d["reason"]) for d in body["degradations"]]
    assert "features_in_process" in body["stages_ms"]
    assert [i["item_id"] for i in body["items"]][:3] == [i["item_id"] for i in healthy["items"]][:3]
    counted = 'degraded_total{reason="error",stage="features"} 1.0'
    assert counted in service.client.get("/metrics").text


def test_the_request_log_keeps_what_the_ranker_saw(service, recommender):
    body = ask(service)
    kept = logged(service)[0]["features"]
    assert kept["schema"] == SCHEMA.sha256
    values = np.array(kept["values"], dtype=np.float32)
    assert values.shape == (len(body["items"]), len(SCHEMA))
    year = values[:, SCHEMA.names.index("year")]
    assert year.tolist() == [item["year"] or 0 for item in body["items"]]
    assert set(kept["as_of"]) == {ITEM_ACTIVITY.tick(logged_now(service))}


def logged_now(service):
    return orjson.loads((service.folder / "requests.jsonl").read_bytes().splitlines()[0])["now"]


def test_a_share_of_the_requests_is_logged_with_features(recommender, tmp_path):
    settings = ServingSettings(tmp_path, refresh_s=3600.0, feature_log_share=0.5)
    with TestClient(create_app(recommender, settings)) as client:
        for user_id in range(60):
            client.get("/v1/recommendations", params={"user_id": user_id, "k": 2})
    lines = (tmp_path / "requests.jsonl").read_bytes().splitlines()
    with_features = sum("features" in orjson.loads(line) for line in lines)
    assert len(lines) == 60
    assert 12 <= with_features <= 48


def test_settings_come_from_the_configuration(tmp_path):
    settings = ServingSettings.of(
        ServingConfig(features_budget_ms=3.0, feature_log_share=0.25), tmp_path
    )
    assert (settings.budgets_ms["features"], settings.feature_log_share) == (3.0, 0.25)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_verdict_and_writes_results(tiny_system, tmp_path):
    shutil.copytree(tiny_system.bundle, tmp_path / "latest" / "bundle")
    console = Console(record=True, width=100)
    config = tiny_system.trained.recommender.config
    run_parity(Run(config=config, artifacts=tmp_path, console=console), quick=True)
    text = console.export_text()
    assert "QUICK SYNTHETIC" in text
    assert "none, to the bit" in text
    path = tmp_path / "demonstrations" / "parity.json"
    results = Results.read(path)
    assert results["parity/on_time/features_different"].value == 0
    assert results["parity/default_changed/features_different"].value == 2
    assert results["parity/late_10_minutes/degraded_share"].value > 0.5
    assert results["feature_access/mget/p50_ms"].n == 50
    assert json.loads(path.read_text())["run"]["dataset"]["synthetic"] is True
    assert USER_PROFILE.label in text
