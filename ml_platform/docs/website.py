"""All pages of the repository as one static, searchable site.

    python -m ml_platform.docs.website --out FOLDER            build
    python -m ml_platform.docs.website --out FOLDER --serve    build, then show it on loopback

In: the repository's Markdown and notebooks. Out: a folder of HTML that needs no network: search,
styles and Mermaid are files of the site. Pages are first written anew into a folder of their own
(``website_pages``), because GitHub's Markdown and Python's differ in small things, and because a
link to a source file must lead to a page that shows it. mkdocs then builds that folder, in strict
mode: a page that links to nothing stops the build.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ml_platform.docs.links import slug
from ml_platform.docs.website_pages import write_pages

TITLE = "ML system design, running"
ASSETS = Path(__file__).parent / "assets"
DIAGRAM_CLASS = "diagram"


class SiteError(RuntimeError):
    """The site cannot be built; the message says what is wrong."""


def build_site(root: Path, out: Path) -> int:
    """Builds the site of a repository.

    Args:
        root: The repository.
        out: Replaced as a whole, once the build has succeeded.

    Returns:
        How many pages it has.

    Raises:
        SiteError: mkdocs found a fault, for instance a link that leads nowhere.
    """
    with tempfile.TemporaryDirectory(prefix="site-") as name:
        source, built = Path(name) / "pages", Path(name) / "site"
        navigation = write_pages(root, source)
        _copy_assets(source / "assets")
        _run_mkdocs(source, built, navigation)
        n_pages = sum(1 for _ in built.rglob("index.html"))
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = out.with_name(f"{out.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(built, fresh)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    return n_pages


def serve_site(folder: Path, port: int) -> None:
    """Shows a built site on loopback until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _copy_assets(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("site.js", "site.css"):
        shutil.copyfile(ASSETS / name, folder / name)
    mermaid = files("mermaidx") / "assets" / "mermaid.js"
    (folder / "mermaid.js").write_bytes(mermaid.read_bytes())


def _run_mkdocs(source: Path, built: Path, navigation: list[Any]) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort, MkDocsException

    settings = source.parent / "mkdocs.yml"  # mkdocs wants a file; what it says stands below
    settings.write_text(f"site_name: {TITLE}\n")
    heard: list[str] = []
    listener = _Listener(heard)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(listener)
    try:
        config = load_config(
            config_file=str(settings),
            docs_dir=str(source),
            site_dir=str(built),
            strict=True,
            nav=navigation,
            use_directory_urls=True,
            theme=_theme(),
            plugins=["search"],
            markdown_extensions=_extensions(),
            extra_css=["assets/site.css"],
            extra_javascript=["assets/mermaid.js", "assets/site.js"],
            extra={"generator": False},
            validation={"anchors": "warn", "nav": {"omitted_files": "ignore"}},
        )
        build(config)
    except (Abort, MkDocsException) as error:
        raise SiteError("\n".join([*heard, str(error)])) from None
    finally:
        logger.removeHandler(listener)


def _theme() -> dict[str, Any]:
    def palette(scheme: str, icon: str, other: str) -> dict[str, Any]:
        toggle = {"icon": icon, "name": f"switch to {other}"}
        media = f"(prefers-color-scheme: {'dark' if scheme == 'slate' else 'light'})"
        return {"scheme": scheme, "media": media, "primary": "indigo", "toggle": toggle}

    return {
        "name": "material",
        "font": False,  # no request to anybody else's host
        "features": [
            "navigation.sections", "navigation.indexes", "navigation.top", "navigation.footer",
            "search.highlight", "search.share", "search.suggest", "content.code.copy", "toc.follow",
        ],
        "palette": [
            palette("default", "material/weather-night", "dark"),
            palette("slate", "material/weather-sunny", "light"),
        ],
    }  # fmt: skip


def _extensions() -> list[Any]:
    from pymdownx.superfences import fence_code_format

    diagram = {"name": "mermaid", "class": DIAGRAM_CLASS, "format": fence_code_format}
    return [
        "tables",
        "attr_list",
        "md_in_html",
        "sane_lists",
        {"toc": {"permalink": True, "slugify": lambda title, _: slug(title)}},
        {"pymdownx.highlight": {"anchor_linenums": True}},
        {"pymdownx.superfences": {"custom_fences": [diagram]}},
    ]


class _Listener(logging.Handler):
    """Keeps mkdocs' warnings, so that the error can repeat them."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        self._heard.append(record.getMessage())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m ml_platform.docs.website")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--serve", action="store_true", help="show it on loopback afterwards")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(arguments)
    try:
        n_pages = build_site(options.root.resolve(), options.out)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{n_pages} pages in {options.out}")
    if options.serve:
        serve_site(options.out, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
