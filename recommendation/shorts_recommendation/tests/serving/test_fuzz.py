"""schemathesis over the OpenAPI document: whatever is sent, no 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from feed_process import start
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error

from ml_platform.serving.server_process import free_port


@pytest.mark.slow
def test_no_request_makes_the_server_fail(tmp_path):
    port = free_port()
    process = start(tmp_path, port)
    try:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        statuses = {f"{o.method.upper()} {o.path}": set() for o in operations}
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                fuzz(operation, mode, statuses[f"{operation.method.upper()} {operation.path}"])
    finally:
        process.terminate()
        process.wait(15)
    # Both sides of every door that can refuse.
    assert {200, 422} <= statuses["GET /v1/feed"]
    assert 422 in statuses["POST /v1/events"]
    assert 422 in statuses["POST /v1/uploads"]


def fuzz(operation: APIOperation, mode: GenerationMode, statuses: set[int]) -> None:
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
