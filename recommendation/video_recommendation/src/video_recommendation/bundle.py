"""A bundle: everything one model version needs to serve, as one folder that is loaded as one.

    manifest.json      version, data set, feature schema hash, sha256 of every file
    config.json        the configuration it was trained with
    catalogue.npz ...  arrays; *.pt torch weights; lambdarank.txt LightGBM's own text form

The version is the hash of the manifest's content, so two bundles with the same version are the
same. A bundle whose files do not match the manifest, or whose feature schema is not this code's, is
refused with the reason: a ranker that meets shuffled columns does not fail, it ranks rubbish.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import faiss
import lightgbm as lgb
import numpy as np
import torch
from scipy import sparse

from feature_engineering.counters import EventCounter
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_platform.data.interactions import InteractionLog
from video_recommendation.config import Config
from video_recommendation.data import Catalogue, Users
from video_recommendation.features import SCHEMA, FeatureBuilder, ItemStatistics
from video_recommendation.ranking.calibration import Calibrator
from video_recommendation.ranking.lambdarank import LambdaRanker
from video_recommendation.ranking.mmoe import EXPERT_DIMS, TOWER_DIMS, MMoERanker
from video_recommendation.ranking.prerank import PreRanker
from video_recommendation.recommender import Proposer, Recommender
from video_recommendation.retrieval.sources import ItemItemModels, Retriever
from video_recommendation.retrieval.training import RequestEncoder, build_two_tower

FORMAT = 1


class BundleError(RuntimeError):
    """A bundle that cannot be used, and why."""


def save_bundle(recommender: Recommender, folder: Path) -> str:
    """Writes the bundle beside ``folder`` and moves it into place; returns its version.

    An existing folder is replaced only when the new one is complete.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
    old = draft.with_name(f"{draft.name}-old")
    try:
        _write_parts(recommender, draft)
        files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        content = {"format": FORMAT, "feature_schema": SCHEMA.sha256, "files": files}
        version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        manifest = {"version": version, **content}
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
        if folder.exists():  # moved aside, not deleted first: the gap is two renames long
            os.replace(folder, old)
        os.replace(draft, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    recommender.version = version
    return version


def load_bundle(folder: Path) -> Recommender:
    """Reads and checks a bundle.

    Raises:
        BundleError: if it is missing, damaged, of another format or of another feature schema.
    """
    manifest = check_bundle(folder)
    config = Config.model_validate_json((folder / "config.json").read_text())
    catalogue, users, log = _read_tables(folder)
    arrays = np.load(folder / "arrays.npz")
    item_item = ItemItemModels(
        sparse.load_npz(folder / "co_visitation.npz"), arrays["ease"], config.item_item
    )
    retriever = Retriever(
        item_vectors=arrays["item_vectors"],
        index=faiss.read_index(str(folder / "index.faiss")),
        inverse_temperature=float(arrays["inverse_temperature"]),
        item_item=item_item,
        counter=EventCounter(log.item_idx, log.timestamp, n_items=log.n_items),
        config=config.retrieval,
    )
    two_tower = build_two_tower(
        catalogue, users, log, int(log.timestamp.max()) + 1, config.two_tower
    )
    two_tower.load_state_dict(torch.load(folder / "two_tower.pt", weights_only=True))
    statistics = ItemStatistics(arrays["mean_rating"], arrays["like_share"])
    booster = lgb.Booster(model_file=str(folder / "lambdarank.txt"))
    return Recommender(
        version=manifest["version"],
        config=config,
        catalogue=catalogue,
        users=users,
        log=log,
        proposer=Proposer(
            RequestEncoder(two_tower, users),
            retriever,
            FeatureBuilder(catalogue, users, statistics),
        ),
        preranker=PreRanker(arrays["prerank_weight"], float(arrays["prerank_bias"])),
        rankers={"lambdarank": LambdaRanker(booster), "mmoe": _read_mmoe(folder, arrays, config)},
        calibrator=Calibrator(str(arrays["calibrator_method"]), arrays["calibrator_knots"]),  # type: ignore[arg-type]
    )


def check_bundle(folder: Path) -> dict[str, Any]:
    """The manifest, once every file matches it.

    Raises:
        BundleError: with the first thing that is wrong.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise BundleError(f"no bundle in {folder}: train one first with `make train`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error}); train the bundle again") from error
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{folder} has format {manifest.get('format')}, this code reads {FORMAT}")
    if manifest["feature_schema"] != SCHEMA.sha256:
        raise BundleError(f"{folder} was trained on another feature schema; train it again")
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing; train the bundle again")
        if _sha256(folder / name) != expected:
            raise BundleError(f"{folder / name} is damaged (checksum differs); train it again")
    return manifest


def _write_parts(recommender: Recommender, folder: Path) -> None:
    proposer, retriever = recommender.proposer, recommender.proposer.retriever
    catalogue, users, log = recommender.catalogue, recommender.users, recommender.log
    (folder / "config.json").write_text(recommender.config.model_dump_json(indent=1))
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


def _read_mmoe(folder: Path, arrays: Any, config: Config) -> MMoERanker:
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
