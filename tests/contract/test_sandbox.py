"""The sandbox keeps to the written API, whatever it is sent."""

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from requests import Session
from schemathesis import Case, Response
from schemathesis.checks import CHECKS, load_all_checks

from tests.conftest import Sandbox
from tests.contract.description import Description, read_document, written

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
MODELS = ["acme/brush", "acme/chalk"]

load_all_checks()
SILENT = CHECKS.get_by_names(["allow_header_conformance"])
"""Which methods a 405 names is HTTP's concern; the API says nothing of it."""
MAY_BE_NO_MODEL = CHECKS.get_by_names(["positive_data_acceptance"])
"""Most model ids are of no model, which the API refuses with HTTP 400."""

STEADY = settings(
    # The same examples in every run: a difference between two readings must not come and go.
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

schema = written().schema()


@schema.parametrize()
@settings(STEADY, max_examples=30)
def test_the_sandbox_keeps_to_the_written_api(case: Case, shared_sandbox: Sandbox, web: Session):
    in_doubt = MAY_BE_NO_MODEL if "{model_id}" in case.path else []
    case.call_and_validate(
        base_url=shared_sandbox.url,
        session=web,
        headers=AUTHORIZED,
        excluded_checks=[*SILENT, *in_doubt],
    )


def with_known_models() -> Description:
    """The written API where every submission is of a model that the sandbox has, and fits it."""
    document = read_document()
    components = document["components"]
    components["parameters"]["model_id"]["schema"] = {"type": "string", "enum": MODELS}
    del components["parameters"]["model_id"]["example"]
    components["schemas"]["Input"] = {
        "type": "object",
        "required": ["prompt"],
        "properties": {"prompt": {"type": "string"}},
    }
    return Description(document)


@pytest.fixture(scope="module")
def busy(start_sandbox: Any) -> Iterator[Sandbox]:
    """A sandbox of its own whose only slot is taken, so that whatever is submitted has to wait."""
    sandbox = start_sandbox(slots=1)
    sandbox.order(on="generation", kind="delay", seconds=600)
    sandbox.submit("a vase", model="acme/brush")
    yield sandbox
    assert "Traceback" not in sandbox.log.read_text()


def test_the_calls_about_a_request_keep_to_the_written_api_one_after_another(
    busy: Sandbox, web: Session
):
    answered: Counter[tuple[str, int]] = Counter()
    words: set[str] = set()

    class Walk(with_known_models().schema().as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, _case: Case) -> dict[str, Any]:
            return {"base_url": busy.url, "session": web, "headers": AUTHORIZED}

        def validate_response(self, response: Response, case: Case, **kwargs: Any) -> None:
            answered[case.operation.definition.raw["operationId"], response.status_code] += 1
            if response.status_code == HTTPStatus.OK:
                words.add(response.json().get("status"))
            case.validate_response(
                response,
                excluded_checks=SILENT,
                headers=AUTHORIZED,
                transport_kwargs=kwargs,
                recorder=self.recorder,
            )

    Walk.run(settings=settings(STEADY, max_examples=12, stateful_step_count=6))
    # Real ids were followed from call to call, or all this would have proved nothing.
    accepted = {name for name, status in answered if status == HTTPStatus.OK}
    assert {"submit", "status", "result", "cancel"} <= accepted
    assert {"in_queue", "cancelled"} <= words
