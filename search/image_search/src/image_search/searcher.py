"""One search from end to end: embed, retrieve, rank, remove near-duplicates, diversify.

In: ``Ask``s, each with the vector of a picture or a text. Out: an ``Answer`` for each. Serving,
evaluation and the notebooks all go through here. There are two spaces: pictures ask in the space of
the picture embedding, texts in the joint space of the dual encoder; a catalogue row has a vector in
each.

Stages are optional where the system can do without: without a ranker the order is by similarity,
without a text embedding a text is refused by name. In a service a stage that fails has a fallback
(``fallbacks``), which the answer names; retrieval has none, and fails as ``RetrievalError``.

Legend: B asks, C candidates, D dimension of a space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from image_search.catalogue import Catalogue
from image_search.embeddings.base import Embedder
from image_search.fallbacks import BatchStages
from image_search.growing import GrowingRows
from image_search.images.preparing import Images
from image_search.ranking.base import Ranker
from image_search.retrieval.index import VectorIndex
from image_search.thumbnails import Thumbnails, encode_thumbnail

if TYPE_CHECKING:
    from image_search.text.tokens import Lexicon
    from ml_platform.serving.stages import StageMonitor

SpaceName = Literal["image", "text"]


class TextUnavailableError(RuntimeError):
    """This bundle has no text tower."""


class RetrievalError(RuntimeError):
    """The index gives no candidates; nothing can stand in for it."""


class TextEncoder(Protocol):
    """Sentences to vectors of the joint space."""

    @property
    def lexicon(self) -> Lexicon:
        """The words that it knows."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, D] of length 1."""

    def embed_images(self, images: Images) -> np.ndarray:
        """f32[n, D] of length 1, of pictures in the same space."""


@dataclass(frozen=True)
class Filters:
    """What an item must satisfy; None: anything.

    Attributes:
        labels: Categories, as positions in the catalogue's ``label_names``.
        min_price: At least, inclusive.
        max_price: At most, inclusive.
    """

    labels: frozenset[int] | None = None
    min_price: float | None = None
    max_price: float | None = None

    @property
    def none(self) -> bool:
        """Whether everything passes."""
        return self.labels is None and self.min_price is None and self.max_price is None

    def allowed(self, catalogue: Catalogue) -> np.ndarray | None:
        """bool[N], or None where everything passes."""
        if self.none:
            return None
        keep = catalogue.alive.copy()
        if self.labels is not None:
            keep &= np.isin(catalogue.label, list(self.labels))
        price = catalogue.attributes.price
        if self.min_price is not None:
            keep &= price >= self.min_price
        if self.max_price is not None:
            keep &= price <= self.max_price
        return keep


@dataclass(frozen=True)
class Ask:
    """One query, already embedded.

    Attributes:
        vector: f32[D] of length 1, in ``space``.
        space: Which of the two.
        k: Results wanted.
        filters: What an item must satisfy.
        user_id: For personalisation; None: nobody known.
        own_row: The query's own item, left out of the answer ("more like this"); -1: none.
        diversity: MMR's weight of difference, 0 to 1; None: as configured.
    """

    vector: np.ndarray
    space: SpaceName = "image"
    k: int = 20
    filters: Filters = Filters()
    user_id: int | None = None
    own_row: int = -1
    diversity: float | None = None


@dataclass(frozen=True)
class Answer:
    """Results of one ask, best first.

    Attributes:
        rows: i64[k'] rows of the catalogue, k' <= k.
        score: f32[k'], of the ranker, or the similarity without one.
        similarity: f32[k'] to the query.
        duplicates: How many near-duplicates were left out.
        degradations: Stages that a fallback stood in for, each as ``stage:reason``.
    """

    rows: np.ndarray
    score: np.ndarray
    similarity: np.ndarray
    duplicates: int = 0
    degradations: tuple[str, ...] = ()


@dataclass
class Space:
    """One vector space over the catalogue's rows.

    Attributes:
        index: Finds rows.
        rows: f32[N, D] by row, for ranking and re-ranking.
    """

    index: VectorIndex
    rows: GrowingRows

    @property
    def vectors(self) -> np.ndarray:
        """f32[N, D] by row, as of now."""
        return self.rows.values

    def append(self, row: int, vector: np.ndarray) -> None:
        """Adds the vector f32[1, D] of the next row, then lets searches find it."""
        if row != len(self.rows):
            raise ValueError(f"row {row} after {len(self.rows)} rows")
        self.rows.append(vector)
        self.index.add(np.array([row]), vector)


Candidates = tuple[np.ndarray, np.ndarray]
"""Rows i64[B, C] (-1 padded) and similarities f32[B, C]."""
Rerank = Callable[[Ask, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, int]]
"""(ask, rows i64[C] by score, score f32[C], vectors f32[C, D]) -> positions i64[k'] kept, in order,
and how many were left out as near-duplicates."""
RankingFeatures = Callable[[Sequence[Ask], np.ndarray, np.ndarray], np.ndarray]
"""(asks, rows i64[B, C], similarity f32[B, C]) -> features f32[B, C, F]."""
Personalise = Callable[[Sequence[Ask], np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(asks, rows i64[B, C], score f32[B, C], item vectors f32[B, C, D]) -> scores f32[B, C]."""


@dataclass
class Searcher:
    """Everything that one search needs; see the module.

    Attributes:
        catalogue: Items by row.
        embedder: Of the pictures.
        spaces: By name; "text" may be missing.
        text: The text tower, or None.
        candidates: C, how many of the index go on to ranking.
        ranker: Or None: by similarity.
        features: What the ranker reads; needed with one.
        personalise: Or None.
        rerank: Or None: the first k.
        thumbnails: Of the rows that the bundle had.
        added: Row -> thumbnail of an item that was added later.
        version: Of the bundle.
        on_add: Told of a new item: (row, picture u8[H, W, C], image vector f32[D]), before any
            search can find it.
        monitor: Of a service: a stage that fails has its fallback. None: its error goes through.
        stage_seconds: Of the last search.
    """

    catalogue: Catalogue
    embedder: Embedder
    spaces: dict[SpaceName, Space]
    text: TextEncoder | None = None
    candidates: int = 200
    ranker: Ranker | None = None
    features: RankingFeatures | None = None
    personalise: Personalise | None = None
    rerank: Rerank | None = None
    thumbnails: Thumbnails | None = None
    added: dict[int, bytes] = field(default_factory=dict)
    version: str = ""
    on_add: list[Callable[[int, np.ndarray, np.ndarray], None]] = field(default_factory=list)
    monitor: StageMonitor | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def embed_images(self, images: Images) -> np.ndarray:
        """f32[n, D] of pictures u8[H, W, 1 or 3], in the space "image"."""
        return self.embedder.embed(images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, D] of sentences, in the space "text".

        Raises:
            TextUnavailableError: If the bundle has no text tower.
        """
        if self.text is None:
            raise TextUnavailableError("this bundle has no text embedding: search by picture")
        return self.text.embed_texts(texts)

    def ignored_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that ``embed_texts`` does not read; none without a text tower."""
        return () if self.text is None else self.text.lexicon.ignored(text)

    def thumbnail(self, row: int) -> bytes:
        """The small encoded picture of a row.

        Raises:
            IndexError: If there is none.
        """
        if row in self.added:
            return self.added[row]
        if self.thumbnails is None:
            raise IndexError(f"no thumbnail {row}: this searcher has none")
        return self.thumbnails[row]

    def add(self, item_id: int, picture: np.ndarray, label: int, price: float) -> int:
        """Adds an item; the next search may find it. Returns its row.

        Not to be called by two threads at once, nor during a search.

        Args:
            item_id: New.
            picture: u8[H, W, 1 or 3].
            label: Category, or -1.
            price: Positive.

        Raises:
            ValueError: If the id is taken, or a value is out of range.
        """
        row = self.catalogue.append(item_id, label, price)
        vectors = {"image": self.embedder.embed([picture])}
        if "text" in self.spaces and self.text is not None:
            vectors["text"] = self.text.embed_images([picture])
        self.added[row] = encode_thumbnail(picture)
        for listener in self.on_add:
            listener(row, picture, vectors["image"][0])
        for name, space in self.spaces.items():
            space.append(row, vectors[name])
        return row

    def delete(self, item_id: int) -> None:
        """Takes an item out of every later answer.

        Raises:
            KeyError: If there is no such item, or it is gone already.
        """
        row = self.catalogue.delete(item_id)
        for space in self.spaces.values():
            space.index.remove(np.array([row]))

    def search(self, asks: Sequence[Ask]) -> list[Answer]:
        """An answer for each ask, in order; asks of one space are computed together.

        ``stage_seconds`` then holds what each stage took, of all asks together.

        Raises:
            TextUnavailableError: For a text without a text tower.
            RetrievalError: If an index fails and there is a ``monitor``.
        """
        self.stage_seconds = {}
        answers: list[Answer | None] = [None] * len(asks)
        for name in self.spaces:
            places = [n for n, ask in enumerate(asks) if ask.space == name]
            if places:
                chosen = [asks[n] for n in places]
                for n, answer in zip(places, self._search_space(name, chosen), strict=True):
                    answers[n] = answer
        if missing := {ask.space for ask, got in zip(asks, answers, strict=True) if got is None}:
            raise TextUnavailableError(f"this bundle has no space {', '.join(sorted(missing))}")
        return [answer for answer in answers if answer is not None]

    def retrieve(self, asks: Sequence[Ask]) -> Candidates:
        """The candidates of asks that share a space, without the ask's own row."""
        space = self.spaces[asks[0].space]
        extra = int(any(ask.own_row >= 0 for ask in asks))
        most = min(self.candidates + extra, max(len(space.index), 1))
        rows = np.full((len(asks), most), -1, dtype=np.int64)
        similarity = np.full((len(asks), most), -np.inf, dtype=np.float32)
        plain = [n for n, ask in enumerate(asks) if ask.filters.none]
        if plain:
            queries = np.stack([asks[n].vector for n in plain])
            rows[plain], similarity[plain] = space.index.search(queries, most)
        for n, ask in enumerate(asks):
            if not ask.filters.none:
                allowed = ask.filters.allowed(self.catalogue)
                found = space.index.search(ask.vector[None], most, allowed=allowed)
                rows[n], similarity[n] = found[0][0], found[1][0]
            if ask.own_row >= 0:
                own = rows[n] == ask.own_row
                rows[n, own], similarity[n, own] = -1, -np.inf
        return rows, similarity

    def _search_space(self, name: SpaceName, asks: Sequence[Ask]) -> list[Answer]:
        begin = time.perf_counter()
        stages, everybody = BatchStages(self.monitor, len(asks)), range(len(asks))
        found = stages.attempt("retrieve", everybody, lambda: self.retrieve(asks))
        if found is None:  # attempted so that its error is logged and counted; not optional
            raise RetrievalError(f"the index of the space {name} failed; retry later")
        rows, similarity = found
        begin = self._took("retrieve", begin)
        vectors, score = self.spaces[name].vectors, similarity
        if self.ranker is not None and self.features is not None and name == "image":
            ranked = partial(self._ranked, self.ranker, self.features, asks, found, vectors)
            score = stages.scores("rank", everybody, rows, score, ranked)
            begin = self._took("rank", begin)
        known = [n for n, ask in enumerate(asks) if ask.user_id is not None]
        if self.personalise is not None and known:
            own = partial(self.personalise, asks, rows, score, vectors[np.maximum(rows, 0)])
            score = stages.scores("personalise", known, rows, score, own)
            begin = self._took("personalise", begin)
        score = np.where(rows >= 0, score, np.float32(-np.inf))
        answers = [
            self._page(stages, n, ask, rows[n], score[n], similarity[n], vectors)
            for n, ask in enumerate(asks)
        ]
        self._took("page", begin)
        return answers

    @staticmethod
    def _ranked(
        ranker: Ranker,
        features: RankingFeatures,
        asks: Sequence[Ask],
        found: Candidates,
        vectors: np.ndarray,
    ) -> np.ndarray:
        """The ranker's scores f32[B, C]."""
        rows, similarity = found
        queries = np.stack([ask.vector for ask in asks])
        table = features(asks, rows, similarity)
        return ranker.score(table, queries, vectors[np.maximum(rows, 0)])

    def _took(self, stage: str, since: float) -> float:
        """Adds the seconds since then to a stage; returns now."""
        now = time.perf_counter()
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + now - since
        return now

    def _page(
        self,
        stages: BatchStages,
        place: int,
        ask: Ask,
        rows: np.ndarray,
        score: np.ndarray,
        similarity: np.ndarray,
        vectors: np.ndarray,
    ) -> Answer:
        """Orders one ask's candidates and keeps what the page shows."""
        order = np.argsort(-score, kind="stable")
        order = order[rows[order] >= 0]
        shown, duplicates = order[: ask.k], 0
        best = rows[order]

        def rearranged(rerank: Rerank) -> tuple[np.ndarray, int]:
            kept, left_out = rerank(ask, best, score[order], vectors[best])
            return order[kept], left_out

        if self.rerank is not None and len(order):
            page = stages.attempt("rerank", [place], partial(rearranged, self.rerank))
            shown, duplicates = page or (shown, duplicates)
        degradations = stages.degradations(place)
        return Answer(rows[shown], score[shown], similarity[shown], duplicates, degradations)
