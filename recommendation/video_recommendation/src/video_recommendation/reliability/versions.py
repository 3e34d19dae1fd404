"""Three versions that can be told apart by their answers, without training any.

In: a bundle, or nothing for light ones. Out: folders that a registry accepts, and for each what an
answer of that version must look like.

Two marks, because an answer is made by two parts. The *catalogue* turns indices into ids: each
version gives all items but the first 50 ids of its own. The *recommender* builds the list: each
version has its exploration slot at a place of its own. With the version that the response states
there are three witnesses, and an answer in which two of them disagree was made by two versions.
Items that all versions share are those that events name, so that every version can apply them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SHARED_ITEMS = 50
ID_STEP = 10_000_000
"""Ids of version n are shifted by n times this; no data set here has ids as high."""
LIGHT_FILE = "light.json"
LIGHT_ITEMS = 200


@dataclass(frozen=True)
class VersionMark:
    """How answers of one version look.

    Attributes:
        version: As the response states it.
        item_ids: The ids it may show; internal index i has the i-th.
        exploration_place: 0-based place of an exploring item in a list of 20.
    """

    version: str
    item_ids: tuple[int, ...]
    exploration_place: int

    def disagrees(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer that states this version was partly made by another one."""
        places = [place for place, item in enumerate(answer["items"]) if item["exploration"]]
        foreign = any(item["item_id"] not in self._known for item in answer["items"])
        return foreign or any(place != self.exploration_place for place in places)

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.item_ids)


def mixed_answers(
    answers: Sequence[Mapping[str, Any]], marks: Sequence[VersionMark]
) -> list[Mapping[str, Any]]:
    """Answers that state an unknown version, or parts of which were made by another version."""
    by_version = {mark.version: mark for mark in marks}
    return [
        answer
        for answer in answers
        if answer["version"] not in by_version or by_version[answer["version"]].disagrees(answer)
    ]


def renumbered(item_ids: np.ndarray, number: int) -> np.ndarray:
    """i64[I], still ascending: all ids but the first SHARED_ITEMS shifted for that version."""
    shifted = item_ids + number * ID_STEP
    shifted[:SHARED_ITEMS] = item_ids[:SHARED_ITEMS]
    return shifted


def derive_bundles(bundle: Path, folder: Path, n: int) -> list[tuple[Path, VersionMark]]:
    """Saves n variants of a trained bundle: other ids, another exploration slot, the same models.

    Args:
        bundle: A trained bundle; it is not changed.
        folder: Where the variants go.
        n: How many.

    Raises:
        BundleError: if the bundle is missing or damaged.
    """
    from video_recommendation.bundle import load_bundle, save_bundle  # brings torch

    recommender = load_bundle(bundle)
    config, catalogue = recommender.config, recommender.catalogue
    variants = []
    for number in range(n):
        place = _exploration_place(config.reranking.k, number)
        reranking = config.reranking.model_copy(update={"exploration_slot": place})
        recommender.config = config.model_copy(update={"reranking": reranking})
        item_ids = renumbered(catalogue.item_ids, number)
        recommender.catalogue = replace(catalogue, item_ids=item_ids)
        version = save_bundle(recommender, folder / f"variant-{number}")
        mark = VersionMark(version, tuple(item_ids.tolist()), place)
        variants.append((folder / f"variant-{number}", mark))
    return variants


def light_bundles(folder: Path, n: int) -> list[tuple[Path, VersionMark]]:
    """The same for the light recommender: a folder with one JSON file each."""
    variants = []
    for number in range(n):
        place = folder / f"light-{number}"
        place.mkdir(parents=True)
        content = {
            "version": f"light-{number}",
            "number": number,
            "exploration_place": _exploration_place(20, number),
        }
        (place / LIGHT_FILE).write_text(json.dumps(content))
        variants.append((place, light_mark(place)))
    return variants


def check_light(folder: Path) -> dict[str, Any]:
    """The manifest of a light bundle, as `ModelRegistry` wants it.

    Raises:
        ValueError: if it is damaged.
        OSError: if it is missing.
    """
    manifest: dict[str, Any] = json.loads((folder / LIGHT_FILE).read_text())
    return manifest


def light_mark(folder: Path) -> VersionMark:
    """How answers of a light bundle look."""
    manifest = check_light(folder)
    item_ids = renumbered(np.arange(LIGHT_ITEMS, dtype=np.int64) * 10 + 1, manifest["number"])
    return VersionMark(manifest["version"], tuple(item_ids.tolist()), manifest["exploration_place"])


def _exploration_place(k: int, number: int) -> int:
    return k // 2 + number
