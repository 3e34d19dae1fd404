"""The transformer ranker: no leak, parity of torch, ONNX and numpy, learning, determinism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade_ranking import Handmade, handmade, handmade_config

from ml_platform.evaluation.classification_metrics import auc
from shorts_recommendation.ranking.duration import fit_watch_label
from shorts_recommendation.ranking.fitting import (
    Fit,
    fit_transformer,
    score_log,
    score_outputs,
    sequence_grades,
)
from shorts_recommendation.ranking.network import (
    PRIOR,
    RankingNetwork,
    Scale,
    attention_bias,
    item_columns,
    taste_weights,
)
from shorts_recommendation.ranking.onnx_encoder import encoder_model, make_session, quantised
from shorts_recommendation.ranking.sequences import (
    cut_windows,
    distance_to_shown,
    event_columns,
    history_gaps,
    make_sequences,
)
from shorts_recommendation.ranking.training import (
    head_outputs,
    intra_list_similarity,
    learning_rate_share,
    task_losses,
)
from shorts_recommendation.ranking.transformer import TransformerRanker
from shorts_recommendation.ranking.window_batches import WindowLoader, window_batch


@pytest.fixture(scope="module")
def made() -> Handmade:
    return handmade()


@pytest.fixture(scope="module")
def fit(made: Handmade) -> Fit:
    config = handmade_config(epochs=4)
    return fit_transformer(
        made.catalogue, made.log, made.rows, made.windows, config, seed=0, threads=1
    )


def _outputs(made: Handmade, fit: Fit, wanted: np.ndarray) -> np.ndarray:
    return score_outputs(
        fit.network, fit.sequences, wanted, made.catalogue, fit.scales, 16, threads=1
    )


# --- no leak --------------------------------------------------------------------------------------


def test_an_outcome_changes_later_predictions_only(made: Handmade, fit: Fit) -> None:
    sequences = fit.sequences
    wanted = sequences.user_idx == 3
    rows = np.flatnonzero(wanted)
    before = _outputs(made, fit, wanted)
    at = 9
    events = sequences.events.copy()
    events[rows[at], :5] = 1.0 - events[rows[at], :5]
    other = replace(fit, sequences=replace(sequences, events=events))
    after = _outputs(made, other, wanted)
    np.testing.assert_allclose(after[: at + 1], before[: at + 1], atol=1e-6)
    # The next dozen rows share a window with the event; every one of them sees it.
    assert (np.abs(after[at + 1 : at + 7] - before[at + 1 : at + 7]).max(axis=1) > 1e-6).all()


def test_other_users_and_later_videos_do_not_matter(made: Handmade, fit: Fit) -> None:
    sequences = fit.sequences
    wanted = sequences.user_idx == 5
    rows = np.flatnonzero(wanted)
    video = sequences.video.copy()
    video[rows[20]] = (video[rows[20]] + 1) % len(made.catalogue)
    video[sequences.user_idx == 6] = 0
    other = replace(fit, sequences=replace(sequences, video=video))
    before, after = _outputs(made, fit, wanted), _outputs(made, other, wanted)
    np.testing.assert_allclose(after[:20], before[:20], atol=1e-6)
    assert np.abs(after[20] - before[20]).max() > 1e-5


# --- parity ---------------------------------------------------------------------------------------


def test_serving_equals_one_pass_over_the_log(made: Handmade, fit: Fit) -> None:
    """torch over a window = ONNX + numpy over the state of a moment before, row by row."""
    users = np.array([2, 7, 11], dtype=np.int32)
    sequences = fit.sequences
    first_rows = np.searchsorted(sequences.user_idx, users)
    for step in (0, 1, 5, 15):
        rows = first_rows + step
        wanted = np.zeros(len(sequences), dtype=bool)
        wanted[rows] = True
        reference = _outputs(made, fit, wanted)
        batch = _batch_at(made, users, step)
        encoded = fit.ranker.encode(batch)
        source = sequences.rows
        found = fit.ranker.outputs(
            encoded,
            source.user[rows],
            source.context[rows],
            sequences.video[rows][:, None],
            source.cross[rows][:, None],
        )
        np.testing.assert_allclose(found[:, 0], reference, atol=1e-4)


def test_item_tables_equal_the_network(made: Handmade, fit: Fit) -> None:
    network = fit.network
    with torch.inference_mode():
        video = torch.arange(len(made.catalogue))
        items = network.items(video, torch.from_numpy(made.catalogue.content))
        tables = fit.ranker.tables
        np.testing.assert_allclose(tables.token, network.encoder.item(items), atol=1e-4)
        np.testing.assert_allclose(tables.key, network.key(items), atol=1e-4)
        np.testing.assert_allclose(tables.first, network.item_in(items), atol=1e-4)


def test_histories_shorter_than_the_graph_and_none_at_all(made: Handmade, fit: Fit) -> None:
    """Padding on the left (ONNX) and a shorter sequence (torch) are the same thing."""
    network = fit.network
    batch = _batch_at(made, np.array([1, 4], dtype=np.int32), 0)
    start = network.encoder(torch.zeros(2, 0, 32), torch.zeros(2, 0, 7))[:, -1]
    np.testing.assert_allclose(fit.ranker.encode(batch), start.detach().numpy(), atol=1e-5)
    for step in (3, 12):
        batch = _batch_at(made, np.array([1, 4], dtype=np.int32), step)
        state = _torch_state(made, fit, batch, step)
        np.testing.assert_allclose(fit.ranker.encode(batch), state, atol=1e-4)


def test_encoder_matches_torch_layers_written_out(fit: Fit) -> None:
    """The module against attention computed by hand: the penalty and the causal mask are real."""
    torch.manual_seed(0)
    encoder = fit.network.encoder
    items, events = torch.randn(2, 5, 32), torch.rand(2, 5, 7)
    found = encoder(items, events).detach()
    with torch.inference_mode():
        said = encoder.item(items) * encoder.gate(events)
        told = said + encoder.event(events)
        x = torch.cat([encoder.start.expand(2, 1, -1), told], dim=1)
        bias = torch.from_numpy(attention_bias(6, 2))
        for layer in encoder.layers.layers:
            y = layer.norm1(x)
            q, k, v = torch.nn.functional.linear(
                y, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
            ).chunk(3, dim=-1)
            heads = [t.view(2, 6, 2, 16).transpose(1, 2) for t in (q, k, v)]
            weight = torch.softmax(heads[0] @ heads[1].transpose(2, 3) / 4.0 + bias, dim=-1)
            x = x + layer.self_attn.out_proj((weight @ heads[2]).transpose(1, 2).reshape(2, 6, 32))
            x = x + layer.linear2(torch.relu(layer.linear1(layer.norm2(x))))
        reference = encoder.mix(encoder.layers.norm(x))
        for t in range(6):  # after t events; none is older than the 16 that are summed up
            reference[:, t] += said[:, :t].sum(dim=1) / (PRIOR + t)
    np.testing.assert_allclose(found, reference, atol=1e-5)


def test_taste_sums_the_last_events_only() -> None:
    weights = taste_weights(4, reach=2)
    one, two = 1 / (PRIOR + 1), 1 / (PRIOR + 2)
    expected = [[0, 0, 0, 0], [one, 0, 0, 0], [two, two, 0, 0], [0, two, two, 0], [0, 0, two, two]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_graph_forgets_as_the_module_does() -> None:
    """A graph that reads more events than are summed up still sums only the last ones."""
    network = RankingNetwork(
        _columns_of(3), content_mean=np.zeros(4), n_cross=2, width=32, n_heads=2, reach=3
    )
    network.eval()
    torch.nn.init.normal_(network.encoder.mix.weight)
    items, events = torch.randn(2, 6, 32), torch.rand(2, 6, 7)
    with torch.inference_mode():
        told = network.encoder.item(items)
        expected = network.encoder(items, events)[:, -1].numpy()
    inputs = {"items": told.numpy(), "events": events.numpy(), "known": np.ones((2, 6), np.float32)}
    found = make_session(encoder_model(network.encoder, 6)).run(["state"], inputs)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_untrained_state_is_what_was_liked() -> None:
    """Before training a long view draws the query to its video and a skip drives it away."""
    network = RankingNetwork(_columns_of(3), content_mean=np.zeros(4), n_cross=2, width=32)
    network.eval()
    items = torch.randn(1, 1, 32)
    outcomes = {"long_view": 1, "skip": 2}
    found = {}
    with torch.inference_mode():
        torch.nn.init.zeros_(network.encoder.mix.weight)
        for name, column in outcomes.items():
            events = torch.zeros(1, 1, 7)
            events[..., column] = 1.0
            state = network.encoder(items, events)[:, -1]
            found[name] = float(network.state_logits(state, items[:, 0])[0, 0])
        nothing = float(network.alone(items[:, 0])[0, 0])
    assert found["long_view"] > nothing + 0.1
    assert found["skip"] < nothing - 0.1


def test_quantised_encoder_keeps_the_direction(made: Handmade, fit: Fit) -> None:
    small = fit.ranker.with_encoder(quantised(fit.ranker.encoder))
    assert len(small.encoder) < len(fit.ranker.encoder)
    batch = made.states.batch(np.arange(40, dtype=np.int32), np.full(40, made.windows.end))
    full, int8 = fit.ranker.encode(batch), small.encode(batch)
    assert np.abs(full - int8).max() > 0
    cosine = (full * int8).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(int8, axis=1)
    assert cosine.min() > 0.95


# --- learning -------------------------------------------------------------------------------------


def test_it_learns_more_than_the_base_rate(made: Handmade, fit: Fit) -> None:
    wanted = fit.sequences.time_s >= made.windows.validation_end
    heads = score_log(fit, made.catalogue, wanted, threads=1)
    labels = fit.sequences.labels[wanted]
    assert auc(labels[:, 0] > 0.5, heads.long_view) > 0.6
    assert auc(labels[:, 3] > 0.5, heads.skip) > 0.6
    assert np.corrcoef(labels[:, 1], heads.watch)[0, 1] > 0.15
    assert abs(heads.long_view.mean() - labels[:, 0].mean()) < 0.06


def test_predictions_need_the_state_of_the_right_person(
    made: Handmade, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that is ignored, or whose states are all alike, passes everything but this.

    Once for all inputs, where profiles of the user say much of the same, and once for state and
    item alone. Ignored, the encoder had a difference of 0.0008 and a cosine of 0.95 here.
    """
    wanted = fit.sequences.time_s >= made.windows.validation_end
    long_view = fit.sequences.labels[wanted][:, 0] > 0.5
    encode, network = fit.network.encoder.forward, fit.network
    generator = torch.Generator().manual_seed(0)

    def of_others(items: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        states = encode(items, events)
        return states[torch.randperm(len(states), generator=generator)]

    def alone(state: torch.Tensor, _: object, __: object, item: torch.Tensor, ___: object):  # type: ignore[no-untyped-def]
        return network.state_logits(state, item)

    def auc_of_both() -> tuple[float, float]:
        own = auc(long_view, _outputs(made, fit, wanted)[:, 0])
        with monkeypatch.context() as patch:
            patch.setattr(network.encoder, "forward", of_others)
            return own, auc(long_view, _outputs(made, fit, wanted)[:, 0])

    own, others = auc_of_both()
    assert own - others > 0.003
    monkeypatch.setattr(network, "logits", alone)
    own, others = auc_of_both()
    assert own > 0.65
    assert own - others > 0.02
    batch = made.states.batch(np.arange(60, dtype=np.int32), np.full(60, made.windows.end))
    unit = fit.ranker.encode(batch)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert ((unit @ unit.T).sum() - 60) / (60 * 59) < 0.7


def test_same_seed_same_ranker(made: Handmade) -> None:
    config = handmade_config(epochs=1)
    twice = [
        fit_transformer(
            made.catalogue, made.log, made.rows, made.windows, config, seed=s, threads=1
        )
        for s in (1, 1, 2)
    ]
    assert twice[0].ranker.encoder == twice[1].ranker.encoder
    assert twice[0].ranker.encoder != twice[2].ranker.encoder
    np.testing.assert_array_equal(twice[0].ranker.tables.key, twice[1].ranker.tables.key)


def test_training_leaves_the_callers_random_state_and_folder_alone(
    made: Handmade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    fit_transformer(
        made.catalogue, made.log, made.rows, made.windows, handmade_config(epochs=1), seed=0,
        threads=1,
    )  # fmt: skip
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir())


def test_weights_of_the_best_epoch_are_kept(made: Handmade, fit: Fit) -> None:
    """The network left behind gives the lowest validation loss that any epoch reported."""
    check = (fit.sequences.time_s >= made.windows.train_end) & (
        fit.sequences.time_s < made.windows.validation_end
    )
    outputs = _outputs(made, fit, check)
    labels = fit.sequences.labels[check]
    p = np.clip(outputs[:, 0], 1e-6, 1 - 1e-6)
    loss = -np.mean(np.where(labels[:, 0] > 0.5, np.log(p), np.log(1 - p)))
    best = min(fit.epochs, key=lambda epoch: epoch.validation["total"])
    assert loss == pytest.approx(best.validation["long_view"], rel=0.01)


def test_grades(fit: Fit) -> None:
    grades = sequence_grades(fit.sequences)
    _, long_view, skip, like, share_follow, *_ = fit.sequences.events.T
    strong = (like > 0) | (share_follow > 0)
    assert set(np.unique(grades)) == {0.0, 1.0, 2.0, 3.0}
    assert (grades[strong] == 3).all()
    assert (grades[(long_view > 0) & ~strong] == 2).all()
    assert (grades[(skip > 0) & ~strong] == 0).all()


# --- parts ----------------------------------------------------------------------------------------


def test_windows_predict_every_wanted_row_once(fit: Fit) -> None:
    sequences = fit.sequences
    wanted = sequences.time_s > np.median(sequences.time_s)
    cuts = cut_windows(sequences, wanted, window=12, context=5)
    predicted = np.concatenate(
        [np.arange(t, e) for t, e in zip(cuts.target, cuts.end, strict=True)]
    )
    np.testing.assert_array_equal(np.sort(predicted), np.flatnonzero(wanted))
    assert (cuts.end - cuts.first <= 12).all()
    for first, target, end in zip(cuts.first, cuts.target, cuts.end, strict=True):
        assert len(set(sequences.user_idx[first:end])) == 1
        start = np.searchsorted(sequences.user_idx, sequences.user_idx[target])
        assert first == max(start, target - 5)


def test_windows_of_nothing_and_bad_context(fit: Fit) -> None:
    none = np.zeros(len(fit.sequences), dtype=bool)
    assert len(cut_windows(fit.sequences, none, window=8, context=2)) == 0
    with pytest.raises(ValueError, match="context 8"):
        cut_windows(fit.sequences, ~none, window=8, context=8)


def test_batches_hold_each_window_once(made: Handmade, fit: Fit) -> None:
    wanted = np.ones(len(fit.sequences), dtype=bool)
    cuts = cut_windows(fit.sequences, wanted, window=32, context=8)
    loader = WindowLoader(
        fit.sequences, cuts, made.catalogue.content, fit.scales, tokens=256, seed=0
    )
    epochs = [[batch.row for batch in loader] for _ in range(2)]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(wanted)))
    assert [r[0] for r in epochs[0]] != [r[0] for r in epochs[1]]
    assert all(batch.place.numel() <= 256 for batch in loader)


def test_distance_to_shown_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    content = rng.normal(size=(30, 8))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    video, session = rng.integers(0, 30, 1100), np.sort(rng.integers(0, 90, 1100))
    found = distance_to_shown(content, video, session)
    for row in range(1100):
        before = [j for j in range(max(0, row - 5), row) if session[j] == session[row]]
        if not before:
            assert np.isnan(found[row])
        else:
            nearest = max(float(content[video[row]] @ content[video[j]]) for j in before)
            assert found[row] == pytest.approx(1 - nearest, abs=1e-5)


def test_intra_list_term_by_brute_force(made: Handmade, fit: Fit) -> None:
    cuts = cut_windows(fit.sequences, fit.sequences.user_idx < 2, window=32, context=8)
    batch = window_batch(fit.sequences, cuts, np.arange(2), made.catalogue.content, fit.scales)
    value = torch.linspace(-1, 2, len(batch.at))
    session, vectors = batch.session.numpy(), made.catalogue.content[fit.sequences.video[batch.row]]
    total = 0.0
    for number in np.unique(session):
        rows = np.flatnonzero(session == number)
        weight = np.exp(value.numpy()[rows])
        weight /= weight.sum()
        cosines = vectors[rows] @ vectors[rows].T
        total += weight @ cosines @ weight - np.sum(weight**2 * np.diag(cosines))
    expected = total / len(np.unique(session))
    assert float(intra_list_similarity(value, batch)) == pytest.approx(expected, abs=1e-5)


def test_losses_by_hand() -> None:
    logits = torch.zeros(2, 5)
    labels = torch.tensor([[1.0, 0.6, 0.0, 1.0, np.nan], [0.0, 1.0, 0.0, 0.0, 0.5]])
    losses = task_losses(logits, labels).tolist()
    # Binary: log 2. Watch: Huber at 0.25 of 0.1 and 0.5. Diversity: 2 sigmoid(0) = 1 against 0.5.
    watch = (0.1**2 / 2 + 0.25 * (0.5 - 0.125)) / 2
    np.testing.assert_allclose(losses, [np.log(2), watch, np.log(2), np.log(2), 0.25], rtol=1e-5)
    assert head_outputs(logits)[0].tolist() == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    shares = [learning_rate_share(step, 200) for step in range(201)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert shares[200] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_attention_bias_is_causal_and_leaves_the_start_free() -> None:
    bias = attention_bias(4, 2)
    assert bias.shape == (2, 4, 4)
    assert np.isneginf(bias[:, np.triu_indices(4, 1)[0], np.triu_indices(4, 1)[1]]).all()
    assert (bias[:, :, 0] == 0).all()
    # Two heads: slopes 2^-4 and 2^-8.
    np.testing.assert_allclose(bias[:, 3, 1], [-2 / 16, -2 / 256])


def test_standardisation_clips_and_survives_constants() -> None:
    scale = Scale.fit(np.array([[0.0, 5.0], [2.0, 5.0]]))
    np.testing.assert_allclose(scale.apply(np.array([[2.0, 5.0], [99.0, 6.0]])), [[1, 0], [6, 1]])


def test_gaps_of_a_padded_history() -> None:
    history = np.array([[-1, 4, 5, 6]])
    assert history_gaps(history, np.array([[0, 100, 130, 131]])).tolist() == [[0, 0, 30, 1]]


# --- errors and uploads ---------------------------------------------------------------------------


def test_histories_of_another_length_are_refused(made: Handmade, fit: Fit) -> None:
    batch = made.states.batch(np.arange(2, dtype=np.int32), np.full(2, made.windows.end))
    with pytest.raises(ValueError, match="encoder reads 16"):
        fit.ranker.encode(replace(batch, history=batch.history[:, :8]))


def test_unordered_rows_are_refused(made: Handmade) -> None:
    label = fit_watch_label(np.ones(2), np.ones(2), kind="ratio")
    rows = replace(made.rows, log_row=made.rows.log_row[::-1])
    with pytest.raises(ValueError, match="ordered by user"):
        make_sequences(made.catalogue, made.log, rows, label, session_gap_s=1800)


def test_empty_windows_are_refused(made: Handmade) -> None:
    windows = replace(made.windows, train_end=made.windows.validation_end)
    with pytest.raises(ValueError, match="0 validation impressions"):
        fit_transformer(
            made.catalogue, made.log, made.rows, windows, handmade_config(), seed=0, threads=1
        )


def test_width_must_fit_heads() -> None:
    with pytest.raises(ValueError, match="multiple"):
        RankingNetwork(_columns_of(3), content_mean=np.zeros(4), n_cross=2, width=36, n_heads=2)


def test_uploads_get_rows_without_touching_the_others(made: Handmade, fit: Fit) -> None:
    ranker = TransformerRanker(
        **{name: x for name, x in vars(fit.ranker).items() if not name.startswith("_")}
    )
    old = made.catalogue
    more = replace(
        old,
        video_ids=np.append(old.video_ids, 999),
        creator_idx=np.append(old.creator_idx, old.n_creators + 7).astype(np.int32),
        tags=np.concatenate([old.tags, old.tags[:1]]),
        language=np.append(old.language, old.language[0]).astype(np.int16),
        duration_s=np.append(old.duration_s, old.duration_s[0]).astype(np.float32),
        upload_s=np.append(old.upload_s, made.windows.end),
        content=np.concatenate([old.content, old.content[:1]]),
    )
    before = ranker.tables.key.copy()
    ranker.add_videos(more)
    ranker.add_videos(more)  # a second call finds nothing new
    assert len(ranker.tables) == len(old) + 1
    np.testing.assert_array_equal(ranker.tables.key[:-1], before)
    assert np.isfinite(ranker.tables.key[-1]).all()
    batch = made.states.batch(np.arange(2, dtype=np.int32), np.full(2, made.windows.end))
    videos = np.array([[0, len(old)], [-1, 1]], dtype=np.int32)
    cross = np.zeros((2, 2, made.rows.cross.shape[1]), dtype=np.float32)
    heads = ranker.score(ranker.encode(batch), batch.user, batch.context, videos, cross)
    assert all(np.isfinite(x).all() for x in heads.as_dict().values())


# --- helpers --------------------------------------------------------------------------------------


def _batch_at(made: Handmade, users: np.ndarray, step: int):  # type: ignore[no-untyped-def]
    """The requests of these users a moment before their impression number ``step``."""
    from shorts_recommendation.features import requests_at

    first = np.searchsorted(made.log.user_idx[made.rows.log_row], users)
    rows = made.rows.log_row[first + step]
    state = handmade_config().state
    return requests_at(made.users, made.items, made.log, state, rows)


def _torch_state(made: Handmade, fit: Fit, batch, n: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    history, network = batch.history[:, -n:], fit.network
    events = event_columns(
        batch.history_outcomes[:, -n:],
        made.catalogue.duration_s[history],
        history_gaps(history, batch.history_time_s[:, -n:]),
        batch.history_position[:, -n:],
        fit.ranker.label,
    )
    with torch.inference_mode():
        content = torch.from_numpy(made.catalogue.content)
        items = network.items(torch.arange(len(content)), content)
        states = network.encoder(items[torch.from_numpy(history).long()], torch.from_numpy(events))
    return states[:, -1].numpy()


def _columns_of(n: int):  # type: ignore[no-untyped-def]
    made = handmade(4, n, 2)
    label = fit_watch_label(np.ones(2), np.array([1.0, 2.0]), kind="d2q")
    return item_columns(made.catalogue, label, np.zeros(n, dtype=np.int64))
