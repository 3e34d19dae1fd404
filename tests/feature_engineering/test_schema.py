"""The schema orders, checks and fills the feature matrix, and its hash notices any change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feature_engineering.schema import FeatureSchema, FeatureSpec

AGE = FeatureSpec("age_days", "item", "features", "60 s", -1.0, "days since the first event")
SCORE = FeatureSpec("score", "source", "features", "request", 0.5, "the model's logit")
SCHEMA = FeatureSchema((AGE, SCORE))


def test_columns_come_in_the_order_of_the_schema_as_float32():
    columns = {"score": np.array([0.25, 2.0]), "age_days": np.array([3, 4], dtype=np.int16)}
    matrix = SCHEMA.assemble(columns)
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[3.0, 0.25], [4.0, 2.0]]
    assert SCHEMA.assemble({name: c[:0] for name, c in columns.items()}).shape == (0, 2)


def test_missing_values_become_the_default_of_their_own_column():
    nan = np.nan
    matrix = SCHEMA.assemble({"age_days": np.array([nan, 7]), "score": np.array([1, nan])})
    assert matrix.tolist() == [[-1.0, 1.0], [7.0, 0.5]]


def test_bad_columns_are_refused_by_name():
    one = np.ones(1)
    with pytest.raises(ValueError, match=r"missing: \['score'\]"):
        SCHEMA.assemble({"age_days": one})
    with pytest.raises(ValueError, match=r"not in the schema: \['extra'\]"):
        SCHEMA.assemble({"age_days": one, "score": one, "extra": one})
    with pytest.raises(ValueError, match="score has 2 rows, expected 1"):
        SCHEMA.assemble({"age_days": one, "score": np.ones(2)})
    with pytest.raises(ValueError, match=r"infinite values in \['score'\]"):
        SCHEMA.assemble({"age_days": np.array([np.nan]), "score": np.array([-np.inf])})


def test_names_must_be_unique_and_there_must_be_one():
    with pytest.raises(ValueError, match=r"repeated: \['score'\]"):
        FeatureSchema((SCORE, AGE, SCORE))
    with pytest.raises(ValueError, match="at least one"):
        FeatureSchema(())


@pytest.mark.parametrize(
    "other",
    [
        FeatureSchema((SCORE, AGE)),
        FeatureSchema((AGE,)),
        FeatureSchema((AGE, replace(SCORE, default=0.0))),
        FeatureSchema((AGE, replace(SCORE, description="another meaning"))),
        FeatureSchema((AGE, replace(SCORE, freshness="bundle"))),
    ],
    ids=["order", "fewer", "default", "meaning", "freshness"],
)
def test_the_hash_notices(other):
    assert other.sha256 != SCHEMA.sha256


def test_the_hash_of_equal_schemas_is_equal():
    assert FeatureSchema((replace(AGE), replace(SCORE))).sha256 == SCHEMA.sha256


def test_positions():
    assert SCHEMA.positions(("score", "age_days", "score")).tolist() == [1, 0, 1]
    with pytest.raises(KeyError, match="nonsense"):
        SCHEMA.positions(("score", "nonsense"))


def test_markdown_has_a_row_for_every_feature():
    lines = SCHEMA.markdown().splitlines()
    assert len(lines) == 2 + len(SCHEMA)
    assert lines[2] == "| `age_days` | item | 60 s | -1 | days since the first event |"
