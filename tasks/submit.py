"""submit: the one POST that costs money, at most once.

The order is the guarantee: the intent is committed to the ledger, the place for the request id is
made in the journal, then the POST leaves, then the request id is written down in both, before
anything else happens. A process that dies in between leaves a lease that ends in `in_doubt`, never
in a second POST.

Prefect must not repeat this task, whatever happens: `retries=0`, no cache. What may be repeated
(the POST never left, RunComfy asked to wait) is decided by `verdict` and repeated here, each time
under a claim of its own.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.errors import ComfylineError, TryLater
from comfyline.job import CheckedJob, JobState, Stage
from comfyline.keys import replace_values
from comfyline.ledger.attempts import Attempt, Evidence, pack
from comfyline.ledger.block_reasons import blocked, in_doubt, not_started, over_budget
from comfyline.ledger.claims import (
    AtCapacity,
    BudgetExceeded,
    Claimed,
    Limits,
    NotOurs,
    RunStopped,
    TooSoon,
)
from comfyline.ledger.decision import LEASE_SECONDS, Decision
from comfyline.ledger.journal import AskedElsewhere, Entry
from comfyline.ledger.pace import LATE
from comfyline.ledger.unrecorded import recover_asked
from comfyline.progress import BudgetUsed, JobAccepted, Submitted, tell
from comfyline.run import Run, Submission, UploadedInputs
from comfyline.runcomfy.retry import backoff
from comfyline.runcomfy.verdict import Accepted, No, NotSent, SlowDown, Unknown, Verdict
from comfyline.services import Services
from tasks.failure import failing_in_words

T = TypeVar("T")

_POST_WITHIN = LEASE_SECONDS / 6
"""Seconds after the beginning of a claim until which its POST may leave; it may take 45 more."""

_FRESH_BALANCE = 5.0
"""Seconds for which a balance is as good as asked for."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks at a job that another process is submitting."""


@task(
    name=Stage.SUBMIT,
    task_run_name="{checked.job.label} · submit",
    # The ledger remembers it, and nothing else may.
    cache_policy=NO_CACHE,
    retries=0,
)
@failing_in_words
async def submit(  # noqa: PLR0912  # what a claim may answer
    checked: CheckedJob, uploaded: UploadedInputs, run: Run, services: Services
) -> Submission:
    """Submit the job to RunComfy, or find it there because somebody else has submitted it.

    Raises `Refused`, `TokenRejected`, `OverBudget`, `InDoubt`, `Interrupted`, `Unreachable` or
    `TryLater`.
    """
    limits, share = _limits(checked, run, services), run.share_of(checked.job)
    budget = services.client.retry_budget
    failing_since: float | None = None
    tries = 0
    while True:
        async with services.slots.turn(run, share):
            if spent := budget.spent:
                raise spent
            # After the wait, which may be long: the URLs in it live from now on.
            body = await _body(checked, uploaded, run.timeout, services)
            balance = await services.client.known_balance(max_age=_FRESH_BALANCE)
            if run.cancel_token.is_cancelled:
                raise not_started(run.cancel_token.reason)
            # Nothing may wait between the claim and the POST: the claim's lease runs out.
            began = seconds_awake_or_asleep()
            claim = await services.slots.claim(
                checked,
                share,
                run_id=run.id,
                began=run.began,
                refresh=run.refresh,
                limits=limits,
                balance_usd=balance,
            )
            if isinstance(claim, AtCapacity):
                await services.slots.wait(run)
        match claim:
            case NotOurs(Decision.RESUME | Decision.REUSE, attempt):
                return resume(attempt)
            case NotOurs(Decision.BLOCKED, attempt):
                raise blocked(attempt)
            case NotOurs():
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            case AtCapacity() | TooSoon():
                continue
            case BudgetExceeded():
                # Where the price is not known, no limit is reached.
                if claim.limit != "price":
                    tell(BudgetUsed(claim.limit, claim.limit_usd, claim.reserved_usd))
                raise over_budget(checked, claim)
            case RunStopped():
                run.cancel_token.cancel("it was cancelled with `comfyline cancel`")
                raise not_started(run.cancel_token.reason)
            case Claimed():
                # In the order of the claims, whichever POST is answered first.
                for used in claim.budgets:
                    tell(used)
                with run.cancel_token.sending():
                    sent = await _uninterrupted(_send(checked, body, claim, began, run, services))
        if isinstance(sent, Submission):
            return sent
        if sent is None:
            continue
        failing_since = budget.now() if failing_since is None else failing_since
        left = budget.failed(sent.error, failing_since)
        if left <= 0 or (sent.retry_after or 0) > left:
            raise budget.final(sent.error)
        wait = min(backoff(tries, sent.retry_after), left)
        await run.cancel_token.cancelled_within(wait)
        tries += 1


def _limits(checked: CheckedJob, run: Run, services: Services) -> Limits:
    runcomfy = services.settings.runcomfy
    return Limits(
        in_flight=runcomfy.in_flight,
        submits_per_second=runcomfy.submits_per_second,
        timeout=run.timeout,
        max_cost_usd=run.costs.per_run,
        max_cost_usd_per_day=run.costs.per_day,
        ceiling_usd=run.costs.ceilings.get(checked.job.model_id),
        allow_unknown_cost=run.costs.allow_unknown,
        # A process alone counts its own by itself, which takes no time.
        in_flight_of_run=run.in_flight if run.is_shard else None,
    )


async def _body(
    checked: CheckedJob, uploaded: UploadedInputs, seconds: float, services: Services
) -> Mapping[str, Any]:
    """Build the request's body. Its presigned URLs are secrets and leave this module only by POST.

    Each outlives the job, which may take so many `seconds`. Raises `Unfetchable` where it cannot.
    """
    urls = {
        media.pointer: await services.uploads.presign(uri, seconds)
        for media, uri in zip(checked.media, uploaded.uris, strict=True)
    }
    return replace_values(checked.job.inputs, urls)


async def _send(
    checked: CheckedJob,
    body: Mapping[str, Any],
    claim: Claimed,
    began: float,
    run: Run,
    services: Services,
) -> Submission | NotSent | SlowDown | None:
    """POST under a claim and write down what is known of it, whatever that is.

    None where it did not leave for a reason of this machine's: then it is to be decided anew.
    """
    attempt_id, journal = claim.attempt_id, services.journal
    try:
        line = await _reserved(checked, claim, run, services)
    except AskedElsewhere:
        await services.ledger.not_sent(attempt_id, claim.mark)
        await recover_asked(journal, services.ledger, checked.key)
        return None
    except TryLater:
        await services.ledger.not_sent(attempt_id, claim.mark)
        raise
    if not await _may_leave(claim.place, began, run, services):
        await asyncio.to_thread(journal.nothing, line, NotSent.__name__)
        await services.ledger.not_sent(attempt_id, claim.mark)
        return None
    verdict: Verdict = await services.client.submit(checked.job.model_id, body)
    if not isinstance(verdict, NotSent):
        run.submitted += 1
        tell(Submitted(checked.job.label))
    if isinstance(verdict, No | NotSent | SlowDown):
        await asyncio.to_thread(journal.nothing, line, type(verdict).__name__)
    match verdict:
        case Accepted(request_id):
            # First where no database is needed, which may be away for minutes.
            with suppress(OSError):
                await asyncio.to_thread(journal.accepted, line, request_id)
            when = await services.ledger.accepted(attempt_id, request_id)
            get_run_logger().info("request %s: submitted", request_id)
            tell(JobAccepted(checked, request_id))
            return Submission(attempt_id, claim.number, JobState.SUBMITTED, request_id, when)
        case Unknown():
            doubt = in_doubt(checked.key, verdict.reason)
            await services.ledger.ended(
                attempt_id,
                JobState.IN_DOUBT,
                doubt,
                evidence=Evidence(how_far=verdict.how_far.name.lower(), reason=verdict.reason),
            )
            raise doubt
        case No(error):
            await services.ledger.ended(attempt_id, JobState.FAILED, error)
            raise error
        case NotSent() | SlowDown():
            await services.ledger.not_sent(attempt_id, claim.mark)
            return verdict


async def _may_leave(place: float, began: float, run: Run, services: Services) -> bool:
    """Wait for a claim's place in time, or another one where it was missed.

    `began` is when the claim was begun. False after too long, as when the machine slept, where the
    run is told to stop meanwhile, and where the ledger cannot give another place.
    """
    stopping = run.cancel_token
    while (now := seconds_awake_or_asleep()) < began + _POST_WITHIN and not stopping.is_cancelled:
        if now < place:
            await stopping.cancelled_within(min(place - now, _POST_WITHIN))
        elif now <= place + LATE:
            return True
        else:
            try:
                place = await services.ledger.take_place(
                    services.settings.runcomfy.submits_per_second
                )
            except ComfylineError:
                # What its claim needs next will say so.
                return False
    return False


async def _reserved(checked: CheckedJob, claim: Claimed, run: Run, services: Services) -> int:
    """Make the place for the request id, so that a disk that is full later cannot lose it."""
    entry = Entry(
        key=checked.key,
        number=claim.number,
        mark=claim.mark,
        ledger=services.ledger_id,
        place=services.journal.place,
        account=services.settings.runcomfy.account,
        at=services.now(),
        run_id=run.id,
        writer=services.ledger.worker_id,
        request=pack(checked),
    )
    return await asyncio.to_thread(services.journal.reserve, entry)


async def _uninterrupted(sending: Coroutine[Any, Any, T]) -> T:
    """Let a POST under way end and be written down although the run is being cancelled.

    A second cancellation leaves at once; then the lease ends in `in_doubt`.
    """
    task = asyncio.ensure_future(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def resume(attempt: Attempt) -> Submission:
    """Take up an attempt that was paid for before, to be finished under the names of the asker."""
    if attempt.request_id is None or attempt.submitted_at is None:
        raise AssertionError(f"attempt {attempt.id} is {attempt.state} without a request id")
    return Submission(
        attempt_id=attempt.id,
        attempt=attempt.number,
        state=attempt.state,
        request_id=attempt.request_id,
        submitted_at=attempt.submitted_at,
        copies=attempt.outputs,
    )
