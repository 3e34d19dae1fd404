"""Text search judged: text to picture, picture to text, and what simpler answers give.

In: prompts with their claims, pictures with classes and traits, a dual encoder. Out: one value a
query and metric.

    text to picture   every picture ordered; relevant are those that the prompt is true of (class
                      and computed traits). P@1, P@10, AP over all pictures
    picture to text   R@1 among one sentence a class, and among one sentence for each combination
                      of class and traits that occurs: right if it is true of the picture

A text that the encoder refuses scores 0 everywhere, and is counted. How single words are read or
refused is judged apart, by lists of slips and of words of other things (``word_errors``).

Other answers to compare with:

    random          any order
    class_filter    the class of each picture predicted by its nearest labelled neighbour; pictures
                    of the classes named in the text first, in random order. Traits are ignored
    class_and_trait_filter   the same, with the computed traits as a filter too: search by
                    attributes, as a shop would do without any joint space
    metadata        as ``class_filter`` with the true classes: no vision, all that the class gives
    frozen_linear   a picture embedding trained on classes, frozen, and a linear map from known
                    words to the mean vector of the pictures that a caption is true of

The filters are given what the prompt means; a parser would have to find it. The traits of the
third are the very ones that relevance is defined by, so it errs in the class only.

Legend: Q prompts, G pictures searched, N pictures of training, V known words, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_search.images.captions import NOTHING, Captions, Claims, make_sentence, nouns_of
from image_search.images.traits import COLUMNS, SAYS_NOTHING
from image_search.text.dual_encoder import DualEncoder
from image_search.text.tokens import Lexicon, TextError
from ml_platform.evaluation.ranking_metrics import average_precision_at, precision_at
from ml_platform.evaluation.top_k import top_k

METRICS = ("precision@1", "precision@10", "map")
SHOWN = 10
RIDGE = 1e-2
CENTROID_SENTENCES = 2_000
_BLOCK = 64


@dataclass(frozen=True)
class WordErrors:
    """How a lexicon reads words that it does not know.

    Attributes:
        accepted: Word of another thing -> the known word that it was read as.
        refused: Slips that were not read.
        misread: Slips that were read as another known word than the meant one or its plural.
        n_others: Words of other things that were tried.
        n_slips: Slips that were tried.
    """

    accepted: dict[str, str]
    refused: tuple[str, ...]
    misread: tuple[str, ...]
    n_others: int
    n_slips: int

    @property
    def accept_share(self) -> float:
        """False accepts: of the words of other things."""
        return len(self.accepted) / max(self.n_others, 1)

    @property
    def refuse_share(self) -> float:
        """False rejects: of the slips."""
        return len(self.refused) / max(self.n_slips, 1)


def word_errors(
    lexicon: Lexicon, slips: Sequence[tuple[str, str]], others: Sequence[str]
) -> WordErrors:
    """What is read that should not be, and what is not that should.

    Args:
        lexicon: Its words.
        slips: (known word, as it was typed); no ``typed`` is a word.
        others: Words of other things, none of them known.
    """
    accepted = {word: near for word in others if (near := lexicon.nearest(word))}
    read = [(known.rstrip("s"), typed, lexicon.nearest(typed)) for known, typed in slips]
    return WordErrors(
        accepted,
        tuple(typed for _, typed, near in read if not near),
        tuple(typed for known, typed, near in read if near and near.rstrip("s") != known),
        len(others),
        len(slips),
    )


@dataclass(frozen=True)
class Searched:
    """The pictures that are searched.

    Attributes:
        vectors: f32[G, D] of length 1, in the joint space.
        label: i16[G].
        table: i8[G, 4], ``Traits.table``.
    """

    vectors: np.ndarray
    label: np.ndarray
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def ranking_scores(scores: np.ndarray, claims: Claims, searched: Searched) -> dict[str, np.ndarray]:
    """Metric of METRICS -> f64[Q] of scores f32[Q, G], larger is better.

    A row without any finite score is a refused text and gets 0. Equal scores are ordered by a fixed
    pseudo-random order (``top_k``).

    Raises:
        ValueError: If a prompt is true of no picture: its metrics are undefined.
    """
    relevant = claims.true_of(searched.label, searched.table)
    count = relevant.sum(axis=1)
    if (count < 1).any():
        raise ValueError(f"prompt {int((count < 1).argmax())} is true of no picture: leave it out")
    values = {name: np.zeros(len(claims)) for name in METRICS}
    for begin in range(0, len(claims), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        order, _ = top_k(scores[block], scores.shape[1])
        hits = np.take_along_axis(relevant[block], np.maximum(order, 0), axis=1) & (order >= 0)
        values["precision@1"][block] = precision_at(hits, 1)
        values["precision@10"][block] = precision_at(hits, min(SHOWN, hits.shape[1]))
        values["map"][block] = average_precision_at(hits, count[block], hits.shape[1])
    refused = ~np.isfinite(scores).any(axis=1)
    for name in METRICS:
        values[name][refused] = 0.0
    return values


def similarities(encoder: DualEncoder, sentences: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """f32[Q, G]; a row of -inf for a text that is refused."""
    _, refused = encoder.readable(sentences)
    kept = [n for n in range(len(sentences)) if n not in refused]
    scores = np.full((len(sentences), len(vectors)), -np.inf, dtype=np.float32)
    if kept:
        scores[kept] = encoder.embed_texts([sentences[n] for n in kept]) @ vectors.T
    return scores


def random_scores(n_prompts: int, n_searched: int, seed: int) -> np.ndarray:
    """f32[Q, G] in [0, 1)."""
    return np.random.default_rng(seed).random((n_prompts, n_searched), dtype=np.float32)


def filter_scores(
    claims: Claims, label: np.ndarray, table: np.ndarray | None, seed: int
) -> np.ndarray:
    """f32[Q, G]: what a filter lets through first, in random order; then what has the class.

    Args:
        claims: Of the prompts, as a parser would read them.
        label: i[G], classes to filter by: predicted or true.
        table: i8[G, 4], traits to filter by; None: by class alone.
        seed: Of the random order.
    """
    scores = random_scores(len(claims), len(label), seed)
    scores += claims.classes[:, label]
    if table is not None:
        scores += claims.true_of(label, table)
    return scores


def neighbour_class(
    gallery: np.ndarray, gallery_label: np.ndarray, queries: np.ndarray, block: int = 500
) -> np.ndarray:
    """i[Q]: the class of each query's nearest gallery picture, by cosine of unit rows."""
    nearest = [
        (queries[begin : begin + block] @ gallery.T).argmax(axis=1)
        for begin in range(0, len(queries), block)
    ]
    return gallery_label[np.concatenate(nearest)]


class LinearText:
    """A linear map from the known words of a sentence to a space of pictures.

    Args:
        told: Sentences and claims of training pictures.
        vectors: f32[N, D], the frozen vectors of training pictures.
        label: i[N]. table: i8[N, 4].
        lexicon: The words.
    """

    def __init__(
        self,
        told: Captions,
        vectors: np.ndarray,
        label: np.ndarray,
        table: np.ndarray,
        lexicon: Lexicon,
    ) -> None:
        self.lexicon = lexicon
        _, first = np.unique(told.sentences, return_index=True)
        rows = first[:CENTROID_SENTENCES]
        words = self.counts([told.sentences[int(row)] for row in rows])
        true = told.claims.at(rows).true_of(label, table).astype(np.float32)
        goal = (true @ vectors) / np.maximum(true.sum(axis=1, keepdims=True), 1)
        square = words.T @ words + RIDGE * np.eye(words.shape[1])
        self.weight = np.linalg.solve(square, words.T @ goal)

    def counts(self, sentences: Sequence[str]) -> np.ndarray:
        """f64[Q, V + 1]: how often each known word occurs, and a 1."""
        found = np.zeros((len(sentences), len(self.lexicon) + 1))
        found[:, -1] = 1
        for n, sentence in enumerate(sentences):
            for _, word in self.lexicon.understood(sentence):
                found[n, self.lexicon.number(word)] += 1
        return found

    def scores(self, sentences: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """f32[Q, G] with pictures' vectors f32[G, D]; -inf for a refused text."""
        scores = np.full((len(sentences), len(vectors)), -np.inf, dtype=np.float32)
        for n, sentence in enumerate(sentences):
            try:
                row = self.counts([sentence])[0]
            except TextError:
                continue  # as in ``similarities``
            scores[n] = vectors @ (row @ self.weight).astype(np.float32)
        return scores


def class_sentences(label_names: tuple[str, ...]) -> tuple[list[str], Claims]:
    """One sentence a class, of one wording for all."""
    sentences = [
        make_sentence("a photo of a {noun}", nouns_of(name)[0], ()) for name in label_names
    ]
    said = np.full((len(label_names), len(COLUMNS)), NOTHING, dtype=np.int8)
    return sentences, Claims(np.eye(len(label_names), dtype=bool), said)


def full_sentences(
    label_names: tuple[str, ...], label: np.ndarray, table: np.ndarray
) -> tuple[list[str], Claims]:
    """A sentence for each combination of class and named traits that these pictures have."""
    named = table.copy()
    for column, words in enumerate(COLUMNS):
        for value, word in enumerate(words):
            if word in SAYS_NOTHING:
                named[named[:, column] == value, column] = NOTHING
    found = np.unique(np.column_stack([label, named]), axis=0)
    made = []
    for k, *values in found:
        said = tuple(COLUMNS[c][v] for c, v in enumerate(values) if v != NOTHING)
        made.append(make_sentence("a {traits} {noun}", nouns_of(label_names[k])[0], said))
    classes = np.eye(len(label_names), dtype=bool)[found[:, 0]]
    return made, Claims(classes, found[:, 1:].astype(np.int8))


def best_is_true(
    encoder: DualEncoder, sentences: Sequence[str], claims: Claims, searched: Searched
) -> np.ndarray:
    """f64[G]: 1 where the best sentence of all is true of the picture and names all its traits.

    Every combination has a sentence, so "true" here means the very combination: a sentence that
    says less does not stand among them, unless the picture's traits have no words.
    """
    best = (searched.vectors @ encoder.embed_texts(list(sentences)).T).argmax(axis=1)
    right = claims.true_of(searched.label, searched.table)[best, np.arange(len(searched))]
    if (claims.traits != NOTHING).any():
        right &= _traits_named(searched.table) == (claims.traits[best] != NOTHING).sum(axis=1)
    return np.asarray(right, dtype=np.float64)


def _traits_named(table: np.ndarray) -> np.ndarray:
    """i64[G]: how many of a picture's traits have a word."""
    count = np.zeros(len(table), dtype=np.int64)
    for column, words in enumerate(COLUMNS):
        silent = [value for value, word in enumerate(words) if word in SAYS_NOTHING]
        count += (table[:, column] != NOTHING) & ~np.isin(table[:, column], silent)
    return count
