"""What a test may ask of the sandbox, and RunComfy does not have: faults, expiry, the books."""

from typing import Any

from fastapi import APIRouter

from comfyline.sandbox.faults import Fault, Faults
from comfyline.sandbox.handlers import UNKNOWN_REQUEST, Handlers, moment, refusal
from comfyline.sandbox.store import without_queries


def admin_routes(handlers: Handlers, faults: Faults) -> APIRouter:
    """Define the calls under `/sandbox`, and `/health`; none needs a token."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.post("/sandbox/faults")
    async def order_fault(fault: Fault) -> list[Fault]:
        faults.append(fault)
        return faults

    @routes.get("/sandbox/faults")
    async def show_faults() -> list[Fault]:
        return faults

    @routes.delete("/sandbox/faults")
    async def clear_faults() -> list[Fault]:
        faults.clear()
        return faults

    @routes.post("/sandbox/expire/{request_id}")
    def expire(request_id: str) -> dict[str, str]:
        if not handlers.store.expire(request_id):
            raise refusal(404, UNKNOWN_REQUEST, "request unknown")
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
