"""Mermaid diagrams of a page, drawn by the real Mermaid.

In: a page's text. Out: the SVG of each diagram, or a problem with Mermaid's own message. mermaidx
runs the Mermaid library in an embedded JavaScript engine, so no browser is needed; a diagram takes
a second, and one that was drawn before (same text, same Mermaid) is not drawn again.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ml_platform.docs.markers import Problem, line_of
from ml_platform.evaluation.results import write_atomic

_FENCE = re.compile(r"^```mermaid[ \t]*\r?\n(?P<source>.*?)^```", re.DOTALL | re.MULTILINE)


class DiagramError(ValueError):
    """Mermaid cannot draw it; the message is Mermaid's."""


def diagrams(text: str) -> Iterator[tuple[int, str]]:
    """The 1-based line and the source of each diagram of a page."""
    for match in _FENCE.finditer(text):
        yield line_of(text, match.start()), match["source"]


def draw(source: str) -> str:
    """The SVG of one diagram.

    Raises:
        DiagramError: with Mermaid's message.
    """
    import mermaidx  # starts an engine: only where a diagram is drawn

    try:
        return str(mermaidx.render(source).svg())
    except RuntimeError as error:
        raise DiagramError(str(error).partition("failed: ")[2] or str(error)) from None


def diagram_problems(text: str, cache: Path | None = None) -> list[Problem]:
    """Diagrams of a page that Mermaid does not draw.

    Args:
        text: The page.
        cache: A file that remembers which sources were drawn; None draws all of them.
    """
    known = _read(cache)
    drawn = set(known)
    problems = []
    for line, source in diagrams(text):
        name = hashlib.sha256(f"{version('mermaidx')}\n{source}".encode()).hexdigest()
        if name in drawn:
            continue
        try:
            draw(source)
            drawn.add(name)
        except DiagramError as error:
            problems.append(Problem(line, f"Mermaid does not draw this: {error}"))
    if cache is not None and drawn != known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(sorted(drawn | _read(cache)), indent=0))
    return problems


def _read(cache: Path | None) -> set[str]:
    if cache is None or not cache.is_file():
        return set()
    try:
        return set(json.loads(cache.read_text()))
    except ValueError:  # half a cache is no cache
        return set()
