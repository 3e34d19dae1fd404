"""Rules of every system that is watched: sound, tested, documented, each alert's name used once.

Whether a rule names what its service exports is tested by the system, which can start it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from alert_rules import grouped_by, rules_of, samples_of, selectors, unknown_in

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
FOLDERS = sorted(path.parent for path in MONITORING.rglob("alerts.yml"))
promtool = shutil.which("promtool")
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_there_are_rules_and_no_two_alerts_of_one_name():
    assert len(FOLDERS) >= 3
    names = [rule["alert"] for folder in FOLDERS for rule in rules_of(folder)]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


@each_folder
def test_alerts_say_who_is_woken_and_what_to_do(folder):
    assert len(rules_of(folder)) >= 10
    for rule in rules_of(folder):
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}
        assert len(rule["annotations"]["summary"]) > 10
        assert len(rule["annotations"]["action"]) > 40
        if rule["labels"]["severity"] == "page":
            assert rule["for"], f"{rule['alert']} pages at the first sample"


@each_folder
def test_the_readme_and_the_unit_tests_have_every_alert(folder):
    names = [rule["alert"] for rule in rules_of(folder)]
    readme = re.findall(r"^\| ([A-Z]\w+) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert readme == names
    tests = set(re.findall(r"\w+", (folder / "alerts_test.yml").read_text()))
    assert set(names) <= tests


@pytest.mark.skipif(
    promtool is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
@each_folder
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(folder, command):
    done = subprocess.run(
        [str(promtool), *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the reader that the systems' tests use ---


def test_the_reader_of_expressions_reads():
    found = selectors('sum by (le) (rate(a_total{b=~"x|y", c!="z"}[5m] offset 1d)) / d > 0.1')
    assert found == [("a_total", {"b": ("=~", "x|y"), "c": ("!=", "z")}), ("d", {})]
    assert selectors("up offset 1h > 2") == [("up", {})]
    assert grouped_by("sum by (le, stage) (x)") == {"le", "stage"}
    shares = "sum by (stage) (a) / on () group_left (job) sum without(le) (b)"
    assert [name for name, _ in selectors(shares)] == ["a", "b"]
    assert grouped_by(shares) == {"stage", "job", "le"}


METRICS = """
# TYPE a counter
a_total{b="x",status="200"} 1
# TYPE g gauge
g{c="1"} 1
# TYPE waits counter
"""


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ('rate(a_total{b="x"}[5m]) > up{job="it"}', []),
        ('a_total{job="it", status=~"5.."}', []),
        ('a_total{b!="never"}', []),
        ("sum by (b) (a_total)", []),
        ("ab_total", ["ab_total is not exported"]),
        ("waits_total", ["waits_total has no series"]),
        ('g > a_total{c="1"}', ["a_total has no label c"]),
        ('a_total{b=~"x|y|z|rare"}', ["a_total has no b y", "a_total has no b z"]),
        ("sum by (le) (a_total)", ["no label le to group by"]),
    ],
)
def test_what_no_series_would_match_is_named(expression, unknown):
    assert unknown_in(expression, samples_of(METRICS), excused={"rare"}) == unknown
