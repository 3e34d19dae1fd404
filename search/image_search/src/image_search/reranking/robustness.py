"""What a detector of near-duplicates survives, and what it takes for one that is none.

In: pictures that ask, a gallery that they are not in. Out: ``Judged``: likenesses of each picture
with its altered copies (``alterations``), which are the same picture, and with its ten nearest
neighbours in the gallery, which are other files. Neighbours are the hardest pictures to tell from a
near-duplicate, and those that a page is made of; random pairs would flatter every detector. Where
the gallery holds real near-duplicates they count as false alarms, so false alarms are an upper
bound.

Legend: n pictures that ask, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from image_search.images.preparing import Images
from image_search.reranking.alterations import OTHER, SAME
from image_search.reranking.near_duplicates import (
    DETECTORS,
    Looks,
    Rule,
    looks_of,
    paired_rule,
    single_rule,
)
from image_search.retrieval.index import FlatIndex
from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.progress import Progress, Silent

NEIGHBOURS = 10
PAIRS = (("phash", "thumbnail"), ("phash", "embedding"), ("dhash", "thumbnail"))
"""Found by the first, confirmed by the second."""


@dataclass(frozen=True)
class Judged:
    """Likenesses by detector.

    Attributes:
        copies: Alteration -> detector -> f32[n], of each picture with its altered copy.
        others: Detector -> f32[P], of pictures with their neighbours.
        other_of: i64[P], the picture of each of those pairs.
    """

    copies: Mapping[str, Mapping[str, np.ndarray]]
    others: dict[str, np.ndarray]
    other_of: np.ndarray

    @property
    def same(self) -> dict[str, np.ndarray]:
        """Detector -> f32[n * alterations], of all copies that are the same picture."""
        return {
            detector: np.concatenate([self.copies[name][detector] for name in SAME])
            for detector in self.others
        }

    def found(self, rule: Rule, alteration: str, *, resamples: int, seed: int) -> Estimate:
        """Share of altered copies that the rule finds, with a 95% interval by picture."""
        hits = rule.holds(dict(self.copies[alteration])).astype(np.float64)
        return bootstrap_mean(hits, resamples=resamples, seed=seed)

    def found_of_all(self, rule: Rule, *, resamples: int, seed: int) -> Estimate:
        """The same over every alteration of SAME, pictures resampled whole."""
        hits = rule.holds(self.same).astype(np.float64)
        picture = np.tile(np.arange(len(hits) // len(SAME)), len(SAME))
        return bootstrap_mean(hits, picture, resamples=resamples, seed=seed)

    def false_alarms(self, rule: Rule, *, resamples: int, seed: int) -> Estimate:
        """Share of the pairs of neighbours that the rule calls the same, by picture."""
        hits = rule.holds(self.others).astype(np.float64)
        return bootstrap_mean(hits, self.other_of, resamples=resamples, seed=seed)

    def auc(self, detector: str) -> float:
        """The chance that an altered copy is more alike than a neighbour; half for a tie."""
        same, others = self.same[detector], self.others[detector]
        labels = np.concatenate([np.ones(len(same)), np.zeros(len(others))])
        return auc(labels, np.concatenate([same, others]).astype(np.float64))

    def curve(self, detector: str) -> tuple[np.ndarray, np.ndarray]:
        """ROC: shares of false alarms and of copies found, by falling threshold."""
        same, others = (np.sort(x[detector]) for x in (self.same, self.others))
        least = np.unique(np.concatenate([same, others]))[::-1]
        shares = (1 - np.searchsorted(x, least, side="left") / len(x) for x in (others, same))
        false, found = shares
        return false, found


def judge(
    pictures: Images,
    gallery: Looks,
    embed: Callable[[Images], np.ndarray],
    *,
    own: np.ndarray | None = None,
    progress: Progress | None = None,
    name: str = "altered copies",
) -> Judged:
    """Compares pictures with their copies and their neighbours.

    Args:
        pictures: n, those that ask.
        gallery: What the neighbours come from.
        embed: Pictures to unit vectors f32[., D], as ``gallery.embedding`` was made.
        own: i64[n], each picture's place in the gallery, -1 where it is not in it; None: no
            picture is.
        progress: Told of every alteration.
        name: Of the stage.
    """
    n = len(pictures)
    plain = [pictures[k] for k in range(n)]
    looks = looks_of(plain, embed(plain))
    mine, theirs = _neighbours(looks, gallery, np.full(n, -1) if own is None else own)
    others = {d: looks.likeness(d, mine, gallery, theirs) for d in DETECTORS}
    copies, everyone = {}, np.arange(n)
    with (progress or Silent()).stage(name, len(SAME) + len(OTHER)) as advance:
        for alteration, alter in (SAME | OTHER).items():
            altered = [alter(picture) for picture in plain]
            copy = looks_of(altered, embed(altered))
            copies[alteration] = {d: looks.likeness(d, everyone, copy, everyone) for d in DETECTORS}
            advance(1)
    return Judged(copies, others, mine)


def choose_rules(judged: Judged, false_alarms: float) -> list[Rule]:
    """A rule of each detector and of each pair, with at most this share of false alarms."""
    singles = [single_rule(d, judged.others[d], false_alarms) for d in DETECTORS]
    same = judged.same
    return singles + [
        paired_rule(first, second, same, judged.others, false_alarms) for first, second in PAIRS
    ]


def _neighbours(looks: Looks, gallery: Looks, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (picture, gallery place) i64[P] of the nearest by embedding, the own place left out."""
    index = FlatIndex(gallery.embedding.shape[1])
    index.add(np.arange(len(gallery)), gallery.embedding)
    found, _ = index.search(looks.embedding, min(NEIGHBOURS + 1, len(gallery)))
    keep = (found >= 0) & (found != own[:, None])
    keep &= keep.cumsum(axis=1) <= NEIGHBOURS
    mine, place = np.nonzero(keep)
    return mine, found[mine, place]
