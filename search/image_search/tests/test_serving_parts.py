"""The parts of the service alone: forms in pieces, held bytes, decoders, fetching, admin."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from handmade import encoded, gradient

from image_search.images.decoding import ImageError, Limits
from image_search.serving import decoder as decoder_module
from image_search.serving.admin import admitted
from image_search.serving.decoder import Decoder, DecoderBusyError
from image_search.serving.fetching import (
    FetchError,
    FetchLimits,
    checked_url,
    fetch,
    is_public,
    public_address,
)
from image_search.serving.traffic import (
    BOUNDARY,
    form_body,
    image_call,
    item_call,
    mixed,
    text_call,
)
from image_search.serving.uploads import Form, FormError, Held, HeldError, read_form
from ml_platform.serving.errors import ProblemError

TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def form_of(body: bytes, size: int = 1 << 20, content_type: str = TYPE) -> Form:
    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), size):
            yield body[begin : begin + size]

    return asyncio.run(read_form(chunks(), content_type, lambda count: None))


# --- forms ---


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_a_form_is_the_same_however_it_arrives(size):
    data = bytes(range(256)) * 4 + b"\r\n--almost" + BOUNDARY.encode()
    form = form_of(form_body({"k": " 5 ", "text": "réd", "category": ""}, data), size)
    assert form.fields == {"k": "5", "text": "réd"}
    assert form.image == data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body[:-5], "cut off"),
        (lambda body: body[: len(body) // 2], "cut off"),
        (lambda body: b"", "cut off"),
        (lambda body: b"x" * 50, "not a multipart form"),
        (lambda body: body.replace(b'name="k"', b"nome=k"), "no name"),
        (lambda body: body.replace(b'name="k"', b'name="image"'), "more than one picture"),
        (lambda body: body.replace(b'name="k"', b'name="k"; x=' + b"y" * 6000), "header size"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(change, words):
    with pytest.raises(FormError, match=words):
        form_of(change(form_body({"k": "5"}, b"picture")))


def test_a_forms_limits():
    with pytest.raises(FormError, match="more than 16 parts"):
        form_of(form_body({f"f{n}": "x" for n in range(16)}, b""))
    with pytest.raises(FormError, match="longer than 4096"):
        form_of(form_body({"text": "x" * 4097}, b""))
    assert len(form_of(form_body({"again": "x" * 4097}, b"")).fields["again"]) == 4097
    for content_type in ("multipart/form-data", TYPE + "x" * 300, "text/plain; boundary=x", ""):
        with pytest.raises(FormError, match="with a boundary"):
            form_of(form_body({}, b""), content_type=content_type)


def test_held_bytes_are_bounded_and_given_back():
    told: list[int] = []
    held = Held(10, told.append)
    with held.hold() as first:
        first(6)
        with held.hold() as second:
            second(4)
            with pytest.raises(HeldError, match="10 bytes"):
                second(1)
        assert held.now == 6
        first(4)
    assert held.now == 0
    assert told == [6, 10, 6, 10, 0]


# --- decoding ---


def test_a_decoder_decodes_refuses_and_bounds_its_line(monkeypatch):
    gate = threading.Event()

    def slow(data: bytes, limits: Limits, *, side: int) -> np.ndarray:
        gate.wait(5)
        return np.zeros((1, 1, 3), np.uint8)

    async def main() -> None:
        pool = Decoder(1, 1, Limits(), side=16)
        assert (await pool.decode(encoded(gradient(32, 48)), 5)).shape == (11, 16, 3)
        with pytest.raises(ImageError):
            await pool.decode(b"no", 5)
        monkeypatch.setattr(decoder_module, "decode", slow)
        with pytest.raises(DecoderBusyError, match="not decoded in time"):
            await pool.decode(b"", 0.01)
        waiting = asyncio.create_task(pool.decode(b"", 5))
        await asyncio.sleep(0.01)
        with pytest.raises(DecoderBusyError, match="2 pictures wait"):
            await pool.decode(b"", 5)
        gate.set()
        await waiting
        await asyncio.sleep(0.01)
        assert pool.running == 0  # also the one that nobody waited for
        pool.close()

    asyncio.run(main())


# --- fetching ---

LIMITS = FetchLimits(max_bytes=1000, timeout_s=0.5)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/a.png", "only https"),
        ("ftp://example.org/a.png", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://user:word@example.org/", "no user name"),
        ("https:///a.png", "a host"),
        ("https://example.org:8443/", "only port 443"),
        ("https://example.org:99999/", "not an address"),
        ("https://example.org/a\r\nX: y", "printable ASCII"),
        ("https://exämple.org/", "printable ASCII"),
        ("https://example.org/a b", "printable ASCII"),
    ],
)
def test_an_address_that_may_not_be_fetched(url, words):
    with pytest.raises(FetchError, match=words):
        checked_url(url)


def test_an_address_that_may():
    assert checked_url("https://example.org") == ("example.org", "/")
    assert checked_url("https://Example.org:443/a/b?c=d#e") == ("example.org", "/a/b?c=d")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("fe80::1%eth0", False), ("fd00::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:93.184.215.14", True), ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False), ("::", False), ("ff02::1", False), ("name", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


def test_one_private_address_spoils_the_name():
    assert public_address("x", ["93.184.215.14"]) == "93.184.215.14"
    for found in (["93.184.215.14", "10.0.0.1"], []):
        with pytest.raises(FetchError):
            public_address("x", found)


def answered_with(parts: list[bytes], pause_s: float = 0.0) -> Callable[..., socket.socket]:
    """A connect function whose other end answers with these bytes and keeps what it was asked."""

    def connect(address: str, host: str, timeout_s: float) -> socket.socket:
        ours, theirs = socket.socketpair()

        def answer() -> None:
            with theirs:
                connect.asked = theirs.recv(4096)  # type: ignore[attr-defined]
                for part in parts:
                    try:
                        theirs.sendall(part)
                    except OSError:
                        return
                    time.sleep(pause_s)

        threading.Thread(target=answer, daemon=True).start()
        return ours

    return connect


def fetched(parts: list[bytes], pause_s: float = 0.0) -> tuple[bytes, bytes]:
    connect = answered_with(parts, pause_s)
    body = fetch(
        "https://example.org/a?b", LIMITS, resolve=lambda host: ["93.184.215.14"], connect=connect
    )
    return body, connect.asked  # type: ignore[attr-defined]


def test_a_picture_is_fetched():
    body, asked = fetched([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"])
    assert body == b"hello"
    assert asked.startswith(b"GET /a?b HTTP/1.1\r\nHost: example.org\r\n")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n"], "302; redirects"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"], "1,001 bytes"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", bytes(1001)], "more than 1,000"),
        ([b"SSH-2.0-OpenSSH\r\n"], "did not answer as it should"),
        ([b""], "did not answer as it should"),
    ],
)
def test_a_fetch_that_is_given_up(parts, words):
    with pytest.raises(FetchError, match=words):
        fetched(parts)


def test_a_server_that_drips_is_left_in_time():
    begin = time.monotonic()
    with pytest.raises(FetchError, match="too long"):
        fetched([b"H"] * 100, pause_s=0.1)
    assert time.monotonic() - begin < 3


# --- the admin's door, traffic ---


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [(None, "x", 403), ("right", None, 401), ("right", "wrong", 401), ("right", "rightx", 401),
     ("right", "", 401), ("right", "\udcff", 401)],
)  # fmt: skip
def test_who_may_not_pass(token, given, status):
    with pytest.raises(ProblemError) as refused:
        admitted(token, given)
    assert refused.value.status == status


def test_who_may_pass():
    admitted("right", "right")


def test_calls_are_whole_requests():
    call = image_call(b"data", 3)
    head, _, body = call.wire.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert form_of(body) == Form({"k": "3"}, b"data")
    assert text_call("a").wire.endswith(b'{"text":"a","k":20}')


def test_a_mix_keeps_its_weights_and_each_parts_order():
    texts, items = [text_call(str(n)) for n in range(3)], [item_call(n) for n in range(3)]
    calls = mixed([(texts, 3.0), (items, 1.0)], 4000, seed=0)
    share = sum(call.kind == "text" for call in calls) / 4000
    assert share == pytest.approx(0.75, abs=0.03)
    assert [c.wire for c in calls if c.kind == "item"][:4] == [c.wire for c in [*items, items[0]]]
