"""The reliability run counts what it says: hand-made cases, broken servers, and a quick run."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from rich.console import Console
from tiny_system import TINY

from ml_platform.evaluation.results import Results
from ml_platform.serving.store import open_store
from video_recommendation.bundle import BundleError, check_bundle, load_bundle
from video_recommendation.commands import Run
from video_recommendation.reliability import command
from video_recommendation.reliability.events import (
    EventSource,
    SentEvent,
    acknowledged_ids,
    audit,
    mixed_lines,
    read_log,
    read_state,
)
from video_recommendation.reliability.kill import kill_repeatedly, request_log_gaps
from video_recommendation.reliability.server_process import LIGHT_MODULE, ServerProcess
from video_recommendation.reliability.slow_proxy import SlowProxy
from video_recommendation.reliability.store import StoreReport
from video_recommendation.reliability.store_faults import StoreFault, kill_if_there
from video_recommendation.reliability.traffic import Reply, Traffic, p99_ms
from video_recommendation.reliability.versions import (
    ID_STEP,
    SHARED_ITEMS,
    VersionMark,
    derive_bundles,
    light_bundles,
    mixed_answers,
)
from video_recommendation.serving.protocol import UserState
from video_recommendation.serving.state import RECORD

A, B, C = (SentEvent(f"e{i}", 7, 10 + i) for i in range(3))
APPLIED = Counter({(7, 10): 1, (7, 11): 1, (7, 12): 1})


# --- what becomes of events -----------------------------------------------------------------------


def test_all_is_well():
    found = audit([A, B, C], {"e0", "e1", "e2"}, [A, B, C], APPLIED)
    assert (found.sent, found.acknowledged, found.clean) == (3, 3, True)


def test_an_acknowledged_event_that_the_log_lacks_is_lost():
    found = audit([A, B, C], {"e0", "e1"}, [A], APPLIED)
    assert (found.acknowledged, found.lost, found.clean) == (2, 1, False)


def test_an_event_that_was_logged_as_another_one_is_lost():
    found = audit([A], {"e0"}, [replace(A, item_id=99)], APPLIED)
    assert found.lost == 1


def test_an_event_that_the_state_lacks_is_invisible():
    found = audit([A, B], {"e0", "e1"}, [A, B], Counter({(7, 10): 1}))
    assert (found.lost, found.invisible, found.clean) == (0, 1, False)


def test_events_that_count_twice_in_the_log_or_in_the_state():
    found = audit([A, B], {"e0"}, [A, A, B], Counter({(7, 10): 1, (7, 11): 3}))
    assert (found.twice, found.clean) == (1 + 2, False)


def test_an_unacknowledged_event_may_be_kept_or_not():
    found = audit([A, B, C], {"e0"}, [A, B], Counter({(7, 10): 1, (7, 11): 1}))
    assert (found.acknowledged, found.unasked, found.clean) == (1, 1, True)


def test_only_200_and_202_acknowledge():
    def reply(event, outcome):
        return Reply(event.line(), 0.0, 1.0, outcome, None)

    read = Reply("GET /v1/recommendations?user_id=1", 0.0, 1.0, "200", {})
    replies = [reply(A, "200"), reply(B, "202"), reply(C, "503"), read]
    assert acknowledged_ids(replies) == {"e0", "e1"}


def test_sources_share_neither_ids_nor_users_and_a_user_has_different_items():
    items = list(range(100, 100 + SHARED_ITEMS))
    one, other = EventSource(0, items), EventSource(1, items)
    events = [*one.take(7), *one.new_user(), *other.take(12)]
    assert len({e.event_id for e in events}) == len(events) == 24
    assert len({(e.user_id, e.item_id) for e in events}) == 24
    assert not {e.user_id for e in events[:12]} & {e.user_id for e in events[12:]}
    assert len({e.user_id for e in events[7:12]}) == 1
    assert events[7].user_id not in {e.user_id for e in events[:7]}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.7])
def test_lines_hold_every_event_once_and_the_share(share):
    events = EventSource(0, list(range(50))).take(70)
    lines = mixed_lines(["GET /a", "GET /b"], events, event_share=share)
    assert [line for line in lines if line.startswith("POST")] == [e.line() for e in events]
    assert len(events) / len(lines) == pytest.approx(share, abs=0.01)
    half = lines[: len(lines) // 2]
    assert sum(line.startswith("POST") for line in half) == pytest.approx(35, abs=1)


def test_the_state_is_read_by_version_from_a_real_store(tmp_path):
    mark = VersionMark("v1", (100, 110, 120), 0)
    records = np.array([(1, 0, 4.0), (2, 2, 4.0), (3, 2, 4.0)], RECORD).tobytes()
    with open_store(None, tmp_path) as store:
        store.client.mset({"vr:v1:log:applied": 3, "vr:v1:log:history:7": records})
        store.client.mset({"vr:v2:log:applied": 3, "vr:v2:log:history:7": b""})
        found = read_state(store.client, mark, [7, 8])
        assert found == {(7, 100): 1, (7, 120): 2}
        with pytest.raises(ValueError, match="one state of version v3"):
            read_state(store.client, replace(mark, version="v3"), [7])


def test_torn_lines_and_missing_answers_of_the_request_log(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"request_id": "a"}\n{"request_id": "b\n{"request_id": "c"}\n')
    replies = [Reply("GET /", 0, 1, "200", {"request_id": name}) for name in "abc"]
    assert request_log_gaps(path, replies) == (1, 1)


# --- versions -------------------------------------------------------------------------------------


def answer(version, item_ids, exploring=()):
    items = [{"item_id": i, "exploration": n in exploring} for n, i in enumerate(item_ids)]
    return {"version": version, "items": items}


def test_an_answer_by_two_versions_is_found():
    marks = [VersionMark("a", (1, 2, 3), 1), VersionMark("b", (1, 12, 13), 2)]
    good = [answer("a", [3, 2, 1], [1]), answer("b", [13, 12, 1], [2]), answer("a", [1, 2])]
    other_catalogue = answer("a", [1, 12, 3])
    other_list = answer("b", [13, 12, 1], [1])
    unknown = answer("c", [1])
    bad = [other_catalogue, other_list, unknown]
    assert mixed_answers([*good, *bad], marks) == bad


def test_derived_bundles_are_whole_and_told_apart(tiny_system, tmp_path):
    variants = derive_bundles(tiny_system.bundle, tmp_path, 2)
    marks = [mark for _, mark in variants]
    assert marks[0].version != marks[1].version
    assert marks[0].item_ids[:SHARED_ITEMS] == marks[1].item_ids[:SHARED_ITEMS]
    assert marks[1].item_ids[-1] == marks[0].item_ids[-1] + ID_STEP
    for folder, mark in variants:
        assert check_bundle(folder)["version"] == mark.version
    answers = [shown(load_bundle(folder)) for folder, _ in variants]
    assert mixed_answers(answers, marks) == []
    swapped = [{**answers[0], "version": marks[1].version}]
    assert mixed_answers(swapped, marks) == swapped


def shown(recommender):
    from ml_platform.serving.stages import RequestStages

    listed = recommender.recommend(
        user_id=-1,
        state=UserState.empty(),
        now=recommender.data_end + 1,
        k=20,
        exclude=np.empty(0, np.int32),
        counter=recommender.proposer.retriever.counter,
        stages=RequestStages(),
        surface="home",
    )
    ids = [int(recommender.catalogue.item_ids[item.item_idx]) for item in listed]
    return answer(recommender.version, ids, [n for n, i in enumerate(listed) if i.exploration])


# --- what clients saw -----------------------------------------------------------------------------


def read(due, latency_s=0.01, *, degraded=False, outcome="200"):
    reasons = [{"stage": "state", "reason": "error"}] if degraded else []
    body = {"degraded": degraded, "degradations": reasons} if outcome == "200" else None
    return Reply("GET /", due, due + latency_s, outcome, body)


def store_report(replies, complete_s=1.0):
    fault = StoreFault("gone", "gone", "gone", lambda midway: 0.0)
    return StoreReport(fault, replies, 10.0, 12.0, complete_s, audit([], (), [], Counter()))


def test_recovery_is_counted_from_the_faults_end():
    replies = [
        read(9.0),
        read(11.0, degraded=True),
        read(11.5),  # a lucky one while the fault lasts
        read(12.1, degraded=True),
        read(12.2, 0.3),
        read(12.6, degraded=True),
        read(12.9, 0.2),
        read(13.5),
    ]
    found = store_report(replies)
    assert found.first_full_s == pytest.approx(0.5)
    assert found.all_full_s == pytest.approx(1.1)
    assert [r.due for r in found.during] == [11.0, 11.5, 12.1, 12.2, 12.6, 12.9]
    assert (found.degraded, found.reasons) == (3, {"state/error": 3})
    assert found.p99_before_ms == pytest.approx(10.0)
    assert found.p99_during_ms == pytest.approx(np.percentile([10, 10, 10, 300, 10, 200], 99))


def test_a_server_that_never_recovers_has_no_recovery_time():
    found = store_report([read(9.0), read(12.5, degraded=True), read(13, outcome="500")], None)
    assert (found.first_full_s, found.all_full_s) == (None, None)
    assert found.errors == {"500": 1}
    assert p99_ms([read(1, outcome="timeout")]) is None


# --- real processes -------------------------------------------------------------------------------


@contextmanager
def light_server(tmp_path, kind=ServerProcess):
    ((folder, mark),) = light_bundles(tmp_path / "light", 1)
    with kind(LIGHT_MODULE, [str(folder)], tmp_path / "data") as server:
        yield server, mark


class ForgetfulServer(ServerProcess):
    """Its disk loses whatever was written before a kill."""

    def kill(self):
        super().kill()
        with closing(sqlite3.connect(self.data_dir / "events.sqlite")) as connection:
            connection.execute("DELETE FROM events")
            connection.commit()
        (self.data_dir / "requests.jsonl").write_bytes(b'{"request_id": "to')


READS = ["GET /v1/recommendations?user_id=1", "GET /v1/recommendations?user_id=50"]


def test_a_server_that_forgets_is_found_out(tmp_path):
    with light_server(tmp_path, ForgetfulServer) as (server, mark):
        found = kill_repeatedly(server, READS, mark, kills=1, rate_qps=100.0, seed=0)
    assert found.acknowledged > 0
    assert found.lost == found.acknowledged
    assert found.invisible >= found.acknowledged
    assert found.torn_lines == 1
    assert found.unlogged > 0
    assert len(found.recovery_s) == 1


def test_a_proxy_delays_answers_and_breaks_with_its_store(tmp_path):
    with open_store(None, tmp_path) as store:
        path = store.server.socket_path.with_name("proxy.sock")
        with SlowProxy(path, store.server.socket_path) as proxy:
            with redis.Redis(unix_socket_path=str(path)) as client:
                client.set("key", b"x" * 200_000)  # more than one piece
                assert client.strlen("key") == 200_000
                proxy.delay_s = 0.05
                begin = time.monotonic()
                assert client.get("key") == b"x" * 200_000
                assert time.monotonic() - begin >= 0.05
            assert kill_if_there(store.server.socket_path)
            assert not kill_if_there(path)


def test_traffic_that_reaches_nobody_says_so():
    with Traffic("http://127.0.0.1:9", ["GET /"], 10.0, seconds=1.0) as traffic:  # noqa: SIM117
        with pytest.raises(ConnectionError, match="nothing answers"):
            traffic.stop()


@pytest.mark.slow
def test_a_quick_run_finds_nothing_wrong_and_says_that_it_is_quick(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    command.run_reliability(Run(TINY, tmp_path, console), quick=True)
    printed = console.file.getvalue()
    assert "QUICK" in printed
    assert "No request failed, no event was lost, none counts twice." in printed
    assert (tmp_path / "demonstrations" / "plots" / "reliability_store.png").stat().st_size > 5000
    results = Results.read(tmp_path / "demonstrations" / "reliability.json")
    for fault in ("swaps", "kill_light", "store_stopped", "store_flapping"):
        assert results[f"reliability/{fault}/errors"].value == 0
        assert results[f"reliability/{fault}/acknowledged"].value > 0
        assert results[f"reliability/{fault}/lost"].value == 0
        assert results[f"reliability/{fault}/twice"].value == 0
    assert results["reliability/swaps/versions_answering"].value == 2
    assert results["reliability/swaps/mixed_answers"].value == 0
    assert results["reliability/store_outside_hanging/degraded_state_error"].value > 0
    assert not list(Path(command.tempfile.gettempdir()).glob(f"{command.SCRATCH}*"))


def test_a_full_run_without_a_bundle_says_what_to_do(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle in .*train one first"):
        command.run_reliability(Run(TINY, tmp_path, Console(file=io.StringIO())), quick=False)


INTERRUPTED = """
from pathlib import Path
from types import SimpleNamespace
from rich.console import Console
from ml_platform.evaluation.progress import Silent
from video_recommendation.reliability import command
run = SimpleNamespace(config=SimpleNamespace(seed=0), progress=Silent(), console=Console(),
                      artifacts=Path("never-written"),
                      load=lambda: None, start_results=lambda data: None)
command.run_reliability(run, quick=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_no_folder(tmp_path_factory, number):
    scratch = tmp_path_factory.mktemp("t")
    environment = {**os.environ, "TMPDIR": str(scratch)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 30
        while not list(scratch.glob("*/swaps/data/store.json")):
            assert time.monotonic() < end, "the first server did not start"
            assert process.poll() is None
            time.sleep(0.05)
        assert processes_of(scratch)
        process.send_signal(number)
        assert process.wait(30) != 0
    assert list(scratch.iterdir()) == []
    end = time.monotonic() + 5
    while processes_of(scratch):  # the guard of a store ends a moment after its server
        assert time.monotonic() < end, processes_of(scratch)
        time.sleep(0.05)


def processes_of(scratch):
    """Command lines of live processes that work below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:  # ended in between
            continue
        if str(scratch) in words:
            found.append(words)
    return found


def test_the_log_is_read_while_a_server_writes_it(tmp_path):
    with light_server(tmp_path) as (server, mark):
        server.start()
        event = EventSource(3, mark.item_ids).take(1)[0]
        with Traffic(server.url, [event.line()], 50.0, seconds=0.1) as traffic:
            time.sleep(0.3)
            replies = traffic.stop()
        assert {reply.outcome for reply in replies} == {"200"}
        assert read_log(server.data_dir / "events.sqlite") == [event]  # sent five times
        assert json.loads(event.line().split(" ", 2)[2])["event_id"] == event.event_id
