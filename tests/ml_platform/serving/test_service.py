"""The shell without a system: health, readiness, metrics, ids, refusals."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from ml_platform.serving.errors import OrjsonResponse, Problem, ProblemError, shorten
from ml_platform.serving.service import create_service


class Pair(BaseModel):
    left: int
    right: float


@pytest.fixture
def reasons() -> list[str]:
    return []


@pytest.fixture
def client(reasons):
    app = create_service(
        title="demo",
        version="2.0",
        not_ready=lambda: reasons,
        version_info=lambda: {"bundle": "b7"},
        max_body_bytes=1000,
        max_in_flight=2,
    )

    @app.get("/v1/slow")
    async def slow():
        await asyncio.sleep(0.5)
        return OrjsonResponse({})

    @app.post("/pairs")
    async def pairs(pair: Pair):
        return OrjsonResponse({"sum": pair.left + pair.right})

    @app.get("/broken/{name}")
    async def broken(name: str):
        raise RuntimeError(f"password of {name}")

    @app.get("/teapot")
    async def teapot():
        raise ProblemError(418, [Problem(field="spout", reason="short", value=[1, 2])])

    @app.get("/half")
    async def half():
        async def body():
            yield b"first"
            raise RuntimeError("in the middle")

        return StreamingResponse(body())

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_health_readiness_version(client, reasons):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    reasons.append("loading")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["loading"])
    assert client.get("/v1/version").json() == {"service": "demo", "api": "2.0", "bundle": "b7"}


def test_metrics_count_by_template_and_cannot_be_flooded(client):
    client.get("/broken/a")
    client.get("/broken/b")
    for i in range(20):
        client.get(f"/scan/{i}")
    text = client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/broken/{name}",status="500"} 2.0' in text
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 20.0' in text
    assert "/scan" not in text


def test_overload_is_refused_at_once_and_health_still_answers(client):
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(client.get, "/v1/slow") for _ in range(5)]
        health = pool.submit(client.get, "/healthz").result()
        statuses = sorted(a.result().status_code for a in answers)
    assert statuses == [200, 200, 503, 503, 503]
    assert health.status_code == 200
    refused = next(a.result() for a in answers if a.result().status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert client.get("/v1/slow").status_code == 200  # it was let go again


def test_an_error_is_logged_in_full_and_answered_in_brief(client, caplog):
    response = client.get("/broken/bob", headers={"X-Request-ID": "r-1"})
    assert response.status_code == 500
    assert response.headers["X-Request-ID"] == "r-1"
    assert "password" not in response.text
    assert "password of bob" in caplog.text
    assert "request_id=r-1" in caplog.text


def test_an_error_after_the_first_byte_is_logged_too(client, caplog):
    client.get("/half")
    assert "in the middle" in caplog.text


def test_problem_error_and_unknown_routes_have_the_common_shape(client):
    response = client.get("/teapot")
    assert response.status_code == 418
    assert response.json() == {"detail": [{"field": "spout", "reason": "short", "value": [1, 2]}]}
    assert client.get("/nowhere").json() == {"detail": [{"field": "", "reason": "Not Found"}]}
    wrong = client.delete("/healthz")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"left": 1, "right": 2}', 200, None),
        (b'{"left": "x", "right": 2}', 422, "left"),
        (b'{"left": 1}', 422, "right"),
        (b'{"left": 1, "right": NaN}', 422, "body"),
        (b'{"left": 1, "right": Infinity}', 422, "body"),
        (b'{"left": "\xed\xa0\x80"}', 422, "body"),
        (b"{" * 500, 422, "body"),
        (b" " * 1001, 413, "body"),
    ],
)
def test_bodies(client, body, status, field):
    response = client.post("/pairs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    if field is not None:
        assert response.json()["detail"][0]["field"] == field


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/jsonx", "multipart/x"])
def test_other_content_types_are_refused(client, content_type):
    response = client.post("/pairs", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 415
    assert response.json()["detail"][0]["field"] == "content-type"


def test_content_type_may_carry_a_charset(client):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    body = b'{"left": 1, "right": 2}'
    assert client.post("/pairs", content=body, headers=headers).json() == {"sum": 3.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2**60, "1.15292e+18"),
        ("a" * 101, "a" * 100 + "..."),
        ("\ud800", "?"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_refused_values_are_shortened(value, expected):
    assert shorten(value) == expected
