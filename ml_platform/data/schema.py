"""What a data set is once it is read, whatever file it came from, and the checks that make it so.

In: three tables from a parser or a generator. Out: the same tables in canonical order and dtypes,
or a ``SchemaError`` (pandera) that names the column, the check and the offending rows.

pandera takes two seconds to import, so it is imported by the functions that need it: loading a
cached data set, which was checked when it was written, does not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

    from ml_platform.data.synthetic import Oracle

INTERACTION_DTYPES = {
    "user_id": "int64",
    "item_id": "int64",
    "rating": "float32",
    "timestamp": "int64",
}
ITEM_DTYPES = {"item_id": "int64", "title": "str", "year": "int16", "genres": "str"}
USER_DTYPES = {"user_id": "int64", "age": "int16", "gender": "str", "occupation": "str"}


class SchemaViolation(ValueError):
    """A table breaks its schema; the message says which check and which rows."""


@dataclass(frozen=True)
class Dataset:
    """Interactions, items and users of one data set, checked and in canonical order.

    Attributes:
        name: as in the registry.
        interactions: user_id int64, item_id int64, rating float32, timestamp int64 (Unix s);
            sorted by (timestamp, user_id, item_id); a (user, item) pair occurs once.
        items: item_id int64, title str, year int16 (0 unknown), genres str ("Action|Comedy",
            "" none); sorted by item_id. The whole catalogue, rated or not.
        users: user_id int64, age int16 (-1 unknown), gender str, occupation str ("unknown");
            sorted by user_id; a row for every user who has interactions.
        sha256: of the content of the three tables, the same whatever source served them.
        source: "cache", "mirror", "owner", "package" or "generator".
        licence: the owner's terms in a sentence.
        synthetic: true if the data were generated; then quality numbers prove nothing.
        oracle: the true utilities, for synthetic data only.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    sha256: str
    source: str
    licence: str
    synthetic: bool
    oracle: Oracle | None = None


def unknown_users(user_ids: np.ndarray) -> pd.DataFrame:
    """The users table of a data set that says nothing about its users."""
    ids = np.unique(user_ids)
    table = pd.DataFrame({"user_id": ids, "age": -1, "gender": "unknown", "occupation": "unknown"})
    return table.astype(USER_DTYPES)


def genre_flags(dataset: Dataset) -> tuple[tuple[str, ...], np.ndarray]:
    """The genres by name, in alphabetical order, and which of them each item has: 0/1, i64[I, G].

    Rows stand in the order of the catalogue, so row i is ``item_idx`` i of an ``InteractionLog``;
    an item without a genre is a row of zeros.
    """
    lists = [text.split("|") if text else [] for text in dataset.items["genres"]]
    names = tuple(sorted({name for one in lists for name in one}))
    flags = np.array([[name in one for name in names] for one in lists], dtype=np.int64)
    return names, flags.reshape(len(lists), len(names))


def canonical_tables(
    interactions: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """``ordered_tables``, checked against the schemas and against each other.

    Raises:
        SchemaViolation: names the table, the check and the first offending values.
    """
    tables = ordered_tables(interactions, items, users)
    names = ("interactions", "items", "users")
    for name, table, schema in zip(names, tables, schemas(), strict=True):
        _validate(name, table, schema)
    for name, column, known in (("user", "user_id", tables[2]), ("item", "item_id", tables[1])):
        unknown = np.setdiff1d(tables[0][column].unique(), known[column])
        if len(unknown):
            raise SchemaViolation(
                f"interactions name {len(unknown)} {name}(s) without a row in {name}s, "
                f"first {column} {unknown[0]}"
            )
    return tables


def ordered_tables(
    interactions: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three tables with canonical columns, dtypes and row order, unchecked.

    Raises:
        SchemaViolation: a column is missing.
    """
    return (
        _ordered(interactions, INTERACTION_DTYPES, ["timestamp", "user_id", "item_id"]),
        _ordered(items, ITEM_DTYPES, ["item_id"]),
        _ordered(users, USER_DTYPES, ["user_id"]),
    )


def _ordered(table: pd.DataFrame, dtypes: dict[str, str], by: list[str]) -> pd.DataFrame:
    missing = [column for column in dtypes if column not in table]
    if missing:
        raise SchemaViolation(f"columns {missing} are missing, the table has {list(table)}")
    return table[list(dtypes)].astype(dtypes).sort_values(by, ignore_index=True)


def schemas() -> tuple[DataFrameSchema, DataFrameSchema, DataFrameSchema]:
    """The pandera schemas of interactions, items and users, in canonical form."""
    import pandera.pandas as pa

    def columns(dtypes: dict[str, str], checks: dict[str, list[pa.Check]]) -> dict[str, pa.Column]:
        return {name: pa.Column(kind, checks.get(name)) for name, kind in dtypes.items()}

    positive, rating = [pa.Check.ge(0)], [pa.Check.in_range(0.0, 5.0)]
    years = pa.Check(lambda year: (year == 0) | year.between(1870, 2100), error="0 or 1870-2100")
    checks = {"user_id": positive, "item_id": positive, "rating": rating, "timestamp": positive}
    interactions = pa.DataFrameSchema(columns(INTERACTION_DTYPES, checks), strict=True)
    item_checks = {
        "item_id": positive,
        "year": [years],
        "title": [pa.Check.str_length(min_value=1)],
    }
    items = pa.DataFrameSchema(columns(ITEM_DTYPES, item_checks), unique=["item_id"], strict=True)
    ages = {"user_id": positive, "age": [pa.Check.in_range(-1, 120)]}
    users = pa.DataFrameSchema(columns(USER_DTYPES, ages), unique=["user_id"], strict=True)
    return interactions, items, users


def _validate(name: str, table: pd.DataFrame, schema: DataFrameSchema) -> None:
    from pandera.errors import SchemaError

    try:
        schema.validate(table)
    except SchemaError as error:
        raise SchemaViolation(f"{name}: {error}") from error
    if name == "interactions":
        pairs = table[["user_id", "item_id"]]
        repeated = pairs[pairs.duplicated()]
        if len(repeated):
            user, item = repeated.iloc[0]
            raise SchemaViolation(
                f"interactions: {len(repeated):,} rows repeat a (user, item) pair, "
                f"first user_id {user}, item_id {item}; each pair may occur once"
            )


def content_sha256(*tables: pd.DataFrame) -> str:
    """SHA-256 over the values of canonical tables: independent of file format and source."""
    digest = hashlib.sha256()
    for table in tables:
        for column in table:
            digest.update(f"{column}:{len(table)};".encode())
            digest.update(_column_bytes(table[column]))
    return digest.hexdigest()


def _column_bytes(values: pd.Series) -> bytes:
    if pd.api.types.is_numeric_dtype(values):
        array = values.to_numpy()
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    # The lengths go in too: ["ab", "c"] and ["a", "bc"] are different columns.
    encoded = [text.encode() for text in values.tolist()]
    return np.array([len(text) for text in encoded], dtype="<i8").tobytes() + b"".join(encoded)
