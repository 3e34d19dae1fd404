"""What production would see of a skewed feature: errors, drift, parity; and what users would, NDCG.

In: test rows as served and as the offline builder makes them from the same logged requests. Out:
``Seen``. Drift compares distributions with training (PSI and KS of ``ml_platform.operations``);
parity compares values, row by row, to the bit (``feature_engineering.parity``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_engineering.parity import skew_report
from ml_platform.operations.reference_profile import Comparison as Drift
from ml_platform.operations.reference_profile import (
    Monitored,
    ReferenceProfile,
    build_profile,
)
from ml_platform.operations.reference_profile import compare as compare_column
from video_recommendation.data import SystemData
from video_recommendation.features import SCHEMA
from video_recommendation.labs.funnel import Rows, list_ndcg
from video_recommendation.ranking.lambdarank import LambdaRanker

WINDOW_ROWS = 40_000
"""Rows on either side of the drift monitor."""


@dataclass(frozen=True)
class Seen:
    """What the list quality is, and what each monitor sees.

    Attributes:
        ndcg: NDCG@10 f64[Q].
        psi_before, psi: Of the feature, training rows against served rows, without the skew and
            with it.
        named_before, named: Whether the drift monitor names the feature, likewise.
        alarms: Features that it names in all.
        differ: Share of the feature's values that are not what the offline builder makes of the
            same logged requests.
        not_finite: Values that are not numbers: what an error counter would see.
    """

    ndcg: np.ndarray
    psi_before: float
    psi: float
    named_before: bool
    named: bool
    alarms: int
    differ: float
    not_finite: int


class Monitors:
    """Looks at served rows as production would, and at the truth, NDCG.

    Args:
        data: For the labels.
        rebuilt: The rows as the offline builder makes them from the logged requests.
        ranker: Serves the rows.
        reference: Of the drift monitor.
    """

    def __init__(
        self, data: SystemData, rebuilt: Rows, ranker: LambdaRanker, reference: ReferenceProfile
    ) -> None:
        self._data, self._rebuilt, self._ranker = data, rebuilt, ranker
        self._reference = reference
        self._window = spread(len(rebuilt.now), WINDOW_ROWS)
        self._users = users_of(rebuilt)[self._window]
        rows = rebuilt.examples.features[self._window]
        self._before: list[Drift] = reference.compare(rows, self._users)

    def at(self, served: Rows, feature: str) -> Seen:
        """What is seen of ``feature``, the only one that may differ, when these rows are served."""
        place = SCHEMA.names.index(feature)
        online, offline = served.examples.features, self._rebuilt.examples.features
        values = served.feature(feature)[self._window]
        column, before = self._reference.columns[place], self._before[place]
        now = compare_column(column, values, self._users, self._reference.level)
        skew = skew_report(online, offline, SCHEMA, [""] * len(online)).features[place]
        alarms = sum(drift.moved for drift in self._before) - before.moved + now.moved
        return Seen(
            ndcg=list_ndcg(self._data.log, served, self._ranker),
            psi_before=before.psi,
            psi=now.psi,
            named_before=before.moved,
            named=now.moved,
            alarms=alarms,
            differ=skew.share_different,
            not_finite=int((~np.isfinite(online)).sum()),
        )


def spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` row numbers of n, evenly spaced."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def users_of(rows: Rows) -> np.ndarray:
    """i64[C]: the user of every row, whose rows are not independent."""
    return rows.queries.user_idx[rows.examples.owner].astype(np.int64)


def training_reference(rows: Rows) -> ReferenceProfile:
    """The training rows, summed up as the drift monitor keeps them."""
    chosen = spread(len(rows.now), WINDOW_ROWS)
    columns = [Monitored(spec.name, spec.group, spec.owner) for spec in SCHEMA.specs]
    return build_profile(rows.examples.features[chosen], users_of(rows)[chosen], columns)
