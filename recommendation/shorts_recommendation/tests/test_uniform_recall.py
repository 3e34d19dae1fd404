"""Recall under a uniform policy: by hand, and against a policy whose truth can be enumerated."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from retrieval_case import N_VIDEOS, START_S, items_of, make_case, small_config

from ml_platform.evaluation.results import Results
from shorts_recommendation.evaluation.retrieval_queries import (
    Queries,
    session_queries,
    uniform_weight,
)
from shorts_recommendation.evaluation.uniform_recall import effective_events, uniform_recall_at
from shorts_recommendation.log import DAY_S, Windows
from shorts_recommendation.retrieval.candidates import SOURCES
from shorts_recommendation.retrieval.choices import (
    EPOCHS,
    HEADS,
    QUOTAS,
    REJECTED_WEIGHTS,
    name_of,
    try_merges,
    try_towers,
)
from shorts_recommendation.retrieval.choices_command import record, validation_queries


def queries_of(relevant: list[list[int]], weight: list[float]) -> Queries:
    ptr = np.concatenate([[0], np.cumsum([len(part) for part in relevant])])
    videos = np.array([v for part in relevant for v in part], dtype=np.int32)
    return Queries(SimpleNamespace(), ptr, videos, np.array(weight))


def test_recall_by_hand():
    queries = queries_of([[1, 2], [3]], [0.5, 0.1, 0.4])
    lists = np.array([[1, 9, 2], [8, 7, 6]], dtype=np.int32)
    one, three = uniform_recall_at(lists, queries, (1, 3))
    assert one.mean() == pytest.approx(0.5)  # 0.5 of 1.0
    assert three.mean() == pytest.approx(0.6)
    # z = R + (a - R b) / mean(b): 0.5 + (0.5 - 0.5 x 0.6) / 0.5 and 0.5 + (0 - 0.5 x 0.4) / 0.5.
    np.testing.assert_allclose(one, [0.9, 0.1])
    assert effective_events(queries) == pytest.approx(1.0 / (0.25 + 0.01 + 0.16))


def test_without_uniform_slots_nothing_is_said():
    queries = queries_of([[1]], [0.0])
    with pytest.raises(ValueError, match="no uniform slots"):
        uniform_recall_at(np.array([[1]], dtype=np.int32), queries, (1,))


def test_weights_undo_a_policy_that_prefers_some_videos():
    """Ten videos, shown by a skewed mixture: recall of the log is far off, the weighed one is not.

    The list holds the five that the policy likes least: people like 0.3 of them, 0.6 of the others.
    Under a uniform policy their share of the long views is 0.3 / (0.3 + 0.6) = 1 / 3.
    """
    rng = np.random.default_rng(0)
    share, n, taste = 0.05, 200_000, np.repeat([0.3, 0.6], 5)
    liked = np.repeat([0.2 / 5, 0.8 / 5], 5)
    p = share / 10 + (1 - share) * liked
    video = rng.choice(10, n, p=p)
    log = SimpleNamespace(
        timestamp=np.full(n, 50), propensity=p[video].astype(np.float32), video_idx=video
    )
    rows = np.flatnonzero(rng.random(n) < taste[video])
    weight = uniform_weight(log, SimpleNamespace(upload_s=np.zeros(10)), rows, share)
    assert weight.max() <= 1
    assert weight.sum() == pytest.approx(share * taste.mean() * n, rel=0.05)
    queries = Queries(SimpleNamespace(), np.arange(len(rows) + 1), video[rows], weight)
    lists = np.tile(np.arange(5, dtype=np.int32), (len(rows), 1))
    found = uniform_recall_at(lists, queries, (5,))[0].mean()
    assert found == pytest.approx(1 / 3, abs=0.01)
    assert (video[rows] < 5).mean() < 0.15


def test_videos_that_did_not_exist_yet_do_not_count():
    log = SimpleNamespace(timestamp=np.array([5, 15]), propensity=np.array([0.1, 0.1]))
    catalogue = SimpleNamespace(upload_s=np.array([10, 0, 0, 20]))
    weight = uniform_weight(log, catalogue, np.array([0, 1]), 0.05)
    np.testing.assert_allclose(weight, [0.05 / 2 / 0.1, 0.05 / 3 / 0.1])


@pytest.fixture(scope="module")
def case():
    made = make_case()
    windows = Windows(START_S, START_S + 5 * DAY_S, START_S + 7 * DAY_S, START_S + 8 * DAY_S)
    return SimpleNamespace(**vars(made), windows=windows)


def test_queries_carry_the_weight_of_each_video(case):
    queries = session_queries(
        case, items_of(case), small_config(), START_S, START_S + DAY_S, most=30
    )
    assert len(queries.weight) == len(queries.relevant)
    part = queries.take(np.array([3, 1]))
    np.testing.assert_array_equal(
        part.weight[: part.ptr[1]], queries.weight[queries.ptr[3] : queries.ptr[4]]
    )
    first = np.searchsorted(np.sort(case.catalogue.upload_s), queries.batch.now_s[0], "right")
    assert queries.weight[0] == pytest.approx(0.05 / first, rel=0.02)


def test_every_knob_is_tried_and_recorded(case, tmp_path):
    config = small_config()
    config = config.model_copy(
        update={"two_tower": config.two_tower.model_copy(update={"epochs": 1})}
    )
    queries = validation_queries(case, config, most=60)
    rows = try_merges(case, config, queries) + try_towers(case, config, queries)
    by_knob: dict[str, set[str]] = {}
    for row in rows:
        by_knob.setdefault(row.knob, set()).add(row.value)
    own = name_of(config.retrieval.quotas, 100)
    assert own == "400_250_200_100_50"
    assert by_knob == {
        "alone": set(SOURCES),
        "collaborative": {"item_item", "ials"},
        "quotas": {name_of(q, 100) for q in QUOTAS},
        "head": set(HEADS),
        "rejected_weight": {str(w) for w in REJECTED_WEIGHTS},
        "epochs": {str(n) for n in EPOCHS},
    }
    named = {(row.knob, row.value): row.uniform[1].mean() for row in rows}
    # All positions of a list count at the second cut: order within it does not.
    assert named["head", "by_quota"] == pytest.approx(named["quotas", own])
    chance = config.retrieval.n_candidates / N_VIDEOS
    assert named["alone", "vectors"] > 1.5 * chance
    results = Results.start(
        system="shorts_recommendation", config={}, dataset_name="test", dataset_sha256="0" * 64,
        synthetic=True, seed=0, root=tmp_path,
    )  # fmt: skip
    table = record(results, rows, queries, config)
    assert table.row_count == len(rows)
    assert results["retrieval_choice/collaborative_ials/ms"].value > 0
    key = "retrieval_choice/collaborative_ials/uniform_recall@1000_over_default"
    expected = named["collaborative", "ials"] - named["collaborative", "item_item"]
    assert results[key].value == pytest.approx(expected)
    assert (
        "retrieval_choice/collaborative_item_item/uniform_recall@1000_over_default" not in results
    )
