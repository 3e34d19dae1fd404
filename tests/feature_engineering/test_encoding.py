"""Hashing that is the same everywhere, and means that shrink as the formula says."""

from __future__ import annotations

import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_engineering.encoding import hash_bucket, hashed_words, smoothed_mean


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(1, 1000))
def test_hash_bucket_is_the_formula(ids, n_buckets):
    mixed = [(i % 2**64) * 0x9E37_79B9_7F4A_7C15 % 2**64 for i in ids]
    expected = [(m >> 32) % n_buckets for m in mixed]
    assert hash_bucket(np.array(ids, dtype=np.int64), n_buckets).tolist() == expected


def test_neighbouring_ids_fill_the_buckets_evenly():
    counts = np.bincount(hash_bucket(np.arange(64_000), 64), minlength=64)
    assert counts.min() > 800
    assert counts.max() < 1200


def test_buckets_do_not_depend_on_the_process():
    code = (
        "import numpy as np; from feature_engineering.encoding import *;"
        "print(hash_bucket(np.arange(5), 100).tolist(),"
        "hashed_words(['Toy Story'], n_buckets=100, max_words=3).tolist())"
    )
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    words = hashed_words(["Toy Story"], n_buckets=100, max_words=3).tolist()
    assert got.split() == f"{hash_bucket(np.arange(5), 100).tolist()} {words}".split()


def test_words_by_hand():
    def bucket(word: str) -> int:
        return 1 + crc32(word.encode()) % 49

    bags = hashed_words(["Toy Story (1995)", "", "(1995)", "A B C D"], n_buckets=50, max_words=3)
    assert bags.tolist() == [
        [bucket("toy"), bucket("story"), 0],
        [0, 0, 0],
        [0, 0, 0],
        [bucket("a"), bucket("b"), bucket("c")],
    ]
    assert hashed_words([], n_buckets=50, max_words=3).shape == (0, 3)


def test_case_and_signs_do_not_matter_and_a_bare_year_is_a_word():
    bags = hashed_words(["ALIEN!", "alien", "1984 (1984)"], n_buckets=1000, max_words=2)
    assert bags[0].tolist() == bags[1].tolist()
    assert bags[2, 0] != 0
    assert bags[2, 1] == 0


def test_smoothed_mean_by_hand():
    category = np.array([0, 0, 2])
    value = np.array([1.0, 2.0, 6.0])  # mean 3
    got = smoothed_mean(category, value, n_categories=4, prior_weight=2.0)
    np.testing.assert_allclose(got, [(3 + 6) / 4, 3.0, (6 + 6) / 3, 3.0])
    assert got.dtype == np.float32


def test_smoothed_mean_tends_to_the_mean_and_to_the_prior():
    category, value = np.array([0, 0, 1]), np.array([4.0, 2.0, 9.0])
    np.testing.assert_allclose(
        smoothed_mean(category, value, n_categories=2, prior_weight=1e-9), [3.0, 9.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        smoothed_mean(category, value, n_categories=2, prior_weight=1e9), [5.0, 5.0], rtol=1e-6
    )
    empty = smoothed_mean(
        np.zeros(0, dtype=np.int64), np.zeros(0), n_categories=2, prior_weight=1.0
    )
    assert empty.tolist() == [0.0, 0.0]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="n_buckets must be at least 1, got 0"):
        hash_bucket(np.array([1]), 0)
    with pytest.raises(ValueError, match="n_buckets must be at least 2"):
        hashed_words(["a"], n_buckets=1, max_words=1)
    with pytest.raises(ValueError, match="prior_weight must be positive, got 0"):
        smoothed_mean(np.array([0]), np.array([1.0]), n_categories=1, prior_weight=0)
