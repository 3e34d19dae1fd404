"""Uploads on the real recommender: several at once, and the fresh place of a default answer."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tiny_system import TinySystem

from shorts_recommendation.bundle import load_bundle
from shorts_recommendation.new_video import NewVideo
from shorts_recommendation.recommender import Recommender
from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.settings import ServingSettings


@pytest.fixture
def recommender(tiny_system: TinySystem) -> Recommender:
    return load_bundle(tiny_system.bundle)


def twins(recommender: Recommender, n: int) -> list[NewVideo]:
    """Uploads that look like the first n videos."""
    old = recommender.catalogue
    return [
        NewVideo(
            10**9 + v,
            int(old.creator_idx[v]),
            old.tags[v],
            int(old.language[v]),
            float(old.duration_s[v]),
            old.content[v].astype(np.float32),
            recommender.data_end,
        )
        for v in range(n)
    ]


def test_several_at_once_are_the_same_as_one_after_the_other(recommender: Recommender) -> None:
    together, alone = recommender.with_config(), recommender.with_config()
    uploads = twins(recommender, 5)
    first = len(recommender.catalogue)
    assert together.add_videos(uploads) == list(range(first, first + 5))
    for place, upload in enumerate(uploads):
        assert alone.add_videos([upload]) == [first + place]
    np.testing.assert_array_equal(together.catalogue.content, alone.catalogue.content)
    np.testing.assert_allclose(together.vectors, alone.vectors, atol=1e-6)
    counters = recommender.new_counters()
    counters.grow(first + 5)
    snapshot = counters.advance(recommender.data_end + 900)
    now = np.full(4, recommender.data_end + 900, dtype=np.int64)
    batch = recommender.new_states().batch(np.arange(4, dtype=np.int32), now)
    one, other = (r.recommend(batch, snapshot, 20) for r in (together, alone))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.video_idx, b.video_idx)
    assert len(recommender.catalogue) == first


def test_one_impossible_upload_in_a_batch_changes_nothing(recommender: Recommender) -> None:
    uploads = twins(recommender, 3)
    uploads[2] = replace(uploads[2], creator_idx=10**9)
    before = recommender.catalogue
    with pytest.raises(ValueError, match="without gaps"):
        recommender.add_videos(uploads)
    assert recommender.catalogue is before


def test_the_content_of_the_catalogue_is_copied_once_for_many(recommender: Recommender) -> None:
    for upload in twins(recommender, 12):
        recommender.add_videos([upload])
    assert recommender._spare.copies == 8  # each column once, and the projected vectors


def test_a_default_answer_holds_a_fresh_video_where_there_is_one(tiny_system, tmp_path) -> None:
    recommender = load_bundle(tiny_system.bundle)
    retrieval = recommender.config.retrieval
    serving = recommender.config.serving.model_copy(update={"deadline_ms": 20_000.0})
    settings = ServingSettings(tmp_path, serving, store_read_ms=2000.0, monotonic=lambda: 0.0)
    app = create_app(recommender, settings)
    with TestClient(app) as client:
        end = time.monotonic() + 30
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
        for video in twins(recommender, 8):
            upload = {
                "video_id": video.video_id,
                "creator": video.creator_idx,
                "tags": [int(t) for t in video.tags if t >= 0],
                "language": video.language,
                "duration_s": video.duration_s,
                "content": video.content.tolist(),
            }
            answer = client.post("/v1/uploads", json=upload)
            assert answer.status_code == 200, answer.text
        engine, without = app.state.engine, []
        for user_id in recommender.users.user_ids[:20].tolist():
            items = client.get(f"/v1/feed?user_id={user_id}").json()["items"]
            assert len(items) == serving.prefetch == 10
            videos = [engine.video_idx[item["video_id"]] for item in items]
            age_s = engine.clock.now() - recommender.items.upload_s[videos]
            if not (age_s <= 3600 * retrieval.fresh_hours).any():
                without.append(user_id)
        assert without == []
