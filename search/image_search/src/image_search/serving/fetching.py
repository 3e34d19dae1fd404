"""A picture from an address that a stranger gave, fetched so that it cannot be turned against us.

In: ``https://host/path``. Out: bytes. Off unless the configuration says otherwise, because a server
that fetches is asked for what only it can reach (server-side request forgery). When it is on:

- https on port 443 only, no user names, no literal control characters;
- every address that the name resolves to must be public; the connection goes to an address that
  was checked, and the name is not resolved a second time (DNS rebinding);
- no redirects, status 200 only, a limit of bytes and one of time for the whole of it, both held
  while the answer arrives.

The certificate is checked against the name. The kind of the answer is not believed: it goes
through the same door as any upload.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

CHUNK = 1 << 16
PORT = 443


class FetchError(ValueError):
    """An address is not fetched; the message says why."""


@dataclass(frozen=True)
class FetchLimits:
    """Bytes of the answer, seconds for the whole fetch."""

    max_bytes: int
    timeout_s: float


def resolve_all(host: str) -> list[str]:
    """Every address of a name."""
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{host[:100]!r} has no address: {error}") from None
    return [str(entry[4][0]) for entry in found]


def connect_tls(address: str, host: str, timeout_s: float) -> socket.socket:
    """A TLS connection to an address that must prove to be ``host``."""
    raw = socket.create_connection((address, PORT), timeout_s)
    try:
        return ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise


def fetch(
    url: str,
    limits: FetchLimits,
    *,
    resolve: Callable[[str], Sequence[str]] = resolve_all,
    connect: Callable[[str, str, float], socket.socket] = connect_tls,
) -> bytes:
    """The body of a GET, within limits; blocks.

    Raises:
        FetchError: With the reason; it names no address of ours.
    """
    host, target = checked_url(url)
    address = public_address(host, resolve(host))
    end = time.monotonic() + limits.timeout_s
    try:
        with connect(address, host, limits.timeout_s) as connection:
            return _get(connection, host, target, limits, end - time.monotonic())
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{host} did not answer as it should: {type(error).__name__}") from None


def checked_url(url: str) -> tuple[str, str]:
    """Host and target of an address that may be fetched.

    Raises:
        FetchError: For another scheme, port, a user name, or characters that do not belong.
    """
    if not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise FetchError("an address has printable ASCII characters only")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError(f"not an address: {error}") from None
    if parts.scheme != "https":
        raise FetchError(f"only https is fetched, not {parts.scheme[:20]!r}")
    if parts.username is not None or parts.password is not None or not parts.hostname:
        raise FetchError("an address has a host and no user name")
    if port not in (None, PORT):
        raise FetchError(f"only port {PORT} is fetched, not {port}")
    query = f"?{parts.query}" if parts.query else ""
    return parts.hostname, (parts.path or "/") + query


def public_address(host: str, addresses: Sequence[str]) -> str:
    """The first address, if all of them are public.

    Raises:
        FetchError: If one is not: the name is then not to be trusted with any.
    """
    if not addresses:
        raise FetchError(f"{host} has no address")
    for one in addresses:
        if not is_public(one):
            raise FetchError(f"{host} is not a public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also one that hides in an IPv6 one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None:
            return False
        if found in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind a translator
            return False
    return found.is_global and not found.is_multicast


def _get(
    connection: socket.socket, host: str, target: str, limits: FetchLimits, left_s: float
) -> bytes:
    lines = (f"GET {target} HTTP/1.1", f"Host: {host}", "Accept: image/*", "Connection: close")
    request = "\r\n".join((*lines, "", ""))
    late = threading.Event()
    # A time-out of the socket starts anew with every byte: a server that drips would hold us.
    timer = threading.Timer(max(left_s, 0.001), _hang_up, (connection, late))
    timer.start()
    try:
        connection.sendall(request.encode("ascii"))
        with http.client.HTTPResponse(connection, method="GET") as response:
            body = _read(response, host, limits)
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise FetchError("the fetch took too long") from None
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise FetchError("the fetch took too long")
    return body


def _read(response: http.client.HTTPResponse, host: str, limits: FetchLimits) -> bytes:
    response.begin()
    if response.status != 200:
        raise FetchError(f"{host} answered {response.status}; redirects are not followed")
    if (response.length or 0) > limits.max_bytes:
        raise FetchError(f"{response.length:,} bytes, the limit is {limits.max_bytes:,}")
    body = bytearray()
    while chunk := response.read1(CHUNK):
        body += chunk
        if len(body) > limits.max_bytes:
            raise FetchError(f"more than {limits.max_bytes:,} bytes")
    return bytes(body)


def _hang_up(connection: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
