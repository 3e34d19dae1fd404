"""A bundle: everything one model version needs to serve, as one folder that is loaded as one.

    manifest.json      version, data, features, lineage, sha256 of every file
    config.json        the configuration it was trained with
    reference.npz      what the monitor compares live features and scores with
    catalogue.npz ...  arrays; *.pt torch weights; lambdarank.txt LightGBM's own text form

The version is the hash of the manifest's content, so two bundles with the same version are the
same. Refused with the reason: files that do not match the manifest, a feature schema that is not
this code's (a ranker that meets shuffled columns does not fail, it ranks rubbish), and an index or
item vectors that do not belong to the tower (`bundle_checks`). Not refused, because nothing tells:
rankers from another run. Their scores stay plausible; the evaluation before a promotion is the
check for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import faiss
import lightgbm as lgb
import numpy as np
import torch
from lightgbm.basic import LightGBMError
from scipy import sparse

from feature_engineering.counters import EventCounter
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_platform.data.interactions import InteractionLog
from video_recommendation.bundle_checks import (
    BundleError,
    check_features,
    check_index,
    check_lineage,
    check_tower,
    feature_table,
    make_lineage,
)
from video_recommendation.config import Config
from video_recommendation.data import Catalogue, Users
from video_recommendation.features import SCHEMA, FeatureBuilder, ItemStatistics
from video_recommendation.monitoring.reference import FILE as REFERENCE_FILE
from video_recommendation.monitoring.reference import Reference
from video_recommendation.ranking.calibration import Calibrator
from video_recommendation.ranking.lambdarank import LambdaRanker
from video_recommendation.ranking.mmoe import EXPERT_DIMS, TOWER_DIMS, MMoERanker
from video_recommendation.ranking.prerank import PreRanker
from video_recommendation.recommender import Proposer, Recommender
from video_recommendation.retrieval.sources import ItemItemModels, Retriever
from video_recommendation.retrieval.training import RequestEncoder, build_two_tower
from video_recommendation.retrieval.two_tower import TwoTower

__all__ = ["FORMAT", "BundleError", "check_bundle", "load_bundle", "save_bundle"]

FORMAT = 2
"""2: features by name, data and lineage in the manifest."""
UNREADABLE = (ValueError, KeyError, RuntimeError, BadZipFile, UnpicklingError, LightGBMError)


@dataclass(frozen=True)
class _Core:
    """The parts that must belong together, read and checked."""

    config: Config
    catalogue: Catalogue
    users: Users
    log: InteractionLog
    arrays: dict[str, np.ndarray]
    index: faiss.Index
    two_tower: TwoTower


def save_bundle(recommender: Recommender, folder: Path) -> str:
    """Writes the bundle beside ``folder`` and moves it into place; returns its version.

    An existing folder is replaced only when the new one is complete.

    Raises:
        BundleError: if the recommender's index or item vectors are not its tower's.
    """
    retriever = recommender.proposer.retriever
    check_tower(recommender.proposer.encoder.model, retriever.item_vectors)
    check_index(retriever.index, retriever.item_vectors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
    old = draft.with_name(f"{draft.name}-old")
    try:
        _write_parts(recommender, draft)
        content = _describe(recommender, draft)
        manifest = {"version": content_version(content), **content}
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
        if folder.exists():  # moved aside, not deleted first: the gap is two renames long
            os.replace(folder, old)
        os.replace(draft, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    recommender.version = str(manifest["version"])
    return recommender.version


def load_bundle(folder: Path) -> Recommender:
    """Reads and checks a bundle.

    Raises:
        BundleError: if it is missing, damaged, of another format or feature schema, or its parts
            do not belong together.
    """
    manifest = _check_files(folder)
    core = _read_core(folder, manifest)
    config, users, log, arrays = core.config, core.users, core.log, core.arrays
    with _readable(folder):
        co_visitation = sparse.load_npz(folder / "co_visitation.npz")
        booster = lgb.Booster(model_file=str(folder / "lambdarank.txt"))
        mmoe = _read_mmoe(folder, arrays, config)
    retriever = Retriever(
        item_vectors=arrays["item_vectors"],
        index=core.index,
        inverse_temperature=float(arrays["inverse_temperature"]),
        item_item=ItemItemModels(co_visitation, arrays["ease"], config.item_item),
        counter=EventCounter(log.item_idx, log.timestamp, n_items=log.n_items),
        config=config.retrieval,
    )
    statistics = ItemStatistics(arrays["mean_rating"], arrays["like_share"])
    recommender = Recommender(
        version=manifest["version"],
        config=config,
        catalogue=core.catalogue,
        users=users,
        log=log,
        proposer=Proposer(
            RequestEncoder(core.two_tower, users),
            retriever,
            FeatureBuilder(core.catalogue, users, statistics),
        ),
        preranker=PreRanker(arrays["prerank_weight"], float(arrays["prerank_bias"])),
        rankers={"lambdarank": LambdaRanker(booster), "mmoe": mmoe},
        calibrator=Calibrator(str(arrays["calibrator_method"]), arrays["calibrator_knots"]),  # type: ignore[arg-type]
        trained_through=manifest["trained_through"],
    )
    if REFERENCE_FILE in manifest["files"]:
        with _readable(folder):
            recommender.reference = Reference.load(folder / REFERENCE_FILE)
    return recommender


def check_bundle(folder: Path) -> dict[str, Any]:
    """The manifest, once every file matches it and tower, item vectors and index belong together.

    Raises:
        BundleError: with the first thing that is wrong.
    """
    manifest = _check_files(folder)
    _read_core(folder, manifest)
    return manifest


def content_version(content: dict[str, Any]) -> str:
    """Hash of a manifest without its version."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _describe(recommender: Recommender, draft: Path) -> dict[str, Any]:
    """The manifest's content for the files in ``draft``."""
    log = recommender.log
    files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
    return {
        "format": FORMAT,
        "feature_schema": SCHEMA.sha256,
        "features": feature_table(SCHEMA),
        "data": {
            "events": len(log),
            "users": log.n_users,
            "items": log.n_items,
            "first_timestamp": int(log.timestamp.min()),
            "last_timestamp": int(log.timestamp.max()),
        },
        "trained_through": recommender.trained_through,
        "lineage": make_lineage(files, recommender.proposer.retriever.item_vectors),
        "files": files,
    }


def _check_files(folder: Path) -> dict[str, Any]:
    """The manifest, once it and every file are as they were written."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise BundleError(f"no bundle in {folder}: train one first with `make train`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error}); train the bundle again") from error
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{folder} has format {manifest.get('format')}, this code reads {FORMAT}; train again"
        )
    version = content_version({k: v for k, v in manifest.items() if k != "version"})
    if manifest.get("version") != version:
        raise BundleError(
            f"{path} was changed after it was written: it states version "
            f"{manifest.get('version')}, its content is {version}; train the bundle again"
        )
    with _named(folder):
        check_features(manifest["features"], SCHEMA)
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing; train the bundle again")
        if _sha256(folder / name) != expected:
            raise BundleError(f"{folder / name} is damaged (checksum differs); train it again")
    return manifest


def _read_core(folder: Path, manifest: dict[str, Any]) -> _Core:
    """Reads tower, item vectors and index, and checks that they belong together."""
    with _readable(folder):
        config = Config.model_validate_json((folder / "config.json").read_text())
        catalogue, users, log = _read_tables(folder)
        with np.load(folder / "arrays.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
        index = faiss.read_index(str(folder / "index.faiss"))
        two_tower = build_two_tower(
            catalogue, users, log, int(log.timestamp.max()) + 1, config.two_tower
        )
        two_tower.load_state_dict(torch.load(folder / "two_tower.pt", weights_only=True))
    with _named(folder):
        check_lineage(manifest["lineage"], manifest["files"], arrays["item_vectors"])
        check_tower(two_tower, arrays["item_vectors"])
        check_index(index, arrays["item_vectors"])
    return _Core(config, catalogue, users, log, arrays, index, two_tower)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Sound files that cannot be read are another version's, or were put together by hand."""
    try:
        yield
    except UNREADABLE as error:
        raise BundleError(
            f"{folder} cannot be read though its checksums are right ({error}); train it again"
        ) from error


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Says of which bundle a check speaks."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def _write_parts(recommender: Recommender, folder: Path) -> None:
    proposer, retriever = recommender.proposer, recommender.proposer.retriever
    catalogue, users, log = recommender.catalogue, recommender.users, recommender.log
    (folder / "config.json").write_text(recommender.config.model_dump_json(indent=1))
    if recommender.reference is not None:
        recommender.reference.save(folder / REFERENCE_FILE)
    np.savez(
        folder / "catalogue.npz",
        item_ids=catalogue.item_ids,
        titles=np.array(catalogue.titles),
        years=catalogue.years,
        genre_names=np.array(catalogue.genre_names),
        genre_flags=catalogue.genre_flags,
        title_words=catalogue.title_words,
    )
    np.savez(
        folder / "users.npz",
        user_ids=users.user_ids,
        age_group=users.age_group,
        gender=users.gender,
        occupation=users.occupation,
        n_occupations=users.n_occupations,
    )
    np.savez(
        folder / "log.npz",
        user_ptr=log.user_ptr,
        item_idx=log.item_idx,
        rating=log.rating,
        timestamp=log.timestamp,
        user_ids=log.user_ids,
        item_ids=log.item_ids,
    )
    sparse.save_npz(folder / "co_visitation.npz", retriever.item_item.co_visitation)
    faiss.write_index(retriever.index, str(folder / "index.faiss"))
    torch.save(proposer.encoder.model.state_dict(), folder / "two_tower.pt")
    lambdarank, mmoe = recommender.rankers["lambdarank"], recommender.rankers["mmoe"]
    if not isinstance(lambdarank, LambdaRanker) or not isinstance(mmoe, MMoERanker):
        raise TypeError("a bundle holds a LambdaRanker and an MMoERanker under their names")
    (folder / "lambdarank.txt").write_text(lambdarank.booster.model_to_string())
    torch.save(mmoe.network.state_dict(), folder / "mmoe.pt")
    np.savez(
        folder / "arrays.npz",
        item_vectors=retriever.item_vectors,
        inverse_temperature=retriever.inverse_temperature,
        ease=retriever.item_item.ease,
        mean_rating=proposer.builder.statistics.mean_rating,
        like_share=proposer.builder.statistics.like_share,
        prerank_weight=recommender.preranker.weight,
        prerank_bias=recommender.preranker.bias,
        mmoe_mean=mmoe.mean,
        mmoe_scale=mmoe.scale,
        calibrator_method=np.array(recommender.calibrator.method),
        calibrator_knots=recommender.calibrator.knots,
    )


def _read_tables(folder: Path) -> tuple[Catalogue, Users, InteractionLog]:
    items, people, events = (
        np.load(folder / name) for name in ("catalogue.npz", "users.npz", "log.npz")
    )
    catalogue = Catalogue(
        item_ids=items["item_ids"],
        titles=tuple(str(title) for title in items["titles"]),
        years=items["years"],
        genre_names=tuple(str(name) for name in items["genre_names"]),
        genre_flags=items["genre_flags"],
        title_words=items["title_words"],
    )
    users = Users(
        user_ids=people["user_ids"],
        age_group=people["age_group"],
        gender=people["gender"],
        occupation=people["occupation"],
        n_occupations=int(people["n_occupations"]),
    )
    return catalogue, users, InteractionLog(**{name: events[name] for name in events.files})


def _read_mmoe(folder: Path, arrays: dict[str, np.ndarray], config: Config) -> MMoERanker:
    network = MMoE(
        n_features=len(SCHEMA),
        n_tasks=2,
        n_experts=config.ranking.mmoe_experts,
        expert_dims=EXPERT_DIMS,
        tower_dims=TOWER_DIMS,
        dropout=0.1,
    )
    network.load_state_dict(torch.load(folder / "mmoe.pt", weights_only=True))
    return MMoERanker(
        network.eval(),
        arrays["mmoe_mean"],
        arrays["mmoe_scale"],
        config.ranking.watch_weight,
        config.ranking.like_weight,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
