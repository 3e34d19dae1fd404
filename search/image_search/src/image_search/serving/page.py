"""The page as text: one file of HTML, filled on the server, without a framework.

In: ``Shown``: what was asked and what was found. Out: HTML bytes that work without JavaScript; the
script only adds dropping and pasting. Everything from outside is escaped, and a policy
(Content-Security-Policy) tells the browser to run nothing but the one script and the one style
sheet of ``page.html``, known by their SHA-256: what slips through the escaping does not run.

The picture that was asked with stays in the form as a small copy (the field ``again``), so that
filters can be changed without choosing it anew, and the server keeps nothing between two answers.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

_HTML = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
_TEMPLATE = Template(_HTML)


def _hash_of(tag: str) -> str:
    """The policy's name of the file's one element of this kind."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", _HTML, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"page.html has {len(found)} elements {tag}; the policy knows one")
    return "'sha256-" + base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode() + "'"


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; "
        "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every page. Not stored: an answer may show somebody's own picture."""


_WITHOUT = {
    "rank": "ordered by looks alone",
    "personalise": "not ordered by your taste",
    "rerank": "the same picture may stand twice",
}
"""What a failed stage means to a person."""


@dataclass(frozen=True)
class Shown:
    """What one page shows; all of it as it came, nothing escaped yet.

    Attributes:
        fields: What was asked, by the form's names.
        kind: "image", "text", "item"; "sample": nothing was asked, some items are shown.
        picture: The picture asked with, as a ``data:`` address; "" without one.
        results: As ``items.hits`` makes them.
        hidden: Near-duplicates that were left out.
        degradations: Stages that a fallback stood in for, as ``stage:reason``.
        ignored: Words that were not understood.
        took_ms: Of embedding and searching.
        refusal: Why there is no answer; "" where there is one.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    picture: str = ""
    results: Sequence[Mapping[str, Any]] = ()
    hidden: int = 0
    degradations: Sequence[str] = ()
    ignored: Sequence[str] = ()
    took_ms: float = 0.0
    refusal: str = ""


def render(
    shown: Shown, *, categories: Sequence[str], n_items: int, page: int, has_text: bool
) -> bytes:
    """The whole page.

    Args:
        shown: What was asked and found.
        categories: For the filter.
        n_items: How many can be found.
        page: Results of one answer, unless asked otherwise.
        has_text: Whether words can be asked with.
    """
    fields = shown.fields
    return _TEMPLATE.substitute(
        title=escape(_title(shown)),
        n_items=f"{n_items:,}",
        by_words=", or by words" if has_text else "",
        preview=_preview(shown),
        invitation="Another picture?" if shown.picture else "Drop a picture here",
        words=_words(fields.get("text", ""), has_text),
        categories=_options(categories, fields.get("category", "")),
        min_price=escape(fields.get("min_price", "")),
        max_price=escape(fields.get("max_price", "")),
        hidden=_carried(shown),
        results=_results(shown),
    ).encode()


def _title(shown: Shown) -> str:
    if shown.refusal:
        return "No answer - Image search"
    asked = shown.kind not in ("", "sample")
    return f"{_heading(shown)} - Image search" if asked else "Image search"


def _heading(shown: Shown) -> str:
    if shown.kind == "sample":
        return "Or start from one of these"
    n = len(shown.results)
    count = f"{n} result{'' if n == 1 else 's'}"
    if shown.kind == "text":
        return f"{count} for “{shown.fields.get('text', '')}”"
    if shown.kind == "item":
        return f"{count} like item {shown.fields.get('item_id', '')}"
    return f"{count} like your picture"


def _preview(shown: Shown) -> str:
    source, alt = shown.picture, "The picture you asked with"
    if shown.kind == "item":
        source = f"/v1/items/{shown.fields.get('item_id', '')}/image"
        alt = f"Item {shown.fields.get('item_id', '')}, which you asked with"
    return f'<img src="{escape(source)}" alt="{escape(alt)}">' if source else ""


def _words(text: str, has_text: bool) -> str:
    if not has_text:
        return "<p>This catalogue is searched by pictures.</p>"
    return (
        '<label>Or in words<input type="text" name="text" maxlength="300" '
        f'placeholder="a dark ankle boot" value="{escape(text)}"></label>'
    )


def _options(categories: Sequence[str], chosen: str) -> str:
    options = ['<option value="">all</option>']
    for name in categories:
        mark = " selected" if name.casefold() == chosen.casefold() else ""
        options.append(f'<option value="{escape(name)}"{mark}>{escape(name)}</option>')
    return "".join(options)


def _carried(shown: Shown) -> str:
    """What the form asks with again when only a filter changes."""
    if shown.picture:
        return f'<input type="hidden" name="again" value="{escape(shown.picture)}">'
    if shown.kind == "item":
        item = escape(shown.fields.get("item_id", ""))
        return f'<input type="hidden" name="item_id" value="{item}">'
    return ""


def _results(shown: Shown) -> str:
    if shown.refusal:
        return (
            '<section class="refusal" role="alert"><h2>This could not be searched</h2>'
            f"<p>{escape(shown.refusal)}</p></section>"
        )
    if not shown.kind:
        return ""
    notes = [] if shown.kind == "sample" else [f"{shown.took_ms:.0f} ms"]
    if shown.hidden:
        plural = "" if shown.hidden == 1 else "s"
        notes.append(f"{shown.hidden} near-duplicate{plural} hidden")
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    filters = {
        name: shown.fields[name]
        for name in ("category", "min_price", "max_price")
        if name in shown.fields
    }
    cards = "".join(_card(hit, filters) for hit in shown.results)
    nothing = "" if shown.results else "<p>Nothing fits. Try fewer filters.</p>"
    return (
        f'<section aria-label="Results"><div class="told"><h2>{escape(_heading(shown))}</h2>'
        f"{told}</div>{_notices(shown)}<ol>{cards}</ol>{nothing}</section>"
    )


def _notices(shown: Shown) -> str:
    """What the results do not take into account, where a person should know."""
    told = [
        f"{_WITHOUT.get(one.partition(':')[0], 'simpler')} ({one})" for one in shown.degradations
    ]
    notices = [f"These results are simpler than usual: {', '.join(told)}."] if told else []
    if shown.ignored:
        words = ", ".join(f"“{word}”" for word in shown.ignored)
        notices.append(f"Not understood, and left out: {words}.")
    return "".join(f'<p class="notice" role="status">{escape(one)}</p>' for one in notices)


def _card(hit: Mapping[str, Any], filters: Mapping[str, str]) -> str:
    category, item = escape(str(hit["category"]) or "item"), int(hit["item_id"])
    like = escape(f"/search?{urlencode({'item_id': item, **filters})}")
    return (
        f'<li><img src="{escape(str(hit["image"]))}" alt="{category}, item {item}" '
        f'width="172" height="172" loading="lazy"><div><h3>{category}</h3>'
        f'<p class="row"><span>{float(hit["price"]):,.2f}</span><small>synthetic price</small></p>'
        f"{_similarity(hit)}"
        f'<a href="{like}" aria-label="More like item {item}">More like this</a></div></li>'
    )


def _similarity(hit: Mapping[str, Any]) -> str:
    if "similarity" not in hit:
        return ""
    similarity = float(hit["similarity"])
    share = min(max(similarity, 0.0), 1.0) * 100
    return (
        f'<p class="row"><span>similarity</span><span>{similarity:.3f}</span></p>'
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{share:.1f}" height="4"></rect></svg>'
    )
