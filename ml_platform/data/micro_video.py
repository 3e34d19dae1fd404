"""A public micro-video set with a published split, and ``load_micro_videos``, the one call for it.

In: a name. Out: ``MicroVideos``: who watched which video in train, validation and test (three lists
of pairs), and the videos' image and audio features f32[V, 128].

- ``tiktok-mm``: 9,308 users, 6,710 videos, the split that multimodal recommenders are compared on
  (W. Wei, C. Huang, L. Xia, C. Zhang, "Multi-Modal Self-Supervised Learning for Recommendation",
  WWW 2023; files as in the repository of Y. Jiang and others, "DiffMM: Multi-Modal Diffusion Model
  for Recommendation", ACM MM 2024). Pairs only: no times, no watch time, no order of events.

Two editions of the same content. A mirror holds compressed arrays, proved by the files' checksums.
The owners publish the pairs as pickles, whose checksums we do not know: those are read by an
unpickler that builds nothing but arrays, and proved by the checksum of the content, which the two
editions share. Both go through ``editions``: cache, mirror, owner, every answer reported.

Legend: U users, V videos, N pairs.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.data.array_pickle import coordinates, load_matrix_state
from ml_platform.data.download import CorruptFileError
from ml_platform.data.editions import obtain_either
from ml_platform.data.raw_files import RawFiles, RawSpec
from ml_platform.data.sources import default_cache_dir, folder_lock

PARTS = {"train": "trnMat", "validation": "valMat", "test": "tstMat"}
FEATURES = {"image": "image_feat.npy", "audio": "audio_feat.npy"}


@dataclass(frozen=True)
class Pairs:
    """Who watched what: row n is one pair, ordered by user, then video.

    Attributes:
        user_idx, video_idx: i32[N].
    """

    user_idx: np.ndarray
    video_idx: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)


@dataclass(frozen=True)
class MicroVideos:
    """The set as it is published.

    Attributes:
        train, validation, test: Disjoint pairs.
        image, audio: f32[V, D], of half precision in the files.
        sha256: Of the content, whichever edition it was read from.
        source: Who served the files: cache, mirror or owner.
        synthetic: True for generated data.
    """

    name: str
    n_users: int
    n_videos: int
    train: Pairs
    validation: Pairs
    test: Pairs
    image: np.ndarray
    audio: np.ndarray
    sha256: str
    source: str
    licence: str
    synthetic: bool = False


@dataclass(frozen=True)
class MicroVideoSpec:
    """What the registry knows: terms, the two editions, the shape, the content's checksum."""

    licence: str
    mirrored: RawSpec
    owned: RawSpec
    shape: tuple[int, int]
    content_sha256: str


_OWNER = "https://raw.githubusercontent.com/HKUDS/DiffMM/main/Datasets/tiktok"
_TIKTOK = MicroVideoSpec(
    licence=(
        "HKUDS, github.com/HKUDS/DiffMM, Datasets/tiktok: no licence is stated; for your own "
        "study, not to be passed on."
    ),
    mirrored=RawSpec(
        folder="tiktok-mm",
        files={
            "trnMat.npz": (
                "sha256:49f161c5904d49c13cadec9e564897afde2a4f1042d68655c02a3d4e055a32d6",
            ),
            "valMat.npz": (
                "sha256:ff2ebbb54833d174bc8656680dbcd4364aa9a60017cd8c19a92f228870d9cf42",
            ),
            "tstMat.npz": (
                "sha256:0a4eb5f5804bc80591a47d9ac27346d630931066de638d2726bdde94343d0b6e",
            ),
            "image_feat.npy": (
                "sha256:f6c1ec1726ed2aa80315411199ab2143bee6333821bf58c5f00bd3f5b462efc2",
            ),
            "audio_feat.npy": (
                "sha256:d45a44a9d462f578802de914c2feea5cfd45742b2922775a085b9bdc1beba26f",
            ),
        },
    ),
    owned=RawSpec(
        folder="tiktok",
        files={
            "trnMat.pkl": (),
            "valMat.pkl": (),
            "tstMat.pkl": (),
            "image_feat.npy": (),
            "audio_feat.npy": (),
        },
        files_url=_OWNER,
    ),
    shape=(9_308, 6_710),
    content_sha256="068fa7322f039cf8c87264cb5d7f0d59e25f3a97c54abf69a09fee6657593e0a",
)

MICRO_VIDEOS: dict[str, MicroVideoSpec] = {"tiktok-mm": _TIKTOK}


def load_micro_videos(name: str = "tiktok-mm", *, cache_dir: Path | None = None) -> MicroVideos:
    """Loads a micro-video set from the first source that has it.

    Args:
        name: A key of MICRO_VIDEOS.
        cache_dir: Where files are kept; by default ``sources.default_cache_dir()``.

    Raises:
        ValueError: For a name that is not in the registry.
        DatasetUnavailableError: No source has it; the message lists them all.
        CorruptFileError: A file cannot be read, or the content is not the registry's.
    """
    if name not in MICRO_VIDEOS:
        raise ValueError(f"unknown micro-video set {name!r}; there are {', '.join(MICRO_VIDEOS)}")
    spec = MICRO_VIDEOS[name]
    folder = (cache_dir or default_cache_dir()) / name
    with folder_lock(folder):
        raw = obtain_either(name, spec.mirrored, spec.owned, folder)
        return _checked(name, spec, raw)


def content_sha256(
    shape: tuple[int, int], parts: Mapping[str, Pairs], features: Mapping[str, np.ndarray]
) -> str:
    """Checksum of what the files say: shape, pairs in order, features in half precision."""
    digest = hashlib.sha256(repr(shape).encode())
    for pairs in parts.values():
        digest.update(pairs.user_idx.tobytes() + pairs.video_idx.tobytes())
    for values in features.values():
        digest.update(np.ascontiguousarray(values, dtype=np.float16).tobytes())
    return digest.hexdigest()


def _checked(name: str, spec: MicroVideoSpec, raw: RawFiles) -> MicroVideos:
    """Reads either edition and proves that the content is the registry's."""
    parts = {part: _read_pairs(raw.paths, stem, spec.shape) for part, stem in PARTS.items()}
    features = {
        kind: _read_features(raw.paths[file], spec.shape[1]) for kind, file in FEATURES.items()
    }
    sha256 = content_sha256(spec.shape, parts, features)
    if spec.content_sha256 and sha256 != spec.content_sha256:
        raise CorruptFileError(
            f"{', '.join(map(str, raw.paths.values()))}: the content has sha256 {sha256}, the "
            f"registry expects {spec.content_sha256}; remove the files and load again, or set "
            "MLSD_DATA_MIRROR to a folder that holds the edition with known checksums"
        )
    return MicroVideos(
        name=name,
        n_users=spec.shape[0],
        n_videos=spec.shape[1],
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        image=features["image"],
        audio=features["audio"],
        sha256=sha256,
        source=raw.source,
        licence=spec.licence,
    )


def _read_pairs(paths: Mapping[str, Path], stem: str, shape: tuple[int, int]) -> Pairs:
    if f"{stem}.npz" in paths:
        path = paths[f"{stem}.npz"]
        found, users, videos = _guarded(path, _read_npz)
    else:
        path = paths[f"{stem}.pkl"]
        found, users, videos = _guarded(path, _read_pickle)
    if found != shape:
        raise CorruptFileError(f"{path}: a matrix of {found}, expected {shape}")
    return ordered_pairs(users, videos, shape, str(path))


def ordered_pairs(
    users: np.ndarray, videos: np.ndarray, shape: tuple[int, int], origin: str
) -> Pairs:
    """Pairs ordered by user, then video.

    Raises:
        CorruptFileError: On arrays of different length, an index outside the shape, or a pair
            that stands twice; names the ``origin``.
    """
    if users.shape != videos.shape or users.ndim != 1:
        raise CorruptFileError(f"{origin}: {users.shape} users for {videos.shape} videos")
    for kind, index, size in (("user", users, shape[0]), ("video", videos, shape[1])):
        if len(index) and not 0 <= index.min() <= index.max() < size:
            raise CorruptFileError(f"{origin}: {kind} {index.max()} outside 0..{size - 1}")
    key = users.astype(np.int64) * shape[1] + videos
    order = np.argsort(key, kind="stable")
    if (np.diff(key[order]) == 0).any():
        raise CorruptFileError(f"{origin}: a pair stands twice")
    return Pairs(users[order].astype(np.int32), videos[order].astype(np.int32))


_Matrix = tuple[tuple[int, int], np.ndarray, np.ndarray]


def _guarded(path: Path, reader: Callable[[Path], _Matrix]) -> _Matrix:
    """What the reader finds; whatever a damaged file makes it raise names the file."""
    try:
        return reader(path)
    except (
        OSError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise CorruptFileError(f"{path} cannot be read as a sparse matrix: {error!r}") from error


def _read_npz(path: Path) -> _Matrix:
    """A coordinate matrix as scipy saves it: row, col, shape."""
    with np.load(path, allow_pickle=False) as arrays:
        rows, columns = arrays["shape"]
        return (int(rows), int(columns)), arrays["row"], arrays["col"]


def _read_pickle(path: Path) -> _Matrix:
    """A pickled scipy matrix, coordinates or compressed rows, without building it."""
    with path.open("rb") as stream:
        return coordinates(load_matrix_state(stream))


def _read_features(path: Path, n_videos: int) -> np.ndarray:
    """f32[V, D]; rounded to half precision first, as in the edition with known checksums."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptFileError(f"{path} cannot be read as an array: {error}") from error
    if values.ndim != 2 or len(values) != n_videos or not np.isfinite(values).all():
        raise CorruptFileError(
            f"{path}: {values.dtype}{list(values.shape)}, expected finite [{n_videos}, D]"
        )
    return np.asarray(values.astype(np.float16), dtype=np.float32)
