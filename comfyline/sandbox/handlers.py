"""What the calls have in common: who may call, what is taken, and the shapes of the answers."""

import base64
import hmac
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from comfyline.sandbox.blob_store import BlobStore, media_type
from comfyline.sandbox.catalogue import CatalogueEntry, ModelCatalogue
from comfyline.sandbox.dialect import Violation, check, with_defaults
from comfyline.sandbox.server import SandboxOptions
from comfyline.sandbox.store import Request, Store
from comfyline.sandbox.worker import Worker

INVALID_MODEL = 400001
NO_BALANCE = 400002
INVALID_TOKEN = 400004
UNKNOWN_REQUEST = 404001


class Refusal(Exception):
    """A call is refused, with this answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def refusal(status: int, code: int, message: str) -> Refusal:
    """Refuse a call with RunComfy's number and a sentence."""
    return Refusal(status, {"error_code": code, "error_message": message})


def _input_refused(*mistakes: Violation) -> Refusal:
    """Refuse an input that does not fit the model's schema, with everything that is wrong."""
    told = [{"loc": ["body", *one.path], "msg": one.message, "type": one.kind} for one in mistakes]
    return Refusal(422, {"detail": told})


def moment(seconds: float) -> str:
    """Write a time as RunComfy does: ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def urls(origin: str, request_id: str) -> dict[str, str]:
    """Return where a request is asked about; the origin is the one that the caller used."""
    base = f"{origin}/v1/requests/{request_id}"
    return {"status_url": f"{base}/status", "result_url": f"{base}/result"}


def result_body(request: Request, *, include_cost: bool) -> dict[str, Any]:
    """Return the result of a request but for its output; before the end, where it stands."""
    body: dict[str, Any] = {
        "request_id": request.request_id,
        "status": request.status,
        "created_at": moment(request.created_at),
    }
    if request.finished_at is not None:
        body["finished_at"] = moment(request.finished_at)
        if include_cost:
            body["cost"] = request.charge_usd or 0.0
    if request.error is not None:
        body["error"] = {"code": "generation_failed", "message": request.error}
    return body


def data_uri(path: Path) -> str:
    """Return a file as a `data:` URI."""
    return f"data:{media_type(path.name)};base64,{base64.b64encode(path.read_bytes()).decode()}"


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the calls work with. A call that is refused raises `Refusal`."""

    options: SandboxOptions
    store: Store
    blobs: BlobStore
    catalogue: ModelCatalogue
    worker: Worker

    def require_token(self, authorization: str) -> None:
        """Refuse a call without the right bearer token."""
        scheme, _, given = authorization.partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.options.token.encode())
        if scheme.lower() != "bearer" or not right:
            raise refusal(401, INVALID_TOKEN, "account or token invalid")

    def model(self, model_id: str) -> CatalogueEntry:
        """Return the catalogue entry of a model."""
        if (entry := self.catalogue.find(model_id)) is None:
            raise refusal(400, INVALID_MODEL, "invalid model or resource id")
        return entry

    def known(self, request_id: str) -> Request:
        """Find a request that is not yet forgotten."""
        if (request := self.store.find(request_id)) is None:
            raise refusal(404, UNKNOWN_REQUEST, "request unknown or expired")
        return request

    def balance(self) -> float:
        """Return what is left of the balance, in USD."""
        return round(self.options.balance_usd - self.store.charged(), 6)

    def accept(self, model_id: str, body: bytes) -> str:
        """Check a submission, take it into the queue and return its id."""
        entry = self.model(model_id)
        given = _parse_body(body)
        if mistakes := check(entry.input_schema, given):
            raise _input_refused(*mistakes)
        inputs = with_defaults(entry.input_schema, given)
        price = entry.charge(inputs)
        if self.balance() < price:
            raise refusal(402, NO_BALANCE, "no balance left")
        request_id = str(uuid.uuid4())
        self.store.add(
            request_id,
            model_id=model_id,
            inputs=inputs,
            price_usd=price,
            once=inputs.get("sync_mode") is True,
        )
        return request_id


def _parse_body(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _input_refused(Violation((), "the body is no valid JSON", "json_invalid")) from error
    if not isinstance(value, dict):
        raise _input_refused(Violation((), "the body must be a JSON object", "type"))
    return value


def _no_constant(word: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(f"{word} is no JSON")
