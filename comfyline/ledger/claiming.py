"""The one transaction in which a submission is decided and its intent committed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select

from comfyline.config.account import Account
from comfyline.job import CheckedJob, JobState
from comfyline.ledger import budget, slots, sums, writing
from comfyline.ledger.budget import Limits, NoMoney
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.reading import belongs_to
from comfyline.ledger.records import Attempt, Evidence
from comfyline.ledger.tables import attempts, runs
from comfyline.ledger.writing import IsDead


@dataclass(frozen=True, slots=True)
class Claimed:
    """The intent is committed: the holder of this may POST once."""

    attempt_id: int
    number: int


@dataclass(frozen=True, slots=True)
class NotOurs:
    """Something else is to be done about this job; `attempt` is what the ledger knows."""

    decision: Decision
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class NoSlot:
    """As many requests are at RunComfy as the profile allows; ask again in a moment."""


@dataclass(frozen=True, slots=True)
class RunStopped:
    """Somebody told the run to stop: it submits nothing more."""


Claim = Claimed | NotOurs | NoSlot | NoMoney | RunStopped


@dataclass(frozen=True, slots=True)
class Intent:
    """One claim of an attempt, told from every other claim of it before and after."""

    attempt_id: int
    claimed_at: datetime | None
    mark: str | None


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for which job: `posting` are the claims that this owner still means to use.

    `unheard` are those of whose commit it never heard: nothing left under them, or will. `began` is
    when this try of the run began.
    """

    checked: CheckedJob
    account: Account | None
    run_id: str
    began: datetime | None
    refresh: bool
    limits: Limits
    owner: str
    posting: Mapping[int, Intent]
    evidence: Evidence
    unheard: Iterable[Intent] = ()


def claim(connection: Connection, asking: Asking, now: datetime, is_dead: IsDead) -> Claim:
    """Decides about one job; when it is to be submitted, nobody else will."""
    checked, limits = asking.checked, asking.limits
    give_back_unheard(connection, asking.unheard, asking.owner, now)
    writing.end_dead_leases(connection, now, is_dead)
    latest = _latest(connection, asking, now)
    seen = latest
    if latest and sums.has_submitted(connection, checked.key, asking.run_id):
        # What another run did since then is no reason for this one to submit twice.
        seen = replace(latest, run_id=asking.run_id)
    decision = _decision(asking, seen, now, refresh=asking.refresh)
    if decision is not Decision.SUBMIT:
        assert latest is not None  # noqa: S101  # SUBMIT is the answer to None
        return NotOurs(decision, latest)
    if open_one := writing.undecided(connection, checked.key, asking.account):
        waits = open_one.state is JobState.SUBMITTING
        return NotOurs(Decision.WAIT if waits else Decision.BLOCKED, open_one)
    if is_stopped(connection, asking.run_id):
        return RunStopped()
    if slots.in_flight(connection, now, asking.account) >= limits.in_flight:
        return NoSlot()
    amount = budget.to_reserve(checked.estimate_usd, limits)
    if no_money := _refused(connection, asking, amount, now):
        return no_money
    unasked = _decision(asking, seen, now, refresh=False)
    attempt_id, number = writing.open_attempt(
        connection,
        checked,
        asking.run_id,
        now,
        account=asking.account,
        is_refresh=unasked is not Decision.SUBMIT,
    )
    writing.lease(
        connection,
        attempt_id,
        asking.owner,
        now,
        reserved_usd=amount,
        evidence=asking.evidence,
    )
    return Claimed(attempt_id, number)


def give_back_unheard(
    connection: Connection, unheard: Iterable[Intent], owner: str, now: datetime
) -> None:
    """Frees what this process claimed without hearing of it, also where it is in doubt by now.

    What was not committed after all, or is another's claim by now, stays as it is.
    """
    for one in unheard:
        row = connection.execute(
            select(attempts.c.state, attempts.c.claimed_at, attempts.c.evidence).where(
                attempts.c.id == one.attempt_id
            )
        ).one_or_none()
        if row is None or row.state not in {JobState.SUBMITTING, JobState.IN_DOUBT}:
            continue
        if one == Intent(one.attempt_id, row.claimed_at, (row.evidence or {}).get("mark")):
            writing.give_back(connection, one.attempt_id, owner, now)


def is_stopped(connection: Connection, run_id: str) -> bool:
    """Whether somebody told a run to stop."""
    query = select(runs.c.id).where(runs.c.id == run_id, runs.c.stopped_at.is_not(None))
    return connection.execute(query).one_or_none() is not None


def _decision(asking: Asking, seen: Attempt | None, now: datetime, *, refresh: bool) -> Decision:
    return decide(
        seen,
        refresh=refresh,
        run_id=asking.run_id,
        now=now,
        began=asking.began,
        again=asking.checked.job.again,
    )


def _latest(connection: Connection, asking: Asking, now: datetime) -> Attempt | None:
    latest = writing.latest(connection, asking.checked.key, asking.account)
    if latest is None or latest.state is not JobState.SUBMITTING or latest.owner != asking.owner:
        return latest
    if asking.posting.get(latest.id) == Intent(latest.id, latest.claimed_at, latest.evidence.mark):
        return latest
    # A claim of our own whose commit we never heard of: its POST has not left.
    writing.give_back(connection, latest.id, asking.owner, now)
    return writing.latest(connection, asking.checked.key, asking.account)


def _refused(
    connection: Connection, asking: Asking, amount: float | None, now: datetime
) -> NoMoney | None:
    limits, of_run, of_day = asking.limits, 0.0, 0.0
    # Each sum reads as many rows as it has attempts: only for a limit that there is.
    if limits.max_cost_usd is not None:
        of_run = sums.reserved_usd(connection, attempts.c.run_id == asking.run_id)
    if limits.max_cost_usd_per_day is not None:
        of_day = sums.reserved_usd(
            connection,
            attempts.c.pipeline == asking.checked.job.pipeline,
            belongs_to(asking.account),
            attempts.c.claimed_at >= now.replace(hour=0, minute=0, second=0, microsecond=0),
        )
    return budget.refusal(amount, limits, of_run, of_day)
