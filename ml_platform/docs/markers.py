"""Markers in a Markdown page: HTML comments that GitHub hides, with generated text between them.

    <!-- KIND: ARGUMENTS -->generated<!-- /KIND -->

In: a page's text. Out: the same text with what lies between each pair of markers generated anew;
every other byte stays. Markers within code fences and inline code are examples, not markers.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KINDS = ("n", "table", "code", "cite", "questions")

_MARKER = re.compile(
    rf"<!--\s*(?:(?P<open>{'|'.join(KINDS)}):(?P<arguments>.*?)"
    rf"|/(?P<close>{'|'.join(KINDS)}))\s*-->",
    re.DOTALL,
)
_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_INLINE_CODE = re.compile(r"(?<!`)(?P<ticks>`+)(?!`)[^\n]*?(?<!`)(?P=ticks)(?!`)")


class MarkerError(ValueError):
    """Something in a page's markers cannot be rendered; the message says what and what to do."""


@dataclass(frozen=True)
class Problem:
    """One fault of a page, at a 1-based line."""

    line: int
    message: str


@dataclass(frozen=True)
class Region:
    """One pair of markers: its kind and arguments, and where the text between them lies."""

    kind: str
    arguments: str
    begin: int
    end: int
    line: int


@dataclass(frozen=True)
class Rendering:
    """A page's text with every region generated, and what went wrong on the way."""

    text: str
    regions: list[Region]
    problems: list[Problem]


def find_regions(text: str) -> tuple[list[Region], list[Problem]]:
    """All marker pairs of a page in order, and every marker without its partner."""
    regions: list[Region] = []
    problems: list[Problem] = []
    opened: re.Match[str] | None = None
    code = _code_spans(text)
    for match in _MARKER.finditer(text):
        # A generated excerpt is itself a fence, so only markers are asked whether they lie in code.
        if any(begin <= match.start() < end for begin, end in code):
            continue
        kind = match["open"] or match["close"]
        if match["open"]:
            if opened:
                problems.append(_unclosed(text, opened))
            opened = match
        elif opened is None or opened["open"] != kind:
            message = f"<!-- /{kind} --> closes nothing"
            problems.append(Problem(line_of(text, match.start()), message))
        else:
            line = line_of(text, opened.start())
            arguments = opened["arguments"].strip()
            regions.append(Region(kind, arguments, opened.end(), match.start(), line))
            opened = None
    if opened:
        problems.append(_unclosed(text, opened))
    # An open fence would turn every marker after it into an example, and hide it from the check.
    for begin, _, closed in _fence_spans(text):
        if not closed:
            problems.append(Problem(line_of(text, begin), "this code fence is never closed"))
    return regions, problems


def render_text(text: str, generate: Callable[[Region], str]) -> Rendering:
    """Replace what lies between the markers; a region that fails keeps its text.

    Args:
        text: The page.
        generate: The text for a region; raises MarkerError where it cannot.
    """
    regions, problems = find_regions(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    parts, position = [], 0
    for region in regions:
        parts.append(text[position : region.begin])
        try:
            parts.append(generate(region).replace("\n", newline))
        except MarkerError as error:
            problems.append(Problem(region.line, str(error)))
            parts.append(text[region.begin : region.end])
        position = region.end
    parts.append(text[position:])
    return Rendering("".join(parts), regions, sorted(problems, key=lambda p: p.line))


def without_code(text: str) -> str:
    """The page with fences and inline code blanked out, every position kept."""
    characters = list(text)
    for begin, end in _code_spans(text):
        for position in range(begin, end):
            if characters[position] != "\n":
                characters[position] = " "
    return "".join(characters)


def line_of(text: str, position: int) -> int:
    """The 1-based line of a position."""
    return text.count("\n", 0, position) + 1


def _unclosed(text: str, opened: re.Match[str]) -> Problem:
    kind = opened["open"]
    return Problem(line_of(text, opened.start()), f"<!-- {kind}: --> has no <!-- /{kind} -->")


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Where code lies: fenced blocks, then inline code outside of them."""
    fences = [(begin, end) for begin, end, _ in _fence_spans(text)]
    inline = [match.span() for match in _INLINE_CODE.finditer(text)]
    outside = [span for span in inline if not any(b <= span[0] < e for b, e in fences)]
    return fences + outside


def _fence_spans(text: str) -> Iterator[tuple[int, int, bool]]:
    """(begin, end, closed) of fenced blocks; a fence closes at a bare one at least as long."""
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text.replace("\r\n", " \n")):
        if opened is None:
            opened = match
        elif match["fence"].startswith(opened["fence"]) and not match["info"].strip():
            yield opened.start(), match.end(), True
            opened = None
    if opened:
        yield opened.start(), len(text), False
