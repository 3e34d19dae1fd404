"""Credits of a decision path: by hand on one small tree, and adding up on a real ranker."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest

from ml_platform.data.splits import next_event_queries
from video_recommendation.explanation import FAMILIES
from video_recommendation.features import SCHEMA
from video_recommendation.ranking.path_attribution import PathAttribution
from video_recommendation.requests import batch_of_queries

LEAF = {"leaf_index": 0, "leaf_value": -1.0}
TREE = {  # x0 <= 0: leaf 0; else x2 <= 0: leaf 1, else leaf 2
    "split_feature": 0,
    "internal_value": 0.5,
    "left_child": LEAF,
    "right_child": {
        "split_feature": 2,
        "internal_value": 2.0,
        "left_child": {"leaf_index": 1, "leaf_value": 1.0},
        "right_child": {"leaf_index": 2, "leaf_value": 5.0},
    },
}


class OneTree:
    """Stands in for a booster; the second tree never split."""

    def dump_model(self):
        return {"tree_info": [{"tree_structure": TREE}, {"tree_structure": {"leaf_value": 0.25}}]}

    def predict(self, features, *, pred_leaf, num_threads):
        first = np.where(features[:, 0] <= 0, 0, np.where(features[:, 2] <= 0, 1, 2))
        return np.stack([first, np.zeros_like(first)], axis=1)


def test_credits_by_hand():
    attribution = PathAttribution(OneTree(), [np.array([0]), np.array([1, 2])])
    assert attribution.base == 0.75
    rows = np.array([[-1.0, 0, 9], [1, 0, -1], [1, 0, 1]])
    np.testing.assert_allclose(attribution.groups(rows), [[-1.5, 0.0], [1.5, -1.0], [1.5, 3.0]])


def test_a_feature_in_no_group_is_credited_nowhere():
    attribution = PathAttribution(OneTree(), [np.array([2])])
    np.testing.assert_allclose(attribution.groups(np.array([[1.0, 0, 1]])), [[3.0]])


@pytest.fixture(scope="module")
def ranker(tiny_system):
    return tiny_system.trained.recommender.rankers["lambdarank"]


def test_credits_of_all_features_add_up_to_the_score(ranker):
    rows = np.random.default_rng(0).normal(size=(50, len(SCHEMA))).astype(np.float32)
    every = PathAttribution(ranker.booster, [np.array([f]) for f in range(len(SCHEMA))])
    np.testing.assert_allclose(
        every.groups(rows).sum(axis=1) + every.base, ranker.score(rows), atol=1e-6
    )


def test_families_follow_treeshap_closely(ranker, tiny_system):
    """The independent witness: LightGBM's own TreeSHAP, on the rows of real requests."""
    data, proposer = tiny_system.data, tiny_system.trained.recommender.proposer
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    rows = proposer.propose(batch_of_queries(data.log, queries.subset(np.arange(5))))[1]
    columns = [SCHEMA.positions(names) for names in FAMILIES.values()]
    ours = PathAttribution(ranker.booster, columns).groups(rows)
    shap = ranker.contributions(rows)
    theirs = np.stack([shap[:, c].sum(axis=1) for c in columns], axis=1)
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.8


def test_one_row_and_one_tree_keep_their_shape():
    x = np.arange(100.0)[:, None]
    parameters = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lgb.train(parameters, lgb.Dataset(x, label=x[:, 0]), 1)
    credit = PathAttribution(booster, [np.array([0])])
    got = credit.groups(x[:1])
    assert got.shape == (1, 1)
    assert credit.base + got[0, 0] == pytest.approx(booster.predict(x[:1])[0])
