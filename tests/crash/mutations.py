"""Mistakes that would cost money, made on purpose: the checks beside this must notice each one."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx

from comfyline.ledger.claims import Claimed
from comfyline.ledger.journal import Journal
from comfyline.ledger.ledger import Ledger
from comfyline.runcomfy import client
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Unknown, Verdict
from comfyline.services import now


def install(name: str) -> None:
    """Makes this process commit one of the mistakes."""
    _MUTATIONS[name]()


def _answers_are_awaited_briefly() -> None:
    """No mistake by itself: a lost answer is given up after a moment instead of half a minute."""
    client.SUBMIT_TIMEOUT = httpx.Timeout(30, read=1.5)


def _the_intent_is_committed_after_the_post() -> None:
    claim, accepted = Ledger.claim, Ledger.accepted
    asked: dict[str, Any] = {}

    async def claim_nothing(self: Ledger, checked: Any, **more: Any) -> Claimed:  # noqa: ARG001
        asked.update(more, checked=checked)
        return Claimed(attempt_id=-1, number=1, mark="unclaimed")

    async def claim_late(self: Ledger, attempt_id: int, request_id: str) -> datetime:  # noqa: ARG001
        claimed = await claim(self, **asked)
        assert isinstance(claimed, Claimed)
        return await accepted(self, claimed.attempt_id, request_id)

    Ledger.claim, Ledger.accepted = claim_nothing, claim_late
    Journal.reserve = lambda _self, _entry: 0
    Journal.accepted = Journal.nothing = lambda _self, _line, _end: None


def _a_post_is_repeated_after_a_read_timeout() -> None:
    _answers_are_awaited_briefly()
    submit = RuncomfyClient.submit

    async def submit_twice(self: RuncomfyClient, model_id: str, inputs: Any) -> Verdict:
        verdict = await submit(self, model_id, inputs)
        if isinstance(verdict, Unknown) and "in time" in verdict.reason:
            return await submit(self, model_id, inputs)
        return verdict

    RuncomfyClient.submit = submit_twice


def _the_request_id_is_written_after_polling() -> None:
    accepted, completed = Ledger.accepted, Ledger.completed
    waiting: dict[int, str] = {}

    async def accept_later(self: Ledger, attempt_id: int, request_id: str) -> datetime:  # noqa: ARG001
        waiting[attempt_id] = request_id
        await asyncio.sleep(0)
        return now()

    async def accept_now(self: Ledger, attempt_id: int, cost_usd: float | None) -> None:
        if request_id := waiting.pop(attempt_id, None):
            await accepted(self, attempt_id, request_id)
        await completed(self, attempt_id, cost_usd)

    Ledger.accepted, Ledger.completed = accept_later, accept_now
    Journal.accepted = lambda _self, _line, _request_id: None


_MUTATIONS: dict[str, Callable[[], None]] = {
    function.__name__.strip("_").replace("_", " "): function
    for function in (
        _answers_are_awaited_briefly,
        _the_intent_is_committed_after_the_post,
        _a_post_is_repeated_after_a_read_timeout,
        _the_request_id_is_written_after_polling,
    )
}
