"""Submissions in doubt: the facts about one, and what a person's answer does.

Nothing here decides. A request id is compared with what is known before it is accepted.
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from comfyline.config.account import command
from comfyline.errors import ComfylineError, Lost, NotKnownNow, UsageError
from comfyline.job import AT_RUNCOMFY, JobState
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.in_doubt import BalanceChange, others_since, read_balance, sent_at
from comfyline.ledger.queries import Selection
from comfyline.operations.adopt import adopt, look_for
from comfyline.progress import Note, tell
from comfyline.report.format import usd
from comfyline.runcomfy.results import output_urls
from comfyline.runcomfy.wire import RequestResult
from comfyline.services import Services

_UNCHANGED = "Nothing was changed."
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
    balance: BalanceChange | None


async def gather_facts(attempt: Attempt, services: Services) -> Doubt:
    """Gather the facts about one submission in doubt; what cannot be found out is unknown."""
    moved = await services.ledger.list(Selection(since=sent_at(attempt)))
    known = {one.id: one for one in (*moved, *await services.ledger.unfinished())}
    others = others_since(attempt, known.values())
    now_usd = await services.client.known_balance()
    return Doubt(
        attempt=attempt,
        others=tuple(others),
        balance_now_usd=now_usd,
        balance=read_balance(attempt, others, now_usd),
    )


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person's answer did: `answer` for programs, `message` for people."""

    job: str
    answer: str
    request_id: str | None
    message: str


async def find_in_doubt(
    latest: Sequence[Attempt], services: Services, *, or_lost: bool = False
) -> list[Attempt]:
    """Return of each job the attempt that is in doubt, which need not be its latest.

    With `or_lost` one that a person called lost counts too: RunComfy may know better. Raises
    `UsageError` that names all jobs without one.
    """
    found, wrong = [], []
    for attempt in latest:
        of_job = await services.ledger.list(Selection(key_prefix=attempt.checked.key))
        doubts = [one for one in of_job if one.state is JobState.IN_DOUBT]
        lost = [one for one in of_job if or_lost and _is_lost(one)]
        if doubts or lost:
            found.append((*doubts, *lost)[0])
            continue
        message = f"Job {short(attempt.checked.key)} is {attempt.state}, not in doubt"
        if attempt.state in AT_RUNCOMFY:
            message += f": {attempt.command('reconcile')} collects request {attempt.request_id}"
        wrong.append(message)
    if wrong:
        raise UsageError("\n".join(wrong), hint=_UNCHANGED)
    return found


def find_to_give_up(latest: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts, all of which RunComfy accepted and none is stored.

    Raises `UsageError` that names the others.
    """
    wrong = []
    for one in latest:
        if one.state not in AT_RUNCOMFY | {JobState.COMPLETED, JobState.EXPIRED}:
            in_doubt = one.state is JobState.IN_DOUBT
            why = "answer --lost or --request-id" if in_doubt else "there is nothing to give up"
            wrong.append(f"Job {short(one.checked.key)} is {one.state}: {why}")
    if wrong:
        raise UsageError("\n".join(wrong), hint=_UNCHANGED)
    return list(latest)


async def mark_lost(attempt: Attempt, services: Services) -> Resolution:
    """Write down that RunComfy never accepted it, or that a stored output is not this account's."""
    await services.ledger.lost(attempt.id, Lost("A person found that it was not accepted"))
    estimate = attempt.checked.estimate_usd
    price = "what it costs" if estimate is None else f"about {usd(estimate)}"
    if attempt.error_kind == UNKNOWN_ORIGIN:
        message = (
            "The stored output counts as that of another account. The next run makes it and "
            f"pays {price}"
        )
    else:
        message = (
            f"It counts as never accepted and costs nothing. The next run submits it again and "
            f"pays {price}. If RunComfy did accept it, it is paid for twice. The journal on this "
            f"machine has no id of it; that of another may: run {command('status')} there"
        )
    return Resolution(attempt.checked.key, "lost", None, message)


async def give_up_request(attempt: Attempt, services: Services) -> Resolution:
    """End a request that cannot be finished; it counts as charged. Raises `UsageError`."""
    key = attempt.checked.key
    if not await services.ledger.acquire(key):
        raise UsageError(
            f"Another process is working on job {short(key)}",
            hint=f"{_UNCHANGED} Stop that run, or wait for its end.",
        )
    await services.ledger.given_up(attempt.id)
    await services.ledger.release(key)
    cost, estimate = attempt.cost_usd, attempt.checked.estimate_usd
    if cost is not None:
        charged = usd(cost)
    else:
        charged = "an unknown amount" if estimate is None else f"about {usd(estimate)}"
    message = (
        f"Request {attempt.request_id} is given up: it counts as charged, {charged}, and what it "
        "makes is not collected. Only `--refresh` makes it again, and pays again"
    )
    return Resolution(key, "given-up", attempt.request_id, message)


async def adopt_stored_output(attempt: Attempt, services: Services) -> Resolution:
    """Take a stored output of unknown origin as this account's. Raises `UsageError`."""
    key = attempt.checked.key
    if attempt.error_kind != UNKNOWN_ORIGIN:
        raise UsageError(
            f"Job {short(key)} has no stored output of unknown origin",
            hint=f"{_UNCHANGED} Answer --lost or --request-id.",
        )
    account = services.settings.runcomfy.account
    found = await look_for((attempt.checked,), services)
    if not await adopt([replace(one, account=account) for one in found], services):
        raise UsageError(
            f"The output of job {short(key)} is gone, or differs from its sidecar",
            hint=f"{_UNCHANGED} Restore it, or answer --lost.",
        )
    [known] = (await services.ledger.find([key])).values()
    places = ", ".join(output.uri for output in known.outputs)
    message = f"{places}: adopted as made by {known.account}, request {known.request_id}"
    return Resolution(key, "adopted", known.request_id, message)


async def take_request_id(
    attempt: Attempt, request_id: str, services: Services, *, force: bool
) -> Resolution:
    """Write down the id under which RunComfy accepted it. Raises `UsageError` for a wrong one.

    Wrong is always one that is another attempt's, or that RunComfy does not know; one that merely
    does not fit is taken with `force`.
    """
    for other in await services.ledger.list(Selection(request_ids=(request_id,))):
        if other.id != attempt.id:
            raise UsageError(
                f"Request {request_id} belongs to job {short(other.checked.key)}, attempt "
                f"{other.number} ({other.checked.job.label}): it was paid for as that",
                hint="Look for another request at RunComfy, or answer --lost.",
            )
    directory = services.work_directory(request_id)
    try:
        status = await services.client.status(request_id)
        # In sync mode this may be the only time that it is told: it is kept where `fetch` looks.
        result = await services.client.result(request_id, directory / "result.json")
    except NotKnownNow:
        raise UsageError(
            f"RunComfy does not know request {request_id}",
            hint=f"{_UNCHANGED} Check the id, and that this is the profile with which it "
            "was submitted; RunComfy may know it again later, unless its 7 days are over.",
        ) from None
    objections, unknown = _compare(attempt, result)
    if objections and not force:
        # An answer that brings its files with it may exist nowhere else any more.
        if not any(url[:5].lower() == "data:" for url in output_urls(result.output)):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        raise UsageError(
            f"Request {request_id} does not match: {'; '.join(objections)}",
            hint=f"{_UNCHANGED} --force accepts it all the same.",
        )
    for doubtful in (*objections, *unknown):
        tell(Note(f"{short(attempt.checked.key)}: {doubtful}; accepted all the same"))
    await services.ledger.accepted(attempt.id, request_id)
    message = f"Request {request_id} is {status.word}; {command('reconcile')} collects it"
    return Resolution(attempt.checked.key, "accepted", request_id, message)


def _compare(attempt: Attempt, result: RequestResult) -> tuple[list[str], list[str]]:
    """Say what of a request does not fit a submission in doubt, and what cannot be compared."""
    objections: list[str] = []
    unknown: list[str] = []
    left = sent_at(attempt)
    first, last = left - _CLOCKS, left + timedelta(seconds=LEASE_SECONDS) + _CLOCKS
    made = result.created_at
    if made is None:
        unknown.append("RunComfy does not say when it was created")
    elif not first <= made <= last:
        objections.append(
            f"it was created at {_utc(made)}, but the POST was sent at {_utc(left)}: its request "
            f"would be from {_utc(first)} to {_utc(last)}, allowing for clock differences"
        )
    wanted = attempt.checked.job.model_id
    if result.model_id is None:
        unknown.append("RunComfy does not say which model it used")
    elif result.model_id != wanted:
        objections.append(f"its model is {result.model_id}, that of the job is {wanted}")
    return objections, unknown


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _is_lost(attempt: Attempt) -> bool:
    # Versions before this kind of error wrote the general one.
    is_said = attempt.error_kind in {Lost.kind, ComfylineError.kind}
    return is_said and attempt.state is JobState.FAILED and attempt.request_id is None
