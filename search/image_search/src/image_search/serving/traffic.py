"""What a load sends: uploads as browsers send them, words, "more like this"; requests as bytes.

In: pictures and sentences. Out: ``Call``s: a kind and the bytes on the wire. Pictures are encoded
beforehand, so that the client does not spend the server's processor.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from PIL import Image

BOUNDARY = "----image-search-load"
JPEG_QUALITY = 85
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Call:
    """One request: "image", "text" or "item", and all its bytes."""

    kind: str
    wire: bytes


def encoded(picture: np.ndarray, kind: str, side: int | None = None) -> bytes:
    """PNG or JPEG bytes of a picture u8[H, W, 1 or 3], scaled up to a longer ``side``."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    if side is not None:
        scale = side / max(image.size)
        size = (round(image.size[0] * scale), round(image.size[1] * scale))
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def image_call(data: bytes, k: int = 20) -> Call:
    """An upload."""
    body = form_body({"k": str(k)}, data)
    return Call("image", post("/v1/search", f"multipart/form-data; boundary={BOUNDARY}", body))


def text_call(text: str, k: int = 20) -> Call:
    """A search by words."""
    return Call(
        "text", post("/v1/search", "application/json", orjson.dumps({"text": text, "k": k}))
    )


def item_call(item_id: int, k: int = 20) -> Call:
    """More like an item."""
    body = orjson.dumps({"item_id": int(item_id), "k": k})
    return Call("item", post("/v1/search", "application/json", body))


def form_body(fields: dict[str, str], image: bytes, kind: str = "image/jpeg") -> bytes:
    """A multipart body with one picture."""
    head = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="picture"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(path: str, content_type: str, body: bytes) -> bytes:
    """A whole POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def uploads(pictures: Sequence[np.ndarray], *, side: int | None = None) -> list[Call]:
    """Uploads of these pictures, every second one as JPEG; all of them where they are scaled."""
    kinds = ("JPEG", "JPEG") if side else ("PNG", "JPEG")
    return [image_call(encoded(one, kinds[n % 2], side)) for n, one in enumerate(pictures)]


def mixed(parts: Sequence[tuple[Sequence[Call], float]], n: int, seed: int) -> list[Call]:
    """``n`` calls, each drawn from one of the parts by its weight, each part in its own order."""
    weights = np.array([weight for _, weight in parts])
    drawn = np.random.default_rng(seed).choice(len(parts), n, p=weights / weights.sum())
    places = [0] * len(parts)
    calls = []
    for part in drawn.tolist():
        source = parts[part][0]
        calls.append(source[places[part] % len(source)])
        places[part] += 1
    return calls
