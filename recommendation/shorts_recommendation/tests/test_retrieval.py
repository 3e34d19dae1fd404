"""The retriever as a whole: what may be proposed, what refills, uploads, files, evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from retrieval_case import N_VIDEOS, START_S, items_of, make_case, small_config, snapshot_at

from ml_platform.evaluation.results import Results
from shorts_recommendation.evaluation.retrieval import (
    alone_config,
    best_unseen,
    evaluate_retrieval,
    overlap_matrix,
)
from shorts_recommendation.evaluation.retrieval_queries import session_queries, snapshots_of
from shorts_recommendation.features import requests_at
from shorts_recommendation.log import DAY_S, Catalogue, Windows
from shorts_recommendation.retrieval.candidates import SOURCES
from shorts_recommendation.retrieval.fitting import fit_retriever
from shorts_recommendation.retrieval.index import (
    VideoIndex,
    bench_kind,
    choose_index,
)
from shorts_recommendation.retrieval.profile import profile
from shorts_recommendation.retrieval.sources import Retriever, best_tags

UNTIL_S = START_S + 6 * DAY_S
NOW_S = START_S + 7 * DAY_S


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture(scope="module", params=["ials", "item_item"])
def config(request):
    return small_config(collaborative=request.param)


@pytest.fixture(scope="module")
def retriever(case, config):
    return fit_retriever(case, UNTIL_S, config, 0)


@pytest.fixture(scope="module")
def batch(case, config):
    rows = np.flatnonzero(case.log.timestamp >= NOW_S)[:64]
    return requests_at(case.users, items_of(case), case.log, config.state, rows)


@pytest.fixture(scope="module")
def snapshot(case):
    return snapshot_at(case, NOW_S)


def test_lists_are_full_unseen_existing_and_without_repeats(case, retriever, batch, snapshot):
    found = retriever.propose(batch, snapshot)
    assert found.videos.shape == (64, 100)
    assert (found.videos >= 0).all()
    for b, videos in enumerate(found.videos):
        assert len(np.unique(videos)) == 100
        assert not np.isin(videos, batch.seen[b]).any()
        assert (case.catalogue.upload_s[videos] <= batch.now_s[b]).all()
    queries = retriever.user_vectors(batch)
    expected = np.einsum("bd,bcd->bc", queries, retriever.vectors[found.videos])
    np.testing.assert_allclose(found.similarity, expected, atol=1e-4)


def test_every_source_is_there_and_bits_tell_the_truth(retriever, batch, snapshot):
    found = retriever.propose(batch, snapshot)
    assert (found.sources > 0).mean() > 0.95
    queries = retriever.user_vectors(batch)
    lists = retriever.proposals(batch, queries)
    for s, source in enumerate(SOURCES):
        named = found.named_by(source)
        assert named.any()
        if source != "tags":
            for b in (0, 20):
                assert np.isin(found.videos[b][named[b]], lists[s][b]).all()


def test_a_source_alone_brings_no_other(retriever, batch, snapshot):
    alone = retriever.resized(alone_config(retriever.config))
    for s, source in enumerate(SOURCES):
        found = alone.propose(batch, snapshot, only=source)
        assert (found.sources[found.videos >= 0] == 1 << s).all()
        assert ((found.videos >= 0).sum(axis=1) > 0).any()


def test_candidates_beat_chance_and_popularity(case, retriever, batch, snapshot):
    found = retriever.propose(batch, snapshot).videos[:, :30]
    mine = case.kind_of_user[batch.user_idx][:, None]
    popular = np.argsort(-snapshot.long_views[1])[:30]
    of_popular = (case.kind_of_video[popular][None] == mine).mean()
    assert (case.kind_of_video[found] == mine).mean() > of_popular + 0.2


def test_an_event_changes_the_next_request(case, retriever, batch, snapshot):
    """The live history counts, not what was known at training."""
    one = batch.take(slice(0, 1))
    other_kind = np.flatnonzero(
        (case.kind_of_video != case.kind_of_user[one.user_idx[0]])
        & (case.catalogue.upload_s < UNTIL_S)
    )[:20].astype(np.int32)
    changed = type(one)(**{**vars(one), "recent_positive": other_kind[None]})
    before = retriever.collaborative(one.recent_positive)[0, :20]
    after = retriever.collaborative(changed.recent_positive)[0, :20]
    assert len(np.intersect1d(before, after)) < 15


def test_a_new_user_gets_a_full_list(retriever, batch, snapshot):
    one = batch.take(slice(0, 1))
    blank = {name: np.full_like(getattr(one, name), -1) for name in ("recent_positive", "seen")}
    guest = type(one)(
        **{
            **vars(one),
            **blank,
            "user_idx": np.array([-1], np.int32),
            "tag_profile": np.zeros_like(one.tag_profile),
        }
    )
    found = retriever.propose(guest, snapshot)
    assert (found.videos >= 0).all()
    assert not found.named_by("collaborative").any()
    assert not found.named_by("tags").any()


def test_an_upload_is_found_after_the_next_snapshot(case, retriever, batch):
    fitted = len(retriever.index)
    mine = retriever.resized(retriever.config)
    later = snapshot_at(case, NOW_S + DAY_S // 2)
    mine.prepare(later)
    assert len(mine.index) == (case.catalogue.upload_s <= later.as_of_s).sum()
    assert len(mine.index) > fitted or fitted > (case.catalogue.upload_s < UNTIL_S).sum()
    new = np.flatnonzero(
        (case.catalogue.upload_s >= UNTIL_S) & (case.catalogue.upload_s <= later.as_of_s)
    )
    assert np.abs(mine.vectors[new]).sum(axis=1).all()


def test_a_request_before_the_snapshot_sees_no_later_upload(case, retriever, batch, snapshot):
    early = type(batch)(**{**vars(batch), "now_s": np.full(64, START_S + DAY_S)})
    found = retriever.propose(early, snapshot).videos
    there = found[found >= 0]
    assert (case.catalogue.upload_s[there] <= START_S + DAY_S).all()


def test_a_video_that_nobody_knew_is_added(case, retriever, batch):
    mine = retriever.resized(retriever.config)
    old = case.catalogue
    more = {name: np.concatenate([value, value[:1]]) for name, value in vars(old).items()}
    more["upload_s"] = np.append(old.upload_s, NOW_S + DAY_S)
    mine.add_videos(Catalogue(**more))
    later = snapshot_at(SimpleNamespace(catalogue=Catalogue(**more), log=case.log), NOW_S + DAY_S)
    mine.prepare(later)
    assert N_VIDEOS in mine.index.videos
    requests = type(batch)(**{**vars(batch), "now_s": np.full(64, NOW_S + DAY_S + 900)})
    assert (mine.propose(requests, later).videos == N_VIDEOS).any()
    with pytest.raises(ValueError, match="500 videos, 501 were known"):
        mine.add_videos(old)


def test_what_is_saved_is_what_is_loaded(case, retriever, config, batch, snapshot, tmp_path):
    retriever.save(tmp_path)
    loaded = Retriever.load(tmp_path, case.catalogue, config)
    expected, found = retriever.propose(batch, snapshot), loaded.propose(batch, snapshot)
    np.testing.assert_array_equal(expected.sources, found.sources)
    np.testing.assert_array_equal(expected.videos, found.videos)
    np.testing.assert_allclose(expected.similarity, found.similarity, atol=1e-6)
    other = "item_item" if config.retrieval.collaborative == "ials" else "ials"
    with pytest.raises(ValueError, match="train again"):
        Retriever.load(tmp_path, case.catalogue, small_config(collaborative=other))


def test_the_same_batch_split_in_two_gives_the_same_lists(retriever, batch, snapshot):
    whole = retriever.propose(batch, snapshot)
    halves = [retriever.propose(batch.take(slice(i, i + 32)), snapshot) for i in (0, 32)]
    np.testing.assert_array_equal(whole.videos, np.concatenate([h.videos for h in halves]))


def test_exposures_between_snapshots_end_a_budget(case, config, retriever, batch, snapshot):
    mine = retriever.resized(retriever.config)
    mine.prepare(snapshot)
    queries = mine.user_vectors(batch)
    before = mine.fresh(batch, queries)
    video = before[0, 0]
    mine.count_exposures(np.full(config.retrieval.fresh_exposures, video))
    assert not (mine.fresh(batch, queries) == video).any()


def test_before_a_snapshot_there_is_nothing_to_propose(retriever, batch):
    new = retriever.resized(retriever.config)
    with pytest.raises(RuntimeError, match="prepare"):
        new.proposals(batch, new.user_vectors(batch))


def test_exactly_one_collaborative_source(retriever):
    with pytest.raises(ValueError, match="not both"):
        Retriever(**{**_fields(retriever), "neighbours": None, "factors": None})


def test_profile_names_every_part(retriever, batch, snapshot):
    found = profile(retriever, batch, snapshot, size=8)
    assert set(found) == {
        "user_tower_ms", "vectors_ms", "collaborative_ms", "fresh_ms", "merge_ms", "propose_ms",
        "prepare_ms",
    }  # fmt: skip
    assert all(value >= 0 for value in found.values())
    with pytest.raises(ValueError, match="cannot fill"):
        profile(retriever, batch, snapshot, size=100)


def test_best_tags_are_the_largest_and_positive():
    tags, weight = best_tags(np.array([[0.5, -2.0, 3.0, 0.0]], dtype=np.float32), 3)
    assert tags[0, :2].tolist() == [2, 0]
    assert weight[0].tolist() == [3.0, 0.5, 0.0]


# --- the index ---


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(600, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "int8"])
def test_an_index_takes_uploads_and_finds_them(kind, vectors):
    videos = np.arange(600, dtype=np.int32) * 2
    index = VideoIndex(kind, 400 if kind == "hnsw" else 64, vectors[:500], videos[:500])
    index.add(vectors[500:], videos[500:])
    found = index.search(vectors[[550]], 10)
    exact = videos[np.argsort(-(vectors @ vectors[550]))[:10]]
    assert len(np.intersect1d(found[0], exact)) >= 9
    assert index.search(vectors[:1], 700).shape == (1, 700)
    assert (index.search(vectors[:1], 700)[0, 600:] == -1).all()


@pytest.mark.parametrize("kind", ["flat", "ivf", "int8"])
def test_a_vector_is_replaced_in_place(kind, vectors):
    videos = np.random.default_rng(1).permutation(600).astype(np.int32)
    index = VideoIndex(kind, 64, vectors, videos)
    index.replace(1.2 * vectors[[3]], videos[[7]])
    assert index.search(vectors[[3]], 2)[0].tolist() == [videos[7], videos[3]]


def test_a_graph_refuses_to_change_a_vector(vectors):
    index = VideoIndex("hnsw", 400, vectors, np.arange(600, dtype=np.int32))
    with pytest.raises(ValueError, match="build a new index"):
        index.replace(vectors[:1], np.array([0]))


def test_auto_takes_the_fastest_that_recalls_enough(vectors):
    videos = np.arange(600, dtype=np.int32)
    index, rows = choose_index("auto", vectors, videos, vectors[:40], 50)
    assert {row.kind for row in rows} == {"flat", "ivf", "hnsw", "int8"}
    assert next(row for row in rows if row.kind == "flat").recall == 1.0
    good = [row for row in rows if row.recall >= 0.95]
    best = max(good, key=lambda row: row.qps)
    assert (index.kind, index.width) == (best.kind, best.width)


def test_measured_recall_is_the_overlap_with_brute_force(vectors):
    videos = np.arange(600, dtype=np.int32)
    index, rows = bench_kind("ivf", vectors, videos, vectors[:20], 30)
    row = rows[0]
    index.set_width(row.width)
    exact = np.argsort(-(vectors[:20] @ vectors.T), axis=1)[:, :30]
    found = index.search(vectors[:20], 30)
    shared = [len(np.intersect1d(a, b)) / 30 for a, b in zip(found, exact, strict=True)]
    assert row.recall == pytest.approx(np.mean(shared))
    assert row.recall < 1.0


def test_an_empty_or_unknown_index_is_refused(vectors):
    with pytest.raises(ValueError, match="no vectors"):
        VideoIndex("flat", 0, vectors[:0], np.zeros(0, dtype=np.int32))
    with pytest.raises(ValueError, match="choose flat, ivf, hnsw, int8"):
        VideoIndex("tree", 0, vectors, np.arange(600, dtype=np.int32))


# --- queries and the table ---


def test_queries_are_first_requests_with_what_was_watched_after(case, config):
    items = items_of(case)
    queries = session_queries(case, items, config, UNTIL_S, NOW_S, most=40)
    assert 0 < len(queries) <= 40
    assert (np.diff(queries.batch.now_s) >= 0).all()
    log = case.log
    for q in (0, len(queries) - 1):
        user, now_s = queries.batch.user_idx[q], queries.batch.now_s[q]
        first = np.flatnonzero((log.user_idx == user) & (log.timestamp == now_s))[0]
        same = log.session_id == log.session_id[first]
        assert log.timestamp[same].min() == now_s
        wanted = np.unique(log.video_idx[same & log.long_view])
        wanted = wanted[case.catalogue.upload_s[wanted] <= now_s]
        wanted = np.setdiff1d(wanted, queries.batch.seen[q])
        relevant = queries.relevant[queries.ptr[q] : queries.ptr[q + 1]]
        assert relevant.tolist() == wanted.tolist()
    part = queries.take(np.array([2, 0]))
    assert part.relevant[: part.ptr[1]].tolist() == (
        queries.relevant[queries.ptr[2] : queries.ptr[3]].tolist()
    )
    with pytest.raises(ValueError, match="no session"):
        session_queries(case, items, config, NOW_S + 30 * DAY_S, NOW_S + 31 * DAY_S, most=5)


def test_snapshots_hold_only_what_came_before(case, config):
    now_s = np.array([UNTIL_S + 10, UNTIL_S + 20, UNTIL_S + 4000])
    found = list(snapshots_of(case.log, N_VIDEOS, config, now_s))
    assert [at.tolist() for _, at in found] == [[0, 1], [2]]
    for snapshot, at in found:
        assert snapshot.as_of_s <= now_s[at].min()
        before = case.log.timestamp < snapshot.as_of_s
        assert snapshot.exposures.sum() == before.sum()


def test_best_unseen_is_a_sort(case, batch):
    scores = np.random.default_rng(0).random((64, N_VIDEOS))
    found = best_unseen(scores, batch, case, 30)
    for b in (0, 63):
        allowed = (case.catalogue.upload_s <= batch.now_s[b]) & ~np.isin(
            np.arange(N_VIDEOS), batch.seen[b]
        )
        order = np.argsort(-np.where(allowed, scores[b], -1))[:30]
        assert found[b].tolist() == order.tolist()


def test_overlap_is_the_share_of_a_sources_hits():
    queries = SimpleNamespace(
        n_relevant=np.array([2, 1]), relevant=np.array([1, 2, 3]), __len__=lambda: 2
    )
    queries = _Two(queries)
    lists = {source: np.full((2, 3), -1) for source in SOURCES}
    lists["vectors"] = np.array([[1, 2, 9], [3, 8, 9]])
    lists["tags"] = np.array([[1, 7, 9], [8, 7, 9]])
    found = overlap_matrix(lists, queries)
    assert found[0, 2] == pytest.approx(1 / 3)
    assert found[2, 0] == 1.0
    assert np.isnan(found[4]).all()


class _Two:
    """Two queries with given relevant videos."""

    def __init__(self, queries):
        self.n_relevant, self.relevant = queries.n_relevant, queries.relevant

    def __len__(self):
        return 2


class _World:
    """A truth that can be computed by hand: satisfaction is 1 for a video of the user's kind."""

    def __init__(self, case):
        self.case = case

    def expected(self, user_idx, videos, now_s):
        mine = self.case.kind_of_user[user_idx][:, None]
        return SimpleNamespace(
            satisfaction=(self.case.kind_of_video[videos] == mine).astype(np.float32)
        )

    def oracle_top(self, user_idx, now_s, k):
        rng = np.random.default_rng(0)
        score = (self.case.kind_of_video[None] == self.case.kind_of_user[user_idx][:, None]) + 0.1
        score = score - 1e-3 * rng.random(score.shape)
        score[self.case.catalogue.upload_s[None] > now_s[:, None]] = -1
        return np.argsort(-score, axis=1)[:, :k]


def test_the_table_has_every_row_and_floors_hold(case, config, retriever, tmp_path):
    data = SimpleNamespace(
        catalogue=case.catalogue,
        users=case.users,
        log=case.log,
        world=_World(case),
        windows=Windows(START_S, START_S + 5 * DAY_S, NOW_S, START_S + 8 * DAY_S),
    )
    small = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"queries": 60})}
    )
    results = Results.start(
        system="shorts_recommendation", config={}, dataset_name="test", dataset_sha256="0" * 64,
        synthetic=True, seed=0, root=tmp_path,
    )  # fmt: skip
    mine = retriever.resized(retriever.config)
    table = evaluate_retrieval(data, items_of(case), mine, small, results, tmp_path)
    for row in (*SOURCES, "merged", "random", "recent_popularity", "oracle"):
        for metric in (
            "recall@100",
            "recall@1000",
            "uniform_recall@1000",
            "oracle_share",
            "satisfaction",
            "coverage",
        ):
            assert f"retrieval/{row}/{metric}" in results
    value = {row: results[f"retrieval/{row}/satisfaction"].value for row in table.values}
    assert value["oracle"] == pytest.approx(max(value.values()))
    assert value["merged"] > value["random"] + 0.1
    assert value["vectors"] > value["recent_popularity"] + 0.1
    assert results["retrieval/random/satisfaction"].value == pytest.approx(0.25, abs=0.06)
    assert (tmp_path / "retrieval_recall.png").stat().st_size > 10_000
    assert (tmp_path / "retrieval_overlap.png").stat().st_size > 5_000


def _fields(retriever):
    return {name: getattr(retriever, name) for name in retriever.__dataclass_fields__}
