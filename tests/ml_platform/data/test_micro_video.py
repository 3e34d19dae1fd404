"""The micro-video set: two editions of one content, what is refused, and the real set."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from ml_platform.data.array_pickle import load_matrix_state
from ml_platform.data.download import CorruptFileError
from ml_platform.data.micro_video import (
    MICRO_VIDEOS,
    MicroVideoSpec,
    load_micro_videos,
    ordered_pairs,
)
from ml_platform.data.raw_files import RawSpec
from ml_platform.data.sources import DatasetUnavailableError

PAIRS = {"trnMat": [(2, 0), (0, 1), (0, 3)], "valMat": [(1, 2)], "tstMat": [(2, 3)]}
SHAPE = (3, 4)


def matrices() -> dict[str, sparse.coo_matrix]:
    made = {}
    for stem, pairs in PAIRS.items():
        rows, columns = np.array(pairs, dtype=np.int32).T
        made[stem] = sparse.coo_matrix((np.ones(len(pairs), "f4"), (rows, columns)), shape=SHAPE)
    return made


def features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(4, 2)).astype(np.float16) for name in ("image", "audio")}


@pytest.fixture
def toy(tmp_path: Path, file_server: Any, monkeypatch: pytest.MonkeyPatch) -> MicroVideoSpec:
    """A registry entry "toy": a mirror with the arrays, an owner with pickles and single floats."""
    mirror = tmp_path / "mirror" / "toy"
    mirror.mkdir(parents=True)
    for stem, matrix in matrices().items():
        sparse.save_npz(mirror / f"{stem}.npz", matrix)
        file_server.files[f"{stem}.pkl"] = pickle.dumps(matrix)
    for name, values in features().items():
        np.save(mirror / f"{name}_feat.npy", values)
        np.save(tmp_path / "wide.npy", values.astype(np.float32))
        file_server.files[f"{name}_feat.npy"] = (tmp_path / "wide.npy").read_bytes()
    checksums: dict[str, tuple[str, ...]] = {
        path.name: (f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",)
        for path in mirror.iterdir()
    }
    spec = MicroVideoSpec(
        "free",
        RawSpec("toy", checksums),
        RawSpec(
            "toy-owner",
            dict.fromkeys(
                [*(f"{stem}.pkl" for stem in PAIRS), "image_feat.npy", "audio_feat.npy"], ()
            ),
            files_url=f"http://127.0.0.1:{file_server.port}",
        ),
        SHAPE,
        "",
    )
    monkeypatch.setitem(MICRO_VIDEOS, "toy", spec)
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(tmp_path / "mirror"))
    return spec


def test_pairs_are_ordered_and_features_whole(toy: MicroVideoSpec, tmp_path: Path) -> None:
    data = load_micro_videos("toy", cache_dir=tmp_path / "c")
    assert data.source == "mirror"
    assert (data.n_users, data.n_videos) == SHAPE
    assert data.train.user_idx.tolist() == [0, 0, 2]
    assert data.train.video_idx.tolist() == [1, 3, 0]
    assert (len(data.validation), len(data.test)) == (1, 1)
    assert data.image.dtype == np.float32
    assert np.array_equal(data.image, features()["image"].astype(np.float32))
    assert load_micro_videos("toy", cache_dir=tmp_path / "c").source == "cache"


def test_both_editions_have_one_content(
    toy: MicroVideoSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = load_micro_videos("toy", cache_dir=tmp_path / "a")
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    monkeypatch.setitem(MICRO_VIDEOS, "toy", replace(toy, content_sha256=mirrored.sha256))
    owned = load_micro_videos("toy", cache_dir=tmp_path / "b")
    assert owned.source == "owner"
    assert owned.sha256 == mirrored.sha256
    assert load_micro_videos("toy", cache_dir=tmp_path / "b").source == "cache"


def test_another_content_is_refused(
    toy: MicroVideoSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MICRO_VIDEOS, "toy", replace(toy, content_sha256="f00"))
    with pytest.raises(CorruptFileError, match="the registry expects f00"):
        load_micro_videos("toy", cache_dir=tmp_path / "c")


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.coo_array, sparse.csr_array])
def test_other_kinds_of_pickled_matrices_are_read(
    toy: MicroVideoSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_server: Any,
    kind: type,
) -> None:
    wanted = load_micro_videos("toy", cache_dir=tmp_path / "a").sha256
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    for protocol in (2, 4, 5):
        for stem, matrix in matrices().items():
            file_server.files[f"{stem}.pkl"] = pickle.dumps(kind(matrix), protocol=protocol)
        assert load_micro_videos("toy", cache_dir=tmp_path / str(protocol)).sha256 == wanted


class Trap:
    """What a hostile pickle looks like: loading it calls a function of its choice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_anything_else_is_refused(
    toy: MicroVideoSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files["trnMat.pkl"] = pickle.dumps(Trap(tmp_path / "sprung"))
    with pytest.raises(CorruptFileError, match=r"trnMat\.pkl.*mkdir, which no array needs"):
        load_micro_videos("toy", cache_dir=tmp_path / "c")
    assert not (tmp_path / "sprung").exists()


class Crafted:
    """Pickles as a scipy matrix with any state, by the names that the unpickler allows."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[object, ...]:
        return sparse.csr_matrix, (), self.state


class Called:
    """Pickles as a call of an allowed name with arguments that make no sense."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.ndarray(0).__reduce__()[0], (np.ndarray, (10**15, 10**15), b"b")  # type: ignore[index]


ROWS, NUMBERS = np.array([0, 2, 2, 3]), np.array([0, 1, 2])
STATES: dict[str, tuple[object, str]] = {
    "no names": ((1, 2), "a matrix of a tuple, not of names"),
    "empty": ({"x": 1}, "_shape"),
    "a shape of one": ({"_shape": (3,), "row": NUMBERS, "col": NUMBERS}, "not two numbers"),
    "a shape of words": ({"_shape": ("3", "4"), "row": NUMBERS, "col": NUMBERS}, "not two numbers"),
    "rows without end": (
        {"_shape": (10**12, 4), "indptr": ROWS, "indices": NUMBERS},
        "do not fit 1000000000000 rows",
    ),
    "a row without end": (
        {"_shape": (3, 4), "indptr": np.array([0, 10**12, 10**12, 10**12]), "indices": NUMBERS},
        "do not fit 3 rows, 3 pairs",
    ),
    "backwards": (
        {"_shape": (3, 4), "indptr": np.array([0, 5, 0, 3]), "indices": NUMBERS},
        "do not fit",
    ),
    "a list": ({"_shape": (3, 4), "row": [0], "col": [1]}, "a list stands where"),
    "fractions": ({"_shape": (3, 4), "row": NUMBERS / 2, "col": NUMBERS}, "a ndarray stands where"),
    "coordinates that are none": ({"_shape": (3, 4), "coords": 5}, "not iterable"),
    "three coordinates": ({"_shape": (3, 4), "coords": (NUMBERS,) * 3}, "too many values"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_crafted_state_names_its_file_and_allocates_nothing(
    toy: MicroVideoSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_server: Any,
    name: str,
) -> None:
    state, message = STATES[name]
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files["valMat.pkl"] = pickle.dumps(Crafted(state))
    with pytest.raises(CorruptFileError, match=message) as raised:
        load_micro_videos("toy", cache_dir=tmp_path / "c")
    assert "valMat.pkl" in str(raised.value)


@pytest.mark.parametrize("made", [Called(), Crafted(None)], ids=["called", "stateless"])
def test_an_allowed_name_called_senselessly_is_refused(made: object) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_matrix_state(io.BytesIO(pickle.dumps({"in": made})))


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"not a pickle"])
def test_a_damaged_pickle_is_named(
    toy: MicroVideoSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_server: Any,
    content: bytes,
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files["valMat.pkl"] = content
    with pytest.raises(CorruptFileError, match=r"valMat\.pkl cannot be read"):
        load_micro_videos("toy", cache_dir=tmp_path / "c")


def test_a_damaged_mirror_file_is_not_used(toy: MicroVideoSpec, tmp_path: Path) -> None:
    path = tmp_path / "mirror" / "toy" / "trnMat.npz"
    path.write_bytes(path.read_bytes()[:-3])
    data = load_micro_videos("toy", cache_dir=tmp_path / "c")
    assert data.source == "owner"


def test_offline_every_source_is_listed(
    toy: MicroVideoSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files.clear()
    with pytest.raises(DatasetUnavailableError) as failure:
        load_micro_videos("toy", cache_dir=tmp_path / "c")
    for part in ("MLSD_DATA_MIRROR is not set", "trnMat.pkl", "404"):
        assert part in str(failure.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown micro-video set 'x'; there are tiktok-mm"):
        load_micro_videos("x")


@pytest.mark.parametrize(
    ("users", "videos", "message"),
    [([0, 0], [1, 1], "twice"), ([0, 3], [1, 1], "user 3 outside"), ([0], [1, 2], "1,.*2,")],
)
def test_pairs_that_make_no_sense(users: list[int], videos: list[int], message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        ordered_pairs(np.array(users), np.array(videos), SHAPE, "here")


def test_another_shape_and_bad_features_are_refused(
    toy: MicroVideoSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.setitem(MICRO_VIDEOS, "toy", replace(toy, shape=(3, 5)))
    with pytest.raises(CorruptFileError, match="expected \\(3, 5\\)"):
        load_micro_videos("toy", cache_dir=tmp_path / "c")
    monkeypatch.setitem(MICRO_VIDEOS, "toy", toy)
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    np.save(tmp_path / "bad.npy", np.full((4, 2), np.nan, np.float32))
    file_server.files["audio_feat.npy"] = (tmp_path / "bad.npy").read_bytes()
    with pytest.raises(CorruptFileError, match=r"audio_feat\.npy.*expected finite \[4, D\]"):
        load_micro_videos("toy", cache_dir=tmp_path / "d")


def test_every_entry_of_the_registry_is_complete() -> None:
    for spec in MICRO_VIDEOS.values():
        assert spec.licence.endswith(".")
        assert all(spec.mirrored.files.values())
        assert spec.owned.files_url.startswith("https://")
        assert len(spec.content_sha256) == 64


@pytest.mark.real_data
def test_tiktok_mm() -> None:
    try:
        data = load_micro_videos("tiktok-mm")
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    assert (data.n_users, data.n_videos) == (9_308, 6_710)
    assert (len(data.train), len(data.validation), len(data.test)) == (59_541, 3_051, 6_130)
    assert data.image.shape == data.audio.shape == (6_710, 128)
    for part in (data.validation, data.test):  # one pair a user, and no user in both
        assert len(np.unique(part.user_idx)) == len(part)
    assert not set(data.validation.user_idx) & set(data.test.user_idx)
    assert "no licence" in data.licence
