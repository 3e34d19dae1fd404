"""Requests that nobody should send: broken and lying pictures, bombs, polyglots, malformed forms.

In: a seeded generator. Out: ``(family, bytes on the wire)``, each drawn anew. Families are named so
that a report can say what was tried. Everything is made here from valid files, so that most of a
mutated file is still what a decoder expects: random bytes alone never get past the first check.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import orjson
from PIL import Image

from image_search.serving.traffic import BOUNDARY, HOST, form_body, post

Rng = np.random.Generator
FORM = f"multipart/form-data; boundary={BOUNDARY}"
_KINDS = ("image/png", "image/jpeg", "image/webp", "text/html", "application/octet-stream", "")


@lru_cache(maxsize=1)
def valid_files() -> tuple[bytes, ...]:
    """Small valid pictures of many kinds, also of those that are refused."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (40, 56, 3)).astype(np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 65535, (30, 30)).astype(np.uint16))
    frames = [rgb.rotate(angle) for angle in (0, 90, 180)]
    made = [
        _saved(rgb, "PNG"), _saved(rgb, "JPEG"), _saved(rgb, "JPEG", progressive=True),
        _saved(rgb, "WEBP"), _saved(rgb, "WEBP", lossless=True),
        _saved(rgb.convert("RGBA"), "PNG"), _saved(rgb.convert("LA"), "PNG"),
        _saved(rgb.convert("P"), "PNG"), _saved(rgb.convert("1"), "PNG"), _saved(grey16, "PNG"),
        _saved(rgb.convert("CMYK"), "JPEG"), _saved(rgb.convert("L"), "JPEG"),
        _saved(rgb, "GIF"), _saved(rgb, "BMP"), _saved(rgb, "TIFF"), _saved(rgb, "ICO"),
        _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        _saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    ]  # fmt: skip
    return tuple(made)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- pictures ---


def mutated(rng: Rng) -> bytes:
    """A valid file with bytes changed, cut out, doubled, or another file's in the middle."""
    files = valid_files()
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(int(rng.integers(1, 12))):
        place = int(rng.integers(len(data)))
        kind = int(rng.integers(5))
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + 4] = struct.pack(">I", int(rng.integers(2**32)))
        elif kind == 2:
            del data[place : place + int(rng.integers(1, 40))]
        elif kind == 3:
            data[place:place] = data[place : place + int(rng.integers(1, 200))]
        else:
            other = files[rng.integers(len(files))]
            data[place:place] = other[int(rng.integers(len(other))) :][:100]
        if not data:
            data = bytearray(b"\x00")
    return bytes(data)


def truncated(rng: Rng) -> bytes:
    """The beginning of a valid file."""
    data = valid_files()[rng.integers(len(valid_files()))]
    return data[: int(rng.integers(len(data)))]


def random_bytes(rng: Rng) -> bytes:
    """Noise behind a true signature."""
    heads = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x10\x00\x00WEBPVP8 ", b"", b"GIF89a")
    return heads[rng.integers(len(heads))] + rng.bytes(int(rng.integers(3000)))


def png_of(width: int, height: int, content: bytes, *, colour: int = 2, depth: int = 8) -> bytes:
    """A PNG with a given header and compressed content, whether or not they fit each other."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(rng: Rng) -> bytes:
    """Announces gigabytes, or unpacks to more than it announces."""
    sides = (1, 3, 4000, 16_000, 65_535, 2**31 - 1, 2**32 - 1)
    width, height = (sides[rng.integers(len(sides))] for _ in range(2))
    kind = int(rng.integers(4))
    if kind == 0:
        return png_of(width, height, zlib.compress(bytes(5000)))
    if kind == 1:  # a small picture whose data never ends
        return png_of(16, 16, _zeros())
    if kind == 2:  # compressed text of megabytes in a small picture
        plain = _saved(Image.new("RGB", (9, 9)), "PNG")
        text = _chunk(b"zTXt", b"Comment\x00\x00" + _zeros())
        return plain[:33] + text + plain[33:]
    data = bytearray(valid_files()[1])  # a JPEG that lies about its size
    place = data.find(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(data)


@lru_cache(maxsize=1)
def _zeros() -> bytes:
    return zlib.compress(bytes(30_000_000), 9)


def largest(rng: Rng) -> bytes:
    """A valid picture just within the limit of 16 million pixels: what a request may cost."""
    return _largest(int(rng.integers(2)))


@lru_cache(maxsize=2)
def _largest(transparent: int) -> bytes:
    return _saved(Image.new("RGBA" if transparent else "RGB", (4000, 3990)), "PNG")


def polyglot(rng: Rng) -> bytes:
    """A valid picture that is something else as well."""
    files = valid_files()
    data = files[rng.integers(len(files))]
    tails = (
        b"<html><script>alert(1)</script></html>",
        b"PK\x03\x04" + rng.bytes(100),
        b"%PDF-1.7\n1 0 obj\n",
        b"#!/bin/sh\ntouch /tmp/owned\n",
        files[rng.integers(len(files))],
    )
    tail = tails[rng.integers(len(tails))]
    return data + tail if rng.random() < 0.5 else tail + data


_PICTURES: dict[str, Callable[[Rng], bytes]] = {
    "mutated": mutated, "truncated": truncated, "random": random_bytes, "bomb": bomb,
    "polyglot": polyglot,
}  # fmt: skip


# --- requests ---


def upload(rng: Rng, data: bytes) -> bytes:
    """A picture as the API or the page gets it, often with odd fields and a wrong type."""
    fields: dict[str, str] = {}
    for name in ("k", "category", "min_price", "user_id", "diversity"):
        if rng.random() < 0.03:
            fields[name] = odd_text(rng)
    path = "/v1/search" if rng.random() < 0.7 else "/search"
    return post(path, FORM, form_body(fields, data, _KINDS[rng.integers(len(_KINDS))]))


def odd_text(rng: Rng) -> str:
    """Text that a field does not expect."""
    odd = (
        "-1", "0", "1e999", "NaN", "99999999999999999999", "'; drop table items; --", "\x00",
        "<script>alert(1)</script>", "{{7*7}}", "../../etc/passwd", "ﷺ" * 40, "\u202eabc",
        "a" * 5000,
        "10", "true", "[]", "%00%n%s", "\ud7ff\U0001f600",
    )  # fmt: skip
    return odd[rng.integers(len(odd))]


def bad_form(rng: Rng) -> bytes:
    """A body that is nearly a form."""
    good = form_body({"k": "3"}, valid_files()[0])
    boundary = BOUNDARY.encode()
    kinds: tuple[Callable[[], tuple[str, bytes]], ...] = (
        lambda: ("multipart/form-data", good),
        lambda: (f"multipart/form-data; boundary={'x' * 300}", good),
        lambda: (FORM, good[: int(rng.integers(len(good)))]),
        lambda: (FORM, rng.bytes(500)),
        lambda: (FORM, b"--" + boundary + b"\r\n" + b"X: y\r\n" * 200 + b"\r\n\r\n" + good),
        lambda: (FORM, b"--" + boundary + b"\r\nX: " + b"y" * 20_000 + b"\r\n\r\n" + good),
        lambda: (FORM, good.replace(b'name="k"', b"name=")),
        lambda: (FORM, good[: -len(boundary) - 6] + good),
        lambda: (FORM, good.replace(b"k", b"\x00\xff")),
        lambda: (FORM, form_body({f"f{n}": "x" for n in range(200)}, b"")),
        lambda: ("application/x-www-form-urlencoded", b"text=a&k=" + b"9" * 5000),
        lambda: ('\x7fweird/type; boundary="', good),
        lambda: ("", good),
    )
    content_type, body = kinds[rng.integers(len(kinds))]()
    return post("/v1/search" if rng.random() < 0.6 else "/search", content_type, body)


def bad_json(rng: Rng) -> bytes:
    """JSON that is deep, large, mistyped, or none."""
    names = ("text", "item_id", "image_url", "k", "category", "min_price", "diversity", "x")
    odd: tuple[object, ...] = (
        None, -1, 2**63, 1.5, [], {}, [[]], "", "x" * 9000, odd_text(rng), True,
        "http://127.0.0.1/",
        "https://169.254.169.254/latest", "file:///etc/passwd", [odd_text(rng)] * 60,
    )  # fmt: skip
    fields = {names[rng.integers(len(names))]: odd[rng.integers(len(odd))] for _ in range(3)}
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: orjson.dumps(fields, option=orjson.OPT_NON_STR_KEYS, default=str),
        lambda: orjson.dumps(fields, default=str),
        lambda: b"[" * 50_000,
        lambda: b'{"text": ' + b'"' + b"a" * 100_000 + b'"}',
        lambda: b'{"k": 1' + b"0" * 4000 + b"}",
        lambda: b'{"text": "\\ud800", "k": NaN}',
        lambda: rng.bytes(300),
        lambda: b"null",
        lambda: b"",
    )
    paths = ("/v1/search", "/v1/search", "/v1/events", "/v1/items")
    body = kinds[rng.integers(len(kinds))]()
    return post(paths[rng.integers(len(paths))], "application/json", body)


def bad_http(rng: Rng) -> bytes:
    """Lengths that lie, methods and paths that are none."""
    body = form_body({}, valid_files()[0])
    head = f"POST /v1/search HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\n".encode()
    odd = odd_text(rng).encode("utf-8", "replace").replace(b"\x00", b"%00").replace(b" ", b"%20")
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: head + b"Content-Length: 99999999999\r\n\r\n" + body,
        lambda: head + b"Content-Length: -5\r\n\r\n" + body,
        lambda: head + b"Content-Length: 10\r\n\r\n" + body,
        lambda: head + b"Transfer-Encoding: chunked\r\n\r\n" + _chunked(rng.bytes(200_000)),
        lambda: head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
        lambda: head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + _chunked(body),
        lambda: f"BREW /v1/search HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(),
        lambda: b"GET /v1/items/" + odd[:2000] + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"GET /search?text=" + odd[:2000] + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: (
            b"GET /search?" + b"&".join(b"a%d=1" % n for n in range(400)) + b" HTTP/1.1\r\n\r\n"
        ),
        lambda: b"DELETE /v1/items/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        lambda: rng.bytes(300) + b"\r\n\r\n",
    )
    return kinds[rng.integers(len(kinds))]()


def _chunked(body: bytes) -> bytes:
    parts = [body[n : n + 30_000] for n in range(0, len(body), 30_000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def hostile(rng: Rng) -> tuple[str, bytes]:
    """One request, and the family that it is of. Now and then one as large as is allowed."""
    drawn = rng.random()
    if drawn < 0.005:
        return "largest", upload(rng, largest(rng))
    if drawn < 0.62:
        family = tuple(_PICTURES)[rng.integers(len(_PICTURES))]
        return family, upload(rng, _PICTURES[family](rng))
    others = {"form": bad_form, "json": bad_json, "http": bad_http}
    family = tuple(others)[rng.integers(len(others))]
    return family, others[family](rng)
