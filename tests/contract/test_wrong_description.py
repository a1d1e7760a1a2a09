"""The contract's tests can fail: whichever part of the description is wrong, a call shows it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from requests import Session
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup

from tests.conftest import Sandbox
from tests.contract.description import Description, read_document

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
MODEL = {"model_id": "acme/brush"}

load_all_checks()


@pytest.fixture(scope="module")
def requests_in_all_states(start_sandbox: Any) -> Iterator[tuple[Sandbox, dict[str, str]]]:
    """A sandbox with a request that is completed, one that holds the only slot, one that waits."""
    sandbox = start_sandbox(slots=1)
    completed = sandbox.submit("a vase", model="acme/brush")
    sandbox.finish(completed)
    sandbox.order(on="generation", kind="delay", seconds=600)
    running = sandbox.submit("a vase", model="acme/brush")
    sandbox.until(lambda: sandbox.status(running)["status"] == "in_progress")
    waiting = sandbox.submit("a vase", model="acme/brush")
    yield sandbox, {"completed": completed, "running": running, "waiting": waiting}
    assert "Traceback" not in sandbox.log.read_text()


def walk(
    document: dict[str, Any], sandbox: Sandbox, requests: dict[str, str], web: Session
) -> None:
    """Makes every call once or more and compares each answer with a description."""
    schema = Description(document).schema()

    def call(name: str, **parts: Any) -> None:
        case = schema.find_operation_by_id(name).Case(**parts)
        case.call_and_validate(base_url=sandbox.url, session=web, headers=AUTHORIZED)

    call("balance")
    call("catalogue", query={"include_schema": "true"})
    call("catalogueEntry", path_parameters=MODEL)
    call("catalogueEntry", path_parameters={"model_id": "acme/nothing"})
    call("submit", path_parameters=MODEL, body={"prompt": "a"}, media_type="application/json")
    call("submit", path_parameters=MODEL, body={}, media_type="application/json")
    for request_id in [*requests.values(), "nobody-knows-this"]:
        call("status", path_parameters={"request_id": request_id})
        call("result", path_parameters={"request_id": request_id}, query={"include_cost": "true"})
    call("cancel", path_parameters={"request_id": requests["running"]})


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def alter(document: dict[str, Any]) -> None:
        part = document["components"]
        for step in path[:-1]:
            part = part[step]
        assert path[-1] in part, f"{path} is not in the description"
        part[path[-1]] = to

    return alter


def without_answer(path: str, method: str, status: str) -> Callable[[dict[str, Any]], None]:
    def alter(document: dict[str, Any]) -> None:
        del document["paths"][path][method]["responses"][status]

    return alter


WRONG = {
    "a request id is written otherwise": change("schemas", "RequestId", "pattern", to="^req_.*$"),
    "a place in the queue is text": change(
        "schemas", "Status", "properties", "queue_position", "type", to="string"
    ),
    "nothing ever waits": change("schemas", "StatusWord", "enum", to=["in_progress", "completed"]),
    "outputs lie by number": change(
        "schemas", "Output", "properties", "image", to={"type": "integer"}
    ),
    "the charge is text": change("schemas", "Result", "properties", "cost", "type", to="string"),
    "times are numbers": change(
        "schemas", "Result", "properties", "created_at", "type", to="number"
    ),
    "whatever runs can be cancelled": change(
        "schemas", "Cancellation", "properties", "outcome", "enum", to=["cancelled"]
    ),
    "a submission names a price": change(
        "schemas", "Submission", "required", to=["request_id", "price"]
    ),
    "codes are text": change("schemas", "ErrorCode", to={"type": "string"}),
    "mistakes are one sentence": change("schemas", "Detail", to={"type": "string"}),
    "the balance is text": change(
        "schemas", "Balance", "properties", "balance_usd", "type", to="string"
    ),
    "a model is paid by the pixel": change(
        "schemas", "Entry", "properties", "price_unit", "enum", to=["pixel"]
    ),
    "the catalogue is no list": change(
        "schemas", "Page", "properties", "models", to={"type": "object"}
    ),
    "unknown requests have a status": without_answer(
        "/v1/requests/{request_id}/status", "get", "404"
    ),
    "errors are pages": change("responses", "Unfit", "content", to={"text/html": {}}),
}


def test_the_written_description_stands_the_walk(
    requests_in_all_states: tuple[Sandbox, dict[str, str]], web: Session
):
    walk(read_document(), *requests_in_all_states, web)


@pytest.mark.parametrize("alter", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_description_is_found_out(
    requests_in_all_states: tuple[Sandbox, dict[str, str]],
    web: Session,
    alter: Callable[[dict[str, Any]], None],
):
    document = read_document()
    alter(document)
    with pytest.raises(FailureGroup):
        walk(document, *requests_in_all_states, web)


def test_a_call_that_needs_no_token_is_found_out(sandbox: Sandbox, web: Session):
    document = read_document()
    answer = {"description": "", "content": {"application/json": {"schema": True}}}
    document["paths"] = {
        "/health": {"get": {"operationId": "health", "responses": {"200": answer}}}
    }
    schema = Description(document).schema()
    with pytest.raises(FailureGroup) as found:
        schema.find_operation_by_id("health").Case().call_and_validate(
            base_url=sandbox.url, session=web, headers=AUTHORIZED
        )
    assert [type(each).__name__ for each in found.value.exceptions] == ["IgnoredAuth"]
