"""What a test may ask of the sandbox, and RunComfy does not have: faults, expiry, the books."""

from typing import Any

from fastapi import APIRouter

from comfyline.sandbox.faults import Fault, Faults
from comfyline.sandbox.handlers import UNKNOWN_REQUEST, Handlers, Refusal, moment
from comfyline.sandbox.store import without_queries


def admin_routes(handlers: Handlers, faults: Faults) -> APIRouter:
    """Define the calls under `/sandbox`, and `/health`; none needs a token."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.post("/sandbox/faults")
    def order_fault(fault: Fault) -> list[dict[str, Any]]:
        faults.order(fault)
        return show_faults()

    @routes.get("/sandbox/faults")
    def show_faults() -> list[dict[str, Any]]:
        return [fault.model_dump() for fault in faults.waiting()]

    @routes.delete("/sandbox/faults")
    def clear_faults() -> list[dict[str, Any]]:
        faults.clear()
        return show_faults()

    @routes.post("/sandbox/expire/{request_id}")
    def expire(request_id: str) -> dict[str, str]:
        if not handlers.store.expire(request_id):
            raise Refusal(404, UNKNOWN_REQUEST, "request unknown")
        handlers.blobs.drop(request_id)
        return {"request_id": request_id, "status": "expired"}

    @routes.get("/sandbox/account")
    def account() -> dict[str, Any]:
        fetches = handlers.store.fetches()
        return {
            "requests": [
                {
                    "request_id": request.request_id,
                    "model_id": request.model_id,
                    "status": request.status,
                    "charge_usd": request.charge_usd or 0.0,
                    "created_at": moment(request.created_at),
                    "input": without_queries(request.input),
                    "inputs_fetched_at": {
                        url: moment(at) for url, at in fetches.get(request.number, {}).items()
                    },
                }
                for request in handlers.store.all()
            ],
            "charged_usd": handlers.store.charged(),
            "balance_usd": handlers.balance(),
        }

    return routes
