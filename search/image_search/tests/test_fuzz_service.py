"""Hostile requests against a real server: no crash, no 5xx, memory bounded. ``fuzz`` sends more."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error

from image_search.images.decoding import ImageError, Limits, decode
from image_search.serving.fuzzing import GROWTH_LIMIT_BYTES, attack, send
from image_search.serving.hostile import hostile, valid_files
from image_search.serving.traffic import BOUNDARY
from image_search.serving.uploads import FormError, read_form

SMALL = {"deadline": None, "database": None, "derandomize": True}


def test_hostile_requests_neither_fail_nor_fill_the_server(search_server):
    url, pid = search_server
    found = attack(port_of(url), pid, 250, seed=5, step=lambda n: None)
    assert found.n == 250
    assert found.failures == []
    assert {"200", "400", "401", "413", "415", "422"} <= set(found.by_status())
    assert "timeout" not in found.by_status()
    assert 0 < found.before_bytes <= found.most_bytes
    assert found.growth_bytes < GROWTH_LIMIT_BYTES


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_whatever_the_documents_operations_are_sent_no_5xx(search_server):
    schema = schemathesis.openapi.from_url(f"{search_server[0]}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            fuzz(operation, mode, statuses.setdefault(operation.label, set()))
    assert {200, 422} <= statuses["POST /v1/search"]
    assert 404 in statuses["GET /v1/items/{item_id}"]
    assert 401 in statuses["POST /v1/items"]
    assert not any(status >= 500 for found in statuses.values() for status in found)


def fuzz(operation: APIOperation, mode: GenerationMode, statuses: set[int]) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(max_examples=8, suppress_health_check=list(HealthCheck), **SMALL)
        @given(case=strategy)
        def send_one(case: Case) -> None:
            response = case.call()
            case.validate_response(response, checks=[not_a_server_error])
            statuses.add(response.status_code)

        send_one()
    except Unsatisfiable:  # an operation without parameters has no wrong ones
        assert mode is GenerationMode.NEGATIVE


def test_a_body_is_refused_by_its_announced_length(search_server):
    port = port_of(search_server[0])
    head = b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert asyncio.run(send(port, head + b"Content-Length: 9000000\r\n\r\n")) == "413"
    assert asyncio.run(send(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == "200"


def test_the_families_are_all_drawn_and_reproducible():
    def drawn(seed: int) -> list[tuple[str, bytes]]:
        rng = np.random.default_rng(seed)
        return [hostile(rng) for _ in range(400)]

    assert drawn(1) == drawn(1)
    families = {family for family, _ in drawn(1)}
    assert {
        "mutated",
        "truncated",
        "random",
        "bomb",
        "polyglot",
        "form",
        "json",
        "http",
    } <= families


@settings(max_examples=150, **SMALL)
@given(
    which=st.integers(0, len(valid_files()) - 1),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 3000),
)
def test_a_changed_file_is_decoded_or_refused_and_nothing_else(which, changes, end):
    data = bytearray(valid_files()[which])
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(ImageError):  # anything else that is raised fails
        picture = decode(bytes(data[:end]), Limits(10**6, 10**6), side=64)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert max(picture.shape[:2]) <= 64


@settings(max_examples=150, **SMALL)
@given(parts=st.lists(st.binary(max_size=60) | st.sampled_from([
    b"--" + BOUNDARY.encode() + b"\r\n", b"--" + BOUNDARY.encode() + b"--\r\n", b"\r\n\r\n",
    b'Content-Disposition: form-data; name="image"\r\n', b"\r\n", b"k",
]), max_size=12))  # fmt: skip
def test_any_body_is_a_form_or_a_form_error(parts):
    async def chunks():
        for part in parts:
            yield part

    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    with contextlib.suppress(FormError):  # anything else that is raised fails
        asyncio.run(read_form(chunks(), content_type, lambda count: None))
