"""Whatever the server's description of itself allows or forbids, it answers as it says, and never with a fault of its own."""

import pytest
from api_server import FakeEngine, fake_speaker, running, says
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")


def test_it_does_what_its_description_says() -> None:
    from schemathesis import checks

    with running(fake_speaker(FakeEngine(says("yes")))) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        wanted = [
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ]
        count = 0
        for operation in schema.get_all_operations():
            api = operation.ok()

            @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=api.as_strategy())
            def check(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=wanted, timeout=10)

            check()
            count += 1
        assert count == 6
