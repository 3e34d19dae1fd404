"""From a log to a served transformer ranker: labels, sequences, training, calibration, value.

In: catalogue, log, the rows of ``features.replay`` and the windows of time. Out: ``Fit``: the
ranker, and beside it what evaluation needs (the network, the sequences). Training rows lie before
``train_end``; the validation days choose the epoch, the calibration and the weights of the value.
Test days are never read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.config import Config, RankingConfig
from shorts_recommendation.features import TrainingRows
from shorts_recommendation.log import Catalogue, ImpressionLog, Windows
from shorts_recommendation.ranking.calibration import fit_calibration
from shorts_recommendation.ranking.duration import WatchLabel, fit_watch_label
from shorts_recommendation.ranking.heads import Heads
from shorts_recommendation.ranking.network import RankingNetwork, item_columns
from shorts_recommendation.ranking.sequences import Sequences, cut_windows, make_sequences
from shorts_recommendation.ranking.training import Epoch, head_outputs, train, window_logits
from shorts_recommendation.ranking.transformer import TransformerRanker
from shorts_recommendation.ranking.value import grades
from shorts_recommendation.ranking.value_choice import (
    ValueChoice,
    choose_value,
    logged_heads,
    proxy_rows,
)
from shorts_recommendation.ranking.window_batches import Scales, WindowLoader, fit_scales

TRAIN_CONTEXT = 32
"""Rows before the first target of a later window in training: a quarter of it is read twice."""

STEPS = 200
"""Fewest steps of an epoch, where the log has room for them."""


@dataclass(frozen=True)
class Fit:
    """A trained ranker and where it came from.

    Attributes:
        ranker: What is served.
        network: The torch network, for scoring logs in one pass.
        sequences: All M rows.
        scales: Of the dense inputs.
        epochs: Losses.
        value_weights: Chosen on the validation days.
        validation_ndcg: Session NDCG@10 that they reach there.
        value_choice: All ways to weights that were compared.
    """

    ranker: TransformerRanker
    network: RankingNetwork
    sequences: Sequences
    scales: Scales
    epochs: list[Epoch]
    value_weights: dict[str, float]
    validation_ndcg: float
    value_choice: ValueChoice


def fit_transformer(
    catalogue: Catalogue,
    log: ImpressionLog,
    rows: TrainingRows,
    windows: Windows,
    config: Config,
    *,
    seed: int,
    threads: int = 2,
    progress: Progress | None = None,
) -> Fit:
    """Trains, calibrates and folds the ranker.

    Raises:
        ValueError: If no impression lies in the training or the validation window.
    """
    ranking = config.ranking
    label = training_label(catalogue, log, windows, config)
    sequences = make_sequences(
        catalogue, log, rows, label, session_gap_s=config.state.session_gap_s
    )
    learn = sequences.time_s < windows.train_end
    check = ~learn & (sequences.time_s < windows.validation_end)
    if not learn.any() or not check.any():
        raise ValueError(f"{learn.sum()} training and {check.sum()} validation impressions")
    scales = fit_scales(sequences, learn, seed=seed)
    network = _network(catalogue, sequences, learn, label, config, seed)
    context = config.state.history_length
    epochs = train(
        network,
        _training_loader(sequences, learn, catalogue, scales, ranking, seed),
        _scoring_loader(sequences, check, catalogue, scales, context),
        epochs=ranking.epochs,
        learning_rate=ranking.learning_rate,
        weight_decay=ranking.weight_decay,
        diversity_weight=ranking.diversity_weight,
        state_weight=ranking.state_weight,
        value_weights=dict(ranking.value_weights),
        seed=seed,
        threads=threads,
        progress=progress or Silent(),
    )
    outputs = score_outputs(network, sequences, check, catalogue, scales, context, threads=threads)
    calibration = fit_calibration(outputs, sequences.labels[check], sequences.user_idx[check])
    ranker = TransformerRanker.of_network(
        network, catalogue, scales, label, calibration, length=context
    )
    seen, gains = proxy_rows(sequences, learn), sequence_grades(sequences)
    earlier = score_outputs(network, sequences, seen, catalogue, scales, context, threads=threads)
    choice = choose_value(
        logged_heads(sequences, seen, calibration.heads(earlier), gains, windows.train_end),
        logged_heads(sequences, check, calibration.heads(outputs), gains, windows.validation_end),
        ranking.value_weights,
        seed=seed,
    )
    ndcg = choice.ways[choice.taken].ndcg
    return Fit(ranker, network, sequences, scales, epochs, choice.weights, ndcg, choice)


def training_label(
    catalogue: Catalogue, log: ImpressionLog, windows: Windows, config: Config
) -> WatchLabel:
    """The watch label, fitted on the training window."""
    learn = log.timestamp < windows.train_end
    return fit_watch_label(
        log.watch_s[learn],
        catalogue.duration_s[log.video_idx[learn]],
        kind=config.ranking.watch_label,
        groups=config.ranking.duration_groups,
    )


def sequence_grades(sequences: Sequences) -> np.ndarray:
    """Observed engagement of every row, f32[M]; see ``value.grades``."""
    _, long_view, skip, like, share_follow, *_ = sequences.events.T
    return grades(long_view > 0, skip > 0, (like > 0) | (share_follow > 0))


def score_log(fit: Fit, catalogue: Catalogue, wanted: np.ndarray, *, threads: int = 2) -> Heads:
    """Calibrated heads of logged impressions, each from the state before it.

    One pass over windows instead of one encoding per impression; histories are as long as in
    serving or longer.

    Args:
        fit: The trained ranker.
        catalogue: Of the log.
        wanted: bool[M], rows of ``fit.sequences``.
        threads: Of torch.

    Returns:
        f32[R] each, for the wanted rows in order.
    """
    outputs = score_outputs(
        fit.network,
        fit.sequences,
        wanted,
        catalogue,
        fit.scales,
        fit.ranker.length,
        threads=threads,
    )
    return fit.ranker.calibration.heads(outputs)


def score_outputs(
    network: RankingNetwork,
    sequences: Sequences,
    wanted: np.ndarray,
    catalogue: Catalogue,
    scales: Scales,
    context: int,
    *,
    threads: int,
) -> np.ndarray:
    """Uncalibrated outputs f32[R, 5] of the wanted rows, in their order."""
    outputs = np.full((len(sequences), 5), np.nan, dtype=np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    network.eval()
    try:
        with torch.inference_mode():
            for batch in _scoring_loader(sequences, wanted, catalogue, scales, context):
                outputs[batch.row] = head_outputs(window_logits(network, batch)).numpy()
    finally:
        torch.set_num_threads(before)
    return outputs[wanted]


def _training_loader(
    sequences: Sequences,
    learn: np.ndarray,
    catalogue: Catalogue,
    scales: Scales,
    ranking: RankingConfig,
    seed: int,
) -> WindowLoader:
    """Windows of the training days; a small log is cut into smaller batches, for enough steps."""
    context = min(TRAIN_CONTEXT, ranking.window // 2)
    cuts = cut_windows(sequences, learn, window=ranking.window, context=context)
    tokens = min(ranking.batch_size * ranking.window, int((cuts.end - cuts.first).sum()) // STEPS)
    return WindowLoader(
        sequences, cuts, catalogue.content, scales, tokens=max(tokens, 4 * context), seed=seed
    )


def _scoring_loader(
    sequences: Sequences, wanted: np.ndarray, catalogue: Catalogue, scales: Scales, context: int
) -> WindowLoader:
    """Windows of two histories' length: every row sees a whole history at least."""
    cuts = cut_windows(sequences, wanted, window=2 * context, context=context)
    return WindowLoader(sequences, cuts, catalogue.content, scales, tokens=8192, seed=None)


def _network(
    catalogue: Catalogue,
    sequences: Sequences,
    learn: np.ndarray,
    label: WatchLabel,
    config: Config,
    seed: int,
) -> RankingNetwork:
    shown = np.bincount(sequences.video[learn], minlength=len(catalogue))
    ranking = config.ranking
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RankingNetwork(
            item_columns(catalogue, label, shown),
            content_mean=_content_mean(catalogue.content, np.flatnonzero(shown)),
            n_cross=sequences.rows.cross.shape[1],
            width=ranking.d_model,
            n_layers=ranking.n_layers,
            n_heads=ranking.n_heads,
            reach=config.state.history_length,
            dropout=ranking.dropout,
            id_dropout=ranking.id_dropout,
        )


def _content_mean(content: np.ndarray, videos: np.ndarray, chunk: int = 4096) -> np.ndarray:
    """f32[768] of these videos, in chunks of constant memory."""
    total = np.zeros(content.shape[1])
    for begin in range(0, len(videos), chunk):
        total += content[videos[begin : begin + chunk]].sum(axis=0, dtype=np.float64)
    return (total / max(len(videos), 1)).astype(np.float32)
