"""The written API says what is known of RunComfy, and no more."""

import json
from typing import Any

import pytest

from comfyline.sandbox.api import INVALID_MODEL
from tests.conftest import ROOT
from tests.contract.description import PATH, dump, written

JSON = {"Content-Type": "application/json"}
URLS = {"status_url": "https://a.test/s", "result_url": "https://a.test/r"}
SUBMITTED = {"request_id": "r-1", **URLS, "cancel_url": "https://a.test/c"}
ENTRY = {"model_id": "acme/brush", "input_schema": {"type": "object"}}

KNOWN: list[tuple[str, int, Any]] = [
    ("submit", 200, SUBMITTED),
    ("submit", 200, {"error_code": 400002, "error_message": "no balance left"}),
    ("submit", 422, {"detail": "the prompt is missing"}),
    ("submit", 422, {"detail": [{"loc": ["body", "prompt"], "msg": "missing", "type": "missing"}]}),
    ("submit", 400, {"message": "no"}),
    ("submit", 402, {"error_code": 400002, "message": "no balance left"}),
    ("submit", 504, {"error": "too slow"}),
    ("status", 200, {"request_id": "r", "status": "in_queue", "queue_position": 0, **URLS}),
    ("status", 401, {"error_code": 400004}),
    ("status", 403, {"error_code": 403001, "error_message": "not yours"}),
    ("status", 404, {"error_code": 404001, "error_message": "unknown"}),
    ("status", 429, {"error": {"message": "slow down"}}),
    ("result", 200, {"request_id": "r", "status": "in_progress"}),
    ("result", 200, {"request_id": "r", "status": "failed", "error": {"message": "too dark"}}),
    ("result", 200, {"request_id": "r", "status": "succeeded", "output": {}, "cost": 0.5}),
    (
        "result",
        200,
        {"request_id": "r", "status": "completed", "output": {"scene": {"audio": "data:,"}}},
    ),
    ("cancel", 200, {"request_id": "r", "status": "in_progress", "outcome": "not_cancellable"}),
    ("catalogue", 200, {"models": []}),
    ("catalogue", 200, {"models": [{"model_id": "acme/brush"}], "total": 1}),
    ("catalogueEntry", 200, ENTRY),
    ("catalogueEntry", 200, {**ENTRY, "base_price_usd": None}),
    ("catalogueEntry", 200, {**ENTRY, "base_price_usd": -1, "price_unit": "second"}),
    ("catalogueEntry", 400, {"error_code": INVALID_MODEL}),
    ("balance", 200, {"balance_usd": 1, "currency": "USD"}),
]
UNKNOWN: list[tuple[str, int, Any]] = [
    ("submit", 200, {}),
    ("submit", 200, {**SUBMITTED, "request_id": "r 1"}),
    ("submit", 200, {**SUBMITTED, "request_id": "r" * 129}),
    ("submit", 200, {**SUBMITTED, "error_code": 400002}),
    ("submit", 202, SUBMITTED),
    ("submit", 302, {"message": "elsewhere"}),
    ("submit", 400, {}),
    ("submit", 400, []),
    ("status", 200, {"request_id": "r", "status": "weird_status", **URLS}),
    ("status", 200, {"request_id": "r", "status": "in_queue", "queue_position": "1", **URLS}),
    ("status", 402, {"error_code": 400002}),
    ("result", 200, {"request_id": "r", "status": "completed", "output": []}),
    ("result", 200, {"request_id": "r", "status": "completed", "cost": "0.5"}),
    ("cancel", 200, {"request_id": "r", "status": "in_queue", "outcome": "perhaps"}),
    ("catalogue", 200, []),
    ("catalogue", 200, {"models": [{"kind": "model"}]}),
    ("catalogueEntry", 200, {"model_id": "acme/brush"}),
    ("catalogueEntry", 200, {**ENTRY, "price_unit": "pixel"}),
    ("balance", 200, {"balance_usd": "1", "currency": "USD"}),
]


def mistakes(name: str, status: int, body: Any) -> list[str]:
    return written().mistakes_of_answer(written().operations[name], status, JSON, dump(body))


def test_it_is_openapi_3_1():
    assert written().document["openapi"].startswith("3.1.")
    written().schema().validate()


@pytest.mark.parametrize(("name", "status", "body"), KNOWN)
def test_an_answer_that_is_known_is_allowed(name: str, status: int, body: Any):
    assert not mistakes(name, status, body)


@pytest.mark.parametrize(("name", "status", "body"), UNKNOWN)
def test_an_answer_that_nobody_has_seen_is_not_allowed(name: str, status: int, body: Any):
    assert mistakes(name, status, body)


def test_real_entries_of_the_catalogue_are_allowed():
    page = json.loads((ROOT / "tests/models/catalogue-samples.json").read_text("utf-8"))
    assert len(page["models"]) >= 5
    assert not mistakes("catalogue", 200, page)
    for entry in page["models"]:
        assert not mistakes("catalogueEntry", 200, entry)


def test_only_the_balance_lies_elsewhere():
    servers = {each.name: each.server for each in written().operations.values()}
    assert servers.pop("balance") == "https://api.runcomfy.net"
    assert set(servers.values()) == {"https://model-api.runcomfy.net"}


def test_every_part_is_used_and_every_link_leads_to_a_call():
    text = PATH.read_text("utf-8")
    for kind, parts in written().document["components"].items():
        for name in parts:
            used = f"#/components/{kind}/{name}"
            assert kind == "securitySchemes" or used in text, used
    for operation in written().operations.values():
        for link in operation.responses["200"].get("links", {}).values():
            assert link["operationId"] in written().operations
