"""What the calls have in common: who may call, which model and request is meant, what is taken."""

import hmac
import json
import uuid
from dataclasses import dataclass
from typing import Any, NoReturn

from comfyline.sandbox import answers
from comfyline.sandbox.answers import InputRefused, Refusal
from comfyline.sandbox.catalogue import Catalogue, Entry
from comfyline.sandbox.dialect import Fault, check, with_defaults
from comfyline.sandbox.execution import Execution
from comfyline.sandbox.records import Request
from comfyline.sandbox.store import Store
from comfyline.sandbox.vault import Vault


@dataclass(frozen=True, slots=True)
class Desk:
    """All that a call needs. The methods refuse with RunComfy's numbers."""

    token: str
    balance_usd: float
    store: Store
    vault: Vault
    catalogue: Catalogue
    execution: Execution

    def require_token(self, authorization: str) -> None:
        """Refuse a call without the right bearer token."""
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not right:
            raise Refusal(401, answers.INVALID_TOKEN, "account or token invalid")

    def model(self, model_id: str) -> Entry:
        """Return the catalogue entry of a model."""
        if (entry := self.catalogue.find(model_id)) is None:
            raise Refusal(400, answers.INVALID_MODEL, "invalid model or resource id")
        return entry

    def known(self, request_id: str) -> Request:
        """Find a request that is not yet forgotten."""
        if (request := self.store.find(request_id)) is None:
            raise Refusal(404, answers.UNKNOWN_REQUEST, "request unknown or expired")
        return request

    def balance(self) -> float:
        """Return what is left of the balance, in USD."""
        return round(self.balance_usd - self.store.charged(), 6)

    def accept(self, model_id: str, body: bytes) -> str:
        """Check a submission, take it into the queue and return its id."""
        entry = self.model(model_id)
        given = parse_body(body)
        if faults := check(entry.input_schema, given):
            raise InputRefused(faults)
        inputs = with_defaults(entry.input_schema, given)
        price = entry.charge(inputs)
        if self.balance() < price:
            raise Refusal(402, answers.NO_BALANCE, "no balance left")
        request_id = str(uuid.uuid4())
        self.store.add(
            request_id,
            model_id=model_id,
            inputs=inputs,
            price_usd=price,
            once=inputs.get("sync_mode") is True,
        )
        return request_id


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a submission's body: one JSON object, or a refusal that says why not."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputRefused([Fault((), "the body is no valid JSON", "json_invalid")]) from error
    if not isinstance(value, dict):
        raise InputRefused([Fault((), "the body must be a JSON object", "type")])
    return value


def _no_constant(word: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(f"{word} is no JSON")
