"""Part ``attention_cost``: what does one request cost as the history grows?

One history, one thread, random weights (time does not depend on them): the two networks as they
are written here, and softmax attention through torch's fused kernel, which never writes the
[L, L] weights. Beside the times stand the counts of ``cost``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ml_algorithms.sequence_models import cost
from ml_algorithms.sequence_models.bench_config import Config
from ml_algorithms.sequence_models.hstu import HSTU
from ml_algorithms.sequence_models.sasrec import (
    CausalSelfAttention,
    SASRec,
    join_heads,
    split_heads,
)
from ml_platform.evaluation import plot_style
from ml_platform.evaluation.study import StudyRun

N_ITEMS = 1000
WARM_UP = 3
CANDIDATES = 500
TITLES = {
    "sasrec": ("SASRec, weights written out", plot_style.BLUE, "s"),
    "sasrec_fused": ("SASRec, fused kernel", plot_style.SKY, "v"),
    "hstu_none": ("HSTU, no clock", plot_style.ORANGE, "D"),
    "hstu_history": ("HSTU, clock", plot_style.PINK, "^"),
}


class FusedAttention(CausalSelfAttention):
    """The same product by ``scaled_dot_product_attention``, for a history without padding."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As the parent's; ``mask`` is taken to be plainly causal."""
        query, key, value = (split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, -1))
        return self.output(
            join_heads(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        )


def attention_cost(run: StudyRun[Config]) -> None:
    """Median milliseconds by length, and the counts that explain them."""
    config = run.config
    results = run.results(dataset_name="random histories", dataset_sha256="none", synthetic=True)
    measured: dict[str, list[float]] = {name: [] for name in TITLES}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with run.progress.stage("attention cost", len(config.cost_lengths)) as step:
            for length in config.cost_lengths:
                for name, forward in _models(config, length, run.seed).items():
                    measured[name].append(median_ms(forward, config.cost_repeats))
                step(1)
    finally:
        torch.set_num_threads(threads)
    protocol = (
        f"one history, one thread, f32, D = {config.width}, {config.n_layers} layers, median of "
        f"{config.cost_repeats} after {WARM_UP} warm-ups; random weights"
    )
    for name, values in measured.items():
        for length, value in zip(config.cost_lengths, values, strict=True):
            results.add(f"cost/{name}_l{length}/forward_ms", value, protocol=protocol)
    _derived(run)
    run.picture("length", _picture(config.cost_lengths, measured))


def _models(config: Config, length: int, seed: int) -> dict[str, Callable[[], Any]]:
    """One forward pass each, over the same random history without padding."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "width": config.width, "n_layers": config.n_layers, "n_heads": config.n_heads
    }  # fmt: skip
    items = torch.randint(0, N_ITEMS, (1, length))
    times = torch.randint(0, 10**7, (1, length + 1)).sort(dim=1).values
    fused = SASRec(N_ITEMS, length, **shape)
    for block in fused.blocks:
        block.attention = FusedAttention(config.width, config.n_heads)
    networks: dict[str, nn.Module] = {
        "sasrec": SASRec(N_ITEMS, length, **shape),
        "sasrec_fused": fused,
        "hstu_none": HSTU(N_ITEMS, length, clock="none", **shape),
        "hstu_history": HSTU(N_ITEMS, length, clock="history", **shape),
    }
    return {name: _forward(model.eval(), items, times) for name, model in networks.items()}


def _forward(model: nn.Module, items: torch.Tensor, times: torch.Tensor) -> Callable[[], Any]:
    def forward() -> Any:
        with torch.inference_mode():
            return model(items, times)

    return forward


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Median wall milliseconds of ``repeats`` calls after a warm-up."""
    for _ in range(WARM_UP):
        work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1e3)
    return float(np.median(taken))


def _derived(run: StudyRun[Config]) -> None:
    config = run.config
    results = run.written
    if results is None:
        raise ValueError("open the results before the derived counts")
    for length in config.cost_lengths:
        shape = cost.Shape(length, config.width, config.n_layers, config.n_heads, 4 + 2 * 2)
        values = {
            "full_mmac": cost.full_encoding(shape) / 1e6,
            "cached_mmac": cost.one_more_event(shape) / 1e6,
            "saved_by_cache": cost.full_encoding(shape) / cost.one_more_event(shape),
            "weights_mb": cost.attention_bytes(shape) / 1e6,
            "cache_kb": cost.cache_bytes(shape) / 1e3,
            "apart_mmac": cost.candidates_apart(shape, CANDIDATES) / 1e6,
            "together_mmac": cost.candidates_together(shape, CANDIDATES) / 1e6,
            "saved_by_mfalcon": cost.candidates_apart(shape, CANDIDATES)
            / cost.candidates_together(shape, CANDIDATES),
        }
        for metric, value in values.items():
            results.add(
                f"cost/derived_l{length}/{metric}",
                value,
                protocol=f"arithmetic of cost.py, not measured; SASRec's shape, {CANDIDATES} "
                "candidates, f32",
            )


def _picture(lengths: tuple[int, ...], measured: dict[str, list[float]]) -> Any:
    figure, (axes,) = plot_style.new_figure("One request against the length of the history")
    for name, (title, colour, marker) in TITLES.items():
        axes.plot(lengths, measured[name], color=colour, marker=marker, label=title)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("events in the history (log scale)")
    axes.set_ylabel("forward pass, ms (log scale), one thread")
    axes.legend(frameon=False, loc="upper left")
    return figure
