from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_system import TinySystem

from ml_platform.operations.bundle_manifest import BundleError
from shorts_recommendation.bundle import load_bundle, save_bundle
from shorts_recommendation.config import RerankingConfig
from shorts_recommendation.monitoring.reference import load_reference


@pytest.fixture
def copy(tiny_system: TinySystem, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_system.bundle, tmp_path / "bundle"))


def test_a_loaded_system_answers_as_the_trained_one(tiny_system: TinySystem) -> None:
    trained, loaded = tiny_system.trained.recommender, load_bundle(tiny_system.bundle)
    assert loaded.version == trained.version
    now = np.full(10, trained.data_end, dtype=np.int64)
    users = np.arange(10, dtype=np.int32)
    answers = [
        r.recommend(r.new_states().batch(users, now), r.new_counters().snapshot, 10)
        for r in (trained, loaded)
    ]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one.video_idx, other.video_idx)


def test_equal_content_has_one_version(tiny_system: TinySystem, tmp_path: Path) -> None:
    loaded = load_bundle(tiny_system.bundle)
    again = save_bundle(loaded, tmp_path / "again", load_reference(tiny_system.bundle))
    assert again == json.loads((tiny_system.bundle / "manifest.json").read_text())["version"]


def test_a_changed_byte_is_refused_by_name(copy: Path) -> None:
    file = copy / "ranker" / "encoder.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder\.onnx is not what was saved"):
        load_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "tables" / "states.npz").unlink()
    with pytest.raises(BundleError, match=r"states\.npz is missing"):
        load_bundle(copy)


def test_no_bundle_another_format_and_a_broken_manifest(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make train"):
        load_bundle(tmp_path / "nowhere")
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 0}))
    with pytest.raises(BundleError, match="has format 0"):
        load_bundle(copy)
    manifest.write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(copy)


def test_a_bundle_is_never_overwritten(tiny_system: TinySystem) -> None:
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_bundle(tiny_system.trained.recommender, tiny_system.bundle)


def test_stages_can_be_replaced_when_loading(copy: Path) -> None:
    loaded = load_bundle(copy, reranking=RerankingConfig(relevance_weight=1.0))
    assert loaded.config.reranking.relevance_weight == 1.0
