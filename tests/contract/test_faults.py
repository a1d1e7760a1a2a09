"""The sandbox's bad days: the documented ones keep to the written API, the hostile do not."""

from typing import Any

import httpx
import pytest

from tests.conftest import Sandbox
from tests.contract.description import Operation, written

MODEL = "acme/brush"
LATE = "Wed, 21 Oct 2026 07:28:00 GMT"

DOCUMENTED: dict[str, list[dict[str, Any]]] = {
    "submit": [
        {"kind": "delay", "seconds": 0.01},
        {"kind": "error-code-200", "error_code": 400002},
        {"kind": "status", "code": 402},
        {"kind": "status", "code": 429, "headers": {"Retry-After": "3"}},
        {"kind": "status", "code": 429, "headers": {"Retry-After": LATE}},
        {"kind": "status", "code": 503, "accept": True},
    ],
    "status": [
        {"kind": "delay", "seconds": 0.01},
        {"kind": "error-code-200", "error_code": 404001},
        {"kind": "status", "code": 404},
        {"kind": "status", "code": 404, "body": {"detail": "Not Found"}},
        {"kind": "status", "code": 429},
        {"kind": "status", "code": 500},
        *({"kind": "word", "word": word} for word in ("pending", "processing", "canceled")),
        {"kind": "fields", "fields": {"request_id": "another", "outcome": "cancelled"}},
    ],
    "result": [
        {"kind": "delay", "seconds": 0.01},
        {"kind": "error-code-200", "error_code": 404001},
        {"kind": "status", "code": 403},
        {"kind": "status", "code": 429},
        {"kind": "status", "code": 502},
        {"kind": "word", "word": "succeeded"},
        {"kind": "fields", "fields": {"request_id": "another"}},
    ],
    "cancel": [
        {"kind": "delay", "seconds": 0.01},
        {"kind": "status", "code": 404},
        {"kind": "status", "code": 503},
        {"kind": "fields", "fields": {"request_id": "another"}},
    ],
    "generation": [
        {"kind": "delay", "seconds": 0.01},
        {"kind": "fail", "message": "too dark"},
        {"kind": "blank"},
    ],
}


def play(sandbox: Sandbox, point: str, fault: dict[str, Any]) -> tuple[Operation, httpx.Response]:
    """The answer of the call at which a fault was ordered."""
    request_id = ""
    if point == "generation":
        sandbox.order(on=point, **fault)
    if point != "submit":
        request_id = sandbox.submit("a vase", model=MODEL)
        sandbox.finish(request_id)
    if point != "generation":
        sandbox.order(on=point, **fault)
    operation = written().operations["result" if point == "generation" else point]
    path = operation.path.format(model_id=MODEL, request_id=request_id)
    body = {"prompt": "a vase"} if operation.body else None
    return operation, sandbox.api.request(operation.method, path, json=body)


def each(faults: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(point, fault, id=f"{point}-{number}-{fault['kind']}")
        for point, orders in faults.items()
        for number, fault in enumerate(orders)
    ]


@pytest.mark.parametrize(("point", "fault"), each(DOCUMENTED))
def test_a_documented_bad_day_keeps_to_the_written_api(
    sandbox: Sandbox, point: str, fault: dict[str, Any]
):
    operation, answer = play(sandbox, point, fault)
    assert not sandbox.open.get("/sandbox/faults").json()
    assert not written().mistakes_of_answer(
        operation, answer.status_code, answer.headers, answer.content
    )


def test_a_failed_request_says_why(sandbox: Sandbox):
    _, answer = play(sandbox, "generation", {"kind": "fail", "message": "too dark"})
    body = answer.json()
    assert (body["status"], body["error"]["message"]) == ("failed", "too dark")
