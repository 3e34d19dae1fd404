"""Catalogue and user arrays by hand, ids at the edges, and the real data's counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_platform.data.datasets import Dataset, DatasetUnavailableError
from ml_platform.data.splits import next_event_queries
from video_recommendation.config import DataConfig
from video_recommendation.data import build_catalogue, build_users, load_data

INT64 = np.iinfo(np.int64)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    items = pd.DataFrame(
        {
            "item_id": [2, 5, 9],
            "title": ["Toy Story (1995)", "Unknown", "Old Film (1922)"],
            "year": np.array([1995, 0, 1922], dtype=np.int16),
            "genres": ["Comedy|Animation", "", "Drama"],
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [3, 4, 8],
            "age": np.array([17, -1, 55], dtype=np.int16),
            "gender": ["F", "unknown", "M"],
            "occupation": ["writer", "unknown", "artist"],
        }
    )
    return Dataset("made", pd.DataFrame(), items, users, "", "test", "", False, None)


def test_the_catalogue_by_hand(dataset):
    catalogue = build_catalogue(dataset)
    assert len(catalogue) == 3
    assert catalogue.genre_names == ("Animation", "Comedy", "Drama")
    assert catalogue.genre_flags.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert catalogue.genres == (("Animation", "Comedy"), (), ("Drama",))
    assert catalogue.year_bucket.tolist() == [(1995 - 1900) // 5 + 1, 0, 22 // 5 + 1]
    assert (catalogue.title_words[0] != 0).sum() == 2


def test_users_by_hand(dataset):
    users = build_users(dataset)
    assert users.age_group.tolist() == [1, 0, 6]  # under 18; unknown; 55 and over
    assert users.gender.tolist() == [1, 0, 2]
    assert users.occupation.tolist() == [2, 0, 1]  # alphabetical from 1
    assert users.n_occupations == 2
    assert users.demographics(np.array([2, -1])).tolist() == [[6, 2, 1], [0, 0, 0]]


@pytest.mark.parametrize(("item_id", "row"), [(2, 0), (5, 1), (9, 2)])
def test_known_items(dataset, item_id, row):
    assert build_catalogue(dataset).item_idx(item_id) == row


EDGES = [-1, 0, 1, 3, 10, INT64.min, INT64.max, INT64.min - 1, INT64.max + 1, 10**30, -(10**30)]


@pytest.mark.parametrize("item_id", EDGES)
def test_unknown_items(dataset, item_id):
    assert build_catalogue(dataset).item_idx(item_id) is None


@pytest.mark.parametrize("user_id", [e if e != 3 else 5 for e in EDGES])
def test_unknown_users(dataset, user_id):
    assert build_users(dataset).user_idx(user_id) == -1


def test_known_users(dataset):
    assert [build_users(dataset).user_idx(i) for i in (3, 4, 8)] == [0, 1, 2]


def test_generated_data_is_cut_where_the_fractions_say(tiny_system):
    data = tiny_system.data
    time, windows = data.log.timestamp, data.windows
    assert data.synthetic
    assert data.oracle is not None
    assert (time < windows.train_end).mean() == pytest.approx(0.8, abs=0.01)
    assert (time >= windows.validation_end).mean() == pytest.approx(0.1, abs=0.01)
    assert data.log.n_items == len(data.catalogue)
    np.testing.assert_array_equal(data.log.user_ids, data.users.user_ids)
    np.testing.assert_array_equal(data.log.item_ids, data.catalogue.item_ids)


@pytest.mark.real_data
def test_movielens_100k_is_what_the_documents_say():
    try:
        data = load_data(DataConfig())
    except DatasetUnavailableError as error:
        pytest.skip(f"no source of movielens-100k here: {error}")
    assert (len(data.log), data.log.n_users, data.log.n_items) == (100_000, 943, 1682)
    assert len(data.catalogue.genre_names) == 18  # "unknown" is none
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    assert len(queries) == 4825
    assert (data.log.timestamp >= data.windows.validation_end).sum() == pytest.approx(
        10_000, abs=50
    )
