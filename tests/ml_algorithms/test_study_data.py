"""What the studies share: data or a named failure, and queries whose past is the past."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_algorithms import study_data
from ml_algorithms.study_data import for_notebook, next_events, or_missing_input, study_dataset
from ml_platform.data.datasets import DatasetUnavailableError, SyntheticConfig
from ml_platform.data.schema import Dataset, content_sha256, ordered_tables, unknown_users
from ml_platform.evaluation.study import MissingInputError

SMALL = SyntheticConfig(n_users=40, n_items=60, n_interactions=900)


def ratings(rows: list[tuple[int, int, int]], n_items: int) -> Dataset:
    """A data set of (user_id, item_id, timestamp) rows over items 0..n_items-1."""
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    interactions["rating"] = 4.0
    items = pd.DataFrame({"item_id": range(n_items), "title": "t", "year": 2000, "genres": ""})
    users = unknown_users(interactions["user_id"].to_numpy(np.int64))
    tables = ordered_tables(interactions, items, users)
    return Dataset("toy", *tables, content_sha256(*tables), "generator", "none", True)


@pytest.fixture(scope="module")
def generated() -> Dataset:
    return study_dataset("synthetic", small=SMALL)


def toy() -> Dataset:
    """20 events at seconds 1 to 20: nine tenths of time end before the last two."""
    early = [(1, item, 1 + item) for item in range(9)] + [(2, item, 10 + item) for item in range(9)]
    return ratings([*early, (1, 9, 19), (3, 0, 20)], n_items=12)


def test_generated_data_have_the_size_that_is_asked_for(generated: Dataset) -> None:
    assert generated.synthetic
    assert (len(generated.users), len(generated.items)) == (40, 60)


def test_the_size_of_generated_data_is_not_for_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(study_data, "load_dataset", lambda *a, **k: asked.append((a, k)))
    study_dataset("movielens-100k", small=SMALL)
    study_dataset("synthetic", small=SMALL)
    assert asked == [
        (("movielens-100k",), {"synthetic": None}),
        (("synthetic",), {"synthetic": SMALL}),
    ]


def test_data_that_no_source_has_are_a_missing_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str, **_: object) -> None:
        raise DatasetUnavailableError(f"{name} is not available here")

    monkeypatch.setattr(study_data, "load_dataset", nowhere)
    with pytest.raises(MissingInputError, match="movielens-100k is not available here"):
        study_dataset("movielens-100k")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ValueError, match="unknown data set 'movies'"):
        study_dataset("movies")
    with pytest.raises(KeyError), or_missing_input():
        raise KeyError("a mistake, not missing data")


def test_a_notebook_goes_on_with_generated_data_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> str:
        if name == "lost":
            raise MissingInputError("lost is not available here")
        return name

    monkeypatch.delenv("MLSD_NOTEBOOK_SIZE", raising=False)
    assert for_notebook(load) == "movielens-100k"
    assert capsys.readouterr().out == ""
    assert for_notebook(load, "lost") == "synthetic"
    assert "lost is not available here\nGenerated data instead" in capsys.readouterr().out
    monkeypatch.setenv("MLSD_NOTEBOOK_SIZE", "smoke")
    assert for_notebook(load) == "synthetic"


def test_queries_by_hand() -> None:
    events = next_events(toy(), queries=10, seed=0)
    assert len(events.past) == 18
    assert events.past.n_items == 12
    assert events.queries.timestamp.tolist() == [19, 20]
    assert events.ptr.tolist() == [0, 9, 9]
    assert events.history.tolist() == list(range(9))
    assert [part.tolist() for part in events.relevant] == [[0, 1, 2], [9, 0]]
    rows, items = events.seen
    assert rows.tolist() == [0] * 9
    assert items.tolist() == list(range(9))


def test_queries_without_a_history_or_enough_unseen_items_are_left_out() -> None:
    with_history = next_events(toy(), queries=10, seed=0, least_history=1)
    assert with_history.queries.timestamp.tolist() == [19]
    nobody = next_events(toy(), queries=10, seed=0, least_history=1, least_unseen=4)
    assert len(nobody.queries) == 0
    assert next_events(toy(), queries=10, seed=0, least_unseen=4).queries.timestamp.tolist() == [20]


def test_a_draw_is_a_part_of_all_queries_and_repeats_itself(generated: Dataset) -> None:
    every = next_events(generated, queries=10_000, seed=3)
    few, again = (next_events(generated, queries=20, seed=3) for _ in range(2))
    points = list(zip(every.queries.user_idx, every.queries.timestamp, strict=True))
    drawn = list(zip(few.queries.user_idx, few.queries.timestamp, strict=True))
    assert len(drawn) == 20 < len(points)
    assert drawn == [point for point in points if point in set(drawn)]  # in the log's order
    np.testing.assert_array_equal(few.history, again.history)
    other = next_events(generated, queries=20, seed=4).queries
    assert set(drawn) != set(zip(other.user_idx, other.timestamp, strict=True))


def test_nothing_relevant_is_seen_or_in_the_past(generated: Dataset) -> None:
    events = next_events(generated, queries=50, seed=0, least_history=5)
    seen = set(zip(*events.seen, strict=True))
    ptr, items = events.relevant
    relevant = set(zip(np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)), items, strict=True))
    assert relevant
    assert not seen & relevant
    assert np.diff(events.ptr).min() >= 5
    assert events.past.timestamp.max() < events.queries.timestamp.min()
