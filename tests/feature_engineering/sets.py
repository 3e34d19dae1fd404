"""Feature sets small enough to work out by hand."""

from __future__ import annotations

import dataclasses

from feature_engineering.feature_sets import FeatureSet
from feature_engineering.schema import FeatureSpec


def spec(name: str, default: float, *, description: str = "for tests") -> FeatureSpec:
    return FeatureSpec(name, "item", "tests", "60 s", default, description)


SET = FeatureSet(
    name="activity",
    version=1,
    entity="item",
    specs=(spec("count", -1.0), spec("trend", 0.5)),
    owner="tests",
    tick_s=60,
    ttl_s=180,
    description="two columns",
)
AGELESS = dataclasses.replace(SET, name="profile", ttl_s=None)
CHANGED = dataclasses.replace(SET, specs=(spec("count", 0.0), spec("trend", 0.5)))
