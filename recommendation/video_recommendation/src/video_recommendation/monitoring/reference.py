"""What training leaves behind for the monitor: the rows and scores of the lists it would show.

In: the part of the validation window that chose the models (their candidates, the scores of a
ranker that had not seen them, what was watched). Out: a ``Reference``, one file of the bundle.

*Which rows are the reference?* The monitor sees the items that are shown, twenty of some 300
candidates, chosen by the model itself. Against all training rows every list would look drifted, for
good: shown items are the popular, near, highly scored ones. So the reference passes the same
selection: of each held-out request the list that the ranker and the re-ranker would have shown.
Held-out matters too. On rows that a ranker has learned its scores are surer than they will ever be
again, so the scores come from the ranker of the choosing step, and their calibration is
cross-fitted: a user's rows are mapped by a calibrator that was fitted on other users.

*Whom does a label belong to?* A training request is one after which an event came, and its label is
the very next event. ``labels`` joins live lists by the same rule; a list without a next event is
left out, as there was none in training.

What stays different: at serving retrieval and ranker are fitted on the whole validation window, so
their scores stand on more data than those of the choosing step. Whatever that moves is found by the
comparison with this reference at the launch, once, and is not news afterwards; see ``monitor`` for
its second reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.operations.concentration import Concentration, measure_concentration
from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.health import Calibration, calibration_edges, measure_calibration
from ml_platform.operations.reference_profile import Monitored, ReferenceProfile, build_profile
from video_recommendation.features import SCHEMA
from video_recommendation.ranking.calibration import fit_calibrator
from video_recommendation.ranking.examples import Examples
from video_recommendation.recommender import Ranked, Recommender
from video_recommendation.retrieval.sources import Candidates
from video_recommendation.stored_features import ITEM_ACTIVITY, USER_PROFILE

FILE = "reference.npz"
RANKER_OWNER = "video_recommendation.ranking"
ACTIVITY = (*ITEM_ACTIVITY.schema.names[:5], "age_days")
"""Columns that the event counters feed, through the feature set item_activity."""
BLOCKS, BLOCK_EVENTS = 30, (50, 1000)
"""Blocks of the training log for its concentration; their least and most events."""
RECENT = ("log_count_1d", "log_count_7d", "log_count_30d", "trend")


@dataclass(frozen=True)
class Reference:
    """What live traffic is compared with.

    Attributes:
        profile: Distribution of the shown rows; the last column is the score.
        calibration: Of the shown scores.
        concentration: How the training log's events crowd on items.
    """

    profile: ReferenceProfile
    calibration: Calibration
    concentration: Concentration

    def save(self, path: Path) -> None:
        """Writes one npz file."""
        calibration = {f"c.{name}": part for name, part in self.calibration.arrays().items()}
        events = {f"e.{name}": np.asarray(v) for name, v in vars(self.concentration).items()}
        arrays = {**self.profile.arrays(), **calibration, **events}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> Reference:
        """Reads what ``save`` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        calibration = {name[2:]: part for name, part in arrays.items() if name.startswith("c.")}
        events = {name[2:]: part.item() for name, part in arrays.items() if name.startswith("e.")}
        return Reference(
            ReferenceProfile.of_arrays(arrays),
            Calibration.of_arrays(calibration),
            Concentration(**events),
        )


def monitored_columns() -> tuple[Monitored, ...]:
    """The features in the schema's order, then the score that is shown."""
    columns = [
        Monitored(spec.name, spec.group, spec.owner, _family(spec.name, spec.group), spec.default)
        for spec in SCHEMA.specs
    ]
    return (*columns, Monitored(PREDICTION, PREDICTION, RANKER_OWNER))


def build_reference(
    recommender: Recommender, held_out: Examples, score: np.ndarray, queries: Queries
) -> Reference:
    """The reference of a trained system.

    Args:
        recommender: Builds the lists.
        held_out: Candidates of Q requests that the scoring ranker had not seen.
        score: f64[C], that ranker's.
        queries: The Q requests.
    """
    rows = shown_rows(recommender, held_out, score, queries)
    owner = queries.user_idx[held_out.owner]
    users, watched = owner[rows], held_out.watched[rows]
    # The distribution is that of the deployed map, whose steps are served; the calibration is not.
    shown = recommender.calibrator.probability(score[rows])
    honest = cross_fitted(score, held_out.watched, owner)[rows]
    items, _ = recommender.training_events()
    block = int(np.clip(len(items) // BLOCKS, *BLOCK_EVENTS))
    return Reference(
        build_profile(
            np.column_stack([held_out.features[rows], shown]), users, monitored_columns()
        ),
        measure_calibration(honest, watched, users, calibration_edges(honest)),
        measure_concentration(items, block),
    )


def cross_fitted(score: np.ndarray, watched: np.ndarray, users: np.ndarray) -> np.ndarray:
    """P(watch) f64[C], each row by a calibrator fitted on the other half of the users."""
    half = users % 2 == 0
    probability = np.empty(len(score))
    for rows in (half, ~half):
        other = watched[~rows]
        if other.any() and not other.all():
            fitted = fit_calibrator(score[~rows], other, "isotonic")
        else:  # a handful of users: the whole is better than nothing to compare with
            fitted = fit_calibrator(score, watched, "isotonic")
        probability[rows] = fitted.probability(score[rows])
    return probability


def shown_rows(
    recommender: Recommender, examples: Examples, score: np.ndarray, queries: Queries
) -> np.ndarray:
    """Rows of the examples that the lists of their requests would show, request by request."""
    nothing = np.zeros(0)  # the re-ranker reads items, features and scores only
    candidates = Candidates(examples.ptr, examples.item_idx, nothing, nothing, nothing)
    ranked = Ranked(candidates, examples.features, score, nothing)
    lists = [
        recommender.rerank(
            ranked,
            int(examples.ptr[q]),
            int(examples.ptr[q + 1]),
            k=recommender.config.reranking.k,
            user_idx=int(queries.user_idx[q]),
            now=int(queries.timestamp[q]),
        ).rows
        for q in range(len(queries))
        if examples.ptr[q + 1] > examples.ptr[q]
    ]
    return np.concatenate(lists)


def explain_family(family: str, findings: Sequence[Finding]) -> str | None:
    """The common cause behind item activity that moved, as this system would have it."""
    if family != ITEM_ACTIVITY.name:
        return None
    if any(finding.kind == "stale" for finding in findings):
        return (
            f"broken upstream: rows of {ITEM_ACTIVITY.label} are missing or too old in the feature "
            "store; look at the materialiser, then at feature_rows_total"
        )
    ways = {f.feature: "down" if f.kind == "missing" else f.direction for f in findings}
    recent = [ways[name] for name in RECENT if name in ways]
    if recent and set(recent) == {"down"}:
        return (
            "broken upstream: recent counts run empty, the shortest window first, while rows are "
            "on time; events no longer reach the counters (or nobody watches: see events_total)"
        )
    if recent and set(recent) == {"up"}:
        return (
            "popularity shift: what is shown was watched far more in the last days than before; "
            "look at the items with most events (a campaign, a hit, robots)"
        )
    return None


def _family(name: str, group: str) -> str:
    if name in ACTIVITY:
        return ITEM_ACTIVITY.name
    if name in USER_PROFILE.schema.names:
        return USER_PROFILE.name
    if group == "item":
        return "item_statistics"
    return "retrieval" if group == "source" else "history"
