"""What the page shows, and to whom (reranking/, personalisation/)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ml_platform.evaluation.configuration import Stage


class RerankingConfig(Stage):
    """Near-duplicates and diversity of the page (reranking/)."""

    hash_bits: int = Field(default=10, ge=-1, le=64)
    """Near-duplicates have perceptual hashes that differ in at most so many of 64 bits ...; -1:
    hashes are not compared."""
    thumbnail: float = Field(default=0.994, ge=-1)
    """... and thumbnails that correlate by at least this. On validation the hash alone finds plain
    shoes of one outline and another colour; the pair finds more at the same false alarms."""
    cosine: float = Field(default=2.0, ge=-1)
    """Or their vectors are at least this similar; 2: vectors are not compared."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """MMR's weight of difference, for a request that names none: 0 is the order of the scores."""
    false_alarms: float = Field(default=0.001, gt=0, lt=1)
    """Of a threshold, on validation: so many of a picture's ten nearest neighbours, which are other
    pictures, may be called its near-duplicates."""
    judged: PositiveInt = 1_000
    """Pictures that are altered (JPEG, crop, ...) to measure what a hash survives."""


class PersonalisationConfig(Stage):
    """What a user's clicks change (personalisation/)."""

    weight: float = Field(default=0.5, ge=0)
    """Of the style's cosine beside the score, in standard deviations of the candidates' scores."""
    shift: float = Field(default=0.3, ge=0)
    """Length of the style that is added to a query vector of length 1."""
    shrinkage: float = Field(default=5.0, ge=0)
    """Clicks of nobody in particular that a style starts with: at so many own clicks it counts
    half."""
    session_half_life_s: float = Field(default=1_800.0, gt=0)
    """After half an hour a click of the session counts half."""
    long_half_life_s: float = Field(default=30 * 86_400.0, gt=0)
    """After 30 days a click counts half in the long-term style."""
    session_share: float = Field(default=0.3, ge=0, le=1)
    """Of the session in the style; the rest is long-term."""
    max_users: PositiveInt = 100_000
    """Styles kept; the one idle the longest goes first."""
    judged: int = Field(default=2_000, ge=20)
    """Searches of test days that the study measures; half as many of validation days."""
