"""Numbers and tables from results files, as Markdown.

In: the arguments of an `n` or `table` marker and a way to find results files. Out: text. The
syntax is described in `render`, whose docstring is the manual for writers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_platform.docs.markers import MarkerError
from ml_platform.evaluation.results import Metric, Results

OpenResults = Callable[[str], Results]

DEFAULT_FORMAT = ".3f"
METRIC_FIELDS = ("value", "low", "high", "n", "protocol")
TABLE_OPTIONS = ("results", "stage", "rows", "columns", "format", "interval", "missing")
INTERVALS = ("range", "pm", "none")
# Columns of these units mean nothing without the machine, which is then named beneath the table.
MACHINE_UNITS = ("_ms", "_s", "qps", "_us")

_NUMBER = re.compile(r"(?:(?P<file>[^#\s]+)#)?(?P<key>[^#:\s]+)(?::(?P<format>\S+))?")


def render_number(arguments: str, open_results: OpenResults) -> str:
    """The text of an `n` marker: FILE#KEY:FORMAT, the file and the format optional."""
    match = _NUMBER.fullmatch(arguments)
    if not match:
        raise MarkerError(f"cannot read {arguments!r}: expected [FILE#]KEY[:FORMAT]")
    value = _look_up(open_results(match["file"] or ""), match["key"])
    style = match["format"]
    if isinstance(value, Metric):
        return _formatted_metric(value, style or DEFAULT_FORMAT)
    return str(value) if style is None else _formatted(value, style)


@dataclass(frozen=True)
class _Column:
    metric: str
    label: str
    style: str


def render_table(arguments: str, open_results: OpenResults) -> str:
    """The text of a `table` marker: a Markdown table, and one line with protocol and data."""
    options = _table_options(arguments)
    results = open_results(options.get("results", ""))
    columns = _columns(options)
    rows = _rows(options, results, columns)
    interval = options.get("interval", "range")
    lines = [
        "| | " + " | ".join(column.label for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    used: dict[str, Metric] = {}
    for prefix, label in rows:
        cells = []
        for column in columns:
            key = f"{prefix}/{column.metric}"
            if key not in results and "missing" in options:
                cells.append(options["missing"])
                continue
            used[key] = _metric(results, key)
            cells.append(_formatted_metric(used[key], column.style, interval))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n" + "\n".join(lines) + "\n\n" + _protocol_line(results, used, interval) + "\n"


def _table_options(arguments: str) -> dict[str, str]:
    """The `name: value` lines of a table marker."""
    options: dict[str, str] = {}
    name = ""
    for line in filter(None, (line.strip() for line in arguments.splitlines())):
        if options.get(name, "").endswith(","):  # the list goes on
            options[name] += f" {line}"
            continue
        name, colon, value = line.partition(":")
        name = name.strip()
        if not colon or name not in TABLE_OPTIONS:
            raise MarkerError(f"cannot read {line!r}: expected one of {', '.join(TABLE_OPTIONS)}")
        if name in options:
            raise MarkerError(f"{name} is given twice")
        options[name] = value.strip()
    for needed in ("rows", "columns"):
        if not options.get(needed):
            raise MarkerError(f"a table needs a line {needed!r}: NAME = LABEL, NAME = LABEL, ...")
    if options.get("interval", "range") not in INTERVALS:
        raise MarkerError(f"interval is one of {', '.join(INTERVALS)}")
    return options


def _labelled(text: str) -> list[tuple[str, str]]:
    """'a = Label, b' as [('a', 'Label'), ('b', 'b')]. Without ` = ` the name is the label."""
    pairs = []
    for part in filter(None, (part.strip() for part in re.split(r",(?=\s|$)|,(?=[a-z*])", text))):
        name, _, label = part.partition(" = ")
        pairs.append((name.strip(), label.strip() or name.strip()))
    return pairs


def _columns(options: Mapping[str, str]) -> list[_Column]:
    columns = []
    for metric, label in _labelled(options["columns"]):
        # A format of its own stands behind the last colon: p50_ms = p50 (ms) :.1f
        bare, _, style = label.rpartition(" :")
        name = metric.partition(" :")[0].strip()
        chosen = style.strip() if bare else options.get("format", DEFAULT_FORMAT)
        columns.append(_Column(name, bare.strip() or label, chosen))
    return columns


def _rows(
    options: Mapping[str, str], results: Results, columns: Sequence[_Column]
) -> list[tuple[str, str]]:
    """(stage/variant, label) of every row; `*` is all variants of the stage, largest first."""
    stage = options.get("stage", "")
    if options["rows"] == "*":
        first = columns[0].metric
        keys = [k for k in results if k.startswith(f"{stage}/") and k.endswith(f"/{first}")]
        if not keys:
            raise MarkerError(f"no variant has {stage}/*/{first}")
        keys.sort(key=lambda key: -results[key].value)
        return [(key.rpartition("/")[0], key.split("/")[1]) for key in keys]
    rows = []
    for name, label in _labelled(options["rows"]):
        if "/" not in name and not stage:
            raise MarkerError(f"row {name!r} needs its stage: a line 'stage:' or stage/{name}")
        rows.append((name if "/" in name else f"{stage}/{name}", label))
    return rows


def _protocol_line(results: Results, used: Mapping[str, Metric], interval: str) -> str:
    """What a reader must know to believe the table: protocols, data, n, intervals, machine, run."""
    run = results.run
    protocol = _folded_protocols(used)
    counts = sorted({metric.n for metric in used.values() if metric.n is not None})
    parts = [protocol, f"data {run.dataset.name}"]
    if counts:
        span = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        parts.append(f"n = {span}")
    if interval != "none" and any(metric.low is not None for metric in used.values()):
        parts.append("95% intervals")
    if any(key.endswith(MACHINE_UNITS) for key in used):
        parts.append(str(run.hardware))
    parts.append(f"seed {run.seed}, commit {run.commit}")
    line = f"*{'; '.join(parts)}.*"
    if run.dataset.synthetic:
        line += " **Synthetic data: no evidence of quality.**"
    return line


def _folded_protocols(used: Mapping[str, Metric]) -> str:
    """All protocols of a table with every part said once, and of what it holds where not of all."""
    rows_of: dict[str, dict[str, None]] = {}
    names_of: dict[str, dict[str, None]] = {}
    for key, metric in used.items():
        row, _, name = key.rpartition("/")
        for part in metric.protocol.split("; "):
            rows_of.setdefault(part, {})[row] = None
            names_of.setdefault(part, {})[name] = None
    rows = {key.rpartition("/")[0] for key in used}
    all_names = {key.rpartition("/")[2] for key in used}
    of_one_stage = len({row.partition("/")[0] for row in rows}) == 1
    sayings: dict[str, list[str]] = {}
    for part, names in names_of.items():
        whose = ""
        if len(rows_of[part]) == 1 < len(rows):
            stage, _, variant = next(iter(rows_of[part])).partition("/")
            whose = variant if of_one_stage else stage
        elif set(names) != all_names:
            whose = ", ".join(names)
        sayings.setdefault(whose, []).append(part)
    return "; ".join(
        f"{whose}: {', '.join(parts)}" if whose else "; ".join(parts)
        for whose, parts in sayings.items()
    )


def _look_up(results: Results, key: str) -> Any:
    """A metric, one of its fields (KEY.low), or a field of the run (run.dataset.name)."""
    if key.startswith("run."):
        value: Any = results.run
        for name in key.split(".")[1:]:
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
            if value is None:
                raise MarkerError(f"the run has no {key}")
        return value
    base, _, field = key.rpartition(".")
    if key not in results and field in METRIC_FIELDS and base in results:
        value = getattr(results[base], field)
        if value is None:
            raise MarkerError(f"{base} has no {field}")
        return value
    return _metric(results, key)


def _metric(results: Results, key: str) -> Metric:
    try:
        return results[key]
    except KeyError as error:
        raise MarkerError(str(error.args[0])) from None


def _formatted_metric(metric: Metric, style: str, interval: str = "none") -> str:
    """A value by a format such as `.3f`; `.3f+-` and `.3f[]` add the interval, as does a table."""
    for suffix, form in (("+-", "pm"), ("[]", "range")):
        if style.endswith(suffix):
            if metric.low is None:
                raise MarkerError(f"{style}: the metric has no interval")
            style, interval = style.removesuffix(suffix), form
    value = _formatted(metric.value, style)
    if interval == "none" or metric.low is None or metric.high is None:
        return value
    if interval == "pm":
        return f"{value} ± {_formatted((metric.high - metric.low) / 2, style)}"
    return f"{value} [{_formatted(metric.low, style)}, {_formatted(metric.high, style)}]"


def _formatted(value: Any, style: str) -> str:
    """Python's format; `d` takes whole floats too, as results files do not tell them apart."""
    try:
        if style.endswith("d") and isinstance(value, float) and value.is_integer():
            value = int(value)
        return format(value, style)
    except (ValueError, TypeError):
        raise MarkerError(f"format {style!r} does not fit {value!r}") from None
