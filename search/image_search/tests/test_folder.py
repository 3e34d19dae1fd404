"""A user's own folder: what is found, in which order, and what is skipped with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from handmade import encoded, gradient, png_bomb

from image_search.images.decoding import ImageError, Limits
from image_search.images.folder import (
    EmptyFolderError,
    TooManyFilesError,
    picture_files,
    read_folder,
)


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_good_pictures_are_indexed_and_broken_ones_listed(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", encoded(gradient(), "JPEG"))
    put(tmp_path, "a.webp", encoded(gradient(), "WEBP"))
    put(tmp_path, "lies.png", encoded(gradient(), "JPEG"))  # the name lies, the content counts
    put(tmp_path, "empty.png", b"")
    put(tmp_path, "text.jpg", b"hello")
    put(tmp_path, "bomb.png", png_bomb(30_000, 30_000))
    put(tmp_path, "cut.jpeg", encoded(gradient(), "JPEG")[:200])
    put(tmp_path, "notes.txt", b"no candidate")
    found = read_folder(tmp_path)
    assert [path.name for path in found.images.paths] == ["a.webp", "b.JPG", "lies.png"]
    assert list(found.broken) == ["bomb.png", "cut.jpeg", "empty.png", "text.jpg"]
    assert "more pixels than the limit of 40,000,000" in found.broken["bomb.png"]
    assert "empty" in found.broken["empty.png"]
    assert found.images[0].shape == (24, 36, 3)
    assert len(found.images[1:]) == 2
    assert not found.labelled
    assert found.item_id.tolist() == [0, 1, 2]


def test_the_order_is_by_parts_of_the_path_and_the_checksum_by_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    names = ["b/1.png", "a-b/1.png", "a/2.png", "a/10.png"]
    for n, name in enumerate(names):
        put(one, name, encoded(gradient(20 + n, 30)))
    for n, name in reversed(list(enumerate(names))):
        put(two, name, encoded(gradient(20 + n, 30)))
    first, second = read_folder(one), read_folder(two)
    order = [path.relative_to(one).as_posix() for path in first.images.paths]
    assert order == ["a/10.png", "a/2.png", "a-b/1.png", "b/1.png"]
    assert first.sha256 == second.sha256
    put(two, "b/1.png", encoded(gradient(50, 50)))
    assert read_folder(two).sha256 != first.sha256


def test_folders_are_classes_where_every_picture_has_one(tmp_path: Path) -> None:
    for name in ("hat/x.png", "hat/old/y.png", "coat/z.png"):
        put(tmp_path, name, encoded(gradient()))
    found = read_folder(tmp_path)
    assert found.label_names == ("coat", "hat")
    assert found.label.tolist() == [0, 1, 1]
    assert found.labelled
    put(tmp_path, "loose.png", encoded(gradient()))
    assert not read_folder(tmp_path).labelled


def test_hidden_files_links_to_folders_and_pipes_are_left_out(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    put(inside, "a.png", encoded(gradient()))
    put(inside, ".b.png", encoded(gradient()))
    put(inside, ".hidden/c.png", encoded(gradient()))
    put(tmp_path, "elsewhere/d.png", encoded(gradient()))
    (inside / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (inside / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(inside / "pipe.png")  # opening it would wait for ever
    assert [path.name for path in picture_files(inside, most=9)] == ["a.png"]


def test_a_file_that_may_not_be_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.png", encoded(gradient()))
    secret = put(tmp_path, "b.png", encoded(gradient()))
    inner = Path.open

    def refuse(self: Path, *given: object, **options: object) -> object:
        if self == secret:
            raise PermissionError(13, "Permission denied", str(self))
        return inner(self, *given, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything: modes would prove nothing
    found = read_folder(tmp_path)
    assert "Permission denied" in found.broken["b.png"]
    assert len(found) == 1


def test_limits_are_kept_and_a_giant_is_not_read_whole(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded(gradient()))
    giant = tmp_path / "b.png"
    with giant.open("wb") as stream:
        stream.write(encoded(gradient()))
        stream.truncate(1 << 40)  # a terabyte of holes
    found = read_folder(tmp_path, Limits(max_bytes=100_000))
    assert "100,001 bytes, the limit is 100,000" in found.broken["b.png"]


def test_a_picture_that_breaks_later_says_so(tmp_path: Path) -> None:
    path = put(tmp_path, "a.png", encoded(gradient()))
    found = read_folder(tmp_path)
    path.write_bytes(b"changed")
    with pytest.raises(ImageError, match="no JPEG"):
        found.images[0]


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(EmptyFolderError, match="no file that ends in"):
        read_folder(tmp_path)
    put(tmp_path, "a.png", b"x")
    with pytest.raises(EmptyFolderError, match=r"none of the 1 files .* a\.png: begins with 78"):
        read_folder(tmp_path)
    put(tmp_path, "b.png", b"x")
    with pytest.raises(TooManyFilesError, match="more than 1 pictures"):
        picture_files(tmp_path, most=1)


def test_pictures_are_shrunk_as_they_are_read(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded(np.zeros((90, 60, 3), np.uint8)))
    assert read_folder(tmp_path, side=30).images[0].shape == (30, 20, 3)
    assert read_folder(tmp_path, side=None).images[0].shape == (90, 60, 3)
