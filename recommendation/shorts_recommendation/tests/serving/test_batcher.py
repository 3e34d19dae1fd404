"""The batcher and the small parts: order, errors, drops, caches, encodings."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from tiny_feed import TinyRecommender

from ml_platform.serving.batcher import Batcher
from ml_platform.serving.store import open_store
from shorts_recommendation.serving.encodings import Encodings
from shorts_recommendation.serving.sampling import sample, shares, threads_cpu_s
from shorts_recommendation.serving.slates import CachedSlate, SlateCache, source_list
from shorts_recommendation.serving.write_behind import WriteBehind


def later():
    return time.perf_counter() + 5


def run(main):
    return asyncio.run(main())


def test_jobs_that_gather_are_computed_together_and_come_back_in_order():
    sizes, gate = [], threading.Event()

    def work(tasks):
        gate.wait(5)
        sizes.append(len(tasks))
        return [task * 10 for task in tasks]

    async def main():
        loop = asyncio.get_running_loop()
        batcher = Batcher(work, max_batch=4, wait_ms=0.0, loop=loop)
        jobs = [batcher.submit(i, expires_s=later()) for i in range(10)]
        gate.set()
        results = [await job.future for job in jobs]
        batcher.close()
        return results

    assert run(main) == [10 * i for i in range(10)]
    assert sum(sizes) == 10
    assert max(sizes) == 4


def test_an_idle_thread_waits_for_company():
    sizes = []

    async def main():
        batcher = Batcher(
            lambda tasks: sizes.append(len(tasks)) or tasks,
            max_batch=4,
            wait_ms=300.0,
            loop=asyncio.get_running_loop(),
        )
        first = batcher.submit(1, expires_s=later())
        await asyncio.sleep(0.02)
        rest = [batcher.submit(i, expires_s=later()) for i in (2, 3, 4)]
        begin = time.perf_counter()
        for job in (first, *rest):
            await job.future
        batcher.close()
        return time.perf_counter() - begin

    assert run(main) < 0.2  # a full batch goes at once
    assert sizes == [4]


def test_an_error_reaches_its_batch_and_the_next_one_works():
    def work(tasks):
        if tasks == [0]:
            raise ValueError("bad")
        return tasks

    async def main():
        batcher = Batcher(work, max_batch=1, wait_ms=0.0, loop=asyncio.get_running_loop())
        bad, good = (batcher.submit(i, expires_s=later()) for i in (0, 1))
        with pytest.raises(ValueError, match="bad"):
            await bad.future
        assert await good.future == 1
        failed = batcher.run_alone(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(failed)
        assert await asyncio.wrap_future(batcher.run_alone(lambda: 7)) == 7
        batcher.close()

    run(main)


def test_a_job_nobody_waits_for_is_dropped_and_counted():
    async def main():
        computed = []
        batcher = Batcher(
            lambda tasks: computed.extend(tasks) or tasks,
            max_batch=8,
            wait_ms=0.0,
            loop=asyncio.get_running_loop(),
        )
        late = batcher.submit(1, expires_s=time.perf_counter() - 1)
        assert await late.future is None
        assert (computed, batcher.dropped) == ([], 1)
        batcher.close()

    run(main)


def test_spare_work_runs_only_while_nobody_waits():
    order, spare = [], [[100], [200]]

    def work(tasks):
        order.append(list(tasks))
        return tasks

    async def main():
        kept = []
        loop = asyncio.get_running_loop()
        batcher = Batcher(
            work,
            max_batch=2,
            wait_ms=0.0,
            loop=loop,
            spare=lambda: spare.pop() if spare else (),
            on_spare=lambda tasks, results: kept.extend(results),
        )
        await asyncio.sleep(0.05)
        spare.append([300])
        batcher.nudge()
        await asyncio.sleep(0.05)
        batcher.close()
        return kept

    assert run(main) == [200, 100, 300]
    assert order == [[200], [100], [300]]


def test_a_slate_is_current_for_its_version_and_its_time():
    cache = SlateCache(capacity=2, ttl_s=10.0)
    slate = CachedSlate("s", 5, 100.0, [1, 2, 3], [b"a", b"b", b"c"])
    cache.put(0, slate)
    assert cache.current(0, 5, 109.0) is slate
    assert cache.current(0, 6, 109.0) is None  # an event came
    assert cache.current(0, 5, 111.0) is None  # too old
    assert cache.any(0) is slate
    cache.put(0, CachedSlate("old", 4, 100.0, [], []))
    assert cache.any(0) is slate  # a slower batch does not replace a newer one
    cache.put(1, slate)
    cache.any(0)
    cache.put(2, slate)
    assert (cache.any(1), len(cache)) == (None, 2)  # the least recently asked left
    assert slate.take(2, {1}) == ([2, 3], [b"b", b"c"])


def test_a_slate_survives_the_store_and_rubbish_does_not():
    made_s = time.perf_counter() - 40.0
    slate = CachedSlate("s", 5, made_s, [1, 2], [b'{"a":1}', b"{}"])
    again = CachedSlate.from_blob(slate.to_blob())
    assert (again.slate_id, again.version, again.video_ids, again.items) == (
        *("s", 5, [1, 2], [b'{"a":1}', b"{}"]),
    )
    assert again.made_s == pytest.approx(made_s, abs=0.5)  # the store gives it no second life
    for rubbish in (b"", b"junk", b"[1]", b'{"a":1}', b"[1,2,3,[4]]", b'["a",1,"x",[1],["b"]]'):
        with pytest.raises(ValueError, match="not a stored slate"):
            CachedSlate.from_blob(rubbish)


def test_sources_are_named_by_bits():
    assert source_list(0b101, ("vector", "tags", "fresh")) == ["vector", "fresh"]


def test_only_moved_states_are_encoded_again():
    recommender = TinyRecommender()
    states = recommender.new_states(40)
    encodings = Encodings(40, recommender.encode)

    def ask(rows, versions):
        rows = np.array(rows)
        batch = states.batch(rows, np.full(len(rows), 10))
        return encodings.of(rows, np.array(versions), batch)

    ask([3, 5, 3], [1, 1, 1])
    assert encodings.encoded == 3
    ask([3, 5], [1, 2])
    assert encodings.encoded == 4
    states.session[7] = 1.0
    got = ask([5, 7], [2, 1])
    batch = states.batch(np.array([5, 7]), np.full(2, 10))
    np.testing.assert_array_equal(got, recommender.encode(batch))


def test_values_wait_for_a_store_that_is_down(tmp_path):
    failures = []
    with open_store(None, tmp_path, retry_after_s=0.05) as store:
        behind = WriteBehind(store, failures.append)
        store.server.stop()
        behind.put("a", b"old")
        end = time.monotonic() + 5
        while not failures and time.monotonic() < end:
            time.sleep(0.01)
        behind.put("a", b"new")
        behind.put("b", b"2", ttl_s=100)
        store.server.start()
        while store.client.get("b") is None and time.monotonic() < end:
            time.sleep(0.05)
        behind.close()
        assert store.client.get("a") == b"new"
        assert 0 < store.client.ttl("b") <= 100


def test_a_busy_thread_shows_in_the_samples_and_the_clocks():
    stop = threading.Event()
    recommender = TinyRecommender()
    states = recommender.new_states(40)

    def work():
        while not stop.is_set():
            states.batch(np.arange(40), np.full(40, 10))

    before = threads_cpu_s()
    thread = threading.Thread(target=work, name="busy")
    thread.start()
    found = sample(0.2)
    used = threads_cpu_s()["busy"] - before.get("busy", 0.0)
    stop.set()
    thread.join()
    assert any(name.startswith("busy: state.") for name in found)
    assert used > 0.01
    assert sum(shares(found).values()) == pytest.approx(1.0)
