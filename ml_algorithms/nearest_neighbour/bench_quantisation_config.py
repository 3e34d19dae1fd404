"""The knobs of the study's quantisation part."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class QuantisationConfig(BaseModel):
    """Sizes; the defaults are the full run.

    Attributes:
        base: Vectors of each problem that are searched, a random part.
        queries: Of each problem.
        shortlist: Candidates by code that are compared again exactly.
        glove_parts: M of 8 bits, for 50 dimensions.
        fashion_mnist_parts: M of 8 bits, for 784 dimensions.
        opq_rounds: Of rotation and Lloyd update.
        training: Vectors that OPQ and the score-aware codebooks train on.
        etas: Weights of the parallel error; 1 is plain product quantisation.
        aware_rounds: Of score-aware training.
        dimensions_per_part: Of the 4-bit codes of the score-aware comparison.
        seeds: Trainings of each setting; a query's recall is the mean over them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: int = 50_000
    queries: int = 1000
    shortlist: int = 100
    glove_parts: tuple[int, ...] = (5, 10, 25)
    fashion_mnist_parts: tuple[int, ...] = (14, 28, 56)
    opq_rounds: int = 12
    training: int = 10_000
    etas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    aware_rounds: int = 8
    dimensions_per_part: int = 2
    seeds: int = 3
