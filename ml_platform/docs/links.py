"""Relative links of a Markdown page that lead nowhere.

In: a page. Out: one problem for each link whose file does not exist, or whose #anchor names no
heading of the Markdown file it points to. Addresses of other hosts are not fetched.
"""

import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from ml_platform.docs.markers import Problem, line_of, without_code

# [text](target "title"), ![alt](target), and [label]: target
_INLINE = re.compile(r"\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+[\"'][^)]*)?\)")
_REFERENCE = re.compile(r"^ {0,3}\[(?!\^)[^\]]+\]:\s+<?(?P<target>[^\s>]+)", re.MULTILINE)
_EXTERNAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//")
_HEADING = re.compile(
    r"^ {0,3}(?P<sign>#{1,6})[ \t]+(?P<title>.*?)[ \t]*#*[ \t]*\r?$", re.MULTILINE
)
_HTML_ANCHOR = re.compile(r"<a\s[^>]*(?:id|name)=\"(?P<name>[^\"]+)\"")


def dead_links(page: Path, text: str) -> list[Problem]:
    """Problems of all relative links in `text`, the content of `page`."""
    visible = without_code(text)
    problems = []
    for match in [*_INLINE.finditer(visible), *_REFERENCE.finditer(visible)]:
        target = match["target"]
        if not _EXTERNAL.match(target) and (fault := _fault(page, target)):
            problems.append(Problem(line_of(text, match.start()), f"dead link {target}: {fault}"))
    return problems


def _fault(page: Path, target: str) -> str | None:
    """Why a link is dead; None if it leads somewhere."""
    path, _, anchor = target.partition("#")
    if path.startswith("/"):
        return "it starts at the root of the host; write it relative to the page"
    file = page.parent / unquote(path) if path else page
    if not file.exists():
        return "no such file"
    if anchor and file.suffix == ".md":
        stamp = file.stat().st_mtime_ns
        if unquote(anchor).lower() not in anchors_of(file, stamp):
            return f"{file.name} has no heading #{anchor}"
    return None


@lru_cache(maxsize=256)
def anchors_of(file: Path, _stamp: int) -> frozenset[str]:
    """The anchors GitHub gives to a file's headings, repeated ones numbered, and named ones."""
    text = file.read_text(encoding="utf-8")
    # Inline code belongs to a heading's title, so only headings within fences must go.
    visible = without_code(text)
    seen: dict[str, int] = {}
    anchors = set()
    for match in _HEADING.finditer(text):
        if visible[match.start("sign")] == " ":
            continue
        name = slug(match["title"])
        count = seen.get(name, 0)
        seen[name] = count + 1
        anchors.add(name if not count else f"{name}-{count}")
    anchors.update(match["name"].lower() for match in _HTML_ANCHOR.finditer(visible))
    return frozenset(anchors)


def slug(title: str) -> str:
    """GitHub's anchor: the visible text in lower case, spaces as hyphens, no other punctuation."""
    title = re.sub(r"<!--.*?-->", "", title)
    title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
    title = re.sub(r"[^\w\- ]", "", title.lower())
    return title.strip().replace(" ", "-")
