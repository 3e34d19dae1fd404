"""The load test measures from the schedule, counts what fails, and keeps to its limits."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from ml_platform.serving import load_test
from ml_platform.serving.http_pool import Sample, encode_request
from ml_platform.serving.load_test import LoadPlan, run_load, summarise


@contextmanager
def server(answer) -> Iterator[str]:
    """A raw HTTP server on a thread; `answer(n, request)` is an async function to bytes."""
    loop = asyncio.new_event_loop()
    address: list[int] = []
    ready = threading.Event()
    count = 0

    async def handle(reader, writer):
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                count += 1
                reply = await answer(count, head)
                if not reply:
                    break
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run():
        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        address.append(listener.sockets[0].getsockname()[1])
        ready.set()
        while not stopped.is_set():
            await asyncio.sleep(0.01)
        listener.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)

    stopped = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        stopped.set()
        thread.join()
        loop.close()


def reply(status: int = 200, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def ok(n: int, head: bytes) -> bytes:
    return reply()


def plan(url: str, **changes) -> LoadPlan:
    settings = {"requests": ["GET /a"], "rate_qps": 200, "seconds": 0.5, "warmup_seconds": 0.1}
    return LoadPlan(url, **{**settings, **changes})


@pytest.mark.parametrize("poisson", [False, True])
def test_rate_is_kept(poisson):
    with server(ok) as url:
        report = run_load(plan(url, poisson=poisson))
    assert (report.n, report.ok, report.errors, report.error_rate) == (100, 100, {}, 0.0)
    assert 100 < report.achieved_qps < 320
    assert 0 < report.p50_ms <= report.p90_ms <= report.p99_ms <= report.max_ms


def test_a_request_may_be_given_as_the_bytes_on_the_wire():
    heads: list[bytes] = []

    async def note(n: int, head: bytes) -> bytes:
        heads.append(head)
        return reply()

    wire = b"PUT /raw HTTP/1.1\r\nX-Own: \xff\r\n\r\n"
    with server(note) as url:
        report = run_load(plan(url, requests=[wire, "GET /line"], warmup_seconds=0))
    assert report.errors == {}
    assert heads.count(wire) == 50
    assert sum(head.startswith(b"GET /line HTTP/1.1") for head in heads) == 50


def test_bodies_of_good_answers_are_handed_over_in_order():
    async def numbered(n: int, head: bytes) -> bytes:
        return reply(500 if n % 10 == 0 else 200, b"%d" % n)

    bodies: list[bytes] = []
    with server(numbered) as url:
        once = plan(url, max_connections=1, warmup_seconds=0)
        report = run_load(once, on_answer=bodies.append)
    assert (report.ok, len(bodies)) == (90, 90)
    assert [int(b) for b in bodies] == [n for n in range(1, 101) if n % 10]


def test_a_stall_is_charged_to_every_request_it_delayed():
    """100 requests a second, one connection, one stall of 300 ms: a closed loop would see one slow
    request; here about thirty were due meanwhile and waited 300, 290, ... 0 ms."""

    async def stall_once(n: int, head: bytes) -> bytes:
        if n == 20:
            await asyncio.sleep(0.3)
        return reply()

    with server(stall_once) as url:
        report = run_load(
            plan(url, rate_qps=100, seconds=1.0, warmup_seconds=0, poisson=False, max_connections=1)
        )
    assert report.ok == 100
    assert report.max_ms > 290
    assert report.p90_ms > 150  # 30 of 100 waited on average 150 ms: the 90th is about 200
    assert report.p50_ms < 50


def test_errors_are_counted_by_status_and_kind():
    async def mixed(n: int, head: bytes) -> bytes:
        return {0: reply(500), 1: b"", 2: reply(422)}.get(n % 10, reply())

    with server(mixed) as url:
        report = run_load(plan(url, warmup_seconds=0))
    assert set(report.errors) == {"500", "422", "connection"}
    assert report.ok + sum(report.errors.values()) == report.n == 100
    assert report.error_rate == pytest.approx(1 - report.ok / 100)


def test_an_answer_that_never_comes_is_a_timeout():
    async def silent(n: int, head: bytes) -> bytes:
        await asyncio.sleep(0.6 if n == 5 else 0)
        return reply()

    with server(silent) as url:
        report = run_load(plan(url, seconds=0.1, warmup_seconds=0, timeout_s=0.3))
    assert report.errors == {"timeout": 1}


def test_bodies_arrive_whole():
    seen = []

    async def remember(n: int, head: bytes) -> bytes:
        seen.append(head)
        return reply(202, b"x" * 100_000)

    with server(remember) as url:
        report = run_load(plan(url, requests=["GET /b?x=1"], seconds=0.05, warmup_seconds=0))
    assert report.ok == report.n
    assert seen[0].startswith(b"GET /b?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")


def test_percentiles_by_hand():
    samples = [
        Sample(due=1.0, sent=1.001, finished=1.0 + i / 1e3, outcome="200") for i in range(1, 102)
    ]
    samples.append(Sample(due=1.0, sent=1.001, finished=1.5, outcome="503"))
    report = summarise(plan("http://localhost:1"), samples, started=1.0, connections=3)
    assert (report.p50_ms, report.p90_ms, report.p99_ms, report.max_ms) == (51, 91, 100, 101)
    assert (report.mean_ms, report.send_lag_p99_ms) == (51, 1)
    assert report.errors == {"503": 1}
    assert report.achieved_qps == 202.0  # 101 good answers in half a second


def test_poisson_gaps_are_exponential():
    gaps = np.diff(
        load_test._gaps(plan("http://localhost:1", rate_qps=1000), 50.0, np.random.default_rng(0))
    )
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)  # an exponential's mean is its deviation


def test_request_lines():
    address = ("h", 1)
    assert encode_request("GET /x", address) == b"GET /x HTTP/1.1\r\nHost: h:1\r\n\r\n"
    assert encode_request('POST /x {"a": 1}', address).endswith(
        b'Content-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    )
    for bad in ("", "GET", "get /x", "GET x", "/x"):
        with pytest.raises(ValueError, match="a request line is"):
            encode_request(bad, address)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_qps": 0}, "rate_qps"),
        ({"rate_qps": float("nan")}, "rate_qps"),
        ({"seconds": 4000}, "seconds"),
        ({"rate_qps": 9e4, "seconds": 100}, "at most 1000000"),
        ({"requests": []}, "no request lines"),
        ({"url": "http://example.org"}, "not loopback"),
        ({"url": "http://10.0.0.1:80"}, "not loopback"),
        ({"url": "ftp://localhost"}, "url must look like"),
    ],
)
def test_limits(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**{"url": "http://127.0.0.1:1", **changes})
    LoadPlan("http://10.0.0.1", ["GET /"], 1.0, 1.0, allow_remote=True)


def test_command_line(tmp_path, capsys):
    file = tmp_path / "requests.txt"
    file.write_text("# two users\nGET /a\n\nGET /b\n")
    more = ["--requests", str(file), "--arrivals", "constant"]
    with server(ok) as url:
        code = load_test.main(
            ["--url", url, "--rate", "100", "--seconds", "0.2", "--warmup-seconds", "0", *more]
        )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["ok"] == 20
    gone = ["--url", url, "--rate", "100", "--request", "GET /"]
    assert load_test.main(gone) == 2
    assert "nothing answers" in capsys.readouterr().err
