"""The evaluation against loops, and what must hold on data whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from handmade import make_batch, make_log

from feature_engineering.counters import EventCounter
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from video_recommendation.evaluation import ablations
from video_recommendation.evaluation.baselines import (
    Baseline,
    baselines,
    ials_scorer,
    item_item_scorer,
    oracle_scorer,
    popularity_scores,
)
from video_recommendation.evaluation.lists import Table, metrics_of_lists
from video_recommendation.evaluation.ranking import candidate_metrics
from video_recommendation.evaluation.record import record
from video_recommendation.evaluation.retrieval import (
    evaluate_merge,
    evaluate_scorer,
    lists_by_score,
    tune,
)
from video_recommendation.evaluation.run import evaluate_system, live_recommender
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.sources import DAY_S, SOURCES


@pytest.fixture(scope="module")
def system(tiny_system):
    """The tiny system with a test window cut short: everything is evaluated, in seconds."""
    data, config = tiny_system.data, tiny_system.trained.recommender.config
    config = config.model_copy(
        update={
            "evaluation": config.evaluation.model_copy(
                update={"resamples": 100, "sweep_queries": 40}
            )
        }
    )
    tested = data.log.timestamp[data.log.timestamp >= data.windows.validation_end]
    last = int(np.quantile(tested, 0.3))
    return dataclasses.replace(data, log=data.log.select(data.log.timestamp < last)), config


@pytest.fixture(scope="module")
def found(system, tiny_system):
    data, config = system
    return evaluate_system(data, tiny_system.trained, config, Silent())


# --- metrics ------------------------------------------------------------------------------------


def naive_metrics(listed, relevant):
    hits = [item in relevant for item in listed if item >= 0]
    gains = sum(hit / np.log2(place + 2) for place, hit in enumerate(hits[:10]))
    ideal = sum(1 / np.log2(place + 2) for place in range(min(10, len(relevant))))
    precision = [sum(hits[: p + 1]) / (p + 1) for p in range(min(10, len(hits))) if hits[p]]
    return {
        "hr@10": float(any(hits[:10])),
        "ndcg@10": gains / ideal,
        "map@10": sum(precision) / min(10, len(relevant)),
        "recall@10": sum(hits[:10]) / len(relevant),
        "recall@100": sum(hits[:100]) / len(relevant),
    }


def test_metrics_of_a_scorer_are_those_of_the_loop(system):
    data, _ = system
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    queries = queries.subset(np.arange(0, len(queries), 4))
    rng = np.random.default_rng(0)
    table = rng.random((len(queries), data.log.n_items)).astype(np.float32)
    asked = zip(queries.user_idx.tolist(), queries.timestamp.tolist(), strict=True)
    rows = {pair: number for number, pair in enumerate(asked)}

    def scorer(batch):
        pairs = zip(batch.user_idx.tolist(), batch.now.tolist(), strict=True)
        return table[[rows[pair] for pair in pairs]]

    got = evaluate_scorer(scorer, data.log, queries)
    batch = batch_of_queries(data.log, queries)
    ptr, relevant = queries.relevant(data.log)
    for q in range(len(queries)):
        history = set(batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]].tolist())
        listed = [int(i) for i in np.argsort(-table[q]) if int(i) not in history]
        expected = naive_metrics(listed, set(relevant[ptr[q] : ptr[q + 1]].tolist()))
        for name, value in expected.items():
            assert got[name][q] == pytest.approx(value, abs=1e-12), name


def test_short_lists_have_no_recall_at_100(system):
    data, _ = system
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    lists = np.zeros((len(queries), 20), dtype=np.int32)
    lists[:, 1:] = -1
    assert "recall@100" not in metrics_of_lists(lists, data.log, queries)


def test_a_table_by_hand():
    rows = {"a": {"m": np.array([1.0, 0, 1, 1])}, "b": {"m": np.array([0.0, 0, 1, 0])}}
    table = Table(rows, np.array([0, 0, 1, 2]), "by hand", 100)
    assert table.mean("a", "m").value == 0.75
    assert table.difference("a", "b", "m").value == 0.5
    part = table.subset(np.array([True, True, False, False]), "half")
    assert part.mean("a", "m").value == 0.5
    assert (part.protocol, len(part.users)) == ("half", 2)


def test_lists_by_score_are_those_of_sorting(system, tiny_system):
    data, _ = system
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    queries = queries.subset(np.arange(10))
    recommender = tiny_system.trained.recommender
    candidates = recommender.proposer.retrieve(batch_of_queries(data.log, queries))
    scores = np.random.default_rng(0).normal(size=len(candidates.item_idx))
    lists = lists_by_score(candidates, scores, 7)
    for q, (a, b) in enumerate(zip(candidates.ptr, candidates.ptr[1:], strict=False)):
        assert lists[q].tolist() == candidates.item_idx[a:b][np.argsort(-scores[a:b])[:7]].tolist()
    padded = lists_by_score(candidates.take(np.arange(3), 10), scores[:3], 5)
    assert (padded[0, :3] >= 0).all()
    assert (padded[0, 3:] == -1).all()
    assert (padded[1:] == -1).all()


# --- baselines ----------------------------------------------------------------------------------


def test_popularity_is_counted_live_by_hand():
    counter = EventCounter(
        np.array([0, 0, 1, 1, 1], dtype=np.int32),
        np.array([60, 10 * DAY_S, 50, 70, 10 * DAY_S + 65]),
        n_items=3,
    )
    batch = make_batch([[], [], []], now=[100, 10 * DAY_S + 119, 10 * DAY_S + 130])
    everything = popularity_scores(counter, batch, None)
    assert everything.tolist() == [[0, 1, 0], [2, 2, 0], [2, 3, 0]]  # as of the full minute
    assert popularity_scores(counter, batch, 1)[1:].tolist() == [[1, 0, 0], [1, 1, 0]]


def test_an_item_item_model_votes_once_for_every_event():
    model = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], dtype=np.float32)
    batch = make_batch([[(0, 4.0, 1), (2, 4.0, 2)], []], now=[9, 9])
    assert item_item_scorer(model)(batch).tolist() == [[5, 7, 2], [0, 0, 0]]


def test_ials_folds_in_the_live_history():
    """Two blocks of users: a new user with one item of a block gets the other items of it."""
    events = [(u, i, 4.0, u) for u in range(20) for i in range(8) if (i < 4) == (u < 10)]
    log = make_log(events, n_users=20, n_items=8)
    scorer = ials_scorer(log.matrix(), 4, 1.0, seed=0)
    scores = scorer(make_batch([[(0, 4.0, 1)], [(5, 4.0, 1)]], now=[9, 9]))
    assert scores[0, 1:4].min() > scores[0, 4:].max()
    assert scores[1, [4, 6, 7]].min() > scores[1, :4].max()


def test_tuning_takes_the_better_of_two_settings(system):
    """One setting gives the oracle's scores, the other their opposite."""
    data, _ = system
    oracle = oracle_scorer(data.oracle)

    def fit(known, setting):
        assert known.timestamp.max() < data.windows.train_end  # validation is not for fitting
        return lambda batch: setting["sign"] * oracle(batch)

    queries = next_event_queries(data.log, data.windows.train_end, data.windows.validation_end)
    for grid in (({"sign": -1.0}, {"sign": 1.0}), ({"sign": 1.0}, {"sign": -1.0})):
        assert tune(Baseline("made", grid, fit), data, queries, "recall@100") == {"sign": 1.0}


def test_a_grid_of_one_is_not_fitted(system):
    data, _ = system

    def fit(*_):
        raise AssertionError("there is nothing to choose")

    queries = next_event_queries(data.log, data.windows.train_end, data.windows.validation_end)
    assert tune(Baseline("made", ({"x": 2.0},), fit), data, queries, "hr@10") == {"x": 2.0}


def test_the_baselines_of_the_issue_are_there(system):
    data, _ = system
    counter = EventCounter(data.log.item_idx, data.log.timestamp, n_items=data.log.n_items)
    names = [baseline.name for baseline in baselines(counter, 0)]
    assert names == ["random", "popularity", "recent_popularity", "item_knn", "ease", "ials"]


# --- the merged pool ----------------------------------------------------------------------------


def test_pool_facts_are_those_of_the_loop(system, tiny_system):
    data, _ = system
    recommender = live_recommender(tiny_system.trained.recommender, data)
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    queries = queries.subset(np.arange(0, len(queries), 5))
    _, facts = evaluate_merge(recommender, data.log, queries)
    candidates = recommender.proposer.retrieve(batch_of_queries(data.log, queries))
    ptr, items = queries.relevant(data.log)
    shares: dict[str, list[float]] = {name: [] for name in facts}
    for q in range(len(queries)):
        rows = range(candidates.ptr[q], candidates.ptr[q + 1])
        held = {int(candidates.item_idx[r]): candidates.in_source[r].tolist() for r in rows}
        relevant = items[ptr[q] : ptr[q + 1]].tolist()
        shares["pool_size"].append(len(held))
        shares["pool_recall"].append(np.mean([i in held for i in relevant]))
        none = [False] * len(SOURCES)
        for column, name in enumerate(SOURCES):
            by = [held.get(i, none) for i in relevant]
            shares[f"recall_{name}"].append(np.mean([b[column] for b in by]))
            shares[f"only_{name}"].append(np.mean([b[column] and sum(b) == 1 for b in by]))
    assert 0.1 < facts["pool_recall"] < 1
    for name, values in shares.items():
        assert facts[name] == pytest.approx(np.mean(values)), name


# --- the whole evaluation -------------------------------------------------------------------------


def test_the_oracle_is_the_ceiling_and_random_the_floor(found):
    """Up to noise: with position bias the oracle is not strictly optimal."""
    recall = {name: values["recall@100"].mean() for name, values in found.retrieval.rows.items()}
    assert {"oracle", "random", "two_tower", "merged", "ease", "ials"} <= set(recall)
    assert recall["oracle"] >= max(recall.values()) - 0.02
    others = [value for name, value in recall.items() if name not in ("random", "oracle")]
    assert np.mean(others) > recall["random"] + 0.02


def test_slices_partition_the_queries(found):
    sizes = {name: len(table.users) for name, table in found.slices.items()}
    total = len(found.queries)
    pairs = (
        ("history under 20 events", "history of 20 or more"),
        ("user new in the test window", "user known before"),
        ("only head items relevant", "a tail item relevant"),
    )
    for pair in pairs:
        assert sum(sizes.pop(name, 0) for name in pair) == total, pair
    assert not sizes


def test_the_slice_of_head_items_is_that_of_the_loop(found, system):
    data, _ = system
    before = data.log.timestamp < data.windows.validation_end
    counts = np.bincount(data.log.item_idx[before], minlength=data.log.n_items)
    head = counts >= np.quantile(counts[counts > 0], 0.8)
    ptr, items = found.queries.relevant(data.log)
    only_head = [head[items[a:b]].all() for a, b in zip(ptr, ptr[1:], strict=False)]
    assert len(found.slices["only head items relevant"].users) == sum(only_head)


def test_a_slice_holds_the_values_of_its_queries(found):
    """The slices' means, weighted by their sizes, are the mean of all."""
    for row, table in (("two_tower", found.retrieval), ("final", found.ranking)):
        parts = [found.slices[n] for n in ("only head items relevant", "a tail item relevant")]
        joined = sum(part.rows[row]["hr@10"].sum() for part in parts)
        assert joined == pytest.approx(table.rows[row]["hr@10"].sum())


def test_the_final_list_is_short_unseen_and_without_repeats(found, system):
    data, config = system
    batch = batch_of_queries(data.log, found.queries)
    lists = found.replay.final_lists
    assert lists.shape == (len(found.queries), config.reranking.k)
    for q, listed in enumerate(lists):
        assert len(set(listed.tolist())) == len(listed)
        assert not np.isin(listed, batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]]).any()


def test_the_funnel_narrows(found):
    sizes = list(found.replay.sizes.values())
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_candidate_metrics_are_those_of_one_query_at_a_time(found):
    result, users = found.replay, found.queries.user_idx
    got = candidate_metrics(result, "lambdarank", users)
    expected = []
    for a, b in zip(result.ptr, result.ptr[1:], strict=False):
        watched = result.watched[a:b]
        if watched.any() and not watched.all():
            expected.append(auc(watched, result.score["lambdarank"][a:b]))
    assert len(expected) > 20
    np.testing.assert_allclose(got["auc"], expected)
    assert len(got["user"]) == len(got["ndcg@10"]) == len(expected)


def test_the_sweep_starts_with_the_rankers_own_order(found):
    first = found.sweep[0]
    assert first.name == "none"
    chosen = np.sort(np.random.default_rng(0).permutation(len(found.queries))[:40])
    np.testing.assert_allclose(
        first.values["ndcg@10"], found.ranking.rows["lambdarank"]["ndcg@10"][chosen]
    )
    by_name = {point.name: point for point in found.sweep}
    assert (
        by_name["mmr_0.3"].values["ild_genre@10"].mean()
        > first.values["ild_genre@10"].mean() + 0.01
    )


def test_calibration_beats_the_raw_reading(found):
    assert found.calibration["isotonic"].ece < found.calibration["raw"].ece
    assert found.calibration["platt"].ece < found.calibration["raw"].ece


def test_every_number_is_recorded_with_protocol(found, system, tiny_system, tmp_path):
    data, config = system
    results = Results.start(
        system="video_recommendation", config=config.model_dump(mode="json"),
        dataset_name=data.name, dataset_sha256=data.sha256, synthetic=True, seed=0, root=tmp_path,
    )  # fmt: skip
    record(results, data, tiny_system.trained, found)
    results.write(tmp_path / "results.json")
    metrics = Results.read(tmp_path / "results.json")
    assert len(metrics) > 200
    for key in metrics:
        assert metrics[key].protocol, key
        if key.startswith(("retrieval/", "ranking/", "slice_", "batch_split/")):
            assert metrics[key].protocol.count("QUICK RUN, not a result; SYNTHETIC") == 1, key
    wanted = found.retrieval.rows["two_tower"]["recall@100"].mean()
    assert metrics["retrieval/two_tower/recall@100"].value == pytest.approx(wanted)
    assert metrics["ranking_difference/final_minus_ease/hr@10"].low is not None


def test_ablations_are_judged_on_the_test_window_and_averaged_over_seeds(tiny_system):
    """The work of one process, done in this one."""
    data, config = tiny_system.data, tiny_system.trained.recommender.config
    setting = config.two_tower.model_copy(update={"item_inputs": "content"})
    found = {
        ("content", seed): ablations._train_and_judge(config.data, setting, seed) for seed in (0, 1)
    }
    table = ablations.ablation_table(data, found, "mean of 2 seeds", 100)
    assert len(table.users) == len(next_event_queries(data.log, data.windows.validation_end, None))
    first, second = (found["content", seed]["recall@100"] for seed in (0, 1))
    np.testing.assert_allclose(table.rows["content"]["recall@100"], (first + second) / 2)
    assert (first != second).any()
