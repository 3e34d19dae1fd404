"""A bundle comes back as it was, or is refused with the name of what is wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tiny_system import build_tiny_system

from ml_platform.serving.stages import RequestStages
from video_recommendation import bundle as module
from video_recommendation.bundle import BundleError, check_bundle, load_bundle, save_bundle


@pytest.fixture
def copy(tiny_system, tmp_path):
    """A copy of the bundle that a test may damage."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_system.bundle, folder)
    return folder


def lists(recommender):
    return [
        recommender.recommend(
            user_id=int(user_id),
            state=recommender.history(int(user_id)),
            now=recommender.data_end + 1,
            k=20,
            exclude=np.zeros(0, dtype=np.int32),
            counter=recommender.proposer.retriever.counter,
            stages=RequestStages(),
            surface="home",
        )
        for user_id in [-1, *recommender.users.user_ids[::10]]
    ]


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
        "index.faiss", "two_tower.pt", "lambdarank.txt", "mmoe.pt", "arrays.npz",
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


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_feature_schema_is_refused(copy):
    change_manifest(copy, feature_schema="0" * 64)
    with pytest.raises(BundleError, match="another feature schema"):
        load_bundle(copy)


def test_another_format_is_refused(copy):
    change_manifest(copy, format=99)
    with pytest.raises(BundleError, match="has format 99, this code reads 1"):
        load_bundle(copy)


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
