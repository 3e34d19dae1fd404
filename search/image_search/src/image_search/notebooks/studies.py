"""Notebooks 02 and 04 to 06: what they compute and the system itself has no use for.

Embeddings without some classes, candidates of a page, a click log with its truth, how a text is
read. Legend: N items, n of them, Q queries, G gallery pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_search.clicks.simulate import Clicks, simulate_clicks
from image_search.config import CnnConfig, TextConfig
from image_search.evaluation.retrieval import RetrievalScores
from image_search.evaluation.run import score
from image_search.images.image_set import Rows, restrict, unseen_classes
from image_search.images.traits import Traits
from image_search.notebooks.desk import Desk
from image_search.pipeline import fit_embedder
from image_search.ranking.fitting import Ground, lay_ground, served_neighbours
from image_search.ranking.judging import Searches, searches_of
from image_search.reranking.trade_off import Retrieved
from image_search.retrieval.index import build_index
from image_search.text.dual_encoder import DualEncoder
from image_search.text.evaluation import Searched, similarities
from image_search.text.prompts import judged_prompts
from image_search.text.study import drawn, judged, searched_of
from ml_platform.evaluation.progress import Silent

# --- embeddings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generalised:
    """One embedding that was fitted without some classes.

    Attributes:
        seen: Scores among the classes that it was fitted on.
        unseen: Among the others.
    """

    seen: RetrievalScores
    unseen: RetrievalScores


def without_some_classes(
    desk: Desk, names: Sequence[str], cnn: CnnConfig | None = None
) -> dict[str, Generalised]:
    """Fits embeddings on every second class and judges them on both halves, test queries.

    Args:
        desk: Pictures and configuration.
        names: Of the registry.
        cnn: Of the networks; None: as configured.
    """
    images, config = desk.images, desk.config
    if cnn is not None:
        chosen = config.embeddings.model_copy(update={"cnn": cnn})
        config = config.model_copy(update={"embeddings": chosen})
    unseen = unseen_classes(len(images.label_names), config.evaluation.unseen_share)
    seen = np.setdiff1d(np.arange(len(images.label_names)), unseen)
    known = restrict(desk.rows, images, seen, "seen classes")
    strange = restrict(desk.rows, images, unseen, "unseen classes")
    found = {}
    for name in names:
        embedder = fit_embedder(name, images, known.gallery, config, Silent())
        scores = (score(embedder, images, rows, config, Silent()) for rows in (known, strange))
        found[name] = Generalised(*scores)
    return found


# --- the page -----------------------------------------------------------------------------------


def retrieved(desk: Desk) -> Retrieved:
    """Candidates of the desk's first queries by similarity, without gaps."""
    asked = slice(0, desk.config.reranking.judged)
    index = build_index("flat", desk.gallery, np.arange(len(desk.gallery)))
    most = min(desk.config.index.candidates, len(desk.gallery))
    rows, similarity = index.search(desk.queries[asked], most)
    label = desk.images.label[desk.rows.queries[asked]]
    return Retrieved(desk.queries[asked], label, rows, similarity)


# --- ranking ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogLesson:
    """A click log with its truth, what is learnt from it, and what judges. SYNTHETIC.

    Attributes:
        clicks: Log and truth.
        ground: What rankers are fitted on.
        test: Searches of the test days with their candidates.
    """

    clicks: Clicks
    ground: Ground
    test: Searches


def log_lesson(desk: Desk) -> LogLesson:
    """The log that the desk's ranker learnt from (the same seed draws the same log)."""
    images, config, searcher = desk.images, desk.config, desk.searcher
    catalogue, vectors = searcher.catalogue, desk.gallery
    clicks = simulate_clicks(images, catalogue, config.clicks, config.seed)
    around = served_neighbours(
        images,
        catalogue,
        clicks,
        searcher.embedder,
        build_index("flat", vectors, np.arange(len(vectors))),
        vectors,
        min(config.index.candidates, len(vectors) - 1),
        Silent(),
    )
    ground = lay_ground(clicks, catalogue, around, config.ranking)
    log = clicks.log
    pages = log.test[: config.ranking.judged_pages]
    test = searches_of(
        log.user_idx[pages],
        log.query_row[pages],
        ground.neighbours,
        ground.features_before(log.windows.validation_end_s),
        clicks.truth,
    )
    return LogLesson(clicks, ground, test)


def rates_of_items(lesson: LogLesson, least: int) -> dict[str, np.ndarray]:
    """Items shown at least so often: raw click rate, clicks a look, true attraction; f64[n] each.

    Attraction is the mean of the item's own impressions, so that all three are of one traffic.
    """
    log, truth = lesson.clicks.log, lesson.clicks.truth
    n = len(truth.item_class)
    item = log.shown.ravel()
    looks = np.broadcast_to(log.examination, log.shown.shape).ravel()
    wanted = truth.attraction(log.user_idx, log.query_row, log.shown, log.time_s).ravel()
    shown = np.bincount(item, minlength=n)
    kept = shown >= least
    clicks = np.bincount(item, log.clicked.ravel(), minlength=n)[kept]
    return {
        "clicks an impression": clicks / shown[kept],
        "clicks a look": clicks / np.bincount(item, looks, minlength=n)[kept],
        "attraction": np.bincount(item, wanted, minlength=n)[kept] / shown[kept],
    }


# --- text ---------------------------------------------------------------------------------------


def without_negatives(
    desk: Desk, traits: Traits, rows: Rows, text: TextConfig
) -> dict[str, np.ndarray]:
    """Mean average precision of the same prompts after each choice of what is no negative.

    Args:
        desk: Pictures and seed.
        traits: Of the pictures.
        rows: Fitted on ``study_pictures`` of its gallery, judged on its queries.
        text: Of every training but for its ``mask``.

    Returns:
        Mask -> f64[Q], one value a prompt.
    """
    images, seed, asked = desk.images, desk.config.seed, rows.queries
    fitted_on = drawn(rows.gallery, desk.config)
    prompts = judged_prompts(
        images.label_names,
        images.label[asked],
        traits.table[asked],
        seed,
        least=text.least_relevant,
    )
    found: dict[str, np.ndarray] = {}
    for mask in ("none", "same", "true"):
        chosen = text.model_copy(update={"mask": mask})
        encoder = DualEncoder().fit(images, fitted_on, chosen, seed, Silent(), traits=traits)
        searched = searched_of(encoder, images, traits, asked)
        scores = similarities(encoder, prompts.sentences, searched.vectors)
        found[mask] = judged(mask, scores, prompts, searched).values["map"]
    return found


def reading_of(
    encoder: DualEncoder, text: str, searched: Searched, names: Sequence[str], most: int = 10
) -> dict[str, str]:
    """How a text is read, why it is refused, and the commonest name of its best pictures.

    Args:
        encoder: Fitted.
        text: As typed.
        searched: G pictures.
        names: Of their classes, G of them.
        most: Pictures that are looked at.
    """
    _, refused = encoder.readable([text])
    read, common = "", ""
    if not refused:
        read = " ".join(f"{said}>{word}" for said, word in encoder.lexicon.understood(text))
        best = np.argsort(-(searched.vectors @ encoder.embed_texts([text])[0]), kind="stable")
        common = Counter(names[int(place)] for place in best[:most]).most_common(1)[0][0]
    columns = {"text": text, "read as": read, "refused": refused.get(0, "")}
    return columns | {f"most of its {most}": common}
