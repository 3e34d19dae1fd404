"""A trained system as a folder: one version that is saved, checked and loaded as a whole.

    manifest.json    version, configuration, SHA-256 of every other file
    tables/          catalogue, content, users, projections, states, counters
    retriever/       sources and index
    ranker/          encoder, item matrix, heads, trees, pre-ranker
    drift_reference.npz   what the monitor compares served slates with

The version is the checksum of the content: two equal bundles have one name, and a damaged one is
refused by name of the file before anything of it is used.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.operations.bundle_manifest import checked_manifest, write_manifest
from ml_platform.operations.reference_profile import ReferenceProfile
from shorts_recommendation.config import Config
from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.items import Projection, make_items
from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.monitoring.reference import save_reference
from shorts_recommendation.ranking.bundle import load_ranking, save_ranking
from shorts_recommendation.recommender import Recommender
from shorts_recommendation.retrieval.encoder import mapped
from shorts_recommendation.retrieval.sources import Retriever
from shorts_recommendation.state import UserStates

FORMAT = 1
"""Raised with every change of what a bundle holds; another one is refused."""


def save_bundle(
    recommender: Recommender, folder: Path, reference: ReferenceProfile | None = None
) -> str:
    """Writes the bundle into a new folder; returns its version.

    Args:
        recommender: What is saved.
        folder: Created here.
        reference: What the drift monitor compares served slates with.

    Raises:
        FileExistsError: If the folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a bundle is never overwritten")
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    (draft / "tables").mkdir(parents=True)
    _save_tables(recommender, draft / "tables")
    (draft / "retriever").mkdir()
    recommender.retriever.save(draft / "retriever")
    (draft / "ranker").mkdir()
    save_ranking(recommender, draft / "ranker")
    if reference is not None:
        save_reference(reference, draft)
    version = write_manifest(
        draft,
        recommender.config.model_dump(mode="json"),
        format_number=FORMAT,
        facts={"data_end": recommender.data_end},
    )
    draft.rename(folder)
    recommender.version = version
    return version


def load_bundle(folder: Path, **settings: Any) -> Recommender:
    """Checks every file, then loads.

    Args:
        folder: As ``save_bundle`` left it.
        settings: Stages of the configuration to replace, as ``serving=ServingConfig(...)``.

    Raises:
        BundleError: If it is missing, damaged, or of another format.
    """
    manifest = checked_manifest(folder, format_number=FORMAT)
    config = Config.model_validate(manifest["config"]).model_copy(update=settings)
    tables = folder / "tables"
    catalogue = _load(
        Catalogue, tables / "catalogue.npz", content=mapped(tables / "content.npy", "r")
    )
    users = _load(Users, tables / "users.npz")
    items = make_items(catalogue, _load(Projection, tables / "projection.npz"))
    ranking = load_ranking(folder / "ranker", catalogue, config)
    return Recommender(
        version=manifest["version"],
        config=config,
        catalogue=catalogue,
        users=users,
        items=items,
        retriever=Retriever.load(folder / "retriever", catalogue, config),
        encoder=ranking.encoder,
        rankers=ranking.rankers,
        preranker=ranking.preranker,
        basis=np.load(tables / "basis.npy"),
        states=_load_states(tables / "states.npz", UserStates(users, items, config.state)),
        counters=_load_counters(tables / "counters.npz", config, len(catalogue)),
        data_end=int(manifest["data_end"]),
    )


def _save_tables(recommender: Recommender, folder: Path) -> None:
    catalogue = recommender.catalogue
    _save(catalogue, folder / "catalogue.npz", leave="content")
    np.save(folder / "content.npy", catalogue.content.astype(np.float16, copy=False))
    _save(recommender.users, folder / "users.npz")
    _save(recommender.items.projection, folder / "projection.npz")
    np.save(folder / "basis.npy", recommender.basis)
    states = recommender.new_states()
    arrays: dict[str, Any] = {n: a for n, a in vars(states).items() if isinstance(a, np.ndarray)}
    np.savez(folder / "states.npz", **arrays)
    snapshot = recommender.new_counters().snapshot
    np.savez(
        folder / "counters.npz",
        as_of_s=np.int64(snapshot.as_of_s),
        counts=snapshot.counts,
        exposures=snapshot.exposures,
    )


def _save(table: Any, path: Path, *, leave: str = "") -> None:
    np.savez(path, **{f.name: getattr(table, f.name) for f in fields(table) if f.name != leave})


def _load(kind: Any, path: Path, **rest: np.ndarray) -> Any:
    with np.load(path) as arrays:
        return kind(**{name: arrays[name] for name in arrays.files}, **rest)


def _load_states(path: Path, states: UserStates) -> UserStates:
    with np.load(path) as arrays:
        for name in arrays.files:
            getattr(states, name)[:] = arrays[name]
    return states


def _load_counters(path: Path, config: Config, n_videos: int) -> VideoCounters:
    with np.load(path) as arrays:
        counters = VideoCounters(
            n_videos,
            config.state.counter_half_lives_h,
            config.state.counter_period_s,
            int(arrays["as_of_s"]),
        )
        counters.snapshot = CounterSnapshot(
            int(arrays["as_of_s"]), arrays["counts"], arrays["exposures"]
        )
    return counters
