"""``DualEncoder``: sentences and pictures to one space, fitted, saved, loaded.

In: texts, or pictures u8[n, H, W, C]. Out: f32[n, D] of length 1, so that the inner product of a
sentence and a picture says how well they fit. ``searcher.TextEncoder`` is its text half.

What it knows are the words of captions computed from classes and pixels (images/captions.py). It
is no model of language: a text in which it finds none of its words is refused, with the reason.

Legend: n texts or pictures, D dimension, L words of the longest text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from image_search.config import TextConfig
from image_search.embeddings.base import NotFittedError, unit_rows
from image_search.embeddings.cnn_network import Network, as_input, folded
from image_search.images.image_set import ImageSet, Selection
from image_search.images.preparing import Images, batches, squares
from image_search.images.traits import Traits, traits_of
from image_search.text.tokens import Lexicon, TextError
from image_search.text.training import Examples, Fitted, Towers, train_towers
from ml_platform.data.download import file_digest
from ml_platform.evaluation.progress import Progress

WEIGHTS, SETTINGS = "towers.pt", "dual_encoder.json"
BATCH = 512
"""Pictures or texts at once."""


class DualEncoder:
    """See the module.

    Attributes:
        fitted: What training left: towers, lexicon, sentences; None before.
    """

    def __init__(self) -> None:
        self.fitted: Fitted | None = None
        self._config = TextConfig()
        self._quick: Network | None = None

    @property
    def dim(self) -> int:
        """D."""
        return self._config.dim

    @property
    def lexicon(self) -> Lexicon:
        """The words that it knows."""
        return self._ready().lexicon

    @property
    def sentences(self) -> frozenset[str]:
        """Every sentence of training; empty after ``load``."""
        return self._ready().sentences

    def readable(self, texts: Sequence[str]) -> tuple[list[list[str]], dict[int, str]]:
        """The words read of each text, and place -> reason of those that are refused (no words)."""
        read: list[list[str]] = []
        refused: dict[int, str] = {}
        for place, text in enumerate(texts):
            try:
                read.append(self.lexicon.read(text))
            except TextError as error:
                refused[place] = str(error)
                read.append([])
        return read, refused

    def fit(
        self,
        images: ImageSet,
        rows: np.ndarray,
        config: TextConfig,
        seed: int,
        progress: Progress,
        trunk: Network | None = None,
        traits: Traits | None = None,
    ) -> Self:
        """Trains both towers on the pictures at ``rows``.

        Args:
            images: With a class for each of these pictures.
            rows: i64[n]; the gallery, never queries that are judged.
            config: Sizes and rates.
            seed: Of everything that is drawn.
            progress: Told of the work.
            trunk: See ``train_towers``.
            traits: Of all pictures of the set; None: those of ``rows`` are computed.

        Raises:
            ValueError: If a picture has no class: it has no caption either.
        """
        if len(rows) and images.label[rows].min() < 0:
            raise ValueError(
                f"{(images.label[rows] < 0).sum()} of {len(rows)} pictures have no class, hence "
                "no caption to learn from: put each picture into a folder named by its class"
            )
        examples = examples_of(images, rows, config, progress, traits)
        self._config = config
        self.fitted = train_towers(examples, config, seed, progress, trunk)
        self._quick = folded(self.fitted.towers.image.network)
        return self

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, D] of length 1; O(words) each.

        A text is cut at ``tokens.MOST_CHARACTERS`` and ``config.most_words``. Words unlike all
        known ones are not read (``lexicon.understood`` tells which are).

        Raises:
            TextError: If a text is empty or names nothing that was learnt; it is a ValueError.
            NotFittedError: Before ``fit`` or ``load``.
        """
        tower, lexicon = self._ready().towers.text, self.lexicon
        read = [lexicon.read(text) for text in texts]
        out = np.empty((len(read), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for begin in range(0, len(read), BATCH):
                part = read[begin : begin + BATCH]
                flat = tower.word_vectors(
                    [lexicon.features(word) for text in part for word in text]
                )
                lengths = torch.tensor([len(text) for text in part])
                there = torch.arange(int(lengths.max()))[None] < lengths[:, None]
                words = flat.new_zeros(*there.shape, flat.shape[1])
                words[there] = flat
                out[begin : begin + len(part)] = tower(words, there).numpy()
        return unit_rows(out)

    def embed_images(self, images: Images) -> np.ndarray:
        """f32[n, D] of length 1, of pictures of any size.

        Raises:
            NotFittedError: Before ``fit`` or ``load``.
        """
        channels = self._ready().towers.image.channels
        network = self._quick
        if network is None:
            raise NotFittedError("the dual encoder has no image tower yet: fit or load it")
        out = np.empty((len(images), self.dim), dtype=np.float32)
        begin = 0
        with torch.inference_mode():
            for batch in batches(images, BATCH):
                pixels = as_input(squares(batch, self._config.side, channels))
                out[begin : begin + len(batch)] = network(pixels).numpy()
                begin += len(batch)
        return unit_rows(out)

    def save(self, folder: Path) -> None:
        """Writes weights and settings into an existing folder."""
        fitted = self._ready()
        torch.save(fitted.towers.state_dict(), folder / WEIGHTS)
        settings: dict[str, Any] = {
            "config": self._config.model_dump(mode="json"),
            "channels": fitted.towers.image.channels,
            "lexicon": fitted.lexicon.settings(),
            "seconds": fitted.seconds,
            "losses": fitted.losses,
            "sha256": file_digest(folder / WEIGHTS),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved, but for the sentences of training, which are not kept.

        Raises:
            ValueError: If the weights are not those that were saved with these settings.
            FileNotFoundError: If there is no dual encoder.
        """
        settings = json.loads((folder / SETTINGS).read_text())
        if file_digest(folder / WEIGHTS) != settings["sha256"]:
            raise ValueError(f"{folder / WEIGHTS} is not the file that was saved: train again")
        made = cls()
        made._config = TextConfig.model_validate(settings["config"])
        towers = Towers(settings["channels"], made._config)
        state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
        towers.load_state_dict(state)
        lexicon = Lexicon(**settings["lexicon"])
        made.fitted = Fitted(
            towers.eval(), lexicon, settings["seconds"], frozenset(), tuple(settings["losses"])
        )
        made._quick = folded(towers.image.network)
        return made

    def _ready(self) -> Fitted:
        if self.fitted is None:
            raise NotFittedError("the dual encoder is not fitted: call fit, or load a saved one")
        return self.fitted


def examples_of(
    images: ImageSet,
    rows: np.ndarray,
    config: TextConfig,
    progress: Progress,
    traits: Traits | None = None,
) -> Examples:
    """The pictures at ``rows`` i64[n] in the towers' size, with their traits."""
    whole = images.images
    pictures = whole[rows] if isinstance(whole, np.ndarray) else Selection(whole, rows)
    channels = int(pictures[0].shape[2]) if len(rows) else 1
    if traits is None:
        with progress.stage("text: traits of the pictures", len(rows)) as advance:
            known = traits_of(pictures)
            advance(len(rows))
    else:
        known = traits.at(rows)
    return Examples(
        pictures=squares(pictures, config.side, channels),
        label=images.label[rows],
        label_names=images.label_names,
        traits=known,
        item_id=images.item_id[rows],
    )
