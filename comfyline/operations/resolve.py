"""Submissions in doubt: what can be found out about one now, and what a person's answer must fit.

Nothing here decides. The facts are for the person who does; a request id is compared with what is
known before it is adopted.
"""

import asyncio
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta

from comfyline.errors import NotKnownNow, UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.in_doubt import Balance, others_since, read_balance, sent_at
from comfyline.ledger.queries import Selection
from comfyline.runcomfy.outputs import output_urls
from comfyline.runcomfy.wire import RequestResult
from comfyline.services import Services

_CLOCKS = timedelta(minutes=2)
"""By how much RunComfy's clock, this machine's and the ledger's may differ."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is known of one submission in doubt.

    `others` are the other requests that may have been charged since.
    """

    attempt: Attempt
    others: tuple[Attempt, ...]
    balance_now_usd: float | None
    balance: Balance | None


@dataclass(frozen=True, slots=True)
class Found:
    """What RunComfy says of a request id that a person gave.

    `objections` are what does not fit the submission in doubt; `unknown` what could not be
    compared.
    """

    word: str
    objections: tuple[str, ...]
    unknown: tuple[str, ...]


async def look_into(attempt: Attempt, services: Services) -> Doubt:
    """Gather the facts about one submission in doubt; what cannot be found out is unknown."""
    moved = await services.ledger.list(Selection(since=sent_at(attempt)))
    known = {one.id: one for one in (*moved, *await services.ledger.unfinished())}
    others = others_since(attempt, known.values())
    now_usd = await services.purse.now()
    return Doubt(
        attempt=attempt,
        others=tuple(others),
        balance_now_usd=now_usd,
        balance=read_balance(attempt, others, now_usd),
    )


async def check_request(attempt: Attempt, request_id: str, services: Services) -> Found:
    """Compare a request id with a submission in doubt, without changing anything.

    Raises `UsageError` for an id that can never be the right one: it is another attempt's, or
    RunComfy does not know it. What it merely does not fit, the objections say.
    """
    for other in await services.ledger.list(Selection(request_ids=(request_id,))):
        if other.id != attempt.id:
            raise UsageError(
                f"Request {request_id} is that of job {short(other.checked.key)}, attempt "
                f"{other.number} ({other.checked.job.label}): it was paid for that one",
                hint="Look for another request at RunComfy, or answer --lost.",
            )
    directory = services.work_directory(request_id)
    try:
        status = await services.client.status(request_id)
        # In sync mode this may be the only time that it is told: it is kept where `fetch` looks.
        result = await services.client.result(request_id, directory / "result.json")
    except NotKnownNow:
        raise UsageError(
            f"RunComfy does not know request {request_id} now",
            hint="Nothing was changed. Check the id, and that this profile is the one that it was "
            "submitted with; it may be known again later, unless its 7 days are over.",
        ) from None
    found = Found(status.word, *_compare(attempt, result))
    if found.objections:
        await asyncio.to_thread(_drop, services, request_id, result)
    return found


def _compare(attempt: Attempt, result: RequestResult) -> tuple[tuple[str, ...], tuple[str, ...]]:
    objections: list[str] = []
    unknown: list[str] = []
    left = sent_at(attempt)
    first, last = left - _CLOCKS, left + timedelta(seconds=LEASE_SECONDS) + _CLOCKS
    made = result.created_at
    if made is None:
        unknown.append("RunComfy does not say when it was made")
    elif not first <= made <= last:
        objections.append(
            f"it was made at {_utc(made)}, and the POST left at {_utc(left)}: a request of it can "
            f"have been made between {_utc(first)} and {_utc(last)}, clocks that differ included"
        )
    wanted = attempt.checked.job.model_id
    if result.model_id is None:
        unknown.append("RunComfy does not say of which model it is")
    elif result.model_id != wanted:
        objections.append(f"it is of the model {result.model_id}, and the job of {wanted}")
    return tuple(objections), tuple(unknown)


def _drop(services: Services, request_id: str, result: RequestResult) -> None:
    """Remove the answer about somebody else's request, unless it exists nowhere else any more."""
    if not any(url[:5].lower() == "data:" for url in output_urls(result.output)):
        shutil.rmtree(services.work_directory(request_id), ignore_errors=True)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
