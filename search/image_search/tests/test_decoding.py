"""The door for pictures: what comes in upright and whole, and what is refused before it costs."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from handmade import encoded, exif, gradient, png_bomb, png_chunk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from image_search.images.decoding import ImageError, Limits, _orientation, decode, sniff

KINDS = ("JPEG", "PNG", "WEBP")


def refused(data: bytes, limits: Limits | None = None) -> ImageError:
    with pytest.raises(ImageError) as failure:
        decode(data, limits)
    return failure.value


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_known_by_its_content_and_decoded(kind: str) -> None:
    data = encoded(gradient(), kind, **({} if kind == "PNG" else {"quality": 95}))
    assert sniff(data) == kind
    picture = decode(data)
    assert picture.shape == (24, 36, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - gradient()).mean() < (0.5 if kind == "PNG" else 4)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_kinds_are_refused_though_pillow_reads_them(kind: str) -> None:
    error = refused(encoded(gradient(32, 32), kind))
    assert error.reason == "kind"
    assert "no JPEG, PNG or WebP" in str(error)


def test_a_kind_is_never_guessed_by_another_decoder() -> None:
    """First bytes of a PNG before a whole JPEG: only the PNG decoder is asked, and refuses."""
    assert refused(b"\x89PNG\r\n\x1a\n" + encoded(gradient(), "JPEG")).reason == "broken"


def test_nothing_and_too_many_bytes_are_refused() -> None:
    assert refused(b"").reason == "empty"
    data = encoded(gradient())
    assert decode(data, Limits(max_bytes=len(data))).shape == (24, 36, 3)
    error = refused(data, Limits(max_bytes=len(data) - 1))
    assert error.reason == "too_many_bytes"
    assert f"{len(data):,} bytes" in str(error)


def test_pixels_are_counted_before_they_are_decoded() -> None:
    data = encoded(gradient(24, 36))
    assert decode(data, Limits(max_pixels=24 * 36)).shape == (24, 36, 3)
    assert refused(data, Limits(max_pixels=24 * 36 - 1)).reason == "too_many_pixels"


@pytest.mark.parametrize(
    ("width", "height"), [(30_000, 30_000), (8_000, 8_000), (2**31 - 1, 2**31 - 1), (60_000, 1)]
)
def test_a_decompression_bomb_costs_no_memory(width: int, height: int) -> None:
    data = png_bomb(width, height)
    assert len(data) < 200
    tracemalloc.start()
    error = refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.reason == "too_many_pixels"
    assert peak < 1 << 20


def test_no_file_writes_into_the_services_output() -> None:
    """In a process of its own: here every warning is an error."""
    picture = encoded(gradient())
    no_frames = picture[:33] + png_chunk(b"acTL", bytes(8)) + picture[33:]  # an animation of none
    files = [png_bomb(10_000, 10_000), no_frames]
    program = (
        "import sys\n"
        "from image_search.images.decoding import ImageError, decode\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        print(decode(bytes.fromhex(line)).shape)\n"
        "    except ImageError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(data.hex() for data in files),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "10,000 x 10,000 pixels, the limit is 40,000,000 in all",
        "(24, 36, 3)",
    ]
    assert done.stderr == ""


def test_a_picture_of_no_pixels_is_refused() -> None:
    assert refused(png_bomb(0, 5)).reason == "broken"


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_off_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    for share in (0.3, 0.6, 0.9):
        assert refused(data[: int(len(data) * share)]).reason == "broken"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_orientation_agrees_with_pillow(kind: str, orientation: int) -> None:
    options = {} if kind == "PNG" else {"quality": 95}
    data = encoded(gradient(), kind, exif=exif(orientation), **options)
    upright = decode(data)
    assert upright.shape == ((24, 36, 3) if orientation < 5 else (36, 24, 3))
    plain = Image.fromarray(decode(encoded(gradient(), kind, **options)))
    plain.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(upright, expected)


def test_orientation_by_hand() -> None:
    """Value 6: the top of the file is the right-hand side of the scene."""
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0, 0] = (255, 0, 0)
    upright = decode(encoded(picture, exif=exif(6)))
    assert upright.shape == (3, 2, 3)
    assert upright[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"Exif", b"II*\x00", b"II*\x00\xff\xff\xff\xff", b"XX*\x00\x08\x00\x00\x00\x00\x00",
        exif(9), exif(0), exif(6, kind=4), exif(6, count=2), exif(6)[:-20],
        b"II*\x00" + struct.pack("<IH", 8, 65_535), b"II*\x00" + struct.pack("<I", 8),
    ],
)  # fmt: skip
def test_exif_data_that_makes_no_sense_turns_nothing(data: bytes) -> None:
    assert _orientation(data) == 1


def test_both_byte_orders_and_other_types() -> None:
    assert _orientation(exif(8, order="<")) == _orientation(exif(8, order=">")) == 8
    assert _orientation(None) == 1


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_the_orientation(data: bytes) -> None:
    assert 1 <= _orientation(data) <= 8
    assert 1 <= _orientation(b"MM\x00*" + data) <= 8


def test_transparency_is_laid_on_white() -> None:
    picture = np.zeros((2, 2, 4), dtype=np.uint8)
    picture[0, 0] = (10, 20, 30, 255)
    picture[0, 1] = (0, 0, 0, 128)
    found = decode(encoded(Image.fromarray(picture, "RGBA")))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[1, 1].tolist() == [255, 255, 255]
    assert abs(int(found[0, 1, 0]) - 127) <= 1


def test_grey_palette_and_deep_pictures_become_rgb() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    np.testing.assert_array_equal(decode(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(encoded(deep)), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(gradient(8, 8)).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette)), np.array(palette.convert("RGB")))
    clear = palette.copy()
    clear.info["transparency"] = int(np.array(palette)[0, 0])
    assert decode(encoded(clear, transparency=clear.info["transparency"]))[0, 0].tolist() == [
        255, 255, 255,
    ]  # fmt: skip
    bits = Image.fromarray(grey > 100)
    assert set(np.unique(decode(encoded(bits)))) == {0, 255}
    assert decode(encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG")).shape == (24, 36, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_of_several_pictures_the_first_counts(kind: str) -> None:
    """Animations, and the two views that some cameras write into one JPEG file."""
    first, second = (Image.fromarray(picture) for picture in (gradient(), 255 - gradient()))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.abs(decode(data).astype(int) - gradient()).mean() < 8


@pytest.mark.parametrize("kind", KINDS)
def test_side_bounds_the_longer_side_and_keeps_the_proportions(kind: str) -> None:
    data = encoded(gradient(300, 600), kind)
    assert decode(data, side=100).shape == (50, 100, 3)
    assert decode(data, side=10_000).shape == (300, 600, 3)
    turned = encoded(gradient(300, 600), kind, exif=exif(6))
    assert decode(turned, side=100).shape == (100, 50, 3)
    whole = np.array(Image.fromarray(decode(data)).resize((100, 50), Image.Resampling.LANCZOS))
    assert np.abs(decode(data, side=100).astype(int) - whole).mean() < 2
    with pytest.raises(ValueError, match="side must be at least 1"):
        decode(data, side=0)


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="limits must be positive"):
        Limits(max_bytes=0)


def _damage(data: bytes, places: list[tuple[float, int]]) -> bytes:
    damaged = bytearray(data)
    for place, value in places:
        damaged[int(place * (len(damaged) - 1))] = value
    return bytes(damaged)


def outcome(data: bytes) -> np.ndarray | ImageError:
    try:
        return decode(data, Limits(max_pixels=1_000_000))
    except ImageError as error:
        return error


SEEDS = {kind: encoded(gradient(), kind, exif=exif(6)) for kind in KINDS}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_are_decoded_or_refused_and_nothing_else(
    kind: str, places: list[tuple[float, int]]
) -> None:
    found = outcome(_damage(SEEDS[kind], places))
    if isinstance(found, ImageError):
        assert found.reason in ("kind", "broken", "too_many_pixels")
    else:
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert found.size <= 3_000_000


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"]), st.binary())
def test_noise_behind_a_right_beginning_is_refused(start: bytes, rest: bytes) -> None:
    assert refused(start + rest).reason in ("broken", "too_many_pixels")
