"""resolve: the question of a submission in doubt with all its facts, and a person's answer."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from comfyline.cli.console import errors, print_json, print_line, print_note
from comfyline.cli.options import JobKey, Json, Profile
from comfyline.cli.selection import attempt_record, find_jobs
from comfyline.config.account import command, command_line
from comfyline.config.load import ONLY_RUNCOMFY, prepare
from comfyline.errors import UsageError
from comfyline.ledger.attempts import KEPT, UNKNOWN_ORIGIN, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import (
    BalanceChange,
    SpeaksFor,
    how_far_in_words,
    sent_at,
    speaks_for,
)
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
from comfyline.report.format import count, one_line, span, usd
from comfyline.services import Services, open_services

_LISTED = 10
"""How many of the other requests are named."""


async def resolve(
    *job: JobKey,
    lost: Annotated[
        bool,
        Parameter(
            help="RunComfy never accepted it: the next run submits it again, and pays for that."
        ),
    ] = False,
    request_id: Annotated[
        str | None,
        Parameter(help="RunComfy accepted it under this id: checked there, then collected."),
    ] = None,
    adopt: Annotated[
        bool,
        Parameter(
            help="The stored output, whose sidecar does not say whose it is, belongs to this "
            "profile: it is reused, and nothing is paid."
        ),
    ] = False,
    give_up: Annotated[
        bool,
        Parameter(
            help="RunComfy accepted it and it cannot be finished: it ends as failed, and counts "
            "as charged."
        ),
    ] = False,
    force: Annotated[
        bool, Parameter(help="Accept a request id whose time or model does not match.")
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

    settings = await prepare(profile, print_line, only=ONLY_RUNCOMFY)
    with observed_by(print_note):
        async with open_services(settings) as services:
            await settle_what_can_be(services)
            found = await find_jobs(services.ledger, job)
            if not any(answers):
                attempts = await find_in_doubt(found, services)
                shown = [await _ask(one, services) for one in attempts]
                if json_output:
                    print_json({"doubts": shown})
                return UsageError.exit_code
            resolved = await answer(found, services)
    for one in resolved:
        print_line(f"{short(one.job)}: {one.message}.")
    if json_output:
        print_json({"resolved": [asdict(one) for one in resolved]})
    return 0


async def _ask(attempt: Attempt, services: Services) -> dict[str, Any]:
    """Show what is known, and the commands that answer; return the same for a program."""
    key, label = short(attempt.checked.key), attempt.checked.job.label
    if attempt.error_kind == UNKNOWN_ORIGIN:
        record = {"reason": attempt.error_message}
        yes, no = command_line(f"resolve {key} --adopt"), command_line(f"resolve {key} --lost")
        print_line(f"Whose is the stored output of {label}?")
        print_line(f"  {attempt.error_message}.")
        after_yes = "it belongs to this profile: it is reused, nothing is paid"
        after_no = "it does not: the next run makes it and pays for it"
    else:
        doubt = await gather_facts(attempt, services)
        known = list(_facts(doubt, services.now()))
        record = _doubt_record(doubt, known)
        yes = command_line(f"resolve {key} --request-id ID")
        no = command_line(f"resolve {key} --lost")
        print_line(f"Did RunComfy accept {label}?")
        for fact in known:
            advice = f" → this suggests: {fact.suggests.value}" if fact.suggests else ""
            print_line(f"  {fact.name:<8}  {fact.text}{advice}")
        print_line("You decide. Look in your account's request history at RunComfy, then answer:")
        after_yes = "it is there: it is collected, and not paid for again"
        after_no = "it is not: the next run submits it again"
    print_line(f"  {yes}   {after_yes}")
    print_line(f"  {no:<{len(yes)}}   {after_no}")
    errors.print()
    return attempt_record(attempt) | record | {"answers": [yes, no]}


@dataclass(frozen=True, slots=True)
class _Fact:
    """One fact; `suggests` is what it makes more likely, where it makes anything so."""

    name: str
    text: str
    suggests: SpeaksFor | None = None


def _facts(doubt: Doubt, now: datetime) -> Iterator[_Fact]:
    """Yield all facts in the order in which a person asks for them; `now` by the ledger's clock."""
    attempt = doubt.attempt
    checked, left, others = attempt.checked, sent_at(attempt), doubt.others
    job = checked.job
    yield _Fact("job", f"{short(checked.key)} of {job.pipeline}, for {job.model_id}")
    yield _Fact("price", _price(checked.estimate_usd, "estimated "))
    ago = span((now - left).total_seconds())
    yield _Fact("sent", f"{left:%Y-%m-%d %H:%M:%S} UTC, {ago} ago")
    yield _Fact("progress", how_far_in_words(attempt))
    if reason := attempt.evidence.reason or attempt.error_message:
        yield _Fact("reason", one_line(reason))
    yield _balance(doubt)
    yield _Fact("others", f"{count(len(others), 'other request')} may have been charged since")
    for one in others[:_LISTED]:
        known = one.cost_usd is not None
        price = _price(one.cost_usd) if known else _price(one.checked.estimate_usd, "estimated ")
        yield _Fact("", f"{short(one.checked.key)} {one.checked.job.label}: {one.state}, {price}")
    if len(others) > _LISTED:
        yield _Fact("", f"and {len(others) - _LISTED:,} more")
    end = left + KEPT
    over = "; it may be deleted by now" if end < now else ""
    yield _Fact("kept", f"if accepted, RunComfy keeps it until {end:%Y-%m-%d %H:%M} UTC{over}")


def _balance(doubt: Doubt) -> _Fact:
    before, now_usd = doubt.attempt.evidence.balance_before_usd, doubt.balance_now_usd
    if doubt.balance is None:
        known = [f"{usd(before)} before"] * (before is not None)
        known += [f"{usd(now_usd)} now"] * (now_usd is not None)
        text = f"{known[0]}; the rest is unknown" if known else "unknown (`runcomfy.balance_url`)"
        return _Fact("balance", text)
    estimate = doubt.attempt.checked.estimate_usd
    text = f"{usd(doubt.balance.before_usd)} before, {usd(doubt.balance.now_usd)} now: "
    text += _difference(doubt.balance, estimate)
    return _Fact("balance", text, speaks_for(doubt.balance, estimate))


def _difference(balance: BalanceChange, estimate_usd: float | None) -> str:
    spent, most, least = balance.spent_usd, balance.most_usd, balance.least_usd
    if spent < 0:
        return f"{usd(-spent)} more, so it was topped up and proves nothing"
    if most is None:
        return f"{usd(spent)} less; what the requests below cost is unknown"
    wanted = "" if estimate_usd is None else f"; this job would cost {usd(estimate_usd)}"
    if usd(most) != usd(least):
        return f"{usd(spent)} less; the requests below explain {usd(least)} to {usd(most)}{wanted}"
    # Rounded, or the noise of binary fractions would be shown as money.
    rest = round(spent - most, 4)
    left = f"-{usd(-rest)}" if rest < 0 else usd(abs(rest))
    return f"{usd(spent)} less; the requests below explain {usd(most)}, {left} remains{wanted}"


def _price(amount: float | None, before: str = "") -> str:
    return "unknown" if amount is None else f"{before}{usd(amount)}"


def _doubt_record(doubt: Doubt, known: Sequence[_Fact]) -> dict[str, Any]:
    attempt, balance = doubt.attempt, doubt.balance
    evidence = attempt.evidence
    return {
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
