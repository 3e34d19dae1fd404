"""The downloader against a real server: whole, resumed, broken off, wrong, and not there."""

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_platform.data.download import RESUMES, CorruptFileError, download, verify_file

BODY = np.random.default_rng(0).bytes(700_000)
CHECKSUMS = (
    f"sha256:{hashlib.sha256(BODY).hexdigest()}",
    f"md5:{hashlib.md5(BODY, usedforsecurity=False).hexdigest()}",
)


@pytest.fixture
def target(tmp_path: Path, file_server: Any) -> Path:
    file_server.files["data.bin"] = BODY
    return tmp_path / "cache" / "data.bin"


def part_of(target: Path) -> Path:
    return target.with_name("data.bin.part")


def test_a_whole_file_arrives_under_its_name(file_server: Any, target: Path) -> None:
    assert download(file_server.url("data.bin"), target, CHECKSUMS) == target
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["data.bin"]
    assert file_server.ranges == [None]


def test_goes_on_where_an_earlier_run_stopped(file_server: Any, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(BODY[:300_000])
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY
    assert file_server.ranges == ["bytes=300000-"]


def test_a_connection_that_breaks_off_is_resumed(file_server: Any, target: Path) -> None:
    file_server.cut_after = [100_000, 250_000]
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY
    assert file_server.ranges == [None, "bytes=100000-", "bytes=350000-"]


def test_what_came_is_kept_for_the_next_call(file_server: Any, target: Path) -> None:
    file_server.cut_after = [50_000] * (RESUMES + 1)
    with pytest.raises(ConnectionError, match=r"broke off 4 times; 200,000 bytes kept"):
        download(file_server.url("data.bin"), target, CHECKSUMS)
    assert not target.exists()
    assert part_of(target).stat().st_size == 200_000
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert file_server.ranges[-1] == "bytes=200000-"
    assert target.read_bytes() == BODY


def test_a_wrong_file_is_named_and_leaves_nothing(file_server: Any, target: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"data\.bin\.part .*expected 000") as caught:
        download(file_server.url("data.bin"), target, (CHECKSUMS[0], "md5:000"))
    assert "sha256" not in str(caught.value)  # only the digest that differs is shown
    assert list(target.parent.iterdir()) == []


def test_a_part_of_another_version_is_thrown_away(file_server: Any, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1_000)
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY
    assert file_server.ranges == ["bytes=1000-", None]


def test_a_server_without_ranges_sends_all_again(file_server: Any, target: Path) -> None:
    file_server.ignore_range = True
    target.parent.mkdir()
    part_of(target).write_bytes(BODY[:300_000])
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(("extra", "requests"), [(b"", 1), (b"too long", 2)])
def test_a_part_with_nothing_missing(
    file_server: Any, target: Path, extra: bytes, requests: int
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(BODY + extra)
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY
    assert len(file_server.ranges) == requests


def test_a_finished_file_is_used_and_a_damaged_one_fetched(file_server: Any, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY)
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert file_server.ranges == []
    target.write_bytes(BODY[:-1])
    download(file_server.url("data.bin"), target, CHECKSUMS)
    assert target.read_bytes() == BODY


def test_an_answer_of_not_found_is_not_asked_again(file_server: Any, target: Path) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        download(file_server.url("other.bin"), target, CHECKSUMS)
    assert len(file_server.ranges) == 1


def test_a_bad_certificate_falls_back_only_where_a_checksum_proves_the_content(
    file_server: Any, target: Path
) -> None:
    # The server speaks plain http, so a TLS handshake with it fails like a bad certificate does.
    https = file_server.url("data.bin", "https")
    download(https, target, CHECKSUMS)
    assert target.read_bytes() == BODY
    with pytest.raises(urllib.error.URLError, match="SSL"):
        download(https, target.with_name("unproved.bin"), ())


def test_verify_takes_any_or_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    verify_file(path, ("sha256:000", CHECKSUMS[1]))
    with pytest.raises(CorruptFileError, match=r"\(700,000 bytes\) is damaged: sha256 is"):
        verify_file(path, ("sha256:000", CHECKSUMS[1]), match_all=True)
    with pytest.raises(CorruptFileError):
        verify_file(path, ("sha256:000", "md5:000"))
