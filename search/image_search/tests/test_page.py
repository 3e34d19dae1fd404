"""The page: what it says, what it escapes, what it forbids; in Chromium: dropping a picture."""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from handmade import encoded, gradient
from starlette.testclient import TestClient
from test_serving_api import IMAGES, client_of

from image_search.serving.page import HEADERS, Shown, render

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from browser import Browser, chromium


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of(tmp_path_factory.mktemp("page")) as made:
        yield made


def cards(page: str) -> list[int]:
    return [int(item) for item in re.findall(r'alt="\w+, item (\d+)"', page)]


def test_the_first_page_has_a_form_and_items_to_start_from(client):
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'enctype="multipart/form-data"' in answer.text
    assert len(cards(answer.text)) == 12
    assert "100 items" in answer.text
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"):
        assert answer.headers[name] == HEADERS[name]


def test_the_policy_names_the_one_script_and_forbids_the_rest():
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_form_with_a_picture_is_answered_without_javascript(client):
    files = {"image": ("x.png", encoded(IMAGES.images[8]))}
    page = client.post("/search", files=files, data={"text": "", "category": ""}).text
    assert cards(page)[0] == 8
    assert "20 results like your picture" in page
    assert page.count("synthetic price") == 20
    assert "similarity</span><span>1.000" in page
    assert 'href="/search?item_id=8"' in page


def test_filters_change_without_the_picture_being_chosen_again(client):
    files = {"image": ("x.png", encoded(IMAGES.images[8]))}
    first = client.post("/search", files=files).text
    again = html.unescape(re.findall(r'name="again" value="([^"]*)"', first)[0])
    assert again.startswith("data:image/png;base64,")
    fields = {"again": again, "category": "ring"}
    page = client.post("/search", files={"image": ("", b"")}, data=fields).text
    assert len(cards(page)) == 20
    assert set(re.findall(r"<h3>(\w+)</h3>", page)) == {"ring"}
    assert '<option value="ring" selected>' in page
    assert "item_id=8&amp;category=ring" not in page  # item 8 is no ring
    assert "&amp;category=ring" in page
    bad = client.post("/search", files={"image": ("", b"")}, data={"again": "data:,no"})
    assert bad.status_code == 422


def test_a_large_picture_is_carried_along_small(client):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    page = client.post("/search", files={"image": ("x", encoded(noise))}).text
    again = re.findall(r'name="again" value="([^"]*)"', page)[0]
    assert again.startswith("data:image/jpeg;base64,")
    assert len(again) < 200_000


def test_words_become_an_address_that_can_be_kept(client):
    files = {"image": ("", b"")}
    fields = {"text": "a ring & more", "category": "", "max_price": "60"}
    answer = client.post("/search", files=files, data=fields, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/search?text=a+ring+%26+more&max_price=60"
    page = client.get(answer.headers["location"])
    assert "results for “a ring &amp; more”" in page.text
    assert 'value="a ring &amp; more"' in page.text
    assert client.get("/search", follow_redirects=False).headers["location"] == "/"


def test_words_that_were_not_understood_are_named(client):
    page = client.get("/search", params={"text": "a small red ring, please"}).text
    assert "Not understood, and left out: “small”." in page
    assert page.count('class="notice"') == 1
    assert 'class="notice"' not in client.get("/search", params={"text": "a red ring"}).text
    refused = client.get("/search", params={"text": "a hat"})
    assert refused.status_code == 422
    assert "names no shape" in refused.text


def test_more_like_this(client):
    page = client.get("/search?item_id=5&category=cross").text
    assert 5 not in cards(page)
    assert "like item 5" in page
    assert '<input type="hidden" name="item_id" value="5">' in page
    assert client.get("/search?item_id=5000").status_code == 404


@pytest.mark.parametrize(
    ("method", "request_of", "status", "words"),
    [
        ("GET", {"params": {"text": "x" * 301}}, 422, "at most 300"),
        ("GET", {"params": {"text": "a", "category": "hat"}}, 422, "no such category"),
        ("GET", {"params": {"text": "a", "colour": "b"}}, 422, "colour"),
        ("GET", {"params": {"image_url": "https://x"}}, 422, "no addresses"),
        ("POST", {"files": {"image": ("x", b"no picture")}}, 415, "no JPEG, PNG or WebP"),
        ("POST", {"files": {"image": ("", b"")}}, 422, "choose a picture"),
        ("POST", {"data": {"text": "a"}}, 415, "multipart/form-data"),
    ],
)
def test_a_refusal_is_a_page_too(client, method, request_of, status, words):
    answer = client.request(method, "/search", **request_of)
    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert words in answer.text


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_everything_from_outside_is_escaped(client, evil):
    for fields in (
        {"text": "ring" + evil},
        {"text": "ring", "category": evil},
        {"text": "ring", evil: "b"},
    ):
        assert evil not in client.get("/search", params=fields).text
    assert html.escape(evil) in client.get("/search", params={"text": "ring" + evil}).text
    shown = Shown(
        fields={"text": evil, "min_price": evil, "category": evil},
        kind="text",
        picture=evil,
        results=[{"item_id": 1, "category": evil, "price": 1.0, "image": evil, "similarity": 0.5}],
        degradations=[evil],
        ignored=[evil],
    )
    page = render(shown, categories=[evil], n_items=1, page=20, has_text=True).decode()
    assert evil not in page


def test_the_page_says_what_was_hidden_and_what_failed():
    shown = Shown(kind="image", hidden=1, degradations=("rank:error",), took_ms=12.4)
    page = render(shown, categories=[], n_items=1, page=20, has_text=False).decode()
    for words in ("1 near-duplicate hidden", "12 ms", "Nothing fits"):
        assert words in page
    assert "simpler than usual: ordered by looks alone (rank:error)." in page
    assert page.count('class="notice"') == 1
    assert 'name="text"' not in page


def test_every_control_has_a_name_and_every_picture_a_text(client):
    page = client.get("/search?item_id=5").text
    assert len(re.findall("<img ", page)) == len(re.findall(r'<img [^>]*alt="[^"]+"', page))
    inside = "".join(re.findall(r"<label.*?</label>", page, re.DOTALL))
    controls = re.findall(r"<(?:input|select)(?![^>]*hidden)[^>]*>", page)
    assert controls
    assert all(control in inside for control in controls)
    assert '<html lang="en">' in page


DROP = """(() => {
  const bytes = Uint8Array.from(atob('%s'), (c) => c.charCodeAt(0)), moved = new DataTransfer();
  moved.items.add(new File([bytes], 'picture.png', {type: 'image/png'}));
  for (const kind of ['dragenter', 'drop'])
    window.dispatchEvent(new DragEvent(kind, {dataTransfer: moved, cancelable: true}));
})()"""
SHOWN = "document.readyState == 'complete' && !!document.querySelector('[name=again]')"


@pytest.mark.skipif(chromium() is None, reason="no Chromium")
def test_in_a_browser_dropping_a_picture_shows_what_is_like_it(
    search_server: tuple[str, int], tmp_path: Path
) -> None:
    url, _ = search_server
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{url}/")
        data = base64.b64encode(encoded(IMAGES.images[3])).decode()
        browser.value(DROP % data)
        assert browser.wait_for(SHOWN)
        first = "document.querySelector('li img').alt"
        assert browser.value(first) == f"{IMAGES.label_names[IMAGES.label[3]]}, item 3"
        assert browser.value("document.querySelectorAll('li').length") == 20
        assert browser.wait_for("document.querySelector('li img').naturalWidth") == 32
        # The policy holds: what is put into the page does not run.
        evil = "document.body.innerHTML += '<img src=x onerror=\"window.owned=1\">'"
        browser.value(evil)
        assert browser.value("window.owned") is None
        browser.open(f"{url}/search?text=ring")
        assert browser.value(first).startswith("ring")
        assert browser.faults == []
        browser.size(390, 844)
        assert browser.value("document.documentElement.scrollWidth") <= 390


def test_a_gradient_is_no_item(client):
    page = client.post("/search", files={"image": ("x", encoded(gradient()))}).text
    assert "similarity</span><span>1.000" not in page
