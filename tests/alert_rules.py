"""Expressions of alert rules and dashboards, held against what a service exports.

In: a folder with ``alerts.yml``, the text of a service's ``/metrics``. Out: the rules, and what in
an expression no series of that service would ever match: a rule that names a metric, a label or a
value that does not exist is silent for ever.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

MADE_BY_PROMETHEUS = {"up"}
OF_THE_SCRAPE = {"job", "instance"}
FUNCTIONS = {
    "and", "by", "count", "group_left", "group_right", "histogram_quantile", "ignoring", "increase",
    "max", "min", "on", "or", "rate", "sum", "time", "topk", "unless", "without",
}  # fmt: skip
GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}

Samples = dict[str, list[dict[str, str]]]
"""Label sets of every series by name."""


def rules_of(folder: Path) -> list[dict]:
    """Every rule of ``alerts.yml``, in its order."""
    groups = yaml.safe_load((folder / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def samples_of(metrics: str) -> Samples:
    """Of the exposition text; [] for a name that has no series yet."""
    found: Samples = {}
    for family in text_string_to_metric_families(metrics):
        for suffix in SUFFIXES.get(family.type, [""]):
            found.setdefault(family.name + suffix, [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Metrics of an expression with their matchers: label -> (operator, value)."""
    bare = re.sub(GROUPING, " ", expression)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", bare)
    found = []
    for name, inside in re.findall(r"([a-z_]\w*)\s*(\{[^}]*\})?", bare):
        if name not in FUNCTIONS:
            pairs = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
            found.append((name, {label: (operator, value) for label, operator, value in pairs}))
    return found


def grouped_by(expression: str) -> set[str]:
    """Labels that an expression groups or matches by, or ignores."""
    listed = ",".join(re.findall(GROUPING, expression)).split(",")
    return {label.strip() for label in listed if label.strip()}


def unknown_in(expression: str, samples: Samples, excused: Collection[str] = ()) -> list[str]:
    """What the expression names and the service does not export, in words.

    Args:
        expression: Of a rule or a panel.
        samples: Of a service that was used, so that its series are there.
        excused: Values of labels that its use did not provoke. Any HTTP status is excused.
    """
    found: list[str] = []
    every = set(OF_THE_SCRAPE)
    for name, matchers in selectors(expression):
        series = samples.get(name)
        if name in MADE_BY_PROMETHEUS:
            continue
        if not series:
            found.append(f"{name} is not exported" if series is None else f"{name} has no series")
            continue
        there = {label for labels in series for label in labels} | OF_THE_SCRAPE
        every |= there
        for label, (operator, value) in matchers.items():
            if label not in there:
                found.append(f"{name} has no label {label}")
            elif label not in {*OF_THE_SCRAPE, "status"} and not operator.startswith("!"):
                values = {labels.get(label) for labels in series}
                missing = set(value.split("|")) - values - set(excused)
                found += [f"{name} has no {label} {one}" for one in sorted(missing)]
    return found + [f"no label {label} to group by" for label in grouped_by(expression) - every]
