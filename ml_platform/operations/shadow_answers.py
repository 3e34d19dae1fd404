"""Two answers to one request: is the candidate's usable, and how far is it from production's?

In: lists of item ids, best first, with scores. Out: a reason to refuse, or measures of agreement.

- overlap@k: the share of the first k places that the two lists have in common, order ignored.
- Rank-biased overlap (RBO): agreement at each depth, the top weighing most. With A_d the share of
  common items among the first d,
      RBO = (1 - p) · Σ_{d≥1} p^(d-1) · A_d.
  The lists end at depth K, so what is computed is the extrapolated form RBO_EXT (Webber, Moffat and
  Zobel, "A Similarity Measure for Indefinite Rankings", ACM TOIS 2010): agreement beyond K stays at
  A_K. Lists of different length are compared down to the shorter one.
- Kendall's tau-b on the common items: do both put the same ones first? It says nothing about how
  many are common, so it is read beside the overlap.

Agreement is no quality. A better candidate disagrees too; the measures tell whether the change is
of the size that was meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RBO_PERSISTENCE = 0.9  # the first ten places carry about 86% of the weight
K_OVERLAP = 10


@dataclass(frozen=True)
class Agreement:
    """Of one pair of lists: overlap@10, RBO, tau (None with fewer than two common items)."""

    overlap: float
    rbo: float
    tau: float | None
    n_common: int


def rubbish_reason(
    record: Mapping[str, Any], answer: Any, *, knows: Callable[[int], bool]
) -> str | None:
    """What makes an answer unusable, in one word; None for a good one. Accepts anything.

    Args:
        record: The request: "request_id", "blocked" (item ids that must not appear: seen or
            excluded) and "items" (production's list, whose length is the least to be reached).
        answer: Whatever the child's JSON said.
        knows: Whether an item id is in the catalogue.
    """
    if not isinstance(answer, dict):
        return "not_an_object"
    if answer.get("request_id") != record["request_id"]:
        return "wrong_request"
    items, scores = answer.get("items"), answer.get("scores")
    if not isinstance(items, list) or not isinstance(scores, list) or len(items) != len(scores):
        return "bad_shape"
    if not all(type(item) is int for item in items):
        return "bad_shape"
    if not all(type(score) in (int, float) and math.isfinite(score) for score in scores):
        return "bad_score"
    if not all(_is_duration(answer.get(name)) for name in ("elapsed_ms", "cpu_ms")):
        return "bad_time"
    return _bad_items(items, record, knows)


def _bad_items(
    items: Sequence[int], record: Mapping[str, Any], knows: Callable[[int], bool]
) -> str | None:
    if not all(map(knows, items)):
        return "unknown_item"
    if len(set(items)) < len(items):
        return "duplicate_item"
    if not set(items).isdisjoint(np.asarray(record["blocked"]).tolist()):
        return "blocked_item"
    if len(items) < len(record["items"]):
        return "too_few"
    return None


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def agreement(production: Sequence[int], candidate: Sequence[int]) -> Agreement:
    """How much two lists agree.

    Args:
        production: Item ids, best first, without repetition.
        candidate: Likewise.
    """
    common = set(production) & set(candidate)
    place_of = {item: place for place, item in enumerate(candidate)}
    theirs = [place_of[item] for item in production if item in common]
    return Agreement(
        overlap_at(production, candidate, K_OVERLAP),
        rank_biased_overlap(production, candidate),
        rank_correlation(theirs),
        len(common),
    )


def rank_correlation(places: Sequence[int]) -> float | None:
    """Kendall's tau of places against their own order: 1 ascending, -1 descending.

    For different places, as places in a list are: then tau is the share of pairs in order less the
    share of pairs out of order. It runs in the server for every shadowed request, and scipy's
    general one costs a hundred times as much. None with fewer than two places.
    """
    n = len(places)
    if n < 2:
        return None
    found = np.asarray(places)
    in_order = np.triu(found[None, :] > found[:, None], 1).sum()
    n_pairs = n * (n - 1) // 2
    return float(2 * in_order - n_pairs) / n_pairs


def overlap_at(production: Sequence[int], candidate: Sequence[int], k: int) -> float:
    """Common items among the first k of both, by k or the length of the longer list if smaller."""
    places = min(k, max(len(production), len(candidate)))
    return len(set(production[:k]) & set(candidate[:k])) / places if places else 1.0


def rank_biased_overlap(
    production: Sequence[int], candidate: Sequence[int], p: float = RBO_PERSISTENCE
) -> float:
    """RBO_EXT of two lists without repetition; 1 for equal ones, 0 for disjoint ones."""
    depth = min(len(production), len(candidate))
    if not depth:
        return 1.0 if len(production) == len(candidate) else 0.0
    seen_ours: set[int] = set()
    seen_theirs: set[int] = set()
    total, common = 0.0, 0
    for d in range(1, depth + 1):
        ours, theirs = production[d - 1], candidate[d - 1]
        seen_ours.add(ours)
        seen_theirs.add(theirs)
        common += (ours in seen_theirs) + (theirs in seen_ours) - (ours == theirs)
        total += p ** (d - 1) * common / d
    return (1 - p) * total + p**depth * common / depth
