"""Perceptual hashes: the DCT against scipy, bits by hand, sizes, what they survive."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn

from image_search.images.image_set import ImageSet
from image_search.reranking.alterations import OTHER, SAME
from image_search.reranking.perceptual_hash import (
    BITS,
    LOW,
    SIDE,
    dct_matrix,
    dhash,
    distances,
    low_frequencies,
    phash,
    shrink_matrix,
    shrunk,
    shrunk_colour,
)


def random_pictures(n: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels))
    return drawn.astype(np.uint8)


def test_dct_is_that_of_scipy() -> None:
    grey = np.random.default_rng(0).normal(size=(3, SIDE, SIDE))
    whole = dctn(grey, type=2, norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(low_frequencies(grey), whole[:, :LOW, :LOW], atol=1e-10)


def test_dct_rows_are_orthonormal() -> None:
    rows = dct_matrix(12, 12)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=1e-12)


def test_phash_by_a_naive_loop() -> None:
    picture = random_pictures(1, 64, 64, 1)
    small = picture[0, :, :, 0].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    low = np.round(dctn(small, type=2, norm="ortho")[:8, :8], 3).ravel()
    bits = "".join("1" if value > np.median(low[1:]) else "0" for value in low)
    assert int(phash(picture)[0]) == int(bits, 2)


def test_dhash_by_hand() -> None:
    rising = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))[None, :, :, None]
    assert int(dhash(rising)[0]) == 2**64 - 1
    assert int(dhash(rising[:, :, ::-1])[0]) == 0
    one_row = np.zeros((1, 8, 9, 1), dtype=np.uint8)
    one_row[0, 0, 4:] = 200  # brighter than its left neighbour at one place of the first row
    assert int(dhash(one_row)[0]) == 1 << (63 - 3)


def test_shrinking_averages_what_is_covered() -> None:
    # Four pixels to three: each new one covers 4/3 of a pixel.
    expected = [[3 / 4, 1 / 4, 0, 0], [0, 1 / 2, 1 / 2, 0], [0, 0, 1 / 4, 3 / 4]]
    np.testing.assert_allclose(shrink_matrix(4, 3), expected)


def test_enlarging_interpolates_between_middles() -> None:
    # Two pixels to four: middles at -.25 (held at 0), .25, .75, 1.25 (held at 1).
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(shrink_matrix(2, 4), expected)


@pytest.mark.parametrize(("size", "side"), [(1, 5), (7, 7), (5, 2), (3, 8), (100, 16)])
def test_every_new_pixel_is_an_average(size: int, side: int) -> None:
    matrix = shrink_matrix(size, side)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 -> 4"):
        shrink_matrix(0, 4)


def test_distances_count_bits() -> None:
    one = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
    assert distances(one, np.uint64(0)).tolist() == [0, 1, 64]
    grid = distances(one[:, None], one)
    naive = [[bin(int(a) ^ int(b)).count("1") for b in one] for a in one]
    assert grid.tolist() == naive


def test_arrays_and_sequences_hash_alike() -> None:
    pictures = random_pictures(5, 20, 30, 3)
    for hashed in (phash, dhash):
        np.testing.assert_array_equal(hashed(pictures), hashed(list(pictures)))


def test_grey_in_three_channels_is_grey() -> None:
    grey = random_pictures(4, 28, 28, 1)
    for hashed in (phash, dhash):
        assert distances(hashed(grey), hashed(np.repeat(grey, 3, axis=3))).max() <= 1


def test_half_of_the_bits_are_set() -> None:
    counts = np.bitwise_count(phash(random_pictures(50, 40, 40, 1)))
    assert set(counts.tolist()) <= {BITS // 2 - 1, BITS // 2}


def test_a_flat_picture_has_no_bits_but_the_mean() -> None:
    flat = np.full((1, 30, 30, 1), 77, dtype=np.uint8)
    assert int(phash(flat)[0]) == 1 << 63
    assert int(dhash(flat)[0]) == 0


def test_no_pictures_no_hashes() -> None:
    assert phash(np.zeros((0, 8, 8, 1), dtype=np.uint8)).shape == (0,)
    assert shrunk([], 4).shape == (0, 4, 4)


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[H, W, 1\] or \[H, W, 3\]"):
        phash(np.zeros((1, 8, 8, 4), dtype=np.uint8))


def test_colour_is_what_red_and_blue_have_more_than_grey() -> None:
    red = np.zeros((1, 6, 6, 3), dtype=np.uint8)
    red[..., 0] = 100
    found = shrunk_colour(red, 2)
    np.testing.assert_allclose(found[0, 0], 100 - 29.9, rtol=1e-6)
    np.testing.assert_allclose(found[0, 1], -29.9, rtol=1e-6)
    assert not shrunk_colour(red[..., :1], 2).any()


def test_copies_are_nearer_than_others(tiny: ImageSet) -> None:
    pictures = np.asarray(tiny.images[:60])
    codes = phash(pictures)
    others = distances(codes[:, None], codes)[~np.eye(60, dtype=bool)]
    for name in ("jpeg_90", "darker_80", "resize_200"):
        copies = phash([SAME[name](picture) for picture in pictures])
        assert distances(codes, copies).mean() < 0.5 * others.mean(), name


def test_alterations_keep_kind_and_channels() -> None:
    for channels in (1, 3):
        picture = random_pictures(1, 40, 31, channels)[0]
        before = picture.copy()
        for name, alter in (SAME | OTHER).items():
            altered = alter(picture)
            assert altered.dtype == np.uint8, name
            assert altered.shape[2:] == (channels,), name
            np.testing.assert_array_equal(picture, before, err_msg=name)


def test_alterations_by_hand() -> None:
    picture = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    assert SAME["crop_10"](picture).shape == (9, 9, 1)
    assert SAME["resize_50"](picture).shape == (5, 5, 1)
    assert SAME["darker_80"](picture)[9, 9, 0] == 79
    assert SAME["brighter_120"](np.full((2, 2, 1), 250, dtype=np.uint8)).max() == 255
    assert OTHER["mirror"](picture)[0, 0, 0] == 9
    assert OTHER["flip"](picture)[0, 0, 0] == 90
