"""Code excerpts for the docs: the source of one symbol, found by name and never by line number.

In: `path::symbol`, where a symbol is a function, a class, `Class.method` or a module-level name.
Out: a fenced Markdown block and a link to the file. The docstring is left out, since the page
around the excerpt explains; `docstring` behind the symbol keeps it.
"""

import ast
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from ml_platform.docs.markers import MarkerError

MAX_LINES = 25

_ARGUMENTS = re.compile(r"(?P<path>\S+?)::(?P<symbol>[\w.]+)(?P<keep>\s+docstring)?")
_Documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def render_code(arguments: str, page: Path, find_file: Callable[[str], Path]) -> str:
    """The text of a `code` marker.

    Args:
        arguments: "PATH::SYMBOL", with " docstring" behind it to keep the docstring.
        page: The Markdown file, which the link starts from.
        find_file: Resolves PATH; raises MarkerError if there is no such file.
    """
    match = _ARGUMENTS.fullmatch(arguments)
    if not match:
        raise MarkerError(f"cannot read {arguments!r}: expected PATH::SYMBOL [docstring]")
    path = find_file(match["path"])
    code = extract(path.read_text(encoding="utf-8"), match["symbol"], bool(match["keep"]))
    length = code.count("\n") + 1
    if length > MAX_LINES:
        raise MarkerError(f"{arguments} has {length} lines, more than {MAX_LINES}: name a part")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    link = Path(os.path.relpath(path, page.parent)).as_posix()
    return f"\n{fence}python\n{code}\n{fence}\n[`{match['symbol']}` in {path.name}]({link})\n"


def extract(source: str, symbol: str, keep_docstring: bool = False) -> str:
    """The source lines of a symbol, dedented, with its decorators.

    Raises:
        MarkerError: If the source does not parse or has no such symbol.
    """
    try:
        node: ast.AST = ast.parse(source)
    except SyntaxError as error:
        raise MarkerError(f"the file does not parse: {error}") from None
    for name in symbol.split("."):
        node = _child(node, name, symbol)
    first, last = _line_range(node)
    skipped = range(0) if keep_docstring else _docstring_lines(node)
    lines = source.splitlines()
    kept = [lines[i - 1] for i in range(first, last + 1) if i not in skipped]
    return textwrap.dedent("\n".join(kept))


def _child(node: ast.AST, name: str, symbol: str) -> ast.AST:
    for child in getattr(node, "body", []):
        if isinstance(child, _Documented) and child.name == name:
            return child
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return child
    raise MarkerError(f"no symbol {symbol} in the file")


def _line_range(node: ast.AST) -> tuple[int, int]:
    """First line, decorators included, and last line of a definition or an assignment."""
    starts = [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]  # type: ignore[attr-defined]
    return min(starts), node.end_lineno  # type: ignore[attr-defined]


def _docstring_lines(node: ast.AST) -> range:
    """The lines of a definition's docstring, with the blank line that follows it."""
    if not isinstance(node, _Documented) or ast.get_docstring(node) is None or len(node.body) < 2:
        return range(0)
    docstring, following = node.body[0], node.body[1]
    begin = min([following.lineno, *(d.lineno for d in getattr(following, "decorator_list", []))])
    end = docstring.end_lineno or docstring.lineno
    return range(docstring.lineno, end + 1 + (1 if begin > end + 1 else 0))
