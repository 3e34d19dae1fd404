"""From a click log to a ranker that serves: the parts in order.

In: the click log, the served space, the catalogue. Out: ``Ground``, everything that a fit needs,
and from it rankers. ``fit_ranker`` is what training calls; ``rankers`` (command) fits many on one
ground.

Legend: Q queries, N items, D dimension, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_search.catalogue import Catalogue
from image_search.clicks.simulate import Clicks, own_rows, picture_rows
from image_search.config import Config, RankingConfig
from image_search.embeddings.base import Embedder
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import ImageSet
from image_search.ranking.base import Ranker
from image_search.ranking.counters import DailyCounters, count_daily
from image_search.ranking.cross_mlp import CrossRanker, fit_cross_mlp
from image_search.ranking.features import FEATURES, GROUPS, CandidateFeatures
from image_search.ranking.learning import Lessons, Neighbourhood, find_neighbours, lessons
from image_search.ranking.positions import Correction
from image_search.ranking.trees import TreeRanker, fit_trees
from image_search.retrieval.index import VectorIndex
from ml_platform.evaluation.progress import Progress, Silent

FITS: dict[str, Callable[..., Ranker]] = {"trees": fit_trees, "cross_mlp": fit_cross_mlp}
KINDS: dict[str, type[TreeRanker] | type[CrossRanker]] = {
    "trees": TreeRanker,
    "cross_mlp": CrossRanker,
}
NAME_FILE = "ranker.txt"


@dataclass(frozen=True)
class Ground:
    """What rankers are fitted on and judged by.

    Attributes:
        clicks: Log and truth. SYNTHETIC.
        neighbours: The served space around the log's queries.
        learn: Pages of the training days, the latest.
        check: Pages of the validation days.
        serving: Features at the log's end, as a server computes them.
        daily: Counters by day.
    """

    clicks: Clicks
    neighbours: Neighbourhood
    learn: Lessons
    check: Lessons
    serving: CandidateFeatures
    daily: DailyCounters

    def features_before(self, time_s: float) -> CandidateFeatures:
        """Features whose counters end with the day before ``time_s``."""
        kept = self.serving
        return CandidateFeatures(
            kept.catalogue, self.daily.at(time_s), kept.neighbours, kept.prior_looks
        )


def served_neighbours(
    images: ImageSet,
    catalogue: Catalogue,
    clicks: Clicks,
    embedder: Embedder,
    index: VectorIndex,
    item_vectors: np.ndarray,
    candidates: int,
    progress: Progress,
) -> Neighbourhood:
    """Embeds the log's query pictures and searches the served index for each."""
    asked = np.unique(clicks.log.query_row)
    vectors = embed_rows(embedder, images, asked, progress=progress, what="queries of the log")
    own = own_rows(picture_rows(images, catalogue), asked, len(images))
    with progress.stage("ranker: candidates", len(asked)) as advance:
        found = find_neighbours(index, item_vectors, asked, vectors, own, candidates)
        advance(len(asked))
    return found


def lay_ground(
    clicks: Clicks,
    catalogue: Catalogue,
    neighbours: Neighbourhood,
    config: RankingConfig,
    *,
    corrected: bool = True,
    progress: Progress | None = None,
) -> Ground:
    """Counts the log and computes the features of its pages.

    Args:
        clicks: The log.
        catalogue: Its items.
        neighbours: Of its queries in the served space.
        config: Sizes.
        corrected: Whether counters weigh impressions by the chance of a look.
        progress: Told of the work.

    Raises:
        ValueError: If no page is left to learn from or to check on.
    """
    log = clicks.log
    daily = count_daily(log, len(catalogue), corrected=corrected)
    now = daily.at(log.windows.end_s)
    serving = CandidateFeatures(catalogue, now, config.neighbours, config.prior_looks)
    latest = max(1, config.rows // log.shown.shape[1])
    learn, check = log.train[-latest:], log.validation[:latest]
    if not len(learn) or not len(check):
        raise ValueError(f"{len(learn)} pages to learn from, {len(check)} to check: too few")
    tables = []
    with (progress or Silent()).stage("ranker: features", len(learn) + len(check)) as advance:
        for pages in (learn, check):
            tables.append(lessons(clicks, pages, neighbours, serving, daily))
            advance(len(pages))
    return Ground(clicks, neighbours, tables[0], tables[1], serving, daily)


def fit_ranker(
    kind: str,
    ground: Ground,
    config: RankingConfig,
    *,
    seed: int,
    threads: int = 2,
    correction: Correction | None = None,
    without: str | None = None,
    progress: Progress | None = None,
) -> Ranker:
    """Fits one ranker.

    Args:
        kind: "trees" or "cross_mlp".
        ground: From ``lay_ground``.
        config: Sizes.
        seed: Of every draw.
        threads: Of the fit.
        correction: Of the places; None: as configured.
        without: A group of ``features.GROUPS`` that the ranker does not read.
        progress: Told of the work.

    Raises:
        ValueError: For an unknown kind or group.
    """
    if kind not in FITS:
        raise ValueError(f"unknown ranker {kind!r}; there are {', '.join(FITS)}")
    return FITS[kind](
        ground.learn,
        ground.check,
        config,
        correction=correction or config.correction,
        columns=columns_without(without),
        seed=seed,
        threads=threads,
        progress=progress or Silent(),
    )


def columns_without(group: str | None) -> np.ndarray:
    """i64[F']: places of the features that are left without a group.

    Raises:
        ValueError: For an unknown group.
    """
    if group is not None and group not in GROUPS:
        raise ValueError(f"unknown group of features {group!r}; there are {', '.join(GROUPS)}")
    left_out = GROUPS[group] if group else ()
    return np.array([n for n, name in enumerate(FEATURES) if name not in left_out], dtype=np.int64)


def train_ranker(
    images: ImageSet,
    catalogue: Catalogue,
    clicks: Clicks,
    embedder: Embedder,
    index: VectorIndex,
    item_vectors: np.ndarray,
    config: Config,
    progress: Progress,
) -> tuple[Ranker, CandidateFeatures]:
    """What training calls: the served ranker and the features it reads.

    Raises:
        ValueError: If no ranker is configured to serve, or the log is too small.
    """
    around = served_neighbours(
        images,
        catalogue,
        clicks,
        embedder,
        index,
        item_vectors,
        config.index.candidates,
        progress,
    )
    ground = lay_ground(clicks, catalogue, around, config.ranking, progress=progress)
    kind = config.ranking.served
    ranker = fit_ranker(kind, ground, config.ranking, seed=config.seed, progress=progress)
    return ranker, ground.serving


def save_ranker(ranker: Ranker, features: CandidateFeatures, folder: Path) -> None:
    """Writes a ranker and its features into an existing folder."""
    ranker.save(folder)
    features.save(folder)
    (folder / NAME_FILE).write_text(ranker.name + "\n")


def load_ranker(folder: Path, catalogue: Catalogue) -> tuple[Ranker, CandidateFeatures]:
    """Reads what ``save_ranker`` wrote.

    Raises:
        ValueError: If the folder holds an unknown ranker, or other features.
        FileNotFoundError: If it holds none.
    """
    name = (folder / NAME_FILE).read_text().strip()
    if name not in KINDS:
        raise ValueError(f"{folder} holds an unknown ranker, {name!r}")
    return KINDS[name].load(folder), CandidateFeatures.load(folder, catalogue)
