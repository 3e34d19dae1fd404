"""The site of this repository, built and then looked at in a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from pathlib import Path

import pytest
from browser import Browser, chromium

from ml_platform.docs.website import SiteError, build_site
from ml_platform.docs.website_pages import repository_pages, write_pages

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = "recommendation/video_recommendation"
needs_browser = pytest.mark.skipif(chromium() is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    build_site(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_every_page_of_the_repository_is_in_the_site(site):
    pages = repository_pages(ROOT)
    assert len(pages) > 20
    for page in pages:
        inside = page.relative_to(ROOT)
        place = inside.parent if inside.name == "README.md" else inside.with_suffix("")
        assert (site / place / "index.html").is_file(), inside


def test_source_files_that_pages_link_to_are_shown(site):
    html = (site / "code" / SYSTEM / "src/video_recommendation/pipeline.py/index.html").read_text()
    assert "highlight" in html


@needs_browser
def test_every_page_loads_without_a_fault_and_draws_its_diagrams(site, address, browser):
    drawn = 0
    for page in repository_pages(ROOT):
        inside = page.relative_to(ROOT)
        place = inside.parent if inside.name == "README.md" else inside.with_suffix("")
        browser.open(f"{address}/{place.as_posix()}/".replace("/./", "/"))
        n_diagrams = page.read_text().count("\n```mermaid\n")
        if n_diagrams:
            done = f"document.querySelectorAll('div.diagram svg').length === {n_diagrams}"
            assert browser.wait_for(done), f"{inside}: {browser.faults}"
            drawn += n_diagrams
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert browser.value(broken) == [], inside
        assert browser.faults == [], inside
    assert drawn > 5


@needs_browser
def test_search_finds_a_term(address, browser):
    browser.open(f"{address}/?q=MMoE")
    results = "document.querySelectorAll('.md-search-result__item').length"
    assert browser.wait_for(results) > 0
    assert "MMoE" in browser.value("document.querySelector('.md-search-result__list').innerText")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_its_window(address, browser, width):
    browser.size(width, 850)
    for page in ("", f"{SYSTEM}/", f"{SYSTEM}/docs/07_evaluation/", f"{SYSTEM}/docs/11_summary/"):
        browser.open(f"{address}/{page}")
        # True once tables scroll in themselves and diagrams are drawn.
        fits = f"document.documentElement.scrollWidth <= {width}"
        assert browser.wait_for(fits, seconds=10), page
        assert browser.faults == [], page


def test_a_link_to_nowhere_stops_the_build_and_leaves_the_old_site(tmp_path):
    repository, out = tmp_path / "repository", tmp_path / "site"
    repository.mkdir()
    page = repository / "README.md"
    page.write_text("# Home\n\nSee [this](page.md).\n")
    (repository / "page.md").write_text("# A page\n")
    assert build_site(repository, out) == 2
    page.write_text("# Home\n\nSee [that](gone.md).\n")
    with pytest.raises(SiteError, match=r"gone\.md"):
        build_site(repository, out)
    assert (out / "page" / "index.html").is_file()


def test_pages_are_written_for_python_markdown(tmp_path):
    repository, out = tmp_path / "repository", tmp_path / "pages"
    (repository / "docs").mkdir(parents=True)
    (repository / "tool.py").write_text("X = '```'\n")
    (repository / "docs" / "page.md").write_text(
        "# Page\n\nIt is <!-- n:a/b/c -->0.5<!-- /n --> here:\n"
        "- [tool](../tool.py)\n- `<!-- n -->`\n"
        "\n```\ntext\n- no item\n```\n\n<details><summary>Q</summary>\n\nA\n</details>\n"
    )
    notebook = {"cells": [{"cell_type": "markdown", "source": ["See [it](../tool.py)."]}]}
    (repository / "docs" / "one.ipynb").write_text(json.dumps(notebook))
    (repository / "README.md").write_text("# Home\n\n[one](docs/one.ipynb)\n")
    write_pages(repository, out)
    assert "See [it](../tool.py.md)." in (out / "code" / "docs" / "one.ipynb.md").read_text()
    text = (out / "docs" / "page.md").read_text()
    assert "It is 0.5 here:\n\n- [tool](../code/tool.py.md)\n- `<!-- n -->`" in text
    assert "text\n- no item" in text
    assert '<details markdown="1">' in text
    assert "````python\nX = '```'\n````" in (out / "code" / "tool.py.md").read_text()
