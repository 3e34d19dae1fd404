"""The repository's pages, written for Python-Markdown: what the site is built from.

In: a repository. Out: a folder with its pages, their pictures, a page for every file that a page
links to, and the navigation. What changes on the way:

- markers (HTML comments) go; what was rendered between them stays;
- a link to a source file, a notebook or a folder leads to a page that shows it;
- ``<details>`` says that Markdown is within, and a list gets the empty line before it that GitHub
  does not ask for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ml_platform.docs.markers import without_code

PICTURES = {".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp"}
SKIPPED = {"artifacts", "node_modules", "site-packages"}
CODE = "code"
PACKAGES = {"ml_platform", "ml_algorithms", "feature_engineering", "monitoring"}
MOST_BYTES = 300_000

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"(?P<open>\]\(\s*<?)(?P<target>[^)\s>]+)(?P<close>>?(?:\s+[\"'][^)]*)?\))")
_EXTERNAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,2}\.) ")
_TITLE = re.compile(r"^# +(?P<title>.+?)\s*#*$", re.MULTILINE)
_LEXERS = {
    ".py": "python", ".yml": "yaml", ".yaml": "yaml", ".json": "json", ".toml": "toml",
    ".sh": "bash", ".mk": "makefile", ".js": "javascript", ".css": "css",
}  # fmt: skip


class _Writer:
    """Writes pages and remembers which files they link to."""

    def __init__(self, root: Path, out: Path, pages: list[Path]) -> None:
        self.root, self.out = root, out
        self._pages = set(pages)
        self._shown: set[Path] = set()

    def page(self, path: Path, text: str | None = None) -> None:
        """A Markdown page at its own place."""
        content = path.read_text(encoding="utf-8") if text is None else text
        place = path.relative_to(self.root)
        self._write(place, self._changed(content, path, place))

    def _write(self, place: Path, text: str) -> None:
        file = self.out / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def _changed(self, text: str, path: Path, place: Path) -> str:
        """The text of the file `path` as Python-Markdown needs it at `place` in the site."""
        visible = without_code(text)
        parts, position = [], 0
        for match in _COMMENT.finditer(visible):
            parts.append(text[position : match.start()])
            position = match.end()
        text = "".join([*parts, text[position:]])
        text = _outside_fences(text)
        visible = without_code(text)
        parts, position = [], 0
        for match in _LINK.finditer(visible):
            parts += [
                text[position : match.start("target")],
                self._target(match["target"], path, place),
            ]
            position = match.end("target")
        return "".join([*parts, text[position:]])

    def _target(self, target: str, path: Path, place: Path) -> str:
        """Where a link of the file `path` leads, as seen from its page at `place`."""
        if _EXTERNAL.match(target):
            return target
        name, _, anchor = target.partition("#")
        found = Path(os.path.normpath(path.parent / name))
        if not found.is_relative_to(self.root) or not found.exists():
            return target  # mkdocs will say that it leads nowhere
        there = self._place_of(found)
        way = os.path.relpath(there, place.parent)
        return way + (f"#{anchor}" if anchor and there.suffix == ".md" else "")

    def _place_of(self, path: Path) -> Path:
        inside = path.relative_to(self.root)
        if path in self._pages:
            return inside
        if path.is_dir() and (path / "README.md") in self._pages:
            return inside / "README.md"
        if path.suffix.lower() in PICTURES:
            (self.out / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.out / inside)
            return inside
        place = CODE / inside / "index.md" if path.is_dir() else CODE / Path(f"{inside}.md")
        if path not in self._shown:
            self._shown.add(path)
            self._write(place, self._code_page(path, inside, place))
        return place

    def _code_page(self, path: Path, inside: Path, place: Path) -> str:
        head = f"---\nsearch:\n  exclude: true\n---\n\n# {inside}\n\n"
        if path.is_dir():
            entries = sorted(
                entry
                for entry in path.iterdir()
                if not entry.name.startswith((".", "__")) and entry.name not in SKIPPED
            )
            lines = [f"- [{e.name}]({self._link(e, place)})" for e in entries]
            return head + "\n".join(lines) + "\n"
        if path.suffix == ".ipynb":
            return head + self._changed(_notebook(path), path, place)
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > MOST_BYTES:
            text = text[:MOST_BYTES] + "\n(cut here)"
        return head + _fenced(text, _LEXERS.get(path.suffix, "text"))

    def _link(self, path: Path, place: Path) -> str:
        return os.path.relpath(self._place_of(path), place.parent)


def write_pages(root: Path, out: Path) -> list[Any]:
    """Writes everything that the site is built from.

    Args:
        root: The repository.
        out: A folder that does not exist yet.

    Returns:
        The navigation, as mkdocs wants it.
    """
    pages = repository_pages(root)
    writer = _Writer(root, out, pages)
    for page in pages:
        writer.page(page)
    return _navigation(root, pages)


def repository_pages(root: Path) -> list[Path]:
    """All Markdown files of a repository, without hidden folders and what runs leave behind."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in SKIPPED)
        found += [Path(folder) / name for name in sorted(names) if name.endswith(".md")]
    return found


def title_of(path: Path) -> str:
    """The first heading of a page, or the name of its file."""
    match = _TITLE.search(without_code(path.read_text(encoding="utf-8")))
    return match["title"] if match else path.stem


def _navigation(root: Path, pages: list[Path]) -> list[Any]:
    """Home, then a section for each folder that holds pages, systems first."""
    sections: dict[str, list[Any]] = {}
    for page in sorted(pages, key=lambda p: _order(p.relative_to(root))):
        inside = page.relative_to(root)
        if len(inside.parts) == 1:
            continue
        system = (root / Path(*inside.parts[:2]) / "pyproject.toml").is_file()
        home = Path(*inside.parts[:2]) if system else Path(inside.parts[0])
        rest = inside.relative_to(home)
        entries = sections.setdefault(_spoken(home.name), [])
        if rest.name == "README.md" and len(rest.parts) == 1:
            entries.insert(0, {"Overview": str(inside)})
        elif len(rest.parts) == 1 or (rest.parts[0] == "docs" and len(rest.parts) == 2):
            entries.append({title_of(page): str(inside)})
        elif not system and rest.name == "README.md" and len(rest.parts) == 2:  # a part's own page
            entries.append({_spoken(rest.parts[0]): str(inside)})
        else:
            _group(entries, _spoken(rest.parent.name)).append({title_of(page): str(inside)})
    top = [{title_of(p): p.name} for p in pages if p.parent == root and p.name != "README.md"]
    named = [{name: entries} for name, entries in sections.items()]
    return [{"Home": "README.md"}, *named, *top]


def _group(entries: list[Any], name: str) -> list[Any]:
    for entry in entries:
        inside = entry.get(name)
        if isinstance(inside, list):
            return inside
    entries.append({name: []})
    return entries[-1][name]  # type: ignore[no-any-return]


def _spoken(name: str) -> str:
    """A folder's name as a title: "ML algorithms"."""
    words = name.replace("_", " ")
    return words[0].upper() + words[1:] if not words.startswith("ml ") else f"ML{words[2:]}"


def _order(inside: Path) -> tuple[bool, str]:
    """Systems (two folders deep) before packages; then by name, a README first."""
    package = inside.parts[0] in {
        "ml_platform",
        "ml_algorithms",
        "feature_engineering",
        "monitoring",
    }
    return package, "/".join(inside.parts).replace("README.md", " ")


def _outside_fences(text: str) -> str:
    """Lists get an empty line before them; details say that Markdown is within."""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        bare = line.lstrip()
        if bare.startswith(("```", "~~~")):
            fence = "" if fence and bare.startswith(fence) else fence or bare[:3]
        elif not fence:
            if _LIST_ITEM.match(line) and lines and _is_text(lines[-1]):
                lines.append("")
            line = line.replace("<details>", '<details markdown="1">')
            line = line.replace("<summary>", '<summary markdown="span">')
        lines.append(line)
    return "\n".join(lines)


def _is_text(line: str) -> bool:
    """Whether a line is a paragraph's, not an item's or its continuation."""
    return bool(line.strip()) and line[0] not in " \t" and not _LIST_ITEM.match(line)


def _notebook(path: Path) -> str:
    """A notebook's Markdown, and its code in fences; results are not stored with it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else _fenced(source, "python"))
    return "\n\n".join(parts)


def _fenced(text: str, lexer: str) -> str:
    ticks = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{ticks}{lexer}\n{text.rstrip()}\n{ticks}\n"
