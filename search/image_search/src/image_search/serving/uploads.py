"""Request bodies as they arrive: forms with one picture, read in one pass and within limits.

In: chunks of a ``multipart/form-data`` body (RFC 7578). Out: ``Form``: small text fields, and the
bytes of one picture. The framework's own reader writes parts above a megabyte to disk and knows no
limit for them; here nothing touches the disk, and each limit acts on the chunk that breaks it:

- one body: the platform's middleware ends it with 413;
- all bodies together: ``Held`` counts what is in memory, and beyond its limit the answer is 503;
- parts and the fields' lengths: a form of a thousand parts is no form of ours. The parser itself
  bounds a part's headers.

The header's content type and the part's file name are not believed: see ``images.decoding``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 16
MAX_FIELD_BYTES = 4096
MAX_TEXT_FIELD_BYTES = 400_000
"""Of the field ``again``, a small picture that a page carries along (``page.py``)."""
MAX_BOUNDARY = 200


class FormError(ValueError):
    """A body is no form that is understood; the message says why."""


class HeldError(RuntimeError):
    """Too many bytes of other uploads are in memory: try again later."""


class Held:
    """Bytes of all uploads in memory; on the event loop's thread only."""

    def __init__(self, most: int, told: Callable[[int], object] = lambda held: None) -> None:
        self.most, self.now, self._told = most, 0, told

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that takes more bytes; all of them are given back at the end.

        Raises:
            HeldError: By that function, when the limit is passed.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.now + count > self.most:
                raise HeldError(f"{self.now:,} bytes of uploads are being read; retry later")
            self.now += count
            mine += count
            self._told(self.now)

        try:
            yield take
        finally:
            self.now -= mine
            self._told(self.now)


@dataclass
class Form:
    """What a form held.

    Attributes:
        fields: Text by name, without surrounding space; empty fields are left out.
        image: The picture's bytes; None where no such part came.
    """

    fields: dict[str, str] = field(default_factory=dict)
    image: bytes | None = None


def boundary_of(content_type: str) -> bytes:
    """The boundary that a multipart content type names.

    Raises:
        FormError: If it names none, or one longer than any in use.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > MAX_BOUNDARY:
        raise FormError("send multipart/form-data with a boundary")
    return boundary


async def read_form(
    chunks: AsyncIterator[bytes], content_type: str, take: Callable[[int], None]
) -> Form:
    """Reads a whole form.

    Args:
        chunks: The body.
        content_type: Its header.
        take: Told the length of every chunk before it is kept; raises to refuse.

    Raises:
        FormError: If it is malformed, or passes a limit of this module.
    """
    reader = _Reader()
    try:
        parser = MultipartParser(boundary_of(content_type), reader.callbacks())
        async for chunk in chunks:
            take(len(chunk))
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"not a multipart form: {error}") from error
    if not reader.ended:
        raise FormError("the form is cut off before its last boundary")
    return reader.form


class _Reader:
    """Collects parts; the parser calls it with slices of each chunk."""

    def __init__(self) -> None:
        self.form = Form()
        self.ended = False
        self._parts = 0
        self._name = ""
        self._data = bytearray()
        self._header = (bytearray(), bytearray())
        self._disposition = b""

    def callbacks(self) -> MultipartCallbacks:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, a, b: self._head(0, data[a:b]),
            "on_header_value": lambda data, a, b: self._head(1, data[a:b]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._named,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise FormError(f"more than {MAX_PARTS} parts")
        self._data, self._disposition = bytearray(), b""
        self._header = (bytearray(), bytearray())

    def _head(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _named(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            raise FormError("a part has no name")
        if self._name == "image" and self.form.image is not None:
            raise FormError("more than one picture: send one")
        if self._name in self.form.fields:
            raise FormError(f"the field {self._name[:50]!r} stands twice")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        most = MAX_TEXT_FIELD_BYTES if self._name == "again" else MAX_FIELD_BYTES
        if self._name != "image" and len(self._data) + end - start > most:
            raise FormError(f"the field {self._name[:50]!r} is longer than {most} bytes")
        self._data += memoryview(data)[start:end]

    def _end(self) -> None:
        if self._name == "image":
            self.form.image = bytes(self._data)
        elif text := self._data.decode("utf-8", "replace").strip():
            self.form.fields[self._name] = text
        self._data = bytearray()

    def _finish(self) -> None:
        self.ended = True
