"""The knobs of the study of diversity, and how the methods are named and drawn."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY

LOOKS = {
    "mmr": ("MMR", BLUE, "o"),
    "dpp": ("DPP", ORANGE, "s"),
    "dpp_monotone": ("DPP, kernel + I", SKY, "D"),
    "sliding_spectrum": ("sliding spectrum", GREEN, "^"),
    "calibrated": ("calibrated", PINK, "v"),
    "mmr_latent": ("MMR, latent space", SKY, "P"),
    "shuffle": ("random picks mixed in", GREY, "x"),
    "relevance": ("relevance alone", BLACK, "*"),
}


class Config(BaseModel):
    """Sizes of the study; the defaults are the full run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "movielens-100k"
    # Exhaustive search: lists of `small_list` from `small_candidates`, `instances` times.
    instances: int = 300
    small_candidates: int = 10
    small_list: int = 4
    small_dimensions: int = 6
    small_genres: int = 5
    # Speed.
    speed_candidates: int = 1000
    speed_lists: tuple[int, ...] = (20, 50)
    speed_dimensions: int = 64
    window: int = 10
    fast_repeats: int = 200
    slow_repeats: int = 5
    # Trade-off.
    queries: int = 1000
    minimum_history: int = 10
    candidates: int = 100
    list_length: int = 20
    ease_reg: float = 300.0
    latent_dimensions: int = 32
    bootstrap: int = 1000
