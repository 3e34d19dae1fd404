"""The fits that text search is judged by: the one that serves, its variants, and its rivals.

In: an image set, the configuration. Out: scores by query of each. Three parts:

    judge_test          the served configuration on the whole gallery, against every rival, on test
    compare_variants    towers and masks on fewer pictures, on validation: where choices are made
    compare_held_out    once with and once without the pictures of one pair of class and trait a
                        class, on prompts for those pairs: does "dark" plus "bag" make a dark bag
                        that was never seen?

Legend: Q prompts, G pictures searched, N of training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from image_search.config import CnnConfig, Config, TextConfig
from image_search.embeddings.cnn import Cnn
from image_search.images.captions import described
from image_search.images.image_set import ImageSet, Rows
from image_search.images.traits import Traits
from image_search.pipeline import pictures_at
from image_search.text.dual_encoder import DualEncoder
from image_search.text.evaluation import (
    LinearText,
    Searched,
    best_is_true,
    class_sentences,
    filter_scores,
    full_sentences,
    neighbour_class,
    random_scores,
    ranking_scores,
    similarities,
)
from image_search.text.prompts import (
    Prompts,
    composition_prompts,
    has_held_out,
    held_out_pairs,
    judged_prompts,
)
from ml_platform.evaluation.progress import Progress

Scores = dict[str, np.ndarray]
TIMED = 300


@dataclass(frozen=True)
class Judged:
    """One way to answer texts.

    Attributes:
        name: As in tables.
        values: Metric -> f64[Q].
        refused: Texts without an answer.
    """

    name: str
    values: Scores
    refused: int = 0


@dataclass(frozen=True)
class TestReport:
    """What ``judge_test`` finds.

    Attributes:
        encoder: As it would be served.
        prompts: Q, none of which training has seen.
        ways: The dual encoder first, then its rivals.
        image_to_text: "class" and "full" -> f64[G], right or not; with the number of sentences.
        searched: The pictures.
        text_ms: f64, of one text at a time.
    """

    encoder: DualEncoder
    prompts: Prompts
    ways: list[Judged]
    image_to_text: dict[str, tuple[np.ndarray, int]]
    searched: Searched
    text_ms: np.ndarray


def judge_test(
    images: ImageSet, traits: Traits, rows: Rows, config: Config, progress: Progress
) -> TestReport:
    """Fits on the gallery, searches among the queries' pictures; see the module."""
    text, seed = config.text, config.seed
    encoder = DualEncoder().fit(images, rows.gallery, text, seed, progress, traits=traits)
    searched = searched_of(encoder, images, traits, rows.queries)
    prompts = unseen(
        judged_prompts(
            images.label_names, searched.label, searched.table, seed, least=text.least_relevant
        ),
        encoder,
    )
    ways = [judged("dual_encoder", similarities(encoder, prompts.sentences, searched.vectors),
                   prompts, searched)]  # fmt: skip
    with progress.stage("text: other ways", 5) as advance:
        gallery = encoder.embed_images(pictures_at(images, rows.gallery))
        predicted = neighbour_class(gallery, images.label[rows.gallery], searched.vectors)
        for name, scores in (
            ("random", random_scores(len(prompts), len(searched), seed)),
            ("class_filter", filter_scores(prompts.claims, predicted, None, seed)),
            (
                "class_and_trait_filter",
                filter_scores(prompts.claims, predicted, searched.table, seed),
            ),
            ("metadata", filter_scores(prompts.claims, searched.label, None, seed)),
        ):
            ways.append(judged(name, scores, prompts, searched))
            advance(1)
    frozen = frozen_linear(images, traits, rows, prompts, encoder, config, progress)
    ways.append(judged("frozen_linear", frozen, prompts, searched))
    return TestReport(
        encoder,
        prompts,
        ways,
        image_to_text(encoder, images, searched),
        searched,
        timed(encoder, prompts),
    )


def compare_variants(
    images: ImageSet, traits: Traits, rows: Rows, config: Config, progress: Progress
) -> tuple[dict[str, Judged], Prompts, int]:
    """Towers and masks, everything else as configured, on validation rows.

    Returns:
        Variant -> its scores, the prompts, and the number of training pictures.
    """
    fitted_on = drawn(rows.gallery, config)
    found: dict[str, Judged] = {}
    prompts: Prompts | None = None
    for name, text in variants(config.text).items():
        encoder = DualEncoder().fit(images, fitted_on, text, config.seed, progress, traits=traits)
        searched = searched_of(encoder, images, traits, rows.queries)
        if prompts is None:
            prompts = judged_prompts(
                images.label_names,
                searched.label,
                searched.table,
                config.seed,
                least=text.least_relevant,
            )
        scores = similarities(encoder, prompts.sentences, searched.vectors)
        found[name] = judged(name, scores, prompts, searched)
    if prompts is None:
        raise ValueError("no variant to compare")
    return found, prompts, len(fitted_on)


def variants(text: TextConfig) -> dict[str, TextConfig]:
    """What is compared; the first one is as configured."""
    changes: dict[str, dict[str, object]] = {
        "configured": {},
        "transformer": {"tower": "transformer"},
        "mask_none": {"mask": "none"},
        "mask_same": {"mask": "same"},
        "no_word_dropout": {"word_dropout": 0.0},
    }
    return {name: text.model_copy(update=change) for name, change in changes.items()}


def compare_held_out(
    images: ImageSet, traits: Traits, rows: Rows, config: Config, progress: Progress
) -> tuple[dict[str, Judged], Prompts, int]:
    """With and without the held-out pictures; the same number of training pictures in both."""
    label, table = images.label, traits.table
    n_classes = len(images.label_names)
    pairs = held_out_pairs(label[rows.gallery], table[rows.gallery], n_classes, config.seed)
    out = has_held_out(label[rows.gallery], table[rows.gallery], pairs)
    without = drawn(rows.gallery[~out], config)
    both = {"unseen": without, "seen": drawn(rows.gallery, config)[: len(without)]}
    prompts = composition_prompts(
        images.label_names,
        label[rows.queries],
        table[rows.queries],
        pairs,
        config.seed,
        least=config.text.least_relevant,
    )
    found: dict[str, Judged] = {}
    if not len(prompts):
        return found, prompts, len(without)
    for name, fitted_on in both.items():
        encoder = DualEncoder().fit(
            images, fitted_on, config.text, config.seed, progress, traits=traits
        )
        searched = searched_of(encoder, images, traits, rows.queries)
        scores = similarities(encoder, prompts.sentences, searched.vectors)
        found[name] = judged(name, scores, prompts, searched)
    chance = random_scores(len(prompts), len(searched), config.seed)
    found["random"] = judged("random", chance, prompts, searched)
    return found, prompts, len(without)


def frozen_linear(
    images: ImageSet,
    traits: Traits,
    rows: Rows,
    prompts: Prompts,
    encoder: DualEncoder,
    config: Config,
    progress: Progress,
) -> np.ndarray:
    """f32[Q, G]: the same network trained on classes for as many epochs, frozen; linear text.

    Its vectors come from the cosine softmax ("proxy") of ``embeddings.cnn_training``.
    """
    text = config.text
    cnn = CnnConfig(
        side=text.side,
        width=text.width,
        epochs=text.epochs,
        plain_epochs=min(1, text.epochs),
        warm_epochs=text.epochs,
        batch=text.batch,
        precision=text.precision,
    )
    picture = Cnn("proxy").fit(
        pictures_at(images, rows.gallery),
        images.label[rows.gallery],
        config.embeddings.model_copy(update={"cnn": cnn}),
        config.seed,
        progress,
    )
    label, known = images.label[rows.gallery], traits.at(rows.gallery)
    told = described(label, images.label_names, known, images.item_id[rows.gallery], config.seed)
    tower = LinearText(
        told,
        picture.embed(pictures_at(images, rows.gallery)),
        label,
        known.table,
        encoder.lexicon,
    )
    return tower.scores(prompts.sentences, picture.embed(pictures_at(images, rows.queries)))


def judged(name: str, scores: np.ndarray, prompts: Prompts, searched: Searched) -> Judged:
    """Scores f32[Q, G] judged; rows without a finite score are refused texts."""
    refused = int((~np.isfinite(scores).any(axis=1)).sum())
    return Judged(name, ranking_scores(scores, prompts.claims, searched), refused)


def image_to_text(
    encoder: DualEncoder, images: ImageSet, searched: Searched
) -> dict[str, tuple[np.ndarray, int]]:
    """R@1 of each picture among class sentences and among full ones."""
    by_class = class_sentences(images.label_names)
    full = full_sentences(images.label_names, searched.label, searched.table)
    return {
        name: (best_is_true(encoder, *sentences, searched), len(sentences[0]))
        for name, sentences in (("class", by_class), ("full", full))
    }


def searched_of(
    encoder: DualEncoder, images: ImageSet, traits: Traits, rows: np.ndarray
) -> Searched:
    """The pictures ``rows`` i64[G] as they are searched."""
    vectors = encoder.embed_images(pictures_at(images, rows))
    return Searched(vectors, images.label[rows], traits.table[rows])


def unseen(prompts: Prompts, encoder: DualEncoder) -> Prompts:
    """Without those that are a sentence of training, letter by letter."""
    seen = encoder.sentences
    return prompts.at(np.array([n for n, s in enumerate(prompts.sentences) if s not in seen]))


def drawn(rows: np.ndarray, config: Config) -> np.ndarray:
    """i64: at most ``study_pictures`` of these rows, by the seed."""
    shuffled = np.random.default_rng(config.seed).permutation(rows)
    return shuffled[: config.text.study_pictures]


def timed(encoder: DualEncoder, prompts: Prompts) -> np.ndarray:
    """f64: milliseconds of processor of one text at a time, after a warm-up."""
    sentences = [prompts.sentences[n % len(prompts)] for n in range(TIMED)]
    _, refused = encoder.readable(sentences)
    sentences = [s for n, s in enumerate(sentences) if n not in refused]
    taken = []
    for sentence in [*sentences[:20], *sentences]:
        begun = time.process_time()
        encoder.embed_texts([sentence])
        taken.append(1e3 * (time.process_time() - begun))
    return np.array(taken[min(20, len(sentences)) :])
