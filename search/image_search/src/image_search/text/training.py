"""Training of the two towers on pictures and the sentences about them.

In: pictures u8[n, S, S, C], their classes, traits and ids. Out: ``Fitted``. Each epoch writes new
sentences (images/captions.py), each batch is B pairs, and the loss is the symmetric InfoNCE of CLIP
(Radford et al., ICML 2021, section 2.3) with a learned temperature: which of the B sentences is
about this picture, and which of the B pictures is this sentence about?

Departure: false negatives are masked. With ten classes and a few traits, a batch of 256 holds "a
plain bag" several times, and several plain bags; CLIP has millions of sentences and need not care.
``mask`` says what is no negative: nothing, a pair whose sentence claims the same, or any pair whose
sentence is true of the picture. The loss is the sampled softmax of
``ml_algorithms.two_tower_and_contrastive``, which takes such pairs out, without its logQ
correction: that makes it InfoNCE (the tests hold it to that).

Legend: n pictures, B batch, S side, C channels, V known words, L words of the longest sentence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from image_search.config import TextConfig
from image_search.embeddings.augment import mirrored, shifted
from image_search.embeddings.cnn_network import Network, as_input, precision_of
from image_search.images.captions import Captions, Claims, described
from image_search.images.traits import Traits
from image_search.text.lexicon import lexicon_of
from image_search.text.tokens import Lexicon
from image_search.text.towers import ImageTower, TextTower
from ml_algorithms.two_tower_and_contrastive.infonce import LearnedTemperature
from ml_algorithms.two_tower_and_contrastive.loss import sampled_softmax_loss
from ml_platform.evaluation.progress import Progress

RISE = 0.2
"""Share of the steps in which the rate rises."""


@dataclass(frozen=True)
class Examples:
    """Pictures with what is known of them.

    Attributes:
        pictures: u8[n, S, S, C].
        label: i16[n], all known.
        label_names: The classes.
        traits: Of the pictures.
        item_id: i64[n].
    """

    pictures: np.ndarray
    label: np.ndarray
    label_names: tuple[str, ...]
    traits: Traits
    item_id: np.ndarray


class Towers(nn.Module):
    """Both towers and the temperature between them."""

    def __init__(self, channels: int, config: TextConfig) -> None:
        super().__init__()
        self.image, self.text = ImageTower(channels, config), TextTower(config)
        self.temperature = LearnedTemperature(config.temperature)


@dataclass(frozen=True)
class Fitted:
    """What training leaves.

    Attributes:
        towers: In evaluation mode.
        lexicon: The words that it knows.
        seconds: Of the training, by the clock.
        sentences: Every sentence that was seen.
        losses: Mean of each epoch.
    """

    towers: Towers
    lexicon: Lexicon
    seconds: float
    sentences: frozenset[str]
    losses: tuple[float, ...]


def train_towers(
    examples: Examples,
    config: TextConfig,
    seed: int,
    progress: Progress,
    trunk: Network | None = None,
) -> Fitted:
    """Trains both towers.

    Args:
        examples: At least two.
        config: Sizes and rates.
        seed: Of weights, order, sentences and augmentation; torch's global generator is left as it
            was.
        progress: Told of every picture seen.
        trunk: A trained network to start the image tower's features from, of the same width; None:
            from nothing.

    Raises:
        ValueError: If there are fewer than two pictures.
    """
    n = len(examples.pictures)
    if n < 2:
        raise ValueError(f"{n} pictures to train on; at least 2")
    lexicon = lexicon_of(examples.label_names, examples.traits, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = Towers(examples.pictures.shape[3], config)
    if trunk is not None:
        towers.image.network.features.load_state_dict(trunk.features.state_dict())
    return _run(towers, lexicon, examples, config, seed, progress)


def _run(
    towers: Towers,
    lexicon: Lexicon,
    examples: Examples,
    config: TextConfig,
    seed: int,
    progress: Progress,
) -> Fitted:
    n, batch = len(examples.pictures), min(config.batch, len(examples.pictures))
    generator = Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(_groups(towers, config), lr=config.learning_rate)
    steps = config.epochs * (n // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    low = precision_of(config.precision) == "bf16"
    started, seen, losses = time.perf_counter(), set[str](), []
    towers.train()
    with progress.stage(f"text: training ({config.tower})", config.epochs * n) as advance:
        for epoch in range(config.epochs):
            told = _sentences(examples, seed * 1_000 + epoch)
            seen.update(told.sentences)
            reader = BatchReader(told, lexicon)
            order = torch.randperm(n, generator=generator)
            total = 0.0
            for begin in range(0, n - batch + 1, batch):
                rows = order[begin : begin + batch].numpy()
                pixels = _augmented(as_input(examples.pictures[rows]), config, generator)
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    image = towers.image(pixels)
                text = reader.vectors(towers.text, rows, config.word_dropout, generator)
                exclude = no_negatives(config.mask, told.claims.at(rows), examples, rows)
                loss = contrastive_loss(image, text, towers.temperature(), exclude)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
                advance(batch)
            losses.append(total / (n // batch))
    seconds = time.perf_counter() - started
    return Fitted(towers.eval(), lexicon, seconds, frozenset(seen), tuple(losses))


def contrastive_loss(
    image: Tensor, text: Tensor, temperature: Tensor | float, exclude: Tensor
) -> Tensor:
    """CLIP's symmetric loss without the pairs that are no negatives; a scalar.

    Args:
        image: f32[B, D] of length 1.
        text: f32[B, D] of length 1; row b is about picture b.
        temperature: Divides the cosines.
        exclude: bool[B, B], sentence by picture; the diagonal does not matter.
    """
    own = torch.arange(len(image))
    to_image = sampled_softmax_loss(text, image, own, temperature=temperature, exclude=exclude)
    to_text = sampled_softmax_loss(image, text, own, temperature=temperature, exclude=exclude.T)
    return (to_image + to_text) / 2


def no_negatives(mask: str, claims: Claims, examples: Examples, rows: np.ndarray) -> Tensor:
    """bool[B, B], sentence by picture: pairs that the loss must not push apart.

    Args:
        mask: "none", "same" or "true"; see the module.
        claims: Of the batch's sentences.
        examples: Of all pictures.
        rows: i64[B], those of the batch.
    """
    if mask == "none":
        return torch.zeros(len(rows), len(rows), dtype=torch.bool)
    if mask == "same":
        said = np.concatenate([claims.classes.astype(np.int8), claims.traits], axis=1)
        return torch.from_numpy((said[:, None] == said[None]).all(axis=2))
    return torch.from_numpy(claims.true_of(examples.label[rows], examples.traits.table[rows]))


class BatchReader:
    """Sentences of an epoch as numbers of known words, so that a step reads no text.

    Attributes:
        words: i64[n, L], positions in the lexicon, -1 where a sentence is shorter.
    """

    def __init__(self, told: Captions, lexicon: Lexicon) -> None:
        numbers: dict[str, list[int]] = {}
        for sentence in told.sentences:
            if sentence not in numbers:
                numbers[sentence] = [lexicon.number(word) for word in lexicon.read(sentence)]
        longest = max(len(found) for found in numbers.values())
        padded = {s: [*found, *[-1] * (longest - len(found))] for s, found in numbers.items()}
        self.words = np.array([padded[s] for s in told.sentences], dtype=np.int64)
        whole = [tuple(lexicon.features(word)) for word in lexicon.words]
        # Every word twice: as it is, and by its n-grams alone (a word of one letter has none).
        self._features = [*whole, *[found[1:] or found for found in whole]]
        self._n_words = len(lexicon)

    def vectors(
        self, tower: TextTower, rows: np.ndarray, dropout: float, generator: Generator
    ) -> Tensor:
        """f32[B, D] of the sentences ``rows``; each word may be seen by its n-grams alone."""
        words = torch.from_numpy(self.words[rows])
        there = words >= 0
        dropped = torch.rand(words.shape, generator=generator) < dropout
        which = words.clamp_min(0) + dropped * self._n_words
        made: Tensor = tower(tower.word_vectors(self._features)[which], there)
        return made


def _sentences(examples: Examples, seed: int) -> Captions:
    return described(examples.label, examples.label_names, examples.traits, examples.item_id, seed)


def _augmented(pixels: Tensor, config: TextConfig, generator: Generator) -> Tensor:
    """Mirrored and moved; neither changes what a caption says."""
    made = mirrored(pixels, generator)
    if config.shift:
        made = shifted(made, config.shift, generator)
    return made.contiguous(memory_format=torch.channels_last)


def _groups(towers: Towers, config: TextConfig) -> list[dict[str, object]]:
    """Matrices decay; scales, shifts and the temperature do not.

    Nor does the table of n-grams: a rare row would be forgotten between two sentences that have it.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in towers.named_parameters():
        small = parameter.ndim < 2 or name.startswith("text.table")
        (kept if small else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def _rate(done: float) -> float:
    """Share of the highest rate after this share of the steps."""
    return done / RISE if done < RISE else max(0.0, (1 - done) / (1 - RISE))
