"""The study: every model tuned on the validation users, then asked about the test users once.

In: ``MicroVideos``, a ``MicroVideoConfig``. Out: ``Study``: one ``Row`` a model with recall, NDCG
and precision at k of every test user (mean over seeds where the model is random).

Protocols, kept apart in every table:

- ``published``: models are fitted on train rows only; validation pairs choose among settings and do
  nothing else. These rows stand beside published figures.
- ``recent``: validation pairs are data: they are counted, and trees learn from them. No published
  model has them; these rows show what knowing the present is worth on this set.
- ``numbering``: rows that read the videos' numbers, an artefact of the set (``add_numbering``).

Legend: U users, V videos, Q test users, k list length.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from ml_platform.data.micro_video import MicroVideos
from ml_platform.evaluation.progress import Progress, Step
from shorts_recommendation.micro_video import scorers
from shorts_recommendation.micro_video.funnel import (
    Labelled,
    Sources,
    fit_trees,
    funnel_scorers,
    hide_one,
    labelled_rows,
)
from shorts_recommendation.micro_video.graph_walk import Walk
from shorts_recommendation.micro_video.protocol import Scorer, measure_lists, tune
from shorts_recommendation.micro_video.recent import add_numbering, add_recent
from shorts_recommendation.micro_video.rows import (
    Graphs,
    Row,
    Study,
    WalkSettings,
    clock,
    many_lists,
    means_of,
    on_test,
    ranked_lists,
    recent_share,
    sources_of,
    walk_of,
)
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Split, make_split
from shorts_recommendation.micro_video.tower import tower_scorer, train_tower

N_STAGES = 16


def run_study(videos: MicroVideos, config: MicroVideoConfig, progress: Progress) -> Study:
    """Everything. In development the test users stay closed (``Split.for_development``)."""
    first = config.audio_weights[0]
    split = make_split(videos, heavy_rows=config.heavy_rows, audio_weight=first)
    if config.development:
        split = split.for_development(np.random.default_rng(config.seeds[0]))
    study = Study(split, config)
    with progress.stage("micro-videos: tune, fit, measure", N_STAGES) as step:
        _baselines(study, step)
        graphs = Graphs.of(split, config)
        settings = _graph_walks(study, graphs, step)
        tower, temperature = _towers(study, step)
        _funnel(study, graphs, settings, (tower, temperature), step)
        add_numbering(study, graphs, settings, step)
        add_recent(study, graphs, settings, tower, step)
    return study


# --- the published protocol ---


def _baselines(study: Study, step: Step) -> None:
    split, config = study.split, study.config
    grids = {
        "popularity": scorers.popularity_grid(split)[:1],
        "popularity_ordinary": scorers.popularity_grid(split)[1:],
        "item_knn": scorers.item_knn_grid(split, config),
        "item_knn_ordinary": scorers.item_knn_grid(split, config, ordinary_only=True),
        "rp3beta": scorers.rp3beta_grid(split, config),
        "ease": scorers.ease_grid(split, config),
        "content_image": [("", lambda: scorers.content_knn(split.train, split.image))],
        "content_audio": [("", lambda: scorers.content_knn(split.train, split.audio))],
        "content_knn": scorers.content_grid(split, config),
    }
    for name, grid in grids.items():
        _tuned_row(study, name, grid)
        step(1)
    _ials(study)
    step(1)


def _tuned_row(study: Study, name: str, grid: scorers.Grid) -> None:
    """Tunes a model without randomness, measures the winner, and adds its row."""
    with clock() as seconds:
        won = tune(grid, study.split.train, study.split.validation, study.config.k)
        measured = on_test(study, won.scorer)
    chosen = len(grid) > 1
    study.rows[name] = Row(
        means_of([measured]), measured.lists, "published", won.setting, won.tried, 1,
        won.validation_recall if chosen else None, seconds(),
    )  # fmt: skip


def _ials(study: Study) -> None:
    """iALS, tuned with the first seed, then fitted with all."""
    split, config = study.split, study.config
    fit = scorers.ials_scorer
    with clock() as seconds:
        grid = [
            (f"alpha={a:g} reg={r:g}", partial(fit, split, config, a, r, config.seeds[0]))
            for a, r in scorers.ials_settings(config)
        ]
        won = tune(grid, split.train, split.validation, config.k)
        a, r = scorers.ials_settings(config)[[name for name, _ in grid].index(won.setting)]
        fitted = [won.scorer, *(fit(split, config, a, r, seed) for seed in config.seeds[1:])]
        measured = [on_test(study, one) for one in fitted]
    study.rows["ials"] = Row(
        means_of(measured), measured[0].lists, "published", won.setting, won.tried,
        len(measured), won.validation_recall, seconds(),
    )  # fmt: skip


def _graph_walks(study: Study, graphs: Graphs, step: Step) -> WalkSettings:
    """Three rows, each adding one thing to the winner before: popularity behind it, content.

    The audio weight that wins the last is from then on that of the study's split.
    """
    split, config = study.split, study.config
    chosen = WalkSettings(config.walk_hops[0], config.walk_decay[0], 0.0, 0.0)
    for name in ("walk", "walk_backoff", "walk_content"):
        tried = {
            "walk": [
                replace(chosen, hops=hops, decay=decay)
                for hops, decay in product(config.walk_hops, config.walk_decay)
            ],
            "walk_backoff": [
                replace(chosen, backoff=backoff, light_only=light)
                for backoff, light in product(config.walk_backoff, (True, False))
            ],
            "walk_content": [
                replace(chosen, content=weight, audio=audio)
                for weight, audio in product(config.walk_content, config.audio_weights)
            ],
        }[name]
        grid: scorers.Grid = [(str(one), partial(walk_of, split, graphs, one)) for one in tried]
        _tuned_row(study, name, grid)
        chosen = next(one for one in tried if str(one) == study.rows[name].setting)
        step(1)
    study.split = split.with_audio(
        config.audio_weights[0] if chosen.audio is None else chosen.audio
    )
    return chosen


def _towers(study: Study, step: Step) -> tuple[Scorer, float]:
    """The two-tower: the temperature with the first seed, then all seeds.

    Gives the first seed's scorer and the temperature.
    """
    split, config = study.split, study.config
    with clock() as seconds:
        settings = {f"temperature={t:g}": t for t in config.tower_temperature}
        grid = [(name, partial(_tower, split, config, config.seeds[0], t))
                for name, t in settings.items()]  # fmt: skip
        won = tune(grid, split.train, split.validation, config.k)
        chosen = settings[won.setting]
        fitted = [won.scorer, *(_tower(split, config, seed, chosen) for seed in config.seeds[1:])]
        measured = [on_test(study, one) for one in fitted]
    study.rows["two_tower"] = Row(
        means_of(measured), measured[0].lists, "published", won.setting, won.tried,
        len(measured), won.validation_recall if won.tried > 1 else None, seconds(),
    )  # fmt: skip
    step(1)
    return fitted[0], chosen


def _tower(split: Split, config: MicroVideoConfig, seed: int, temperature: float) -> Scorer:
    return tower_scorer(train_tower(split, config, seed, temperature), split.train)


def _funnel(
    study: Study,
    graphs: Graphs,
    settings: WalkSettings,
    tower: tuple[Scorer, float],
    step: Step,
) -> None:
    """Trees that learn from hidden train rows; leaves chosen on the validation users.

    ``tower`` is fitted on all train rows; its temperature serves the one without the hidden rows.
    """
    split, config = study.split, study.config
    rng, (today, temperature) = np.random.default_rng(config.seeds[0]), tower
    with clock() as seconds:
        rest, hidden = hide_one(split, rng)
        before = replace(split, train=rest)
        earlier = _tower(before, config, config.seeds[0], temperature)
        past = sources_of(
            before, walk_of(before, replace(graphs, walk=Walk.on(rest)), settings), earlier
        )
        rows = labelled_rows(past, hidden, config, rng)
        now = sources_of(split, walk_of(split, graphs, settings), today)
        leaves, recall = _best_leaves(study, now, rows)
        lists = ranked_lists(now, rows, leaves, study, split.test.user_idx)
        measured = [measure_lists(one, split.test, config.k) for one in lists]
    study.rows["funnel"] = Row(
        means_of(measured), measured[0].lists, "published", f"leaves={leaves}",
        len(config.leaves), len(measured), recall, seconds(),
    )  # fmt: skip
    step(1)


def _best_leaves(study: Study, sources: Sources, rows: Labelled) -> tuple[int, float]:
    """The size of a tree with the best recall on the validation users, and that recall."""
    config, validation = study.config, study.split.validation
    rankers = [fit_trees(rows, config, leaves, config.seeds[0]) for leaves in config.leaves]
    lists = many_lists(funnel_scorers(sources, rankers, config), study, validation.user_idx)
    recalls = [measure_lists(one, validation, config.k).recall.mean() for one in lists]
    best = int(np.argmax(recalls))
    return config.leaves[best], float(recalls[best])


def shape_of(split: Split) -> dict[str, float]:
    """What the set looks like: sizes, heavy accounts, cold videos, how far the present has moved.

    ``best_constant_list_recall`` is for the reader and no model: the best list of 20 that is the
    same for everybody, counted on the test pairs themselves. ``mean_number_*``: the mean number of
    a watched video as a share of the catalogue, in ordinary accounts' train rows and in test.
    """
    lengths = np.diff(split.train.indptr)
    watched = np.asarray(split.train.sum(axis=0)).ravel()
    ordinary = split.train[~split.heavy]
    light = np.asarray(ordinary.sum(axis=0)).ravel()
    top = np.sort(recent_share(split.test, split.n_videos))[::-1]
    return {
        "users": len(lengths),
        "videos": split.n_videos,
        "train_rows": split.train.nnz,
        "validation_pairs": len(split.validation),
        "test_pairs": len(split.test),
        "heavy_accounts": int(split.heavy.sum()),
        "heavy_share_of_rows": float(lengths[split.heavy].sum() / max(1, lengths.sum())),
        "ordinary_median_rows": float(np.median(lengths[~split.heavy])),
        "test_users_without_rows": int((lengths[split.test.user_idx] == 0).sum()),
        "test_share_cold": float((watched[split.test.video_idx] == 0).mean()),
        "test_share_unknown_to_ordinary": float((light[split.test.video_idx] == 0).mean()),
        "best_constant_list_recall": float(top[:20].sum()),
        "mean_number_train": float(ordinary.indices.mean() / split.n_videos),
        "mean_number_test": float(split.test.video_idx.mean() / split.n_videos),
    }
