"""Loads against a tiny searcher: batching, refusing, what is measured and written down."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_search
from test_serving_api import IMAGES
from tiny_search import make_test_searcher

from image_search.config import Config, ServingConfig
from image_search.searcher import Filters
from image_search.serving.command import Loads, table, unbatched
from image_search.serving.engine import SearchEngine
from image_search.serving.load_session import LoadSession, holds, measure, serving
from image_search.serving.metrics import SearchMetrics
from image_search.serving.plots import latency_over_rate, stage_profile
from image_search.serving.queries import Query
from image_search.serving.record import record_session
from image_search.serving.settings import OverloadedError, ServingSettings
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results


def picture_query(row: int) -> Query:
    return Query("image", 3, Filters(), picture=IMAGES.images[row])


async def engine_with(folder: Path, **config: float) -> SearchEngine:
    settings = ServingSettings(ServingConfig(**config), folder)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    return SearchEngine(make_test_searcher(IMAGES), settings, SearchMetrics(), loop)


def test_queries_that_come_together_share_one_call_and_get_their_own_answers(tmp_path):
    async def main() -> None:
        engine = await engine_with(tmp_path, max_batch=8, wait_ms=50.0)
        rows = list(range(8))
        found = await asyncio.gather(*(engine.search(picture_query(r), 10.0) for r in rows))
        alone = [await engine.search(picture_query(r), 10.0) for r in rows]
        engine.close()
        assert [f.batch for f in found] == [8] * 8
        assert [f.batch for f in alone] == [1] * 8
        for row, together, single in zip(rows, found, alone, strict=True):
            assert together.answer.rows[0] == row
            assert together.answer.rows.tolist() == single.answer.rows.tolist()
            np.testing.assert_allclose(together.answer.score, single.answer.score, rtol=1e-5)

    asyncio.run(main())


def test_beyond_the_line_and_the_deadline_the_answer_is_at_once(tmp_path):
    async def main() -> None:
        engine = await engine_with(tmp_path, max_batch=1, wait_ms=0.0, max_waiting=2)
        gate = threading.Event()
        embed = engine.searcher.embedder.embed

        def slow(images):
            gate.wait(10)
            return embed(images)

        engine.searcher.embedder.embed = slow  # type: ignore[method-assign]
        first = asyncio.create_task(engine.search(picture_query(0), 10.0))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(engine.search(picture_query(1), 0.05))
        waiting = asyncio.create_task(engine.search(picture_query(2), 10.0))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 queries are in line"):
            await engine.search(picture_query(3), 10.0)
        # Words and items do not wait behind pictures.
        item = await engine.search(Query("item", 3, Filters(), item_id=4), 10.0)
        assert len(item.answer.rows) == 3
        with pytest.raises(OverloadedError, match="not answered in time"):
            await late
        gate.set()
        assert (await first).answer.rows[0] == 0
        assert (await waiting).answer.rows[0] == 2
        assert engine.lanes()["picture"]["dropped"] == 1  # never computed
        assert engine.not_ready() == []
        engine.close()

    asyncio.run(main())


@pytest.fixture(scope="module")
def session() -> tuple[LoadSession, Loads]:
    ids = np.arange(100)
    loads = Loads(IMAGES, ids, text=True, seed=0, most=20)
    folder = Path(tiny_search.__file__)
    config = ServingConfig().model_dump_json().replace("{", "{{").replace("}", "}}")
    command = (sys.executable, str(folder), "{folder}", "{port}", config)
    with serving(folder, ServingConfig(), command=command) as server:
        calls = loads.mixed(80, seed=1)
        return measure(server, calls, 40.0, 1.5, warmup_s=0.3), loads


def test_a_load_is_measured_from_outside(session):
    found, _ = session
    assert found.load.n == 60
    assert found.load.error_rate == 0
    assert set(found.by_kind) == {"image", "text", "item"}
    assert sum(part.n for part in found.by_kind.values()) == 60
    assert found.latency is not None
    assert 0 < found.latency.p50 <= found.latency.p95 <= found.latency.p99
    assert {"image_decode", "image_embed", "text_embed", "item_retrieve"} <= set(found.stages)
    assert found.peak_rss_bytes > 50e6
    assert found.batch_mean >= 1
    assert found.cpu["server"] > 0


def test_holding_means_all_answered_and_in_time(session):
    found, _ = session
    assert holds(found, 1e9)
    assert not holds(found, 0.0)
    assert not holds(replace(found, load=replace(found.load, error_rate=0.01)), 1e9)
    assert not holds(replace(found, latency=None), 1e9)


def test_loads_are_encoded_pictures_sentences_and_items(session):
    _, loads = session
    assert {call.kind for call in loads.image} == {"image"}
    assert b"\x89PNG" in loads.image[0].wire
    assert b"\xff\xd8\xff" in loads.image[1].wire
    assert len(loads.photo[0].wire) > 10 * len(loads.image[1].wire)
    assert len(loads.text) == len(loads.image) == 20
    assert not Loads(IMAGES, np.arange(9), text=False, seed=0, most=5).text


def test_what_is_written_down(session):
    found, _ = session
    results = Results.start(
        system="image_search", config={}, dataset_name="x", dataset_sha256="x", synthetic=True,
        seed=0, root=Path("."),
    )  # fmt: skip
    record_session(results, "mixed", found, "a mix")
    for key in ("serving/mixed/p99_ms", "serving/mixed/image_p95_ms", "serving/mixed/error_rate"):
        assert "open loop, poisson arrivals at 40 a second for 2 s" in results[key].protocol
        assert results[key].n is not None
    assert results["serving_stage/mixed.image_decode/p50_ms"].value > 0
    assert len(png(latency_over_rate({"a": [found, found]}, p99_ms=100.0))) > 5000
    assert len(png(stage_profile({"a": ("image", found), "b": ("text", found)}))) > 5000
    assert table({"mixed": found}).row_count == 1
    single = unbatched(Config().serving)
    assert (single.max_batch, single.wait_ms) == (1, 0.0)
