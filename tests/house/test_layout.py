"""House rules about files: sizes, required parts, and nothing that ties the tree to one machine.

Every test asserts first how much it found: a rule that looked at nothing has not been kept.
"""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ml_platform", "ml_algorithms", "feature_engineering")
# Not below artifacts: the site has a page about each pyproject.toml.
SYSTEMS = sorted(p.parent for p in ROOT.glob("*/*/pyproject.toml") if p.is_file())
# Jobs that need an environment of their own (Spark): requirements and a script, no package.
JOBS = sorted(p.parent for p in ROOT.glob("*/*/*/pyproject.toml") if p.is_file())
REQUIRED = (
    "README.md",
    "Makefile",
    "pyproject.toml",
    "requirements.txt",
    "configs",
    "src",
    "tests",
)

# A file over 400 lines (300 in ml_platform) needs its reason here.
LONG_FILES: dict[str, str] = {}

# Built from parts, so that this file does not name what it forbids.
REGISTRY_HOSTS = ("pypi" + ".org", "python" + "hosted.", "npmjs" + ".", "download.py" + "torch")
MACHINE_PATH = re.compile(
    r"(?<![\w./$}-])/(?:home|Users|root|work|farm|opt/wheels|opt/pypi)/[\w.-]"
)
TEXT_SUFFIXES = {
    "", ".cfg", ".ini", ".json", ".md", ".mk", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip
IGNORED_FOLDERS = {
    ".git", ".venv", ".tools", "artifacts", "__pycache__", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".import_linter_cache", ".hypothesis",
}  # fmt: skip


def tree_files() -> list[Path]:
    """Files that are or will be committed: what git knows or would add, or, outside git, all."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        found = [
            path
            for path in ROOT.rglob("*")
            if not IGNORED_FOLDERS & set(path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


FILES = tree_files()
TEXTS = [path for path in FILES if path.suffix in TEXT_SUFFIXES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(ROOT).parts


def test_something_is_looked_at() -> None:
    assert len(SYSTEMS) >= 1
    assert len(TEXTS) >= 30
    assert {"pyproject.toml", "Makefile", "scripts/setup.sh"} <= {name_of(path) for path in TEXTS}


def test_source_files_stay_short() -> None:
    sources = [path for path in FILES if path.suffix == ".py" and not is_test(path)]
    assert len(sources) >= 10
    too_long = {}
    for path in sources:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = 300 if name_of(path).startswith("ml_platform/") else 400
        if lines > limit and name_of(path) not in LONG_FILES:
            too_long[name_of(path)] = f"{lines} lines, limit {limit}"
    assert too_long == {}, "split these, or give the reason in LONG_FILES"


def test_exceptions_to_the_size_rule_still_exist() -> None:
    assert [name for name in LONG_FILES if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_file_names_a_package_registry(host: str) -> None:
    naming = [name_of(path) for path in TEXTS if host in path.read_text(encoding="utf-8")]
    assert naming == []


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in TEXTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:80]}")
    assert found == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("data lies in /" + "home/someone/data", True),
        ("--find-links=/" + "opt/wheels/torch.whl", True),
        ("https://example.com/home/page", False),
        ("artifacts/latest/work/x", False),
        ("$HOME/.cache/mlsd", False),
    ],
)
def test_the_pattern_for_machine_paths(line: str, caught: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is caught


def test_requirements_hold_versions_and_no_addresses() -> None:
    folders = [ROOT, *SYSTEMS, *JOBS]
    files = [folder / "requirements.txt" for folder in folders]
    requirement = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.]+( ; [\w '\"<>=!.()]+)?")
    checked = 0
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert requirement.fullmatch(line), f"{name_of(path)}: {line!r} is not name==version"
            assert not line.startswith(("nvidia-", "triton")), f"{name_of(path)}: CUDA: {line}"
            checked += 1
        assert path in {job / "requirements.txt" for job in JOBS} or checked > 50, name_of(path)
    assert checked > 50 * (len(files) - len(JOBS))


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_a_job_packages_nothing_and_stands_alone(job: Path) -> None:
    assert "build-system" not in tomllib.loads((job / "pyproject.toml").read_text("utf-8"))
    scripts = sorted(job.glob("*.py"))
    assert scripts
    ours = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(PACKAGES)})\b", re.MULTILINE)
    assert [path.name for path in scripts if ours.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda path: path.name)
def test_a_system_is_complete(system: Path) -> None:
    assert [name for name in REQUIRED if not (system / name).exists()] == []
    assert (system / "src" / system.name / "__init__.py").is_file(), "the package has its name"
    makefile = (system / "Makefile").read_text(encoding="utf-8").splitlines()
    assert makefile[0].startswith("CLI := ")
    assert makefile[1] == "include ../../scripts/system.mk"


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda path: path.name)
def test_configs_load(system: Path) -> None:
    configs = sorted((system / "configs").rglob("*.yaml"))
    assert {"default.yaml", "smoke.yaml"} <= {path.name for path in configs}
    for path in configs:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert content is None or isinstance(content, dict), f"{name_of(path)} is not a mapping"


def test_import_rules_name_every_system_and_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    linter = settings["tool"]["importlinter"]
    expected = {system.name for system in SYSTEMS} | set(PACKAGES)
    assert set(linter["root_packages"]) == expected
    layers = next(rule for rule in linter["contracts"] if rule["type"] == "layers")["layers"]
    assert {name for layer in layers for name in re.split(r"\s*\|\s*", layer)} == expected


def test_import_rules_name_every_room_of_the_platform() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    named = next(rule for rule in contracts if rule["type"] == "independence")["modules"]
    rooms = {f"ml_platform.{path.parent.name}" for path in ROOT.glob("ml_platform/*/__init__.py")}
    assert set(named) == rooms


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)(?:#[^)]*)?\)")
    pages = [path for path in TEXTS if path.suffix == ".md"]
    links = [
        (path, target)
        for path in pages
        for target in link.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(links) >= 10
    broken = [f"{name_of(path)}: {to}" for path, to in links if not (path.parent / to).exists()]
    assert broken == []
