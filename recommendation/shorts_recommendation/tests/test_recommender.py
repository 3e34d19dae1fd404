from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_system import TinySystem

from shorts_recommendation.bundle import load_bundle
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.features import cross_features
from shorts_recommendation.ranking.value import value
from shorts_recommendation.recommender import Recommender, with_ranker
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.candidates import SOURCES
from shorts_recommendation.state import Outcomes

K = 8


@pytest.fixture
def recommender(tiny_system: TinySystem) -> Recommender:
    return load_bundle(tiny_system.bundle)


def _batch(recommender: Recommender, n: int = 6) -> RequestBatch:
    now = np.full(n, recommender.data_end, dtype=np.int64)
    return recommender.new_states().batch(np.arange(n, dtype=np.int32), now)


def test_slates_are_unseen_distinct_and_exist(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender), recommender.new_counters().snapshot
    for row, slate in enumerate(recommender.recommend(batch, snapshot, K)):
        assert len(slate.video_idx) == K
        assert len(set(slate.video_idx.tolist())) == K
        assert not set(slate.video_idx.tolist()) & set(batch.seen[row].tolist())
        assert (recommender.items.upload_s[slate.video_idx] <= recommender.data_end).all()
        assert (slate.sources > 0).all()
        assert (slate.sources < 2 ** len(SOURCES)).all()
        assert set(slate.stage_ms) == {
            *("prepare", "encode", "retrieve", "prerank", "rank", "rerank"),
        }


def test_a_batch_answers_as_single_requests_do(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender), recommender.new_counters().snapshot
    together = recommender.recommend(batch, snapshot, K)
    for row in range(len(batch)):
        alone = recommender.recommend(batch.take(slice(row, row + 1)), snapshot, K)[0]
        np.testing.assert_array_equal(alone.video_idx, together[row].video_idx)


def test_an_encoding_that_was_kept_changes_nothing(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender), recommender.new_counters().snapshot
    kept = recommender.recommend(batch, snapshot, K, encoded=recommender.encode(batch))
    for one, other in zip(kept, recommender.recommend(batch, snapshot, K), strict=True):
        np.testing.assert_array_equal(one.video_idx, other.video_idx)


def test_value_is_the_rankers_own(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender, 2), recommender.new_counters().snapshot
    videos = recommender.retrieve(batch, snapshot).videos[:, :30]
    encoded = recommender.encode(batch)
    ranked = recommender.rank(batch, snapshot, videos, encoded)
    cross = cross_features(batch, videos, snapshot, recommender.items)
    heads = recommender.encoder.score(encoded, batch.user, batch.context, videos, cross)
    expected = value(heads, recommender.config.ranking.value_weights)
    np.testing.assert_allclose(ranked.value, expected, rtol=1e-5)


def test_what_the_client_holds_is_not_shown_again(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender), recommender.new_counters().snapshot
    first = np.stack([s.video_idx for s in recommender.recommend(batch, snapshot, K)])
    for row, slate in enumerate(recommender.recommend(batch, snapshot, K, recent=first)):
        assert not set(slate.video_idx.tolist()) & set(first[row].tolist())


def test_an_event_moves_the_slate(recommender: Recommender) -> None:
    states, snapshot = recommender.new_states(), recommender.new_counters().snapshot
    user, now = np.array([0]), np.array([recommender.data_end])
    before = recommender.recommend(states.batch(user, now), snapshot, K)[0]
    for number, video in enumerate(before.video_idx[:3]):
        loved = Outcomes(
            watch_s=recommender.items.duration_s[[video]],
            long_view=np.array([True]),
            skip=np.array([False]),
            like=np.array([True]),
            share=np.array([False]),
            follow=np.array([False]),
        )
        states.apply(user, np.array([video]), loved, now + 10 * number)
    after = recommender.recommend(states.batch(user, now + 40), snapshot, K)[0]
    assert not set(before.video_idx[:3].tolist()) & set(after.video_idx.tolist())
    assert after.video_idx.tolist() != before.video_idx.tolist()


def test_the_session_before_a_gap_is_not_what_was_just_shown(recommender: Recommender) -> None:
    batch = _batch(recommender, 1)
    gap = recommender.config.state.session_gap_s
    now = int(batch.now_s[0])
    history = np.full_like(batch.history, -1)
    times = np.zeros_like(batch.history_time_s)
    history[0, -3:] = [5, 6, 7]
    times[0, -3:] = [now - 2 * gap - 60, now - 60, now - 30]
    batch = replace(batch, history=history, history_time_s=times)
    assert recommender._shown(batch, None, 4)[0].tolist() == [7, 6, -1, -1]
    held = np.array([[11, 12]])
    assert recommender._shown(batch, held, 4)[0].tolist() == [12, 11, 7, 6]
    late = replace(batch, now_s=batch.now_s + 2 * gap)
    assert recommender._shown(late, None, 4)[0].tolist() == [-1, -1, -1, -1]


def test_an_upload_can_be_recommended(recommender: Recommender) -> None:
    """The twin of the best video, uploaded now, is in the candidates of who likes that one."""
    batch = _batch(recommender)
    counters = recommender.new_counters()
    best = recommender.recommend(batch, counters.snapshot, 1)[0].video_idx[0]
    catalogue = recommender.catalogue
    new = recommender.add_video(
        video_id=10**9,
        creator_idx=int(catalogue.creator_idx[best]),
        tags=catalogue.tags[best],
        language=int(catalogue.language[best]),
        duration_s=float(catalogue.duration_s[best]),
        content=catalogue.content[best].astype(np.float32),
        upload_s=recommender.data_end,
    )
    assert new == len(catalogue)
    with pytest.raises(ValueError, match=r"counters\.grow"):
        recommender.recommend(batch, counters.snapshot, K)
    counters.grow(len(recommender.catalogue))
    later = replace(batch, now_s=batch.now_s + 900)
    snapshot = counters.advance(recommender.data_end + 900)
    assert (recommender.retrieve(later, snapshot).videos == new).any()
    twin = recommender.retriever.vectors[[best, new]]
    assert twin[1].any()
    assert float(twin[0] @ twin[1]) > 0.5 * float(np.prod(np.linalg.norm(twin, axis=1)))
    recommender.recommend(later, snapshot, K)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"video_id": None}, "exists"), ({"content": np.ones(5, np.float32)}, r"must be \[768\]")],
)
def test_an_impossible_upload_is_refused(
    recommender: Recommender, change: dict[str, object], said: str
) -> None:
    upload: dict[str, object] = {
        "video_id": 10**9,
        "creator_idx": 0,
        "tags": np.array([1, -1, -1]),
        "language": 0,
        "duration_s": 10.0,
        "content": np.ones(768, np.float32),
        "upload_s": recommender.data_end,
    }
    upload |= change
    if upload["video_id"] is None:
        upload["video_id"] = int(recommender.catalogue.video_ids[3])
    before = len(recommender.catalogue)
    with pytest.raises(ValueError, match=said):
        recommender.add_video(**upload)  # type: ignore[arg-type]
    assert len(recommender.catalogue) == before


def test_the_trees_can_take_over(recommender: Recommender) -> None:
    batch, snapshot = _batch(recommender), recommender.new_counters().snapshot
    trees = with_ranker(recommender, "lightgbm")
    assert trees.config.ranking.ranker == "lightgbm"
    assert recommender.config.ranking.ranker == "transformer"
    one = [s.video_idx.tolist() for s in recommender.recommend(batch, snapshot, K)]
    other = [s.video_idx.tolist() for s in trees.recommend(batch, snapshot, K)]
    assert one != other
    with pytest.raises(ValueError, match="no ranker 'forest'"):
        with_ranker(recommender, "forest")


def test_views_are_independent(recommender: Recommender) -> None:
    """What one view made of a moment is not seen by another at the same moment."""
    batch = _batch(recommender)
    counters = recommender.new_counters()
    same = counters.snapshot
    other = CounterSnapshot(same.as_of_s, np.flip(same.counts, axis=2).copy(), same.exposures)
    one, two = recommender.with_config(), recommender.with_config()
    mine = [s.video_idx.tolist() for s in one.recommend(batch, same, K)]
    theirs = [s.video_idx.tolist() for s in two.recommend(batch, other, K)]
    assert mine != theirs
    fresh = recommender.with_config()
    assert fresh.preranker.teacher is fresh.encoder is fresh.rankers["transformer"]
    assert mine == [s.video_idx.tolist() for s in fresh.recommend(batch, same, K)]
    assert mine == [s.video_idx.tolist() for s in one.recommend(batch, same, K)]
    assert theirs == [s.video_idx.tolist() for s in one.recommend(batch, other, K)]


def test_an_upload_to_a_view_stays_its_own(recommender: Recommender) -> None:
    view, batch = recommender.with_config(), _batch(recommender)
    snapshot = recommender.new_counters().snapshot
    before = [s.video_idx.tolist() for s in recommender.recommend(batch, snapshot, K)]
    view.add_video(
        video_id=10**9,
        creator_idx=0,
        tags=np.array([1, -1, -1]),
        language=0,
        duration_s=20.0,
        content=np.ones(768, np.float32),
        upload_s=recommender.data_end,
    )
    after = [s.video_idx.tolist() for s in recommender.recommend(batch, snapshot, K)]
    assert before == after
    assert len(view.catalogue) == len(recommender.catalogue) + 1


def test_what_was_trained_cannot_be_configured_away(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="state cannot change after training"):
        recommender.with_config(state=recommender.config.state)
