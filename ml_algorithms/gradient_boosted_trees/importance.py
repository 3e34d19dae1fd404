"""Four answers to "which features matter?", and why they disagree.

In: a ``Forest``, or any predictor, with features f64[N, F]. Out: f64[F], larger matters more.

- ``gain_importance``: loss that the splits on a feature removed *in training*. Free. It counts what
  was fitted, noise included, so a feature with many values looks important: more cuts to choose
  from, better luck (Strobl et al., BMC Bioinformatics 2007).
- ``split_importance``: how often a feature was used. Free, and worse: a split deep in a tree counts
  as much as the root.
- ``permutation_importance``: how much worse the metric gets *on held-out rows* when the column is
  shuffled (Breiman, "Random Forests", Machine Learning 2001). Of two features that say the same,
  each looks useless, since the other remains; and shuffled rows may be people who cannot exist.
- ``shap_importance``: mean |contribution| by TreeSHAP. Adds up to predictions, not to quality: a
  feature that moves scores in vain counts too.

None says what happens if the feature is *dropped and the model trained again*, which is the
question behind most uses; only training again does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_algorithms.gradient_boosted_trees.forest import LEAF, Forest
from ml_algorithms.gradient_boosted_trees.tree_shap import tree_shap


def gain_importance(forest: Forest, n_features: int) -> np.ndarray:
    """Total gain of each feature's splits, as shares that sum to 1 (all 0 without a split)."""
    inner = forest.feature != LEAF
    gain = np.bincount(forest.feature[inner], forest.gain[inner], minlength=n_features)
    return gain / max(gain.sum(), 1e-300)


def split_importance(forest: Forest, n_features: int) -> np.ndarray:
    """Splits on each feature, f64[F]."""
    inner = forest.feature != LEAF
    return np.bincount(forest.feature[inner], minlength=n_features).astype(np.float64)


def permutation_importance(
    metric: Callable[[np.ndarray], float], features: np.ndarray, *, repeats: int = 5, seed: int = 0
) -> np.ndarray:
    """Mean fall of ``metric`` when one column is shuffled, f64[F].

    Args:
        metric: Features [N, F] -> a number of the model on held-out rows, higher is better.
        features: [N, F], held out from training.
        repeats: Shuffles a column.
        seed: Of the shuffles.

    Raises:
        ValueError: On no repeats.
    """
    if repeats < 1:
        raise ValueError(f"permutation importance needs a repeat at least, got {repeats}")
    rng = np.random.default_rng(seed)
    unshuffled = metric(features)
    fall = np.zeros(features.shape[1])
    changed = features.copy()
    for feature in range(features.shape[1]):
        for _ in range(repeats):
            changed[:, feature] = rng.permutation(features[:, feature])
            fall[feature] += (unshuffled - metric(changed)) / repeats
        changed[:, feature] = features[:, feature]
    return fall


def shap_importance(forest: Forest, features: np.ndarray) -> np.ndarray:
    """Mean |TreeSHAP contribution| of each feature, f64[F]."""
    return np.abs(tree_shap(forest, features)[:, :-1]).mean(axis=0)
