"""resolve: the question of a submission in doubt with all its facts, and a person's answer."""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from comfyline.cli.console import answer, errors, say
from comfyline.cli.in_doubt import Line, facts
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import the_jobs, whose
from comfyline.config.account import command, command_line
from comfyline.config.environment import ONLY_RUNCOMFY, prepare
from comfyline.errors import ComfylineError, Lost, UsageError
from comfyline.job import AT_RUNCOMFY, JobState
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import sent_at
from comfyline.ledger.queries import Selection
from comfyline.operations.adopt import adopt as adopt_all
from comfyline.operations.adopt import look_for
from comfyline.operations.recover import settle_what_can_be
from comfyline.operations.resolve import Doubt, check_request, look_into
from comfyline.report.format import usd
from comfyline.services import Services, open_services


def resolve(
    *job: str,
    lost: Annotated[
        bool,
        Parameter(
            negative="",
            help="RunComfy never accepted it: the next run submits it again, and pays for that.",
        ),
    ] = False,
    request_id: Annotated[
        str | None,
        Parameter(help="RunComfy accepted it under this id: checked there, then collected."),
    ] = None,
    adopt: Annotated[
        bool,
        Parameter(
            negative="",
            help="The stored output, whose sidecar does not say whose it is, is this profile's: "
            "it is taken, and nothing is paid.",
        ),
    ] = False,
    give_up: Annotated[
        bool,
        Parameter(
            negative="",
            help="RunComfy accepted it and it cannot be finished: it ends as failed, and counts "
            "as charged.",
        ),
    ] = False,
    force: Annotated[
        bool,
        Parameter(negative="", help="Take the request id although its time or model do not fit."),
    ] = False,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Answer for what no machine can end; of a submission in doubt it shows what is known.

    Example: comfyline resolve 3f2a9c01, then comfyline resolve 3f2a9c01 --lost

    Parameters
    ----------
    job
        Job keys, or as many of their first characters as tell them apart.
    """
    answers = {"--lost": lost, "--give-up": give_up, "--adopt": adopt}
    _check(job, answers, request_id=request_id, force=force)

    async def work() -> int:
        async with open_services(await prepare(profile, say, only=ONLY_RUNCOMFY)) as services:
            await settle_what_can_be(services)
            attempts = await the_jobs(services.ledger, job)
            if give_up:
                _must_be_accepted(attempts)
            else:
                ends_lost = request_id is not None
                attempts = [await _meant(one, services, ends_lost=ends_lost) for one in attempts]
                _must_be_in_doubt(attempts, ends_lost=ends_lost)
            if give_up:
                told = [await _give_up(attempt, services) for attempt in attempts]
            elif adopt:
                told = [await _adopt_stored(attempt, services) for attempt in attempts]
            elif lost:
                told = [await _lost(attempt, services) for attempt in attempts]
            elif request_id is not None:
                told = [await _adopt(attempts[0], request_id, services, force=force)]
            else:
                return await _ask(attempts, services, json_output=json_output)
            if json_output:
                answer(json.dumps({"resolved": told}))
            return 0

    return asyncio.run(work())


def _check(
    job: tuple[str, ...], answers: Mapping[str, bool], *, request_id: str | None, force: bool
) -> None:
    if not job:
        raise UsageError(
            "Name the job that is in doubt", hint=f"{command('jobs --state in_doubt')} lists them."
        )
    if sum(answers.values()) + (request_id is not None) > 1:
        raise UsageError(f"--request-id, {', '.join(answers)} are four answers: say one of them")
    if request_id is not None and len(job) > 1:
        raise UsageError("A request id is that of one job: name one")
    if force and request_id is None:
        raise UsageError("--force goes with --request-id")


async def _meant(attempt: Attempt, services: Services, *, ends_lost: bool) -> Attempt:
    """Return the attempt of a job that an answer is about, which need not be its latest."""
    of_job = await services.ledger.list(Selection(key_prefix=attempt.checked.key))
    doubts = [one for one in of_job if one.state is JobState.IN_DOUBT]
    lost = [one for one in of_job if ends_lost and _is_lost(one)]
    return next(iter((*doubts, *lost)), attempt)


def _is_lost(attempt: Attempt) -> bool:
    """Tell whether a person said that it was never accepted; RunComfy may know better."""
    # Versions before this kind of error wrote the general one.
    is_said = attempt.error_kind in {Lost.kind, ComfylineError.kind}
    return is_said and attempt.state is JobState.FAILED and attempt.request_id is None


def _must_be_in_doubt(attempts: list[Attempt], *, ends_lost: bool) -> None:
    wrong = []
    for one in attempts:
        if one.state is JobState.IN_DOUBT or (ends_lost and _is_lost(one)):
            continue
        told = f"Job {short(one.checked.key)} is {one.state}, not in doubt"
        if one.state in AT_RUNCOMFY:
            told += (
                f": request {one.request_id} was accepted, {one.command('reconcile')} collects it"
            )
        wrong.append(told)
    if wrong:
        raise UsageError("\n".join(wrong), hint="Nothing was changed.")


_CAN_BE_GIVEN_UP = AT_RUNCOMFY | {JobState.COMPLETED, JobState.EXPIRED}


def _must_be_accepted(attempts: list[Attempt]) -> None:
    wrong = []
    for one in attempts:
        if one.state in _CAN_BE_GIVEN_UP:
            continue
        why = f"Job {short(one.checked.key)} is {one.state}: "
        if one.state is JobState.IN_DOUBT:
            why += "nobody knows whether it was accepted; --lost or --request-id says"
        else:
            why += "there is nothing to give up"
        wrong.append(why)
    if wrong:
        raise UsageError("\n".join(wrong), hint="Nothing was changed.")


async def _give_up(attempt: Attempt, services: Services) -> dict[str, Any]:
    key = attempt.checked.key
    if not await services.ledger.acquire(key):
        raise UsageError(
            f"Another process works on job {short(key)} right now",
            hint="Nothing was changed. Stop that run, or wait for its end.",
        )
    await services.ledger.given_up(attempt.id)
    await services.ledger.release(key)
    cost, estimate = attempt.cost_usd, attempt.checked.estimate_usd
    known = cost if cost is not None else estimate
    about = "about " if cost is None else ""
    charged = "an unknown amount" if known is None else f"{about}{usd(known)}"
    message = (
        f"Request {attempt.request_id} is given up: what it makes is not collected any more, and "
        f"it counts as charged, {charged}. No run makes it again by itself; `--refresh` does, and "
        "pays again"
    )
    return _told(attempt, "given-up", attempt.request_id, message)


async def _lost(attempt: Attempt, services: Services) -> dict[str, Any]:
    found = Lost("A person found that it was not accepted")
    await services.ledger.lost(attempt.id, found)
    estimate = attempt.checked.estimate_usd
    price = "what it costs" if estimate is None else f"about {usd(estimate)}"
    if attempt.error_kind == UNKNOWN_ORIGIN:
        message = (
            f"What is stored counts as somebody else's. The next run makes it and pays {price}"
        )
        return _told(attempt, "lost", None, message)
    message = (
        f"It counts as never accepted and costs nothing. The next run submits it again and pays "
        f"{price}. If RunComfy did accept it, that is paid a second time. This machine's journal "
        f"holds no id of it; another machine that ran it may: {command('status')} there names it"
    )
    return _told(attempt, "lost", None, message)


async def _adopt_stored(attempt: Attempt, services: Services) -> dict[str, Any]:
    key = short(attempt.checked.key)
    if attempt.error_kind != UNKNOWN_ORIGIN:
        raise UsageError(
            f"Nothing stored of job {key} waits to be adopted",
            hint="Nothing was changed. --lost or --request-id answers for it.",
        )
    found = await look_for((attempt.checked,), services)
    if not await adopt_all((*found.nobodys, *found.mine), services):
        raise UsageError(
            f"The output of job {key} is not there any more, or not as its sidecar describes it",
            hint="Nothing was changed. Bring it back, or answer --lost.",
        )
    [known] = (await services.ledger.find([attempt.checked.key])).values()
    places = ", ".join(output.uri for output in known.outputs)
    message = f"{places}: adopted as made by {known.account}, request {known.request_id}"
    return _told(attempt, "adopted", known.request_id, message)


async def _adopt(
    attempt: Attempt, request_id: str, services: Services, *, force: bool
) -> dict[str, Any]:
    found = await check_request(attempt, request_id, services)
    if found.objections and not force:
        raise UsageError(
            f"Request {request_id} does not fit: {'; '.join(found.objections)}",
            hint="Nothing was changed. --force takes it all the same.",
        )
    for doubtful in (*found.objections, *found.unknown):
        say(f"{short(attempt.checked.key)}: {doubtful}; it is taken all the same.")
    await services.ledger.accepted(attempt.id, request_id)
    message = f"Request {request_id} is {found.word}; {command('reconcile')} collects it"
    return _told(attempt, "accepted", request_id, message)


def _told(attempt: Attempt, how: str, request_id: str | None, message: str) -> dict[str, Any]:
    say(f"{short(attempt.checked.key)}: {message}.")
    key = attempt.checked.key
    return {"job": key, "answer": how, "request_id": request_id, "message": message}


async def _ask(attempts: list[Attempt], services: Services, *, json_output: bool) -> int:
    """Show the question; an answer is still owed, which the exit code says."""
    shown = []
    for attempt in attempts:
        if attempt.error_kind == UNKNOWN_ORIGIN:
            shown.append(_ask_whose(attempt))
            continue
        doubt = await look_into(attempt, services)
        lines = facts(doubt, services.now())
        shown.append(_as_json(doubt, lines))
        _print(attempt, lines)
    if json_output:
        answer(json.dumps({"doubts": shown}))
    return UsageError.exit_code


def _ask_whose(attempt: Attempt) -> dict[str, Any]:
    resolve = f"resolve {short(attempt.checked.key)}"
    answers = command_line(f"{resolve} --adopt"), command_line(f"{resolve} --lost")
    say(f"Whose is the stored output of {attempt.checked.job.label}?")
    say(f"  {attempt.error_message}.")
    say(f"  {answers[0]}   it is this profile's: it is taken, nothing is paid")
    say(f"  {answers[1]}    it is not: the next run makes it and pays for it")
    errors.print()
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        **whose(attempt),
        "reason": attempt.error_message,
        "answers": list(answers),
    }


def _print(attempt: Attempt, lines: list[Line]) -> None:
    say(f"Was {attempt.checked.job.label} accepted by RunComfy, or was it not?")
    width = max(len(line.name) for line in lines)
    for line in lines:
        advice = f" → this speaks for: {line.speaks_for.value}" if line.speaks_for else ""
        say(f"  {line.name:<{width}}  {line.text}{advice}")
    say("You decide. Look for it at RunComfy, in the request history of your account, then answer")
    there, lost = _answers(attempt)
    say(f"  {there}   it is there: it is collected, not paid again")
    say(f"  {lost:<{len(there)}}   it is not: the next run submits it again")
    errors.print()


def _as_json(doubt: Doubt, lines: list[Line]) -> dict[str, Any]:
    attempt = doubt.attempt
    evidence, balance = attempt.evidence, doubt.balance
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        **whose(attempt),
        "pipeline": attempt.checked.job.pipeline,
        "item": attempt.checked.job.item,
        "step": attempt.checked.job.step,
        "model": attempt.checked.job.model_id,
        "sent_at": sent_at(attempt).isoformat(),
        "how_far": evidence.how_far,
        "reason": evidence.reason or attempt.error_message,
        "estimate_usd": attempt.checked.estimate_usd,
        "balance_before_usd": evidence.balance_before_usd,
        "balance_now_usd": doubt.balance_now_usd,
        "spent_usd": round(balance.spent_usd, 6) if balance else None,
        "others": [
            {
                "job": one.checked.key,
                "request_id": one.request_id,
                "state": one.state.value,
                "cost_usd": one.cost_usd,
                "estimate_usd": one.checked.estimate_usd,
            }
            for one in doubt.others
        ],
        "facts": [
            {
                "name": line.name,
                "text": line.text,
                "speaks_for": line.speaks_for.value if line.speaks_for else None,
            }
            for line in lines
        ],
        "answers": list(_answers(attempt)),
    }


def _answers(attempt: Attempt) -> tuple[str, str]:
    """Return the two commands with which a person answers."""
    resolve = f"resolve {short(attempt.checked.key)}"
    return command_line(f"{resolve} --request-id ID"), command_line(f"{resolve} --lost")
