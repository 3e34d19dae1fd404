"""A small repository with one system: results, source, and pages written by each test."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.docs import render
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import DatasetInfo, Results, RunInfo
from ml_platform.evaluation.run_info import Hardware

SOURCE = '''"""Module."""

LIMIT = 25


def plain(x):
    """Say what it does.

    Args:
        x: A number.
    """

    return x + 1  # why


@property
def decorated():
    """One line."""
    return "```"


class Thing:
    """A class."""

    size: int = 3

    def method(self) -> int:
        """Docstring."""
        return self.size


def long():
''' + "".join(f"    x{i} = {i}\n" for i in range(30))


class Site:
    """The repository, and the command run over one page of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.page = root / "system" / "docs" / "07_evaluation.md"

    def write(self, text: str) -> None:
        self.page.write_bytes(text.encode())

    def read(self) -> str:
        return self.page.read_bytes().decode()

    def render(self, text: str) -> str:
        """The page after rendering, which must succeed, be idempotent and pass the check
        whenever it holds a marker."""
        self.write(text)
        assert self.run() == 0
        once = self.read()
        assert self.run() == 0
        assert self.read() == once
        assert self.run("--check") == 0
        return once

    def run(self, *options: str) -> int:
        return render.main([*options, str(self.page)])


def make_results(synthetic: bool = False) -> Results:
    run = RunInfo(
        system="system",
        commit="0123456789ab",
        config={"top_k": 20, "nested": {"reg": 0.5}},
        config_sha256="0" * 64,
        dataset=DatasetInfo(name="movielens-100k", sha256="ab", synthetic=synthetic),
        seed=7,
        hardware=Hardware(cpu="A CPU", cores=2, memory_gib=8),
        date=datetime(2025, 1, 2, tzinfo=UTC),
        seconds=12.5,
    )
    results = Results(run)
    protocol = "next-event, full catalogue, seen items masked"
    for variant, recall, ndcg in (("ease", 0.573, 0.0731), ("popularity", 0.31, 0.0405)):
        recall_estimate = Estimate(recall, recall - 0.01, recall + 0.012, 9800)
        results.add(f"retrieval/{variant}/recall@100", recall_estimate, protocol=protocol)
        ndcg_estimate = Estimate(ndcg, ndcg - 0.002, ndcg + 0.002, 9800)
        results.add(f"retrieval/{variant}/ndcg@10", ndcg_estimate, protocol=protocol)
    results.add("index/flat/p50_ms", 1.25, protocol="one thread, closed loop", n=1000)
    results.add("data/train/interactions", 80000, protocol="counted")
    return results


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / ".git").mkdir()
    (tmp_path / "system" / "docs").mkdir(parents=True)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text(SOURCE)
    make_results().write(tmp_path / "system" / "results" / "full.json")
    make_results(synthetic=True).write(tmp_path / "system" / "results" / "synthetic.json")
    return Site(tmp_path)
