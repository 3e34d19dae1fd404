"""The server's clock, and a server as a process of its own."""

from __future__ import annotations

import asyncio
import socket
import sys
import urllib.request

import pytest

from ml_platform.serving.clock import ServerClock
from ml_platform.serving.http_pool import client_loop
from ml_platform.serving.server_process import free_port, running_server, server_environment

PROGRAM = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_the_clock_starts_at_the_datas_end_and_never_runs_back():
    passed = [100.0]
    clock = ServerClock(1_000, lambda: passed[0])
    assert clock.now() == 1_000
    passed[0] += 7.9
    assert clock.now() == 1_007
    clock.advance_to(2_000)
    assert clock.now() == 2_000
    clock.advance_to(1_500)
    passed[0] += 1
    assert clock.now() == 2_001


def test_the_lead_that_a_client_may_have_is_the_services_choice():
    assert ServerClock(0).max_lead_s == 86_400
    assert ServerClock(0, max_lead_s=60).max_lead_s == 60


def test_a_server_is_started_asked_and_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    assert "REDIS_URL" not in server_environment()
    assert server_environment()["OMP_NUM_THREADS"] == "1"
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(port)]
    with running_server(command, port, output=tmp_path / "log") as process:
        with urllib.request.urlopen(process.url, timeout=5) as response:
            assert response.read() == b"ok"
        assert process.start_s > 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(process.url, timeout=5)


def test_a_server_that_ends_says_why(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no bundle there')"]
    with (
        pytest.raises(RuntimeError, match="no bundle there"),
        running_server(command, free_port(), output=tmp_path / "log"),
    ):
        pass


def test_a_run_of_ports_leaves_out_those_in_use(monkeypatch):
    first = free_port(run=3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first + 2))
        starts = iter([first, first + 3])
        monkeypatch.setattr("random.randrange", lambda *_: next(starts))
        assert free_port(run=3) == first + 3
        monkeypatch.setattr("random.randrange", lambda *_: first)
        with pytest.raises(RuntimeError, match="no 3 consecutive"):
            free_port(run=3)


def test_a_server_that_never_gets_ready_is_killed_and_named(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    port = free_port()
    with (
        pytest.raises(RuntimeError, match="is not ready"),
        running_server(command, port, output=tmp_path / "log", timeout_s=0.3),
    ):
        pass


def test_the_clients_loop_runs():
    with asyncio.Runner(loop_factory=client_loop) as runner:
        assert runner.run(asyncio.sleep(0, "done")) == "done"
