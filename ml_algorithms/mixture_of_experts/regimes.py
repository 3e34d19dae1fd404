"""Generated tasks with known structure, on which specialisation and conflict can be dosed.

Out: endless streams of rows and targets. All of it is synthetic and proves mechanics, not quality.

`RegimeTask`: G regimes, each a region of the input with a rule of its own. A row is [place,
content]: the place is its regime's centre plus noise, the content is N(0, 1), and the target is a
small random network of the content, another one in each regime. Whoever knows the regime needs one
small network; whoever does not needs all of them at once. With ``shared_rule`` there is one rule
for all regimes: the same inputs, nothing to specialise in. That is the control.

`PairTask`: two regression tasks with a set correlation, as in Ma et al., KDD 2018, section 3.2:

    u1, u2 orthonormal, w1 = c u1, w2 = c (p u1 + sqrt(1 - p^2) u2)
    y_t = w_t x + sum_i sin(alpha_i w_t x + beta_i) + noise

so that cos(w1, w2) = p, and p = 1 makes the tasks the same but for noise.

Legend: N rows, D width, G regimes, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class RegimeRows(NamedTuple):
    """A draw."""

    x: Tensor
    """f[N, D]"""
    y: Tensor
    """f[N], variance 1 within each regime."""
    regime: Tensor
    """i64[N]"""


@dataclass(frozen=True)
class RegimeTask:
    """Regimes with a rule each (or one for all).

    Attributes:
        n_regimes: G.
        width: D; half is place, half is content.
        rule_hidden: Hidden width of the rules.
        skew: Regime g has frequency in proportion to (g + 1)^-skew; 0 is even.
        shared_rule: One rule for all regimes.
        place_noise: Standard deviation of the place around its centre; centres are N(0, 1).
        seed: Of centres and rules.
    """

    n_regimes: int = 16
    width: int = 16
    rule_hidden: int = 8
    skew: float = 0.0
    shared_rule: bool = False
    place_noise: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_regimes < 1 or self.width < 2 or self.width % 2 or self.rule_hidden < 1:
            raise ValueError(f"need a regime and an even width of at least 2, got {self}")

    def draw(self, n_rows: int, generator: torch.Generator) -> RegimeRows:
        """N fresh rows."""
        rules = _rules(self)
        frequency = (torch.arange(self.n_regimes) + 1.0) ** -self.skew
        regime = torch.multinomial(frequency, n_rows, replacement=True, generator=generator)
        half = self.width // 2
        noise = self.place_noise * torch.randn(n_rows, half, generator=generator)
        content = torch.randn(n_rows, half, generator=generator)
        rule = torch.zeros_like(regime) if self.shared_rule else regime
        hidden = torch.tanh(torch.bmm(content[:, None], rules.inner[rule])[:, 0])  # [N, R]
        y = (hidden * rules.outer[rule]).sum(dim=1)
        return RegimeRows(torch.cat([rules.centres[regime] + noise, content], dim=1), y, regime)


class Rules(NamedTuple):
    """What a regime task consists of."""

    centres: Tensor
    """f[G, D/2]"""
    inner: Tensor
    """f[G, D/2, R], first layers."""
    outer: Tensor
    """f[G, R], second layers, scaled so that each rule has variance 1."""


@lru_cache(maxsize=32)
def _rules(task: RegimeTask) -> Rules:
    """Drawn once for each task, not for each batch."""
    generator = torch.Generator().manual_seed(1_000_003 + task.seed)
    half = task.width // 2
    centres = torch.randn(task.n_regimes, half, generator=generator)
    inner = torch.randn(task.n_regimes, half, task.rule_hidden, generator=generator)
    inner *= 2.0 / half**0.5  # steep enough that a line does not fit
    outer = torch.randn(task.n_regimes, task.rule_hidden, generator=generator)
    probe = torch.randn(2000, half, generator=generator)
    hidden = torch.tanh(torch.einsum("nd,gdh->ngh", probe, inner))
    answers = torch.einsum("ngh,gh->ng", hidden, outer)
    return Rules(centres, inner, outer / answers.std(dim=0)[:, None])


class PairRows(NamedTuple):
    """A draw."""

    x: Tensor
    """f[N, F]"""
    y: Tensor
    """f[N, 2]"""


@dataclass(frozen=True)
class PairTask:
    """Two tasks of known correlation.

    Attributes:
        correlation: p, the cosine of the two weight vectors, in [-1, 1].
        n_features: F.
        scale: c.
        noise: Standard deviation added to each target.
        seed: Of the weights.
    """

    correlation: float
    n_features: int = 32
    scale: float = 1.0
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1.0 <= self.correlation <= 1.0 or self.n_features < 2:
            raise ValueError(
                f"the correlation must lie in [-1, 1] and n_features be at least 2, got {self}"
            )

    def weights(self) -> Tensor:
        """The two weight vectors f[2, F]."""
        generator = torch.Generator().manual_seed(2_000_003 + self.seed)
        basis, _ = torch.linalg.qr(torch.randn(self.n_features, 2, generator=generator))
        u1, u2 = basis.T
        p = self.correlation
        return self.scale * torch.stack([u1, p * u1 + (1.0 - p * p) ** 0.5 * u2])

    def draw(self, n_rows: int, generator: torch.Generator) -> PairRows:
        """N fresh rows."""
        x = torch.randn(n_rows, self.n_features, generator=generator)
        z = x @ self.weights().T  # [N, 2]
        waves = torch.sin(torch.stack([1.0 * z + 0.0, 2.0 * z + 0.7, 3.0 * z + 1.4])).sum(dim=0)
        return PairRows(x, z + waves + self.noise * torch.randn(n_rows, 2, generator=generator))
