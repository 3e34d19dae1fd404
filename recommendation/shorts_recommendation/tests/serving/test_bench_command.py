"""The parts of `make bench` over the tiny recommender: every key is there, nothing is measured."""

from __future__ import annotations

import functools
import sys

import pytest
from feed_process import PROGRAM
from tiny_feed import DIM

from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.serving import command, load_session, record
from shorts_recommendation.serving.variants import record_variants


@pytest.mark.slow
def test_the_bench_records_what_its_docstring_promises(tmp_path, monkeypatch):
    tiny = functools.partial(load_session.serving, command=(sys.executable, str(PROGRAM)))
    monkeypatch.setattr(command, "serving", tiny)
    monkeypatch.setattr(load_session, "serving", tiny)
    monkeypatch.setattr(load_session, "WARMUP_S", 0.2)
    monkeypatch.setattr(command, "PROBE_LOAD_QPS", 50.0)
    serving = {"load_rate_qps": 50, "load_uncached_rate_qps": 50, "load_seconds": 1}
    serving |= {"load_sessions_rate_qps": 50}
    config = Config.model_validate({"serving": serving, "world": {"content_dim": DIM}})
    results = Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="tiny",
        dataset_sha256="0",
        synthetic=True,
        seed=0,
        root=tmp_path,
    )
    steps: list[int] = []
    sessions = record.record_sessions(tmp_path, config, results, steps.append)
    sweeps = command.record_sweeps(tmp_path, config, results, quick=True, step=steps.append)
    variants = record_variants(tmp_path, config, results, quick=True, step=steps.append)
    command.record_samples(tmp_path, config, results, seconds=0.5)
    effect = command.record_effect(tmp_path, config, results, n=20)
    command.record_limit(config, 120, results, sweeps, quick=True)
    assert steps == [1] * 8
    assert set(sessions) == set(sweeps) == {"cached", "uncached", "sessions"}
    assert set(variants) == {"sessions_ahead_off", "sessions_ahead_1", "cached_uploads"}
    assert variants["cached_uploads"].upload.n >= 1
    assert len(effect.total_ms) == 20
    wanted = {
        *("serving/cached/p99_ms", "serving/uncached/p50_ms", "serving/cached/hit_rate"),
        *("serving/sessions/hit_rate", "serving/sessions/p99_ms", "serving/knee_sessions/qps"),
        *("serving/sessions_ahead_off/hit_rate", "serving/cached_uploads/upload_p50_ms"),
        *("serving/knee_cached/qps", "serving/knee_uncached/qps", "serving/store/mget_us"),
        *("serving/event_to_effect/p99_ms", "serving/limit/http_bare_server_us"),
        *("serving/limit/funnel_us", "serving/limit/uncached_qps", "serving/limit/share_reached"),
    }
    assert wanted <= set(results)
    assert any(key.startswith("serving_sample/") for key in results)
    assert results["serving/uncached/hit_rate"].value == 0
    assert results["serving/cached/error_rate"].value == 0
    results.write(tmp_path / "bench_serving.json")
