"""What trees are compared with on tables: a linear model and a small network with embeddings.

In: features f64[N, F] with NaN where missing and the positions of categorical ones, target f64[N].
Out: a function features -> predictions f64[N] (values or probabilities).

Both need what trees do not: numbers on one scale and without holes. ``Inputs`` maps each number to
the normal score of its rank in the training rows (which takes the sting out of heavy tails;
Gorishniy et al., NeurIPS 2021, prepare inputs this way), a missing one to 0 with a flag beside it;
a category becomes a learned vector for the network and an indicator for the linear model.

The network is the plain one that the tabular literature calls MLP: two hidden layers, dropout,
AdamW, early stopping on rows held out from training, a few settings of which those rows choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import QuantileTransformer
from torch import nn

Predict = Callable[[np.ndarray], np.ndarray]
Kind = Literal["binary", "regression"]


@dataclass(frozen=True)
class MLPConfig:
    """One setting of the network."""

    width: int = 128
    dropout: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    batch: int = 512  # at most
    epochs: int = 40
    patience: int = 6


class Inputs:
    """How features become network inputs; fitted on training rows only."""

    def __init__(self, features: np.ndarray, categorical: Sequence[int], seed: int) -> None:
        self.categorical = list(categorical)
        self.numeric = [f for f in range(features.shape[1]) if f not in set(categorical)]
        numbers = features[:, self.numeric]
        self.has_missing = np.isnan(numbers).any(axis=0)
        self.scale = QuantileTransformer(
            n_quantiles=min(1000, len(features)), output_distribution="normal", random_state=seed
        ).fit(numbers)
        tops = [np.nanmax(features[:, f], initial=0.0) for f in self.categorical]
        self.sizes = [int(top) + 2 for top in tops]  # the last code: missing, or not seen

    def transform(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers f32[N, numeric + flags] and codes i64[N, categorical]."""
        numbers = self.scale.transform(features[:, self.numeric])
        flags = np.isnan(numbers[:, self.has_missing])
        numbers = np.hstack([np.clip(np.nan_to_num(numbers), -4, 4), flags])
        codes = np.zeros((len(features), len(self.categorical)), dtype=np.int64)
        for column, (feature, size) in enumerate(zip(self.categorical, self.sizes, strict=True)):
            x = features[:, feature]
            known = (x >= 0) & (x < size - 1)
            codes[:, column] = np.where(known, np.nan_to_num(x), size - 1)
        return numbers.astype(np.float32), codes

    def indicators(self, features: np.ndarray) -> np.ndarray:
        """Numbers and one indicator a category, f64[N, ...]: the linear model's input."""
        numbers, codes = self.transform(features)
        parts = [np.eye(size)[codes[:, c]] for c, size in enumerate(self.sizes)]
        return np.hstack([numbers.astype(np.float64), *parts])  # normal equations need float64


class TabularMLP(nn.Module):
    """Embeddings and numbers -> two hidden layers -> one output."""

    def __init__(self, n_numbers: int, sizes: Sequence[int], width: int, dropout: float) -> None:
        super().__init__()
        widths = [min(16, (size + 1) // 2) for size in sizes]
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, w) for size, w in zip(sizes, widths, strict=True)
        )
        self.layers = nn.Sequential(
            nn.Linear(n_numbers + sum(widths), width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Scores [B] of numbers [B, ...] and codes [B, categorical]."""
        parts = [embed(codes[:, c]) for c, embed in enumerate(self.embeddings)]
        return self.layers(torch.cat([numbers, *parts], dim=1))[:, 0]


def fit_mlp(
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    kind: Kind,
    categorical: Sequence[int],
    config: MLPConfig,
    *,
    seed: int = 0,
) -> tuple[Predict, float]:
    """Trains on one thread; keeps the epoch with the lowest held-out loss.

    Args:
        train: (features [N, F], target [N]).
        held_out: The same of rows to stop by.
        kind: Binary (logistic loss) or regression (squared loss on the standardised target).
        categorical: Positions of categorical features.
        config: The setting.
        seed: Of weights and batches.

    Returns:
        The prediction function, and the held-out loss it was chosen by.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    inputs = Inputs(train[0], categorical, seed)
    shift, size = (float(train[1].mean()), float(train[1].std()) or 1.0)
    if kind == "binary":
        shift, size = 0.0, 1.0
    x, c, y = _tensors(inputs, train, shift, size)
    x_out, c_out, y_out = _tensors(inputs, held_out, shift, size)
    net = TabularMLP(x.shape[1], inputs.sizes, config.width, config.dropout)
    loss = nn.BCEWithLogitsLoss() if kind == "binary" else nn.MSELoss()
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    batch = min(config.batch, max(32, len(y) // 16))  # few rows still give 16 steps an epoch
    best, best_state, waited = float("inf"), net.state_dict(), 0
    for _ in range(config.epochs):
        net.train()
        for rows in torch.randperm(len(y)).split(batch):
            optimiser.zero_grad()
            loss(net(x[rows], c[rows]), y[rows]).backward()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            now = float(loss(net(x_out, c_out), y_out))
        if now < best:
            best, waited = now, 0
            best_state = {name: part.clone() for name, part in net.state_dict().items()}
        else:
            waited += 1
            if waited >= config.patience:
                break
    net.load_state_dict(best_state)

    def predict(features: np.ndarray) -> np.ndarray:
        numbers, codes = inputs.transform(features)
        with torch.no_grad():
            scores = net(torch.from_numpy(numbers), torch.from_numpy(codes))
        if kind == "binary":
            scores = torch.sigmoid(scores)
        return scores.numpy().astype(np.float64) * size + shift

    return predict, best


def _tensors(
    inputs: Inputs, rows: tuple[np.ndarray, np.ndarray], shift: float, size: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers, codes = inputs.transform(rows[0])
    target = ((rows[1] - shift) / size).astype(np.float32)
    return torch.from_numpy(numbers), torch.from_numpy(codes), torch.from_numpy(target)


def fit_linear(
    train: tuple[np.ndarray, np.ndarray],
    kind: Kind,
    categorical: Sequence[int],
    *,
    strength: float,
    seed: int = 0,
) -> Predict:
    """Logistic or ridge regression on the network's inputs, one indicator a category.

    Args:
        train: (features [N, F], target [N]).
        kind: Binary or regression.
        categorical: Positions of categorical features.
        strength: Of the L2 penalty.
        seed: Of the quantile sampling.
    """
    inputs = Inputs(train[0], categorical, seed)
    x = inputs.indicators(train[0])
    if kind == "binary":
        classifier = LogisticRegression(C=1.0 / strength, max_iter=500, tol=1e-3).fit(x, train[1])
        return lambda features: classifier.predict_proba(inputs.indicators(features))[:, 1]
    ridge = Ridge(alpha=strength).fit(x, train[1])
    return lambda features: ridge.predict(inputs.indicators(features))
