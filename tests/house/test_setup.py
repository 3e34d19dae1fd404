"""The set-up machinery: what is skipped, what is redone, what is said when something is missing.

The script runs in a copy of the few files it reads, with stand-ins for Python and uv that record
what they were asked, so that the tests install nothing.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_UV = """#!/bin/bash
echo "$@" >> "$LOG"
case "$*" in
  --version) echo "uv 0.13.8 (test)" ;;
  venv*) venv="${@: -1}"; rm -rf "$venv"; mkdir -p "$venv/bin"
         printf '#!/bin/sh\\necho cp311\\n' > "$venv/bin/python"; chmod +x "$venv/bin/python" ;;
  *"${FAIL_ON:-nothing fails}"*) exit 1 ;;
esac
"""
FAKE_PYTHON = """#!/bin/bash
case "$*" in
  *sys.exit*) exit "${PYTHON_IS_WRONG:-0}" ;;
  *sys.executable*) echo "$0" ;;
  *) echo "Python 3.11.9" ;;
esac
"""


class House:
    """A copy of the tree's set-up files with stand-ins for the tools."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a house"  # the space is meant
        self.log = folder / "uv.log"
        self.system = self.root / "recommendation" / "feed"
        self.tools = folder / "bin"
        for path in (self.root / "scripts", self.system, self.tools):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup.sh", self.root / "scripts/setup.sh")
        for folder_ in (self.root, self.system):
            (folder_ / "pyproject.toml").write_text(
                '[build-system]\n[project]\nname = "x"\n[tool.ruff]\na = 1\n'
            )
            (folder_ / "requirements.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n")
        self.tool("uv", FAKE_UV)
        for name in ("python3.11", "python3.12", "python3", "python"):
            self.tool(name, FAKE_PYTHON)

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.tools}:{os.defpath}", "LOG": str(self.log)} | variables
        command = ["bash", str(self.root / "scripts/setup.sh"), str(self.system)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=30
        )

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line != "--version"]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_first_call_builds_and_second_does_nothing(house: House) -> None:
    assert house.setup().returncode == 0
    first = house.calls()
    assert first[0].startswith("venv ")
    assert "--torch-backend=cpu" in first[1], "torch goes first"
    assert "--requirement" in first[2]
    assert [call for call in first if "--editable" in call and "a house" in call] == first[3:5]
    again = house.setup()
    assert (again.returncode, again.stdout, house.calls()) == (0, "", [])


@pytest.mark.parametrize("changed", ["requirements.txt", "pyproject.toml"])
def test_changed_content_is_redone_and_a_new_date_is_not(house: House, changed: str) -> None:
    house.setup()
    house.calls()
    path = house.system / changed
    os.utime(path, (1, 1))
    house.setup()
    assert house.calls() == []
    path.write_text(
        "[build-system]\n[project]\nname = 'y'\n" if changed.endswith("toml") else "numpy==2.4.5\n"
    )
    house.setup()
    assert house.calls() != []


def test_a_folder_that_packages_nothing_gets_its_requirements_only(house: House) -> None:
    (house.system / "pyproject.toml").write_text('[project]\nname = "a-job"\n')
    assert house.setup().returncode == 0
    calls = house.calls()
    assert any("--requirement" in call for call in calls)
    assert not any("--editable" in call for call in calls)


def test_linter_settings_do_not_rebuild(house: House) -> None:
    house.setup()
    house.calls()
    (house.root / "pyproject.toml").write_text(
        '[build-system]\n[project]\nname = "x"\n[tool.ruff]\na = 2\n'
    )
    house.setup()
    assert house.calls() == []


def test_a_failed_set_up_leaves_no_stamp(house: House) -> None:
    assert house.setup(FAIL_ON="--editable").returncode != 0
    assert not (house.system / ".venv/.mlsd-setup").exists()
    assert not (house.root / ".tools/lock").exists(), "the lock is given back"
    house.calls()
    assert house.setup().returncode == 0
    assert house.calls()[0].startswith("venv ")


def test_a_failed_rebuild_removes_the_old_stamp(house: House) -> None:
    house.setup()
    (house.system / "requirements.txt").write_text("numpy==2.4.5\n")
    assert house.setup(FAIL_ON="--requirement").returncode != 0
    assert not (house.system / ".venv/.mlsd-setup").exists()


def test_torch_comes_from_the_folder_that_holds_its_wheel(house: House, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2.13.0+cpu-cp312-cp312-linux_x86_64.whl").touch()
    house.setup(PIP_FIND_LINKS=str(wheels))
    assert not any("--find-links" in call for call in house.calls()), "built for another Python"
    shutil.rmtree(house.system / ".venv")
    (wheels / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    house.setup(PIP_FIND_LINKS=f"no-such-folder {wheels}")
    calls = house.calls()
    assert any(f"--no-index --find-links {wheels} torch==2.13.0" in call for call in calls)
    assert not any("--torch-backend" in call for call in calls)


def test_a_wrong_python_is_named(house: House) -> None:
    failed = house.setup(PYTHON_IS_WRONG="1")
    assert failed.returncode == 1
    assert "no Python 3.11 or 3.12 found" in failed.stderr
    named = house.setup(PYTHON_IS_WRONG="1", PYTHON="python3")
    assert "PYTHON=python3 is not a Python 3.11 or 3.12" in named.stderr


def test_an_old_uv_and_no_pip_says_what_to_do(house: House) -> None:
    house.tool("uv", '#!/bin/bash\necho "uv 0.4.30"\n')
    failing = FAKE_PYTHON.replace('*) echo "Python 3.11.9"', "-m*) exit 1 ;;\n  *) echo Python")
    for name in ("python3.11", "python3"):
        house.tool(name, failing)
    failed = house.setup()
    assert failed.returncode == 1
    assert "could not install uv" in failed.stderr
    assert "python3-pip" in failed.stderr


def test_a_lock_of_a_dead_process_is_removed(house: House) -> None:
    lock = house.root / ".tools/lock"
    lock.mkdir(parents=True)
    process = subprocess.Popen(["true"])
    process.wait()
    (lock / "pid").write_text(str(process.pid))
    assert house.setup().returncode == 0
