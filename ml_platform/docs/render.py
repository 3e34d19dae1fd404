"""Numbers, tables and code excerpts of the docs, rendered from results files and source.

    python -m ml_platform.docs.render PATH...           write them into the pages
    python -m ml_platform.docs.render --check PATH...   change nothing, fail on any fault

PATH is a Markdown file or a folder (all *.md below it). A page is rewritten only between its
markers; rendering twice changes nothing more. `--check` fails on text that differs from what would
be rendered, a missing file, key or symbol, a marker without its partner, a dead relative link, a
diagram that Mermaid cannot draw, a cited work that `references.yaml` does not know, and when the
pages given hold no marker at all (a check that checks nothing must not pass).

For writers
-----------
A number. The value is found by its key in a results file and formatted as Python would:

    EASE finds <!-- n:results/full.json#retrieval/ease/recall@100:.3f -->0.573<!-- /n --> of them.

After the key: `:.3f` (the default), `:.1%`, `:,d`; `:.3f[]` and `:.3f+-` add the 95% interval.
`KEY.n`, `KEY.low`, `KEY.protocol` are a metric's other fields; `run.date`, `run.hardware`,
`run.dataset.name`, `run.config.top_k` belong to the run.

A page that quotes one file names it once, anywhere, and its markers name only keys:

    <!-- results: results/full.json -->
    <!-- n:retrieval/ease/recall@100 -->0.573<!-- /n -->

A table: rows are variants, columns are metrics, beneath it stands how they were measured:

    <!-- table:
    stage: retrieval
    rows: random = Random, popularity = Popularity, ease = EASE, ranking/mmoe = MMoE on top
    columns: recall@100 = Recall@100, ndcg@10 = NDCG@10 :.4f, p50_ms = p50 (ms) :.1f
    -->
    <!-- /table -->

Optional lines: `results: FILE`, `format: .3f`, `interval: range|pm|none` (range is the default),
`missing: -` (what stands in a cell without a value; else it is an error). `rows: *` takes every
variant of the stage that has the first column's metric, largest first. A list may go on in the
next line after a comma.

Code: a function, class, method or constant, at most 25 lines, its docstring left out:

    <!-- code:ml_platform/evaluation/ranking_metrics.py::ndcg_at -->
    <!-- /code -->

A citation, from ``references.yaml`` at the repository's root, with a place where it helps:

    <!-- cite:covington2016 section 3 -->...<!-- /cite -->

The questions of a document, from the system's ``interview.yaml`` (schema: `interview`):

    <!-- questions:07_evaluation -->
    <!-- /questions -->

Files are looked for in the page's folder, then in each folder above it up to the repository's, so
`results/full.json` in <system>/docs/07_evaluation.md is the system's.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ml_platform.docs.diagrams import diagram_problems
from ml_platform.docs.excerpts import render_code
from ml_platform.docs.figures import render_number, render_table
from ml_platform.docs.interview import FILE as bank_file
from ml_platform.docs.interview import read_bank, render_questions
from ml_platform.docs.links import anchors_of, dead_links
from ml_platform.docs.markers import (
    MarkerError,
    Problem,
    Region,
    Rendering,
    render_text,
    without_code,
)
from ml_platform.docs.references import FILE as references_file
from ml_platform.docs.references import (
    Reference,
    citation_problems,
    read_references,
    render_citation,
)
from ml_platform.evaluation.results import Results, write_atomic

DIAGRAM_CACHE = Path(".tools/diagrams.json")
SKIPPED_FOLDERS = {"artifacts", "node_modules", "site-packages"}

_PAGE_RESULTS = re.compile(r"<!--\s*results:\s*(?P<file>\S+)\s*-->")


class Page:
    """One Markdown file and what its markers may refer to."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.text = self.path.read_bytes().decode("utf-8")  # read_text would change line ends
        default = _PAGE_RESULTS.search(without_code(self.text))
        self._default_results = default["file"] if default else ""
        self._results: dict[Path, Results] = {}

    def render(self) -> Rendering:
        """The page as it should be, with the problems of its markers."""
        return render_text(self.text, self._generate)

    def check(self, rendering: Rendering) -> list[Problem]:
        """Everything wrong with the page as it is: markers, drift, links."""
        problems = [
            *rendering.problems,
            *dead_links(self.path, self.text),
            *diagram_problems(self.text, _search_folders(self.path)[-1] / DIAGRAM_CACHE),
            *citation_problems(self.text, rendering.regions, self._references()),
        ]
        if rendering.text != self.text:
            problems.append(_drift(self.text, rendering.text))
        return sorted(problems, key=lambda problem: problem.line)

    def _generate(self, region: Region) -> str:
        if region.kind == "n":
            return render_number(region.arguments, self._open_results)
        if region.kind == "table":
            return render_table(region.arguments, self._open_results)
        if region.kind == "cite":
            return render_citation(region.arguments, self._references())
        if region.kind == "questions":
            anchors = anchors_of(self.path, self.path.stat().st_mtime_ns)
            return render_questions(
                region.arguments, read_bank(self._find_file(bank_file)), anchors
            )
        return render_code(region.arguments, self.path, self._find_file)

    def _references(self) -> dict[str, Reference]:
        """The nearest bibliography; empty where there is none."""
        for folder in _search_folders(self.path):
            file = folder / references_file
            if file.is_file():
                return read_references(file, file.stat().st_mtime_ns)
        return {}

    def _open_results(self, name: str) -> Results:
        """The results file of this name; without a name, the one the page names."""
        name = name or self._default_results
        if not name:
            raise MarkerError("no results file: write FILE#KEY, or <!-- results: FILE --> once")
        path = self._find_file(name)
        if path not in self._results:
            try:
                self._results[path] = Results.read(path)
            except ValidationError as error:
                raise MarkerError(f"{name} is no results file: {error}") from None
        return self._results[path]

    def _find_file(self, name: str) -> Path:
        for folder in _search_folders(self.path):
            if (folder / name).is_file():
                return folder / name
        raise MarkerError(f"no file {name} in the page's folder or in one above it")


def _search_folders(page: Path) -> list[Path]:
    """The page's folder and those above it, up to the topmost one with a .git or pyproject.toml."""
    folders = list(page.parents)
    tops = [
        depth
        for depth, folder in enumerate(folders)
        if (folder / ".git").exists() or (folder / "pyproject.toml").exists()
    ]
    return folders[: max(tops, default=0) + 1]


def _drift(found: str, expected: str) -> Problem:
    """Where a page first differs from its rendering, and how."""
    have, want = found.splitlines(), expected.splitlines()
    same = 0
    while same < min(len(have), len(want)) and have[same] == want[same]:
        same += 1
    line = min(same, len(have) - 1) if have else 0
    pair = [lines[same].strip() if same < len(lines) else "(nothing)" for lines in (have, want)]
    message = f"out of date, render it again\n  found    {pair[0]}\n  expected {pair[1]}"
    return Problem(line + 1, message)


def find_pages(paths: Sequence[Path]) -> list[Path]:
    """The Markdown files among and below `paths`, each once, in order.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    pages: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.is_file():
            pages[path] = None
            continue
        for page in sorted(path.rglob("*.md")):
            parts = page.relative_to(path).parts[:-1]
            if not any(part in SKIPPED_FOLDERS or part.startswith(".") for part in parts):
                pages[page] = None
    return list(pages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render or check pages; 0 if nothing is wrong, 1 with a list of problems otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m ml_platform.docs.render", description="Numbers, tables and code in pages."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--check", action="store_true", help="change nothing, fail on any fault")
    options = parser.parse_args(arguments)
    try:
        paths = find_pages(options.paths)
    except FileNotFoundError as error:
        parser.error(str(error))
    n_markers = n_problems = n_written = 0
    for path in paths:
        page = Page(path)
        rendering = page.render()
        n_markers += len(rendering.regions)
        problems = page.check(rendering) if options.check else rendering.problems
        if not options.check and rendering.text != page.text:
            write_atomic(page.path, rendering.text)
            n_written += 1
        n_problems += len(problems)
        for problem in problems:
            print(f"{path}:{problem.line}: {problem.message}", file=sys.stderr)
    if options.check and not n_markers:
        print(f"no marker in {len(paths)} pages: nothing was checked", file=sys.stderr)
        n_problems += 1
    state = f"{n_problems} problems" if options.check else f"{n_written} pages rewritten"
    print(f"{len(paths)} pages, {n_markers} markers, {state}")
    return 1 if n_problems else 0


if __name__ == "__main__":
    sys.exit(main())
