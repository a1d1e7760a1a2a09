"""resolve: the question of a submission in doubt with all its facts, and a person's answer."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from comfyline.cli.console import errors, print_line, print_note, print_result
from comfyline.cli.evidence import Fact, facts
from comfyline.cli.options import JobKey, Json, Profile
from comfyline.cli.selection import attempt_record, find_jobs
from comfyline.config.account import command, command_line
from comfyline.config.load import ONLY_RUNCOMFY, prepare
from comfyline.errors import UsageError
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import sent_at
from comfyline.operations.recover import settle_what_can_be
from comfyline.operations.resolve import (
    Doubt,
    Resolution,
    adopt_stored_output,
    find_in_doubt,
    find_to_give_up,
    gather_facts,
    give_up_request,
    mark_lost,
    take_request_id,
)
from comfyline.progress import observed_by
from comfyline.services import Services, open_services


def resolve(
    *job: JobKey,
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
            help="The stored output, whose sidecar does not say whose it is, belongs to this "
            "profile: it is reused, and nothing is paid.",
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
        Parameter(negative="", help="Accept a request id whose time or model does not match."),
    ] = False,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Answer what only a person can decide; without an answer, show what is known of the job.

    Example: comfyline resolve 3f2a9c01, then comfyline resolve 3f2a9c01 --lost
    """
    answers = [lost, give_up, adopt, request_id is not None]
    if not job:
        raise UsageError(
            "Name the job that is in doubt", hint=f"{command('jobs --state in_doubt')} lists them."
        )
    if sum(answers) > 1:
        raise UsageError("--request-id, --lost, --give-up and --adopt exclude one another")
    if request_id is not None and len(job) > 1:
        raise UsageError("--request-id answers for one job: name only one")
    if force and request_id is None:
        raise UsageError("--force goes with --request-id")

    async def answer(found: Sequence[Attempt], services: Services) -> list[Resolution]:
        if give_up:
            attempts = find_to_give_up(found)
            return [await give_up_request(one, services) for one in attempts]
        attempts = await find_in_doubt(found, services, or_lost=request_id is not None)
        if request_id is not None:
            return [await take_request_id(attempts[0], request_id, services, force=force)]
        settle = adopt_stored_output if adopt else mark_lost
        return [await settle(one, services) for one in attempts]

    async def work() -> int:
        settings = await prepare(profile, print_line, only=ONLY_RUNCOMFY)
        async with open_services(settings) as services:
            await settle_what_can_be(services)
            found = await find_jobs(services.ledger, job)
            if not any(answers):
                attempts = await find_in_doubt(found, services)
                shown = [await _ask(one, services) for one in attempts]
                if json_output:
                    print_result(json.dumps({"doubts": shown}))
                return UsageError.exit_code
            resolved = await answer(found, services)
        for one in resolved:
            print_line(f"{short(one.job)}: {one.message}.")
        if json_output:
            print_result(json.dumps({"resolved": [asdict(one) for one in resolved]}))
        return 0

    with observed_by(print_note):
        return asyncio.run(work())


async def _ask(attempt: Attempt, services: Services) -> dict[str, Any]:
    """Show what is known, and the commands that answer; return the same for a program."""
    if attempt.error_kind == UNKNOWN_ORIGIN:
        return _ask_whose(attempt)
    doubt = await gather_facts(attempt, services)
    known = facts(doubt, services.now())
    key = short(attempt.checked.key)
    answers = command_line(f"resolve {key} --request-id ID"), command_line(f"resolve {key} --lost")
    print_line(f"Did RunComfy accept {attempt.checked.job.label}?")
    width = max(len(fact.name) for fact in known)
    for fact in known:
        advice = f" → this suggests: {fact.suggests.value}" if fact.suggests else ""
        print_line(f"  {fact.name:<{width}}  {fact.text}{advice}")
    print_line("You decide. Look in your account's request history at RunComfy, then answer:")
    print_line(f"  {answers[0]}   it is there: it is collected, and not paid for again")
    print_line(f"  {answers[1]:<{len(answers[0])}}   it is not: the next run submits it again")
    errors.print()
    return _doubt_record(doubt, known) | {"answers": list(answers)}


def _ask_whose(attempt: Attempt) -> dict[str, Any]:
    key = short(attempt.checked.key)
    answers = command_line(f"resolve {key} --adopt"), command_line(f"resolve {key} --lost")
    print_line(f"Whose is the stored output of {attempt.checked.job.label}?")
    print_line(f"  {attempt.error_message}.")
    print_line(f"  {answers[0]}   it belongs to this profile: it is reused, nothing is paid")
    print_line(f"  {answers[1]}    it does not: the next run makes it and pays for it")
    errors.print()
    return {
        **attempt_record(attempt),
        "reason": attempt.error_message,
        "answers": list(answers),
    }


def _doubt_record(doubt: Doubt, known: Sequence[Fact]) -> dict[str, Any]:
    attempt = doubt.attempt
    evidence, balance = attempt.evidence, doubt.balance
    return {
        **attempt_record(attempt),
        "sent_at": sent_at(attempt).isoformat(),
        "how_far": evidence.how_far,
        "reason": evidence.reason or attempt.error_message,
        "estimate_usd": attempt.checked.estimate_usd,
        "balance_before_usd": evidence.balance_before_usd,
        "balance_now_usd": doubt.balance_now_usd,
        "spent_usd": round(balance.spent_usd, 6) if balance else None,
        "others": [
            attempt_record(one)
            | {"cost_usd": one.cost_usd, "estimate_usd": one.checked.estimate_usd}
            for one in doubt.others
        ],
        "facts": [
            {
                "name": fact.name,
                "text": fact.text,
                "speaks_for": fact.suggests.value if fact.suggests else None,
            }
            for fact in known
        ],
    }
