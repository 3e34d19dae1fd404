"""Canonical tables: what is refused, with which words, and a checksum that sees every value."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from ml_platform.data.datasets import Dataset
from ml_platform.data.schema import SchemaViolation, canonical_tables, content_sha256, genre_flags

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture
def tables(make_dataset: Callable[..., Dataset]) -> Tables:
    data = make_dataset([(1, 10, 3.0, 100), (2, 10, 4.5, 90), (2, 11, 1.0, 90)])
    return data.interactions, data.items, data.users


def test_valid_tables_pass_in_canonical_order(tables: Tables) -> None:
    interactions, items, users = (table.iloc[::-1] for table in tables)
    for given, checked in zip(tables, canonical_tables(interactions, items, users), strict=True):
        pd.testing.assert_frame_equal(given, checked)


def test_genres_become_flags_in_alphabetical_order(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset([(1, 10, 3.0, 100)], item_ids=[10, 11, 12])
    assert genre_flags(data)[1].shape == (3, 0)
    items = data.items.assign(genres=["War|Action", "", "Sci-Fi|War"])
    names, flags = genre_flags(replace(data, items=items))
    assert names == ("Action", "Sci-Fi", "War")
    assert flags.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        (0, "rating", 7.0, "rating"),
        (0, "timestamp", -5, "timestamp"),
        (0, "user_id", 99, r"1 user\(s\) without a row in users, first user_id 99"),
        (0, "item_id", 99, r"1 item\(s\) without a row in items, first item_id 99"),
        (1, "year", 1066, "0 or 1870-2100"),
        (1, "title", "", "str_length"),
        (2, "age", 300, "age"),
    ],
)
def test_a_bad_value_is_refused(
    tables: Tables, table: int, column: str, value: object, words: str
) -> None:
    tables[table].loc[0, column] = value
    with pytest.raises(SchemaViolation, match=words):
        canonical_tables(*tables)


def test_repeated_pairs_and_ids_are_refused(tables: Tables) -> None:
    interactions, items, users = tables
    twice = pd.concat([interactions, interactions.iloc[:1].assign(timestamp=500)])
    with pytest.raises(SchemaViolation, match=r"1 rows repeat .* first user_id 2, item_id 10"):
        canonical_tables(twice, items, users)
    with pytest.raises(SchemaViolation, match=r"items: .*item_id"):
        canonical_tables(interactions, pd.concat([items, items.iloc[:1]]), users)
    with pytest.raises(SchemaViolation, match=r"columns \['rating'\] are missing"):
        canonical_tables(interactions.drop(columns="rating"), items, users)


def test_the_checksum_sees_every_value(tables: Tables) -> None:
    seen = {content_sha256(*tables)}
    for position, column, value in (
        (0, "user_id", 3), (0, "rating", 2.5), (0, "timestamp", 91), (1, "title", "T"),
        (1, "genres", "Drama"), (2, "age", 30),
    ):  # fmt: skip
        changed = [table.copy() for table in tables]
        changed[position].loc[0, column] = value
        seen.add(content_sha256(*changed))
    assert len(seen) == 7
    pairs = [pd.DataFrame({"title": titles}) for titles in (["ab", "c"], ["a", "bc"])]
    assert content_sha256(pairs[0]) != content_sha256(pairs[1])
