"""The files in monitoring/ agree with the service: they parse, and ask for series that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_platform.serving.metrics import ServiceMetrics
from video_recommendation.monitoring.drift_metrics import DriftMetrics

MONITORING = Path(__file__).resolve().parents[4] / "monitoring"
YAML_FILES = sorted([*MONITORING.rglob("*.yml"), *MONITORING.rglob("*.yaml")])
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
FROM_PROMETHEUS = {"up"}
WORDS = {
    "and", "by", "ignoring", "group_left", "group_right", "inf", "offset", "on", "or", "unless",
    "without",
}  # fmt: skip


def exported() -> set[str]:
    """Names of the series that the app exports, with the drift monitor attached as it is served."""
    metrics = ServiceMetrics()
    DriftMetrics(metrics.registry)
    return {
        family.name + suffix
        for family in metrics.registry.collect()
        for suffix in SUFFIXES[family.type]
    }


def names_in(expression: str) -> set[str]:
    """Names of the series in an expression: what is no label, function, word, string or number."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", "", bare)
    return set(re.findall(r"(?<![\w.:])[a-z_:][\w:]*\b(?!\s*\()", bare)) - WORDS


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana/dashboards/serving.json").read_text("utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_names_are_found_in_an_expression() -> None:
    expression = (
        'sum by (job, le) (rate(a_bucket{le="0.1", x=~"b_total"}[5m])) / on (job) group_left '
        "sum by (job) (c_total) > 1e3 and d unless time() - e > 5"
    )
    assert names_in(expression) == {"a_bucket", "c_total", "d", "e"}


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_prometheus_scrapes_the_api_and_reads_the_rules() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("video_recommendation", "/metrics")
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    assert config["rule_files"] == ["alerts.yml"]


def test_every_series_is_exported() -> None:
    known = exported() | FROM_PROMETHEUS
    expressions = [rule["expr"] for rule in rules()] + panel_expressions()
    assert len(expressions) >= 30
    asked = {expression: names_in(expression) for expression in expressions}
    assert all(asked.values()), "an expression without a series"
    assert {e: names - known for e, names in asked.items() if names - known} == {}


def test_a_rule_says_how_urgent_it_is_and_what_to_do() -> None:
    readme = (MONITORING / "README.md").read_text(encoding="utf-8")
    assert len(rules()) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        # An increase over a window has waited already.
        assert rule.get("for") or re.search(r"increase\(|_over_time\(", rule["expr"]), rule
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert rule["alert"] in readme


def test_compose_has_the_services_and_asks_each_whether_it_is_well() -> None:
    compose = yaml.safe_load((MONITORING / "compose.yaml").read_text("utf-8"))
    services, named = compose["services"], compose.get("volumes", {})
    assert set(services) == {"api", "redis", "prometheus", "grafana"}
    assert all(service["healthcheck"]["test"] for service in services.values())
    assert services["api"]["environment"]["REDIS_URL"].startswith("redis://redis:")
    build = services["api"]["build"]
    assert (MONITORING / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            made_later = source in named or source.endswith("/artifacts")
            assert made_later or (MONITORING / source).exists(), source


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH; Debian's package prometheus brings it")
    done = subprocess.run(
        [promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
