"""A bundle comes back as it was, or is refused with the name of what is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest
import torch
from tampering import change_manifest, rewrite_checksums
from tiny_system import build_tiny_system

from feature_engineering.schema import FeatureSchema
from ml_platform.serving.stages import RequestStages
from video_recommendation import bundle as module
from video_recommendation.bundle import (
    BundleError,
    check_bundle,
    load_bundle,
    save_bundle,
)
from video_recommendation.bundle_checks import check_features, check_index, feature_table
from video_recommendation.config import IndexConfig
from video_recommendation.features import SCHEMA
from video_recommendation.retrieval.index import build_index
from video_recommendation.retrieval.training import item_vectors


@pytest.fixture
def copy(tiny_system, tmp_path):
    """A copy of the bundle that a test may damage."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_system.bundle, folder)
    return folder


def lists(recommender):
    """Answers to some users; arrays as tuples, so that they compare."""
    return [
        [replace(item, features=tuple(item.features)) for item in answer(recommender, user_id)]
        for user_id in [-1, *recommender.users.user_ids[::10]]
    ]


def answer(recommender, user_id):
    return recommender.recommend(
        user_id=int(user_id),
        state=recommender.history(int(user_id)),
        now=recommender.data_end + 1,
        k=20,
        exclude=np.zeros(0, dtype=np.int32),
        counter=recommender.proposer.retriever.counter,
        stages=RequestStages(),
        surface="home",
    )


def test_what_is_loaded_answers_as_what_was_saved(tiny_system):
    saved, loaded = tiny_system.trained.recommender, load_bundle(tiny_system.bundle)
    assert lists(loaded) == lists(saved)
    assert loaded.version == saved.version
    assert loaded.config == saved.config
    assert loaded.data_end == saved.data_end
    features = np.random.default_rng(0).normal(size=(50, 31)).astype(np.float32)
    for name in ("lambdarank", "mmoe"):
        np.testing.assert_array_equal(
            loaded.rankers[name].score(features), saved.rankers[name].score(features)
        )
    assert loaded.similar(5, 10) == saved.similar(5, 10)


def test_the_same_content_is_the_same_version(tiny_system, tmp_path):
    recommender = load_bundle(tiny_system.bundle)
    again = save_bundle(recommender, tmp_path / "again")
    assert again == check_bundle(tiny_system.bundle)["version"]
    recommender.preranker.weight[0] += 1.0
    assert save_bundle(recommender, tmp_path / "changed") != again


def test_training_again_gives_the_same_bundle(tiny_system, tmp_path):
    """Same configuration, data and seed: the same models, to the bit."""
    assert (
        load_bundle(build_tiny_system(tmp_path).bundle).version
        == (check_bundle(tiny_system.bundle)["version"])
    )


def files():
    return [
        "config.json", "catalogue.npz", "users.npz", "log.npz", "co_visitation.npz",
        "index.faiss", "two_tower.pt", "lambdarank.txt", "mmoe.pt", "arrays.npz", "reference.npz",
    ]  # fmt: skip


def test_every_file_is_in_the_manifest(tiny_system):
    assert sorted(check_bundle(tiny_system.bundle)["files"]) == sorted(files())


@pytest.mark.parametrize("name", files())
def test_a_damaged_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        load_bundle(copy)


def test_a_missing_file_is_named(copy):
    (copy / "mmoe.pt").unlink()
    with pytest.raises(BundleError, match=r"mmoe\.pt is missing"):
        load_bundle(copy)


def test_an_edited_manifest_is_refused(copy):
    change_manifest(copy, version=False, trained_through={"log": 5})
    with pytest.raises(BundleError, match=r"manifest\.json was changed after it was written"):
        load_bundle(copy)


def test_another_format_is_refused(copy):
    change_manifest(copy, format=1)
    with pytest.raises(BundleError, match="has format 1, this code reads 2; train again"):
        load_bundle(copy)


# --- the feature schema --------------------------------------------------------------------------


def test_another_feature_schema_is_refused_with_the_features(copy):
    features = feature_table(SCHEMA)
    first, second, *_ = features
    features["old_feature"] = features.pop(first)
    features[second] = {**features[second], "default": -7.5}
    change_manifest(copy, feature_schema="0" * 64, features=features)
    message = f"{first} is new; old_feature is gone; {second} has default 0, had -7.5"
    for read in (load_bundle, check_bundle):
        with pytest.raises(BundleError, match=f"another feature schema: {message}"):
            read(copy)


def test_every_way_in_which_schemas_differ_is_named():
    specs = SCHEMA.specs
    check_features(feature_table(SCHEMA), SCHEMA)
    swapped = FeatureSchema((specs[1], specs[0], *specs[2:]))
    with pytest.raises(BundleError) as moved:
        check_features(feature_table(SCHEMA), swapped)
    assert f"{specs[0].name} has column 1, had 0" in str(moved.value)
    assert f"{specs[1].name} has column 0, had 1" in str(moved.value)
    with pytest.raises(BundleError) as shorter:
        check_features(feature_table(SCHEMA), FeatureSchema(specs[1:]))
    assert f"schema: {specs[0].name} is gone; train" in str(shorter.value)  # not 30 moved columns
    unknown = {spec.name: {"column": i} for i, spec in enumerate(specs)}
    with pytest.raises(BundleError, match=r"has owner .*, had None"):
        check_features(unknown, SCHEMA)


# --- parts that do not belong together -----------------------------------------------------------


@pytest.fixture
def retrained(tiny_system, tmp_path):
    """A sound bundle of the same data with another tower, its item vectors and its index."""
    recommender = load_bundle(tiny_system.bundle)
    model = recommender.proposer.encoder.model
    torch.manual_seed(1)
    for layer in model.item_mlp:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    retriever = recommender.proposer.retriever
    vectors = item_vectors(model)
    index = build_index(vectors, recommender.config.index)
    recommender.proposer = replace(
        recommender.proposer, retriever=replace(retriever, item_vectors=vectors, index=index)
    )
    save_bundle(recommender, tmp_path / "retrained")
    return tmp_path / "retrained"


def refused(folder, reason):
    """By what the registry asks and by what the server does."""
    for read in (check_bundle, load_bundle):
        with pytest.raises(BundleError, match=reason):
            read(folder)


def take(folder, source, name):
    shutil.copyfile(source / name, folder / name)


def test_the_old_index_in_a_retrained_bundle(retrained, tiny_system):
    """The mistake that checksums do not see, however many of them are written anew."""
    check_bundle(retrained)
    take(retrained, tiny_system.bundle, "index.faiss")
    refused(retrained, r"index\.faiss is damaged")
    rewrite_checksums(retrained)
    refused(retrained, r"index\.faiss is not the index that was built from the item vectors")
    rewrite_checksums(retrained, lineage=True)
    refused(retrained, "index does not belong to the item vectors: 300 of 300 vectors")


def test_a_new_tower_beside_the_old_item_vectors(copy, retrained):
    take(copy, retrained, "two_tower.pt")
    rewrite_checksums(copy)
    refused(copy, r"computed by another tower than two_tower\.pt")
    rewrite_checksums(copy, lineage=True)
    refused(copy, "item vectors were not computed by this tower: 300 of 300 differ")


def test_other_item_vectors_beside_the_tower_and_its_index(copy, retrained):
    take(copy, retrained, "arrays.npz")
    rewrite_checksums(copy)
    refused(copy, r"arrays\.npz holds other item vectors")


def test_an_index_whose_lineage_names_other_vectors(copy):
    lineage = check_bundle(copy)["lineage"]
    lineage["index"]["built_from"] = "0" * 64
    change_manifest(copy, lineage=lineage)
    refused(copy, r"index\.faiss was built from other vectors")


def test_an_index_that_lacks_the_newest_items(copy):
    vectors = np.load(copy / "arrays.npz")["item_vectors"]
    faiss.write_index(build_index(vectors[:-5], IndexConfig()), str(copy / "index.faiss"))
    rewrite_checksums(copy, lineage=True)
    refused(copy, "the index holds 295 vectors of 16 numbers, the tower gave 300 of 16")


def test_a_mismatch_in_memory_is_not_saved(copy, retrained, tmp_path):
    recommender, other = load_bundle(copy), load_bundle(retrained)
    recommender.proposer = replace(
        recommender.proposer,
        retriever=replace(recommender.proposer.retriever, index=other.proposer.retriever.index),
    )
    with pytest.raises(BundleError, match="does not belong to the item vectors"):
        save_bundle(recommender, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_every_kind_of_index_is_compared_with_its_vectors(kind):
    rng = np.random.default_rng(0)
    vectors, others = (rng.normal(size=(600, 16)).astype(np.float32) for _ in range(2))
    index = build_index(vectors, IndexConfig(kind=kind, pq_bytes=8))
    found = index.search(others[:5], 3)[1]
    check_index(index, vectors)
    np.testing.assert_array_equal(index.search(others[:5], 3)[1], found)  # as it was before
    for wrong in (others, vectors[::-1].copy(), np.r_[vectors[:500], others[500:]]):
        with pytest.raises(BundleError, match="does not belong to the item vectors"):
            check_index(index, wrong)


def test_sound_checksums_over_nonsense(copy):
    (copy / "two_tower.pt").write_bytes(b"nonsense")
    rewrite_checksums(copy)
    refused(copy, "cannot be read though its checksums are right")


def test_what_a_bundle_was_trained_through_comes_back(copy, tmp_path):
    recommender = load_bundle(copy)
    assert recommender.trained_through == {}
    recommender.trained_through = {"log-1": 41}
    version = save_bundle(recommender, tmp_path / "later")
    assert load_bundle(tmp_path / "later").trained_through == {"log-1": 41}
    assert version != check_bundle(copy)["version"]


def test_the_manifest_says_what_data_it_knows(tiny_system):
    log = tiny_system.trained.recommender.log
    assert check_bundle(tiny_system.bundle)["data"] == {
        "events": len(log),
        "users": 200,
        "items": 300,
        "first_timestamp": log.timestamp.min(),
        "last_timestamp": log.timestamp.max(),
    }


def test_a_truncated_manifest_is_named(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        load_bundle(copy)


def test_no_bundle_says_how_to_get_one(tmp_path):
    with pytest.raises(BundleError, match="train one first"):
        load_bundle(tmp_path / "nothing")


def test_an_interrupted_save_leaves_the_old_bundle(copy, monkeypatch):
    recommender = load_bundle(copy)
    version, before = recommender.version, sorted(copy.parent.iterdir())

    def half_written(_, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_parts", half_written)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(recommender, copy)
    assert check_bundle(copy)["version"] == version
    assert sorted(copy.parent.iterdir()) == before  # no draft is left behind


def test_a_new_bundle_takes_the_place_of_the_old(copy):
    recommender = load_bundle(copy)
    old = recommender.version
    recommender.preranker.weight[0] += 1.0
    (copy / "leftover.txt").write_text("of an older format")
    version = save_bundle(recommender, copy)
    assert version != old
    assert check_bundle(copy)["version"] == version == recommender.version
    assert not (copy / "leftover.txt").exists()
    assert list(copy.parent.iterdir()) == [copy]
