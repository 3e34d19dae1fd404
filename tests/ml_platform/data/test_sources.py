"""The order of the sources, what each does with damage, and two processes at once."""

import hashlib
import io
import logging
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data import sources
from ml_platform.data.download import DatasetUnavailableError
from ml_platform.data.sources import Package, RawFiles, RawSpec, folder_lock, obtain

CONTENT = {"a.txt": b"first file\n", "b.txt": b"second file\n"}
DEAD_URL = "http://127.0.0.1:9/tiny.zip"  # the discard port: refused at once


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def archive(content: dict[str, bytes] = CONTENT) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, body in content.items():
            target.writestr(zipfile.ZipInfo(f"tiny/{name}"), body)
    return buffer.getvalue()


def make_spec(
    url: str = DEAD_URL, *, pinned: bool = True, package: Package | None = None
) -> RawSpec:
    files: dict[str, tuple[str, ...]] = {
        name: (sha256(body),) if pinned else () for name, body in CONTENT.items()
    }
    return RawSpec("tiny", files, url, (sha256(archive()),), package)


def make_mirror(root: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder = root / "mirror" / "tiny"
    folder.mkdir(parents=True)
    for name, body in content.items():
        (folder / name).write_bytes(body)
    return folder.parent


def get(spec: RawSpec, folder: Path) -> RawFiles:
    with folder_lock(folder):
        return obtain("tiny-set", spec, folder)


def contents(raw: RawFiles) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in raw.paths.items()}


def test_mirror_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(make_mirror(tmp_path)))
    first, second = (get(make_spec(), tmp_path / "cache") for _ in range(2))
    assert (first.source, second.source) == ("mirror", "cache")
    assert contents(first) == contents(second) == CONTENT
    assert [attempt.source for attempt in first.attempts] == ["cache", "mirror"]
    assert second.attempts[0].outcome.endswith("first served by mirror")


def test_owner_is_asked_once(tmp_path: Path, file_server: Any) -> None:
    file_server.files["tiny.zip"] = archive()
    spec = make_spec(file_server.url("tiny.zip"), pinned=False)
    assert [get(spec, tmp_path / "c").source for _ in range(2)] == ["owner", "cache"]
    assert len(file_server.ranges) == 1
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".lock", "raw"]


def test_a_mirror_may_hold_the_owners_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = make_mirror(tmp_path, {"tiny.zip": archive(), "a.txt": b"loose and unproved"})
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(mirror))
    raw = get(make_spec(pinned=False), tmp_path / "cache")
    assert raw.source == "mirror"
    assert contents(raw) == CONTENT


def test_a_read_only_mirror_serves_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = make_mirror(tmp_path)
    for path in (mirror / "tiny").iterdir():
        path.chmod(0o444)
    (mirror / "tiny").chmod(0o555)
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(mirror))
    try:
        raw = get(make_spec(), tmp_path / "cache")
        assert contents(raw) == CONTENT
        assert sorted(path.name for path in (mirror / "tiny").iterdir()) == sorted(CONTENT)
        # A copy that kept the mirror's mode could never be replaced when it is damaged.
        assert all(path.stat().st_mode & stat.S_IWUSR for path in raw.paths.values())
    finally:
        (mirror / "tiny").chmod(0o755)


def test_a_damaged_mirror_is_named_kept_and_passed_over(
    tmp_path: Path,
    file_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = make_mirror(tmp_path, {**CONTENT, "b.txt": b"secon"})
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(mirror))
    file_server.files["tiny.zip"] = archive()
    raw = get(make_spec(file_server.url("tiny.zip")), tmp_path / "cache")
    assert raw.source == "owner"
    assert f"{mirror / 'tiny' / 'b.txt'} (5 bytes) is damaged" in raw.attempts[1].outcome
    assert (mirror / "tiny" / "b.txt").read_bytes() == b"secon"
    assert "b.txt (5 bytes) is damaged" in caplog.text


def test_a_truncated_cache_is_named_removed_and_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(make_mirror(tmp_path)))
    path = get(make_spec(), tmp_path / "cache").paths["a.txt"]
    path.write_bytes(path.read_bytes()[:4])
    caplog.set_level(logging.WARNING)
    raw = get(make_spec(), tmp_path / "cache")
    assert raw.source == "mirror"
    assert contents(raw) == CONTENT
    assert f"{path} (4 bytes) is damaged" in caplog.text
    assert "removed" in caplog.text


@pytest.mark.parametrize("record", [b"", b"{}", b'{"source": "owner", "sha256": {}}', b"\xff"])
def test_a_damaged_record_of_the_cache_counts_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(make_mirror(tmp_path)))
    get(make_spec(), tmp_path / "cache")
    (tmp_path / "cache" / "raw" / "files.json").write_bytes(record)
    assert get(make_spec(), tmp_path / "cache").source == "mirror"


def test_damage_without_another_source_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(make_mirror(tmp_path)))
    get(make_spec(), tmp_path / "cache").paths["a.txt"].write_bytes(b"")
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    with pytest.raises(DatasetUnavailableError) as caught:
        get(make_spec(), tmp_path / "cache")
    message = str(caught.value)
    assert "a.txt (0 bytes) is damaged" in message
    assert "mirror: MLSD_DATA_MIRROR is not set" in message
    assert f"owner: failed, {DEAD_URL}: " in message
    assert "package: no package ships this data set" in message
    assert "--dataset synthetic" in message


def test_a_wrong_archive_of_the_owner_is_not_used(tmp_path: Path, file_server: Any) -> None:
    file_server.files["tiny.zip"] = archive({"a.txt": b"changed", "b.txt": b"changed"})
    with pytest.raises(DatasetUnavailableError, match=r"owner: failed, .*tiny\.zip\.part"):
        get(make_spec(file_server.url("tiny.zip")), tmp_path / "cache")
    assert not (tmp_path / "cache" / "raw").exists()


def fake_uv(folder: Path, script: str) -> str:
    path = folder / "uv"
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_package_is_unpacked_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]); target.mkdir()\n"
        "(target / 'shipped').write_text(sys.argv[-1])"
    )
    monkeypatch.setattr(sources, "find_uv", lambda: fake_uv(tmp_path, script))

    def restore(unpacked: Path, target: Path) -> None:
        assert (unpacked / "shipped").read_text() == "some-wheel==1.0"
        for name, body in CONTENT.items():
            (target / name).write_bytes(body)

    spec = make_spec(package=Package("some-wheel==1.0", restore))
    raw = get(spec, tmp_path / "cache")
    assert raw.source == "package"
    assert contents(raw) == CONTENT


def test_a_package_that_cannot_be_had_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "sys.exit('error: no such wheel')"
    monkeypatch.setattr(sources, "find_uv", lambda: fake_uv(tmp_path, script))
    spec = make_spec(package=Package("some-wheel==1.0", lambda unpacked, target: None))
    expected = r"package: failed, some-wheel==1\.0: error: no such wheel"
    with pytest.raises(DatasetUnavailableError, match=expected):
        get(spec, tmp_path / "cache")


def test_two_processes_load_at_once_and_download_once(tmp_path: Path, file_server: Any) -> None:
    file_server.files["tiny.zip"] = archive()
    program = (
        "import sys; from pathlib import Path\n"
        "from ml_platform.data.sources import RawSpec, folder_lock, obtain\n"
        f"spec = RawSpec('tiny', {make_spec().files!r}, sys.argv[1], {(sha256(archive()),)!r})\n"
        "folder = Path(sys.argv[2])\n"
        "with folder_lock(folder):\n"
        "    raw = obtain('tiny-set', spec, folder)\n"
        "print(raw.source, *(path.read_bytes() for path in raw.paths.values()))\n"
    )
    command = [sys.executable, "-c", program, file_server.url("tiny.zip"), str(tmp_path / "c")]
    root = Path(sources.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = sorted(process.communicate(timeout=60)[0].split(" ", 1) for process in running)
    assert [source for source, _ in printed] == ["cache", "owner"]
    assert printed[0][1] == printed[1][1] == f"{CONTENT['a.txt']!r} {CONTENT['b.txt']!r}\n"
    assert len(file_server.ranges) == 1


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".filling-dead").mkdir()
    with folder_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetUnavailableError, match="set MLSD_CACHE_DIR"):
        get(make_spec(), tmp_path / "file" / "cache")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLSD_CACHE_DIR", str(tmp_path))
    assert sources.default_cache_dir() == tmp_path
    monkeypatch.delenv("MLSD_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert sources.default_cache_dir() == tmp_path / ".cache" / "mlsd"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sources.default_cache_dir() == tmp_path / "Library" / "Caches" / "mlsd"


def test_a_folder_of_the_operating_system_comes_after_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = make_mirror(tmp_path) / "tiny"
    spec = replace(make_spec(), system_folder=str(installed))
    raw = get(spec, tmp_path / "cache")
    assert raw.source == "system"
    assert contents(raw) == CONTENT
    assert [attempt.source for attempt in raw.attempts] == ["cache", "mirror", "system"]
    (installed / "a.txt").write_bytes(b"damaged")
    with pytest.raises(DatasetUnavailableError, match=r"system: failed, .*a\.txt .* is damaged"):
        get(spec, tmp_path / "other")
    (installed / "b.txt").unlink()
    with pytest.raises(DatasetUnavailableError, match=r"system: .* does not hold b\.txt"):
        get(spec, tmp_path / "other")


def test_an_owner_of_single_files_is_asked_for_each(tmp_path: Path, file_server: Any) -> None:
    file_server.files.update({f"raw/{name}": body for name, body in CONTENT.items()})
    spec = replace(make_spec(), url="", files_url=file_server.url("raw"))
    raw = get(spec, tmp_path / "cache")
    assert raw.source == "owner"
    assert contents(raw) == CONTENT
    assert len(file_server.ranges) == 2
    del file_server.files["raw/b.txt"]
    with pytest.raises(DatasetUnavailableError, match=r"owner: failed, .*raw/b\.txt"):
        get(spec, tmp_path / "other")
    assert (tmp_path / "other" / "a.txt").read_bytes() == CONTENT["a.txt"]  # for the next try
