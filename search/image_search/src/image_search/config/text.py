"""The dual encoder of text queries (text/)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ml_platform.evaluation.configuration import Stage


class TextConfig(Stage):
    """The dual encoder of text queries (text/)."""

    dim: PositiveInt = 64
    """Of the joint space: ten classes and a dozen traits need no more."""
    tower: Literal["bag", "transformer"] = "bag"
    """Of the text; both are measured (`text-search`)."""
    side: PositiveInt = 28
    """Of the pictures that the image tower reads: Fashion-MNIST as it is."""
    width: PositiveInt = 32
    """Channels of the image tower's first stage."""
    text_width: PositiveInt = 64
    """Of a word's vector."""
    buckets: PositiveInt = 1 << 13
    """Of hashed words and n-grams: some ten times as many as the captions have."""
    shortest: PositiveInt = 2
    longest: PositiveInt = 3
    """Letters of an n-gram; see text/tokens.py for why they are short."""
    likeness: float = Field(default=0.3, gt=0, le=1)
    """Of its n-grams with those of the known word, that a word with a slip needs to be read; chosen
    with the slips that are allowed (text/tokens.py, tests/test_words_read.py)."""
    most_words: PositiveInt = 24
    """Of a text; the rest is not read."""
    word_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Chance that training sees a word by its n-grams alone, as a misspelt one will be."""
    mask: Literal["none", "same", "true"] = "true"
    """What is no negative: nothing; the same sentence; a sentence that is true of the picture."""
    temperature: float = Field(default=0.07, gt=0)
    """To start from, as in CLIP; learned."""
    epochs: PositiveInt = 2
    """A minute of two cores; four take two, which ``e2e`` does not have."""
    batch: int = Field(default=128, ge=2)
    """Of so few different sentences a larger batch holds more that are true of the same picture,
    and an epoch has fewer steps."""
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    shift: int = Field(default=2, ge=0)
    """Pixels that a picture is moved by at random in training."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the image tower's training; "auto" takes bf16 where the processor multiplies it."""
    study_pictures: PositiveInt = 15_000
    """Training pictures of the variants that `text-search` compares on validation, and of the test
    with held-out pairs: a quarter of the gallery shows the differences in a quarter of the time."""
    least_relevant: PositiveInt = 10
    """Pictures that a judged prompt must be true of; with fewer, chance decides its precision."""
