"""schemathesis over the OpenAPI document: whatever is sent, no 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from subprocess_server import start

from ml_platform.serving.server_process import free_port


@pytest.mark.slow
def test_no_request_makes_the_server_fail(tmp_path):
    port = free_port()
    process = start(tmp_path, port)
    try:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == 8
        statuses: dict[str, set[int]] = {}
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _fuzz(operation, mode, statuses.setdefault(operation.label, set()))
    finally:
        process.terminate()
        process.wait(10)
    # The fuzzing reached both sides of every door that can refuse.
    assert {200, 422} <= statuses["GET /v1/recommendations"]
    assert {404, 422} <= statuses["GET /v1/similar/{item_id}"]
    assert 422 in statuses["POST /v1/events"]


def _fuzz(operation: APIOperation, mode: GenerationMode, statuses: set[int]) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def send(case: Case) -> None:
            response = case.call()
            case.validate_response(response, checks=[not_a_server_error])
            statuses.add(response.status_code)

        send()
    except Unsatisfiable:  # an operation without parameters has no wrong ones
        assert mode is GenerationMode.NEGATIVE
