"""The API over real parts: feeds, events that change the next one, uploads, refusals."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_feed import DATA_END, DIM


def feed(client, user_id, **params):
    response = client.get("/v1/feed", params={"user_id": user_id, **params})
    assert response.status_code == 200, response.text
    return response.json()


def ids(body):
    return [item["video_id"] for item in body["items"]]


def event(event_id="e1", user_id=1, video_id=31, watch_s=20.0, **more):
    return {
        "event_id": event_id,
        "user_id": user_id,
        "video_id": video_id,
        "watch_s": watch_s,
        **more,
    }


def post(client, *events):
    body = events[0] if len(events) == 1 else {"events": list(events)}
    response = client.post("/v1/events", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def upload(video_id=5001, **more):
    content = [0.0] * DIM
    content[3] = 1.0
    return {
        "video_id": video_id,
        "creator": 3,
        "tags": [1, 2],
        "language": 0,
        "duration_s": 15.0,
        "content": content,
        **more,
    }


def test_a_feed_carries_everything_promised(shared):
    response = shared.client.get(
        "/v1/feed", params={"user_id": 2, "k": 3}, headers={"X-Request-ID": "abc-1"}
    )
    body = response.json()
    assert response.headers["X-Request-ID"] == body["request_id"] == "abc-1"
    assert body["version"] == "tiny-1"
    assert (body["answered_by"], body["cached"], body["cold_start"]) == ("computed", False, False)
    assert (body["degraded"], body["degradations"], body["state_version"]) == (False, [], 0)
    assert {"queue", "state", "rank", "compute", "total"} <= set(body["stages_ms"])
    assert ids(body) == [1, 11, 21]
    assert body["items"][1] == {
        "video_id": 11,
        "value": 119.0,
        "sources": ["popular"],
        "reason": "relevance",
        "propensity": 1.0,
    }


def test_asking_again_without_an_event_is_answered_from_the_cache(shared):
    first, again = feed(shared.client, 3, k=4), feed(shared.client, 3, k=4)
    assert (first["cached"], again["cached"]) == (False, True)
    assert ids(again) == ids(first)
    assert again["slate_id"] == first["slate_id"]
    assert feed(shared.client, 3, k=4, cache="off")["cached"] is False


def test_holding_goes_on_after_what_the_client_has(shared):
    begin = feed(shared.client, 4, k=3)
    rest = feed(shared.client, 4, k=3, holding=ids(begin))
    assert rest["cached"] is True  # the slate of 20 holds as many again
    assert ids(rest) == [31, 41, 51]
    long = feed(shared.client, 4, k=20, holding=ids(begin))
    assert long["cached"] is False  # 17 were left of it
    assert ids(long) == [31 + 10 * i for i in range(20)]


def test_an_unknown_user_gets_the_cold_list_until_its_first_event(served):
    body = feed(served.client, 999, k=3)
    assert (body["cold_start"], ids(body)) == (True, [1, 11, 21])
    assert feed(served.client, 998, k=3)["cached"] is True  # strangers share one slate
    post(served.client, event(user_id=999, video_id=1))
    body = feed(served.client, 999, k=3)
    assert body["cold_start"] is False
    assert 1 not in ids(body)


def test_an_event_changes_the_next_feed_of_its_user_alone(served):
    before, other = feed(served.client, 1, k=5), feed(served.client, 2, k=5)
    receipt = post(served.client, event(video_id=31))
    assert receipt["events"] == [{"event_id": "e1", "seq": 1, "status": "accepted"}]
    after = feed(served.client, 1, k=5)
    assert after["state_version"] == 1
    assert 31 in ids(before)
    assert 31 not in ids(after)
    assert after["items"][0]["sources"] == ["popular", "session"]  # the session embedding is in it
    own = {"request_id": 0, "stages_ms": 0, "cached": 0, "batch_size": 0}
    assert feed(served.client, 2, k=5) | own == other | own | {"answered_by": "cache"}


def test_duplicates_are_acknowledged_and_count_once(served):
    first = post(served.client, event())
    again = post(served.client, event())
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert again["events"] == [{**first["events"][0], "status": "duplicate"}]
    assert served.engine.users.states.n_events[0] == 1
    metrics = served.client.get("/metrics").text
    assert 'events_total{outcome="accepted"} 1.0' in metrics
    assert 'events_total{outcome="duplicate"} 1.0' in metrics


def test_a_used_id_with_another_body_is_a_conflict_and_stores_nothing(served):
    post(served.client, event())
    batch = {"events": [event("fresh"), event(video_id=41)]}
    response = served.client.post("/v1/events", json=batch)
    assert response.status_code == 409
    detail = response.json()["detail"][0]
    assert (detail["field"], detail["value"]) == ("events.1.event_id", "e1")
    assert served.engine.log.last_seq() == served.engine.applied_seq == 1
    assert served.engine.users.states.n_events[0] == 1


def test_events_of_one_user_in_a_batch_are_applied_in_order(served):
    post(served.client, *(event(f"b{i}", video_id=10 * i + 1, watch_s=i) for i in range(8)))
    states = served.engine.users.states
    assert states.video[0, :8].tolist() == list(range(8))
    assert served.engine.users.version[0] == 8


def test_concurrent_posts_are_all_stored_and_applied_once(served):
    def send(i):
        return served.client.post("/v1/events", json=event(f"c{i % 50}", user_id=7, video_id=501))

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(send, range(100)))
    assert {r.status_code for r in responses} == {200}
    assert sum(r.json()["accepted"] for r in responses) == 50
    assert served.engine.log.last_seq() == served.engine.applied_seq == 50
    assert served.engine.users.states.n_events[6] == 50


def test_an_upload_is_in_the_next_feed_and_can_be_watched(served):
    assert ids(feed(served.client, 1, k=3)) == [1, 11, 21]
    answer = served.client.post("/v1/uploads", json=upload())
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["videos"]) == ("accepted", 121)
    assert ids(feed(served.client, 1, k=3, cache="off")) == [1, 5001, 11]
    again = served.client.post("/v1/uploads", json=upload()).json()
    assert again["status"] == "duplicate"
    assert served.client.post("/v1/uploads", json=upload(creator=4)).status_code == 409
    post(served.client, event(video_id=5001))
    assert 5001 not in ids(feed(served.client, 1, k=3))
    assert served.recommender.threads == {"compute"}


def test_operations(shared):
    assert shared.client.get("/healthz").json() == {"status": "ok"}
    assert shared.client.get("/readyz").json() == {"ready": True, "reasons": []}
    version = shared.client.get("/v1/version").json()
    assert (version["version"], version["store"], version["users"]) == ("tiny-1", "embedded", 40)
    assert version["server_time"] >= DATA_END
    feed(shared.client, 1)
    metrics = shared.client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/v1/feed",status="200"}' in metrics
    assert 'feed_answers_total{by="computed"}' in metrics
    assert 'stage_seconds_count{stage="rank"}' in metrics


def test_openapi_has_examples(shared):
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert "watch_s" in json.dumps(paths["/v1/events"]["post"]["requestBody"])
    answer = paths["/v1/feed"]["get"]["responses"]["200"]["content"]
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
        ("user_id=1&k=21", "k"),
        ("user_id=1&cache=maybe", "cache"),
        ("user_id=1&holding=a", "holding.0"),
        ("user_id=1&holding=3&holding=-4", "holding.1"),
        ("user_id=1&" + "&".join(["holding=1"] * 21), "holding"),
        ("user=1&user_id=1", "user"),
    ],
)
def test_bad_queries_name_the_field(shared, query, field):
    response = shared.client.get(f"/v1/feed?{query}")
    assert response.status_code == 422, response.text
    detail = response.json()["detail"]
    assert detail[0]["field"] == field
    assert detail[0]["reason"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"watch_s": -1}, "watch_s"),
        ({"watch_s": "4"}, "watch_s"),
        ({"watch_s": None}, "watch_s"),
        ({"watch_s": 1e9}, "watch_s"),
        ({"like": 1}, "like"),
        ({"video_id": 32}, "video_id"),
        ({"video_id": True}, "video_id"),
        ({"video_id": 10**30}, "video_id"),
        ({"user_id": "1"}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a\x00b"}, "event_id"),
        ({"event_id": "x" * 65}, "event_id"),
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
    ("change", "field"),
    [
        ({"content": [1.0] * (DIM + 1)}, "content"),
        ({"content": [0.0] * DIM}, "content"),
        ({"content": []}, "content"),
        ({"tags": []}, "tags"),
        ({"tags": [60]}, "tags.0"),
        ({"duration_s": 0}, "duration_s"),
        ({"creator": 2**31 - 1}, "creator"),
        ({"video_id": -1}, "video_id"),
    ],
)
def test_bad_uploads_name_the_field(shared, change, field):
    response = shared.client.post("/v1/uploads", json=upload(**change))
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["field"] == field
    assert shared.engine.log.last_seq() == 0


@pytest.mark.parametrize(
    ("content", "content_type", "status", "field"),
    [
        (b"", "application/json", 422, "body"),
        (b"{", "application/json", 422, "body"),
        (b"[]", "application/json", 422, "body"),
        (b'{"events": []}', "application/json", 422, "events"),
        (b'{"event_id": NaN}', "application/json", 422, "body"),
        (b"[" * 100_000, "application/json", 422, "body"),
        (json.dumps(event()).encode(), "text/plain", 415, "content-type"),
        (b" " * 1_000_000, "application/json", 413, "body"),
    ],
)
def test_bad_bodies_are_refused_with_a_reason(shared, content, content_type, status, field):
    headers = {"content-type": content_type}
    response = shared.client.post("/v1/events", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["detail"][0]["field"] == field
    assert response.json()["detail"][0]["reason"]


def test_operations_tell_costs_and_samples(shared):
    found = shared.client.get("/v1/operations?ids=true&time_reads=true").json()
    assert found["cpu_s"] > 0
    assert found["store_cpu_s"] > 0
    assert (len(found["user_ids"]), len(found["video_ids"])) == (40, 120)
    assert found["reads"]["blob_bytes"] == len(shared.engine.users.pack(1))
    assert min(found["reads"].values()) > 0
    assert {"compute", "consumer", "publisher"} <= set(found["threads_cpu_s"])
    taken = shared.client.get("/v1/operations/samples?seconds=0.05")
    assert taken.status_code == 200
    shared.app.state.sampling = True
    assert shared.client.get("/v1/operations/samples?seconds=1").status_code == 409
    shared.app.state.sampling = False
