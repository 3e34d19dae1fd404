"""The evaluation of the re-ranker: metrics by hand, sessions that tire, the projection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config, RerankingConfig, WorldConfig
from shorts_recommendation.content_projection import fit_basis, project
from shorts_recommendation.evaluation.reranking import (
    Measured,
    evaluate_reranking,
    list_metrics,
    record_aims,
    relative,
    value_kept,
    variants,
)
from shorts_recommendation.evaluation.reranking_session import (
    RankedRequests,
    dpp_fill,
    fill_session,
    one_per_user,
    play,
    pool_of,
)
from shorts_recommendation.log import Catalogue
from shorts_recommendation.world import Behaviour, World, make_world

SIZES = WorldConfig(n_users=120, n_videos=500, impressions_per_user=10, content_dim=96)
RULES = RerankingConfig(pool=30, fresh_reserve=3)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SIZES, seed=5)


@pytest.fixture(scope="module")
def requests(world: World) -> RankedRequests:
    """Candidates ranked by the truth with some noise: what a good ranker hands over."""
    users = np.arange(SIZES.n_users, dtype=np.int32)
    now_s = np.full(len(users), world.end_s - 3600)
    there = np.flatnonzero(world.catalogue.upload_s <= now_s[0])
    every = np.broadcast_to(there, (len(users), len(there)))
    truth = world.expected(users, every, now_s).satisfaction
    value = truth + 0.1 * np.random.default_rng(0).standard_normal(truth.shape)
    order = np.argsort(-value, axis=1)[:, :80]
    videos = there[order].astype(np.int32)
    fresh = world.catalogue.upload_s[videos] > now_s[0] - 48 * 3600
    value = np.take_along_axis(value, order, axis=1).astype(np.float32)
    return RankedRequests(users, now_s, videos, value, fresh)


def hand_made() -> Catalogue:
    """Four videos: 0 and 1 alike, 2 at a right angle to both, 3 opposite to 0."""
    content = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    return Catalogue(
        video_ids=np.arange(4),
        creator_idx=np.array([5, 5, 5, 9], dtype=np.int32),
        tags=np.array([[0, -1, -1], [1, 0, -1], [0, -1, -1], [0, -1, -1]], dtype=np.int16),
        language=np.zeros(4, dtype=np.int16),
        duration_s=np.full(4, 20, dtype=np.float32),
        upload_s=np.zeros(4, dtype=np.int64),
        content=content,
    )


def test_list_metrics_by_hand() -> None:
    found = list_metrics(hand_made(), np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32))
    # Pairs of the first list: 0, 1, 1; of the second: 1, 2, 1.
    assert found["ild@10"] == pytest.approx([2 / 3, 4 / 3])
    assert found["min_distance@10"] == pytest.approx([0, 1])
    two_to_one = -(2 / 3) * np.log2(2 / 3) - (1 / 3) * np.log2(1 / 3)
    assert found["tag_entropy@10"] == pytest.approx([two_to_one, 0])
    assert found["creators@10"].tolist() == [1, 2]


def test_value_kept_by_hand() -> None:
    """Values 12 down to 1 and a padding: the best ten sum to 75, the floor is 1."""
    videos = np.append(np.arange(12), -1)[None].astype(np.int32)
    value = np.append(np.arange(12.0, 0, -1), 99)[None].astype(np.float32)
    fresh = np.zeros((1, 13), dtype=bool)
    one = RankedRequests(np.zeros(1, dtype=np.int32), np.zeros(1), videos, value, fresh)
    best = np.arange(10)[None]
    assert value_kept(one, best) == pytest.approx([1.0])
    worse = np.append(np.arange(9), 11)[None]  # 1 in place of 3: 63 of 65 above the floor
    assert value_kept(one, worse) == pytest.approx([63 / 65])


def test_a_relative_change_by_hand() -> None:
    change = relative(np.array([3.0, 3.0]), np.array([2.0, 2.0]), 100)
    assert (change.value, change.low, change.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_request_of_each() -> None:
    assert one_per_user(np.array([4, 2, 4, 7, 2])).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="appears twice"):
        RankedRequests(np.zeros(2), np.zeros(2), *(np.zeros((2, 1)) for _ in range(3)))


def test_a_part_of_the_requests_is_spread_over_their_time(requests: RankedRequests) -> None:
    assert requests.spread(4).user_idx.tolist() == [0, 39, 79, 119]
    assert len(requests.spread(1000)) == 120


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_repeats_nothing_and_keeps_the_cap_across_pages(
    world: World, requests: RankedRequests
) -> None:
    rules = RULES.model_copy(update={"k": 4, "tag_cap": 2})
    vectors = project(world.catalogue.content, fit_basis(world.catalogue.content, 32))
    shown, slates = fill_session(requests, world.catalogue, vectors, rules, pages=4)
    assert shown.shape == (120, 16)
    assert len(slates) == 4
    relaxed = np.concatenate([s.relaxed for s in slates], axis=1)
    for row in range(120):
        assert len(set(shown[row].tolist())) == 16
        tags = world.catalogue.tags[shown[row], 0]
        for end in range(1, 16):
            if relaxed[row, end] & 2:
                continue
            window = tags[max(0, end - 9) : end + 1]
            assert (window == tags[end]).sum() <= 2


def test_relevance_order_over_pages_is_the_rankers(world: World, requests: RankedRequests) -> None:
    off = {"relevance_weight": 1.0, "fatigue": 0, "tag_cap": 0, "fresh_slots": 0}
    rules = RULES.model_copy(update={**off, "fresh_reserve": 0})
    vectors = project(world.catalogue.content, fit_basis(world.catalogue.content, 32))
    shown, _ = fill_session(requests, world.catalogue, vectors, rules, pages=3)
    assert (shown == requests.videos[:, :30]).all()


def test_the_pool_looks_back(world: World, requests: RankedRequests) -> None:
    vectors = project(world.catalogue.content, fit_basis(world.catalogue.content, 32))
    shown = requests.videos[:, :3]
    left = requests.videos.copy()
    left[:, :3] = -1
    items = pool_of(requests, left, shown, world.catalogue, vectors, RULES)
    newest = world.catalogue.creator_idx[requests.videos[:, 2]]
    assert (items.recent_creator[:, 0] == newest).all()
    assert (items.videos[:, 0] == requests.videos[:, 3]).all()
    assert items.videos.shape == (120, 30)


def test_a_dpp_of_orthogonal_videos_is_relevance_order() -> None:
    n = 6
    empty = np.zeros((1, 0), dtype=np.int32)
    items = pool_of(
        RankedRequests(
            np.zeros(1, dtype=np.int32),
            np.zeros(1),
            np.array([[0, 1, 2, 3, 4, 5]], dtype=np.int32),
            np.array([[6.0, 5, 4, 3, 2, 1]], dtype=np.float32),
            np.zeros((1, n), dtype=bool),
        ),
        np.array([[0, 1, 2, -1, 4, 5]], dtype=np.int32),
        empty,
        replace(hand_made(), creator_idx=np.zeros(n), tags=np.zeros((n, 3), dtype=np.int16)),
        np.eye(n, dtype=np.float32),
        RerankingConfig(k=4, pool=6, fresh_reserve=0),
    )
    chosen = dpp_fill(0.9)(items, RerankingConfig(k=4, pool=6, fresh_reserve=0))
    assert items.videos[0, chosen[0]].tolist() == [0, 1, 2, 4]


def test_a_monotone_session_costs_watch_time_only_where_people_tire(
    world: World, requests: RankedRequests
) -> None:
    """The same lists and the same chance, before people who tire and people who do not."""
    tireless = Behaviour(creator_satiation=0, tag_satiation=0, long_satiation=0)
    rested = make_world(SIZES, seed=5, behaviour=tireless)
    monotone = np.repeat(requests.videos[:, :1], 12, axis=1)
    tired = play(world, requests, monotone, audiences=1, seed=3)
    fresh = play(rested, requests, monotone, audiences=1, seed=3)
    assert tired.watch_s.mean() < 0.8 * fresh.watch_s.mean()
    assert tired.skips.mean() > fresh.skips.mean()
    again = play(world, requests, monotone, audiences=1, seed=3)
    assert (again.watch_s == tired.watch_s).all()


def test_an_empty_place_is_refused(world: World, requests: RankedRequests) -> None:
    lists = requests.videos[:, :5].copy()
    lists[7, 2] = -1
    with pytest.raises(ValueError, match="request 7 has an empty place"):
        play(world, requests, lists, audiences=1, seed=0)


# --- the projection -----------------------------------------------------------------------------


def test_all_dimensions_keep_every_cosine(world: World) -> None:
    content = world.catalogue.content[:50].astype(np.float32)
    for method in ("principal", "random"):
        basis = fit_basis(world.catalogue.content, 96, method=method)
        np.testing.assert_allclose(basis.T @ basis, np.eye(96), atol=1e-4)
        low = project(content, basis)
        np.testing.assert_allclose(low @ low.T, content @ content.T, atol=2e-3)


def test_principal_directions_find_the_plane_that_everything_lies_in() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.standard_normal((40, 3)))[0]
    content = rng.standard_normal((200, 3)) @ plane.T
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    low = project(content, fit_basis(content, 3))
    np.testing.assert_allclose(low @ low.T, content @ content.T, atol=1e-4)
    assert (project(np.zeros((1, 40)), fit_basis(content, 3)) == 0).all()


def test_a_projection_cannot_grow() -> None:
    with pytest.raises(ValueError, match="cannot project 4 dimensions onto 5"):
        fit_basis(np.eye(4), 5)


# --- the whole ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(
    world: World, requests: RankedRequests, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("plots")
    config = Config.model_validate(
        {"reranking": {**RULES.model_dump(), "projected_dim": 32}, "evaluation": {"resamples": 100}}
    )
    found = Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="tiny",
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=Path(__file__).parent,
    )
    basis = fit_basis(world.catalogue.content, 32)
    evaluate_reranking(requests, world, basis, config, found, plots=folder, progress=Silent())
    return found, folder


def test_less_weight_is_more_diversity_and_less_value(results: tuple[Results, Path]) -> None:
    found = results[0]

    def value(name: str, metric: str) -> float:
        return found[f"reranking/{name}/{metric}"].value

    assert value("relevance", "value_kept@10") == pytest.approx(1.0)
    curve = ["relevance", "mmr_0.8", "mmr_0.5", "mmr_0"]
    for metric, sign in (("ild@10", 1), ("value_kept@10", -1), ("satisfaction@10", -1)):
        along = [sign * value(name, metric) for name in curve]
        assert along == sorted(along), metric
    assert value("all_rules", "creators@10") > value("no_fatigue", "creators@10")
    assert value("all_rules", "fresh_share@10") > value("no_fresh", "fresh_share@10")
    assert value("projection_principal", "correlation") > value("projection_random", "correlation")
    gain = value("mmr_0", "ild@10") / value("relevance", "ild@10") - 1
    assert value("mmr_0", "ild@10_change") == pytest.approx(gain, rel=1e-4)
    assert value("reachable", "ild@10_gain") > 0.1
    assert found["reranking/equal_watch/ild@10_gain"].n == 60


def aims_of(made: dict[str, tuple[np.ndarray, np.ndarray]]) -> Results:
    """Of made-up variants: (diversity, watch seconds) of each of 200 people."""
    found = Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="none",
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=Path(__file__).parent,
    )
    names = ("ild@10", "min_distance@10", "tag_entropy@10")
    measured = {
        name: Measured({**dict.fromkeys(names, diverse), "watch_s": watch}, 1.0, {})
        for name, (diverse, watch) in made.items()
    }
    config = Config.model_validate({"evaluation": {"resamples": 100}})
    record_aims(found, measured, config, "made up")
    return found


def test_a_variant_is_chosen_on_one_half_and_told_of_the_other() -> None:
    """One whose lead is the luck of those who choose it is reported without that lead."""
    rng = np.random.default_rng(0)
    chooses = np.arange(200) % 2 == 0
    watch = 100 + rng.normal(size=200)
    found = aims_of(
        {
            "relevance": (np.full(200, 0.5), watch),
            "lucky": (np.where(chooses, 0.9, 0.55), watch + 1),
            "honest": (np.full(200, 0.7), watch + 1),
            "costly": (np.full(200, 0.8), watch * 0.95),
            "all_rules": (np.full(200, 0.7), watch * 0.95),
        }
    )
    gain = found["reranking/equal_watch/ild@10_gain"]
    assert "chosen: lucky" in gain.protocol
    assert gain.value == pytest.approx(0.1)  # 0.55 of the others, not the 0.9 that chose it
    assert found["reranking/equal_watch/ild@10_watch_s_change"].value == pytest.approx(
        0.01, abs=1e-3
    )
    assert found["reranking/aims/ild_gain_met"].value == 0  # 40%, but five in a hundred dearer
    assert found["reranking/aims/ild_met"].value == 1


def test_equal_watch_time_must_be_shown_and_not_merely_not_refuted() -> None:
    rng = np.random.default_rng(1)
    watch = 100 + rng.normal(size=200)
    made = {
        "relevance": (np.full(200, 0.5), watch),
        "costly": (np.full(200, 0.9), watch * 0.95),
        "unknown": (np.full(200, 0.8), watch + 2 + 60 * rng.normal(size=200)),
        "cheap": (np.full(200, 0.6), watch * 0.995),
        "all_rules": (np.full(200, 0.75), watch * 0.995),
    }
    found = aims_of(made)
    assert found["reranking/reachable/ild@10_gain"].value == pytest.approx(0.8)
    assert found["reranking/reachable/ild@10_watch_s_change"].value == pytest.approx(-0.05)
    assert found["reranking/equal_watch/ild@10_gain"].value == pytest.approx(0.5)  # all_rules
    assert found["reranking/aims/ild_gain_met"].value == 1
    dear = {**made, "all_rules": (np.full(200, 0.75), watch * 0.98)}
    assert aims_of(dear)["reranking/equal_watch/ild@10_gain"].value == pytest.approx(0.2)  # cheap
    dear["cheap"] = (np.full(200, 0.6), watch * 0.98)
    assert aims_of(dear)["reranking/equal_watch/ild@10_gain"].value == 0  # nothing but relevance


def test_every_variant_has_every_metric_with_its_interval(results: tuple[Results, Path]) -> None:
    found = results[0]
    for name in variants():
        for metric in ("ild@10", "min_distance@10", "tag_entropy@10", "watch_s", "satisfaction@10"):
            metric_found = found[f"reranking/{name}/{metric}"]
            assert metric_found.low is not None
            assert metric_found.low <= metric_found.value <= metric_found.high  # type: ignore[operator]
    assert (results[1] / "reranking_trade_off.png").read_bytes()[:4] == b"\x89PNG"
