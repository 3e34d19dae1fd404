"""Queries, classes and intervals (evaluation/)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ml_platform.evaluation.configuration import Stage


class EvaluationConfig(Stage):
    """Queries, classes and intervals (evaluation/)."""

    resamples: int = Field(default=1000, ge=100)
    block_bytes: int = Field(default=64 << 20, ge=1 << 10)
    """Of similarities held at once; the search as a whole takes some five times as much."""
    max_queries: PositiveInt | None = None
    """Take so many queries, drawn by the seed; None: all."""
    unseen_share: float = Field(default=0.5, gt=0, lt=1)
    """Of the classes, those that no training sees: .5 is every second one."""
