"""The API over real parts: answers, refusals, events that change the next answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_recommender import DATA_END


def recommend(client, user_id, **params):
    response = client.get("/v1/recommendations", params={"user_id": user_id, **params})
    assert response.status_code == 200, response.text
    return response.json()


def ids(body):
    return [item["item_id"] for item in body["items"]]


def event(event_id="e1", user_id=1, item_id=31, event_type="watch", **more):
    return {
        "event_id": event_id,
        "user_id": user_id,
        "item_id": item_id,
        "event_type": event_type,
        **more,
    }


def test_recommendations_carry_everything_promised(shared):
    response = shared.client.get(
        "/v1/recommendations", params={"user_id": 1, "k": 3}, headers={"X-Request-ID": "abc-1"}
    )
    body = response.json()
    assert response.headers["X-Request-ID"] == body["request_id"] == "abc-1"
    assert body["version"] == "tiny-1"
    assert (body["cold_start"], body["degraded"], body["degradations"]) == (False, False, [])
    assert {"queue", "state", "recommend", "rank", "total"} <= set(body["stages_ms"])
    # User 1 has seen items 0 and 1. Popularity of i is 60 - i; the taste for i % 4 in {0, 1} adds
    # 1 each: scores 2: 58, 3: 57, 4: 57, 5: 56, so 2, 3, 4 with the tie by index.
    assert ids(body) == [21, 31, 41]
    assert body["items"][1] == {
        "item_id": 31,
        "title": "Film 3",
        "genres": [],
        "year": None,
        "score": 57.0,
        "reason": "Popular this month",
        "sources": ["popularity"],
        "exploration": False,
        "propensity": None,
    }


def test_unknown_user_is_cold_until_its_first_event(served):
    assert recommend(served.client, 999)["cold_start"] is True
    assert served.client.post("/v1/events", json=event(user_id=999)).status_code == 200
    body = recommend(served.client, 999)
    assert body["cold_start"] is False
    assert 31 not in ids(body)


def test_exclude_leaves_out_and_ignores_unknown_ids(shared):
    assert ids(recommend(shared.client, 500, k=2, exclude=[1, 21, 777])) == [11, 31]


def test_a_new_event_changes_the_next_response(served):
    before = ids(recommend(served.client, 1, k=5))
    assert before[1] == 31
    receipt = served.client.post("/v1/events", json=event(item_id=31)).json()
    assert receipt["applied"] is True
    assert receipt["events"] == [{"event_id": "e1", "seq": 1, "status": "accepted"}]
    assert 31 not in ids(recommend(served.client, 1, k=5))
    assert 31 in ids(recommend(served.client, 2, k=5))  # other users keep it


def test_live_events_move_popularity(served):
    batch = [event(f"p{i}", user_id=5000 + i, item_id=591) for i in range(100)]
    assert served.client.post("/v1/events", json={"events": batch}).json()["accepted"] == 100
    served.wait_for(lambda: ids(recommend(served.client, 4321, k=1)) == [591])
    assert (
        served.engine.production.popularity.counts[59] == 101.0
    )  # one training event and a hundred live


def test_duplicates_are_acknowledged_and_count_once(served):
    first = served.client.post("/v1/events", json=event()).json()
    again = served.client.post("/v1/events", json=event()).json()
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert again["events"] == [{**first["events"][0], "status": "duplicate"}]
    assert (
        len(served.engine.production.state.history(1)) == 3
    )  # items 0 and 1 of the bundle, and one event
    metrics = served.client.get("/metrics").text
    assert 'events_total{outcome="accepted"} 1.0' in metrics
    assert 'events_total{outcome="duplicate"} 1.0' in metrics


def test_a_used_id_with_another_body_is_a_conflict_and_stores_nothing(served):
    served.client.post("/v1/events", json=event())
    batch = {"events": [event("fresh"), event(item_id=41)]}
    response = served.client.post("/v1/events", json=batch)
    assert response.status_code == 409
    assert response.json()["detail"][0]["field"] == "events.1.event_id"
    assert served.engine.log.last_seq() == 1


def test_concurrent_posts_are_all_stored_once(served):
    def post(i):
        return served.client.post("/v1/events", json=event(f"c{i % 50}", user_id=7, item_id=501))

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(post, range(100)))
    assert {r.status_code for r in responses} == {200}
    assert sum(r.json()["accepted"] for r in responses) == 50
    assert served.engine.log.last_seq() == served.engine.production.state.applied_seq == 50


def test_similar(shared):
    body = shared.client.get("/v1/similar/51", params={"k": 2}).json()
    assert (body["item_id"], ids(body)) == (51, [41, 61])
    missing = shared.client.get("/v1/similar/52")
    assert missing.status_code == 404
    assert missing.json()["detail"] == [{"field": "item_id", "reason": "no such item", "value": 52}]


def test_operations(shared):
    assert shared.client.get("/healthz").json() == {"status": "ok"}
    assert shared.client.get("/readyz").json() == {"ready": True, "reasons": []}
    version = shared.client.get("/v1/version").json()
    assert (version["version"], version["store"], version["items"]) == ("tiny-1", "embedded", 60)
    assert version["server_time"] >= DATA_END
    shared.client.get("/v1/similar/51")
    metrics = shared.client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/v1/similar/{item_id}",status="200"}' in metrics
    assert 'stage_seconds_count{stage="similar"}' in metrics


def test_openapi_has_examples(shared):
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert "rating" in json.dumps(paths["/v1/events"]["post"]["requestBody"])
    answer = paths["/v1/recommendations"]["get"]["responses"]["200"]["content"]
    assert "example" in answer["application/json"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "user_id"),
        ("user_id=x", "user_id"),
        ("user_id=-1", "user_id"),
        ("user_id=1.5", "user_id"),
        ("user_id=nan", "user_id"),
        (f"user_id={2**63}", "user_id"),
        ("user_id=" + "9" * 5000, "user_id"),
        ("user_id=%00", "user_id"),
        ("user_id=1&k=0", "k"),
        ("user_id=1&k=-5", "k"),
        ("user_id=1&k=101", "k"),
        ("user_id=1&surface=moon", "surface"),
        ("user_id=1&exclude=a", "exclude.0"),
        ("user_id=1&exclude=3&exclude=-4", "exclude.1"),
        ("user_id=1&" + "&".join(["exclude=1"] * 501), "exclude"),
        ("user=1&user_id=1", "user"),
    ],
)
def test_bad_queries_name_the_field(shared, query, field):
    response = shared.client.get(f"/v1/recommendations?{query}")
    assert response.status_code == 422, response.text
    detail = response.json()["detail"]
    assert detail[0]["field"] == field
    assert detail[0]["reason"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rating": 4}, "rating"),  # a watch carries none
        ({"event_type": "rating"}, "rating"),
        ({"event_type": "rating", "rating": 5.1}, "rating"),
        ({"event_type": "rating", "rating": "4"}, "rating"),
        ({"event_type": "share"}, "event_type"),
        ({"item_id": 32}, "item_id"),
        ({"item_id": True}, "item_id"),
        ({"item_id": 2**63}, "item_id"),
        ({"item_id": 10**30}, "item_id"),
        ({"user_id": "1"}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a\x00b"}, "event_id"),
        ({"event_id": "x" * 65}, "event_id"),
        ({"event_id": "é"}, "event_id"),
        ({"event_id": "e1\n"}, "event_id"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": DATA_END + 10**7}, "timestamp"),
        ({"colour": "red"}, "colour"),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_bad_events_name_the_field(shared, change, field, batch):
    bad = {**event(), **change}
    body = {"events": [event("fine"), bad]} if batch else bad
    response = shared.client.post("/v1/events", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["field"] == (f"events.1.{field}" if batch else field)
    assert shared.engine.log.last_seq() == 0


@pytest.mark.parametrize(
    ("content", "content_type", "status", "field"),
    [
        (b"", "application/json", 422, "body"),
        (b"{", "application/json", 422, "body"),
        (b"[]", "application/json", 422, "body"),
        (b"null", "application/json", 422, "body"),
        (b'{"events": []}', "application/json", 422, "events"),
        (b'{"event_id": NaN}', "application/json", 422, "body"),
        (b"[" * 100_000, "application/json", 422, "body"),
        (b'{"user_id": ' + b"9" * 5000 + b"}", "application/json", 422, "body"),
        (b"\xff\xfe{}", "application/json", 422, "body"),
        (json.dumps(event()).encode(), "text/plain", 415, "content-type"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "content-type"),
        (b" " * 1_000_000, "application/json", 413, "body"),
    ],
)
def test_bad_bodies_are_refused_with_a_reason(shared, content, content_type, status, field):
    headers = {"content-type": content_type}
    response = shared.client.post("/v1/events", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["detail"][0]["field"] == field
    assert response.json()["detail"][0]["reason"]


def test_a_chunked_body_cannot_pass_the_limit(shared):
    chunks = (b" " * 10_000 for _ in range(100))
    response = shared.client.post(
        "/v1/events", content=chunks, headers={"content-type": "application/json"}
    )
    assert response.status_code == 413


def test_a_batch_of_501_is_refused(shared):
    response = shared.client.post("/v1/events", json={"events": [event()] * 501})
    assert response.status_code == 422
    assert response.json()["detail"][0]["field"] == "events"


def test_a_forged_request_id_is_replaced(shared):
    response = shared.client.get("/healthz", headers={"X-Request-ID": "a b {evil}"})
    assert "evil" not in response.headers["X-Request-ID"]
    assert len(response.headers["X-Request-ID"]) == 32
