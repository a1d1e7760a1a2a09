"""The one transaction in which a submission is decided and its intent committed."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
)

from comfyline.config.account import Account
from comfyline.fair_share import may_take, share_of
from comfyline.job import CheckedJob, JobState
from comfyline.ledger import writes
from comfyline.ledger.attempts import PAID_IN_VAIN, REFRESH, Attempt, Evidence, pack
from comfyline.ledger.decision import LEASE_SECONDS, Decision, decide
from comfyline.ledger.pace import EARLY, LATE, take_place
from comfyline.ledger.queries import UNFINISHED, belongs_to, latest_attempts, read_attempts
from comfyline.ledger.tables import attempts, runs, waiting
from comfyline.progress import BudgetUsed

_ROUNDING = 1e-9
_WAITS = 5.0
"""Seconds for which it is believed that jobs of a process wait; each of its claims says it anew."""
_HERE = (waiting.c.origin == bindparam("this_origin")) & (
    waiting.c.account == bindparam("this_account")
)
_WAITING = select(waiting.c.share).where(_HERE, waiting.c.waits_until > bindparam("now"))
_FORGET = delete(waiting).where(
    _HERE,
    (waiting.c.worker_id == bindparam("this_worker")) | (waiting.c.waits_until <= bindparam("now")),
)
_STOPPED = select(runs.c.id).where(runs.c.id == bindparam("run_id"), runs.c.stopped_at.is_not(None))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a claim must fit into.

    `in_flight` and `submits_per_second` count requests over all processes, `in_flight_of_run` those
    of the run, which several may share. The dollars are those of one run, and of one pipeline on
    one UTC day. `ceiling_usd` is set aside for a job whose price nobody knows; without one, such a
    job fits under a limit only with `allow_unknown_cost`. `timeout` is how many seconds a job may
    take: so long a submission in doubt counts as in flight, and any request among those of its run.
    """

    in_flight: int
    max_cost_usd: float | None = None
    max_cost_usd_per_day: float | None = None
    ceiling_usd: float | None = None
    allow_unknown_cost: bool = False
    submits_per_second: float = math.inf
    timeout: float = 0
    in_flight_of_run: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """The job does not fit: `reserved_usd` of `limit_usd` are spent or set aside.

    `limit` names which limit: `run` or `day`; `price` when the job's own price is unknown.
    """

    limit: str
    limit_usd: float
    reserved_usd: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """The intent is committed: the holder of this may POST once.

    `mark` names this POST and no other one, in the ledger and in the journal. `budgets` are the
    limits that it fitted under, this job included. The POST leaves at its `place` or shortly after
    it, in seconds awake or asleep. `next_place` is one that this process has for another claim.
    """

    attempt_id: int
    number: int
    mark: str
    budgets: tuple[BudgetUsed, ...] = ()
    place: float = field(default=0, compare=False)
    next_place: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class NotOurs:
    """Something else is to be done about this job; `attempt` is what the ledger knows."""

    decision: Decision
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AtCapacity:
    """As many requests are at RunComfy as the profile allows, or as the job's share of them allows.

    Ask again in a moment. `held` is how many slots each share has.
    """

    held: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class TooSoon:
    """As many submissions a second leave as the profile allows; this process has a `place` now."""

    place: float


@dataclass(frozen=True, slots=True)
class RunStopped:
    """Somebody told the run to stop: it submits nothing more."""


Claim = Claimed | NotOurs | AtCapacity | TooSoon | BudgetExceeded | RunStopped


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Who asks for which job.

    `began` is when this try of the run began, `balance_usd` the account's right before. `place` is
    what an earlier claim of this process was given and did not use, `takes` how many seconds until
    this one is there; with `more`, it is given the next place as well. `share` is for whom it takes
    a slot, empty where nobody shares; for those in `waiting` other jobs of this process wait.
    """

    checked: CheckedJob
    account: Account | None
    scope: dict[str, str]
    run_id: str
    began: datetime | None
    refresh: bool
    limits: Limits
    worker_id: str
    balance_usd: float | None
    place: float | None
    takes: float
    more: bool
    share: str
    waiting: frozenset[str]


def claim(  # noqa: PLR0911  # what a claim may answer
    connection: Connection, request: ClaimRequest, mark: str, now: datetime, here: float
) -> Claim:
    """Decide about one job; when it is to be submitted, nobody else will. `mark` is a new one.

    `here` is the moment `now` in seconds awake or asleep.
    """
    checked, limits = request.checked, request.limits
    writes.end_dead_leases(connection, now)
    latest = latest_attempts(connection, [checked.key], request.account).get(checked.key)
    seen = latest
    if latest and _has_submitted(connection, checked.key, request.run_id):
        # What another run did since then is no reason for this one to submit twice.
        seen = replace(latest, run_id=request.run_id)
    decision = _decision(request, seen, now, refresh=request.refresh)
    if decision is not Decision.SUBMIT:
        assert latest is not None  # noqa: S101  # SUBMIT is the answer to None
        return NotOurs(decision, latest)
    if open_one := latest and _undecided(connection, request):
        waits = open_one.state is JobState.SUBMITTING
        return NotOurs(Decision.WAIT if waits else Decision.BLOCKED, open_one)
    if is_stopped(connection, request.run_id):
        return RunStopped()
    if full := _at_capacity(connection, request, now):
        return full
    amount = _to_reserve(checked.estimate_usd, limits)
    budgets = _budgets(connection, request, amount, now)
    if isinstance(budgets, BudgetExceeded):
        return budgets
    place = _place(connection, request, now, here)
    if place > here + request.takes + EARLY:
        return TooSoon(place)
    unasked = _decision(request, seen, now, refresh=False)
    values = {
        **writes.asked_values(
            # Whether only the refresh that was asked for is the reason for it.
            pack(checked) | {REFRESH: unasked is not Decision.SUBMIT},
            request.account,
            request.run_id,
        ),
        **writes.clear_owner(),
        "owner": request.worker_id,
        "claimed_at": now,
        "reserved_usd": amount,
        "evidence": asdict(Evidence(mark=mark, balance_before_usd=request.balance_usd)),
        "lease_until": now + timedelta(seconds=LEASE_SECONDS),
        # Should it be in doubt later: RunComfy may have it, and nobody sees its end.
        "slot_until": now + timedelta(seconds=limits.timeout),
    }
    next_place = _new_place(connection, request, now, here) if request.more else None
    intended = _intend(connection, checked.key, request.account, values, now)
    return Claimed(*intended, mark, budgets, place, next_place)


def _place(connection: Connection, request: ClaimRequest, now: datetime, here: float) -> float:
    """Return the place in time that the process has, a new one where it has none or missed it."""
    early = request.takes + EARLY
    if request.place is not None and -early <= here - request.place <= LATE:
        return request.place
    return _new_place(connection, request, now, here)


def _new_place(connection: Connection, request: ClaimRequest, now: datetime, here: float) -> float:
    if math.isinf(per_second := request.limits.submits_per_second):
        return here
    return here + take_place(connection, request.scope, per_second, now, request.takes)


def _intend(
    connection: Connection,
    key: str,
    account: Account | None,
    values: Mapping[str, Any],
    now: datetime,
) -> tuple[int, int]:
    """Write down the intent to submit: from its commit on only this worker may POST.

    Returns id and number of the attempt: the one that never left, else a new one.
    """
    newest = connection.execute(_newest(account), {"key": key}).one_or_none()
    if newest is None or newest.state != JobState.PLANNED:
        steps = {JobState.PLANNED: now, JobState.SUBMITTING: now}
        return writes.insert_attempt(connection, values, steps, now)
    writes.move(connection, newest.id, JobState.SUBMITTING, now, **values)
    return newest.id, newest.number


@cache
def _newest(account: Account | None) -> Select[Any]:
    query = select(attempts.c.id, attempts.c.number, attempts.c.state)
    query = query.where(attempts.c.key == bindparam("key"), belongs_to(account))
    return query.order_by(attempts.c.number.desc()).limit(1)


def _decision(
    request: ClaimRequest, seen: Attempt | None, now: datetime, *, refresh: bool
) -> Decision:
    return decide(
        seen,
        refresh=refresh,
        run_id=request.run_id,
        now=now,
        began=request.began,
        again=request.checked.job.again,
    )


def _undecided(connection: Connection, request: ClaimRequest) -> Attempt | None:
    """Find the attempt of a job that is being submitted or in doubt, the latest or not.

    What was found after a person had taken it for lost goes on beside a later one.
    """
    column = attempts.c
    open_ones = select(attempts).where(
        column.key == request.checked.key,
        column.state.in_((JobState.SUBMITTING, JobState.IN_DOUBT)),
        belongs_to(request.account),
    )
    found = read_attempts(connection, open_ones.order_by(column.number.desc()).limit(1))
    return next(iter(found), None)


def _budgets(
    connection: Connection, request: ClaimRequest, amount: float | None, now: datetime
) -> tuple[BudgetUsed, ...] | BudgetExceeded:
    """Say which limit a job does not fit under, or how much is used of each with it."""
    of = {
        "run_id": request.run_id,
        "pipeline": request.checked.job.pipeline,
        "midnight": now.replace(hour=0, minute=0, second=0, microsecond=0),
    }
    caps = (
        ("run", request.limits.max_cost_usd, _spent_by_run),
        ("day", request.limits.max_cost_usd_per_day, _spent_by_day),
    )
    used = []
    for name, cap, spent in caps:
        # A sum reads as many entries of its index as it has attempts: only where there is a limit.
        if cap is None:
            continue
        reserved = float(connection.execute(spent(request.account), of).scalar_one() or 0.0)
        if amount is None:
            return BudgetExceeded("price", cap, reserved)
        # Said this way round, a limit that is no number refuses everything.
        if not reserved + amount <= cap + _ROUNDING:
            return BudgetExceeded(name, cap, reserved)
        used.append(BudgetUsed(name, cap, reserved + amount))
    return tuple(used)


def _to_reserve(estimate_usd: float | None, limits: Limits) -> float | None:
    """Return what to set aside for a job; None if unknown and not allowed for."""
    known = estimate_usd is not None and math.isfinite(estimate_usd) and estimate_usd >= 0
    if known:
        return estimate_usd
    if limits.ceiling_usd is not None:
        return limits.ceiling_usd
    return 0.0 if limits.allow_unknown_cost else None


def is_stopped(connection: Connection, run_id: str) -> bool:
    """Return whether somebody told a run to stop."""
    return connection.execute(_STOPPED, {"run_id": run_id}).one_or_none() is not None


def _has_submitted(connection: Connection, key: str, run_id: str) -> bool:
    """Return whether a run has sent a job of this key already, whoever came after it."""
    query = select(func.count()).where(
        attempts.c.key == key,
        attempts.c.run_id == run_id,
        attempts.c.state != JobState.PLANNED,
    )
    return connection.execute(query).scalar_one() > 0


@cache
def _spent_by_run(_: Account | None) -> Select[Any]:
    return _spent(attempts.c.run_id == bindparam("run_id"))


@cache
def _spent_by_day(account: Account | None) -> Select[Any]:
    is_todays = attempts.c.claimed_at >= bindparam("midnight")
    return _spent(attempts.c.pipeline == bindparam("pipeline"), is_todays, belongs_to(account))


def _spent(*which: ColumnElement[bool]) -> Select[Any]:
    """Sum what some attempts have cost: the real cost where known, else the reservation.

    What failed or was cancelled counts with what it is known to have cost, and reserves nothing;
    what was rejected or given up was accepted and not refused, and so paid for.
    """
    committed = [state for state in JobState if state is not JobState.PLANNED]
    over = and_(
        attempts.c.state.in_([JobState.FAILED, JobState.CANCELLED]),
        func.coalesce(attempts.c.error_kind, "").not_in(PAID_IN_VAIN),
    )
    # An attempt of the first schema reserved its estimate.
    set_aside = func.coalesce(attempts.c.reserved_usd, attempts.c.estimate_usd, 0.0)
    reserved = case((over, 0.0), else_=set_aside)
    query = select(func.sum(func.coalesce(attempts.c.cost_usd, reserved)))
    return query.where(attempts.c.state.in_(committed), *which)


_MAY_BE_THERE = [
    JobState.IN_DOUBT,
    *(state for state in UNFINISHED if state not in {JobState.SUBMITTING, JobState.COMPLETED}),
]


@dataclass(frozen=True, slots=True)
class SlotHolder:
    """A request that holds a slot; `is_watched` where a process is there that will see its end.

    With `is_in_doubt` nobody can: it may be at RunComfy, and a person knows or can find out.
    """

    attempt_id: int
    request_id: str
    run_id: str
    is_watched: bool
    is_in_doubt: bool = False


def _at_capacity(connection: Connection, request: ClaimRequest, now: datetime) -> AtCapacity | None:
    """Say whether the account has no slot for a job, or its run none, where the run has a limit.

    Where slots are divided, a free one is left for each share that waits with fewer, and for whom
    jobs of this process wait is written down.
    """
    account, limits = request.account, request.limits
    bounds = [("", limits.in_flight, _count_in_flight(account), _labels_in_flight(account))]
    if limits.in_flight_of_run is not None:
        queries = _count_of_run(account), _labels_of_run(account)
        bounds.append((f"{request.run_id}/", limits.in_flight_of_run, *queries))
    if request.share:
        worker = {"this_worker": request.worker_id, "now": now}
        connection.execute(_FORGET, _this(request) | worker)
    since = now - timedelta(seconds=limits.timeout)
    values = {"now": now, "run_id": request.run_id, "since": since}
    for whose, most, count, labels in bounds:
        if not request.share:
            if connection.execute(count, values).scalar_one() >= most:
                return AtCapacity()
            continue
        label = request.share.partition("=")[0]
        rows = connection.execute(labels, values).scalars()
        held = Counter(share_of(label, labels or {}) for labels in rows)
        if not _has_slot(connection, request, whose, most - held.total(), held, now):
            _note_waiting(connection, request, whose, now)
            return AtCapacity(held)
    return None


def _has_slot(
    connection: Connection,
    request: ClaimRequest,
    whose: str,
    free: int,
    held: Mapping[str, int],
    now: datetime,
) -> bool:
    """Return whether a share may have a slot; `whose` is empty for those of the account."""
    if free <= 0:
        return False
    rows = connection.execute(_WAITING, {**_this(request), "now": now}).scalars()
    like = whose + request.share.partition("=")[0] + "="
    elsewhere = (one.removeprefix(whose) for one in rows if one.startswith(like))
    return may_take(request.share, free, held, request.waiting.union(elsewhere))


def _note_waiting(connection: Connection, request: ClaimRequest, whose: str, now: datetime) -> None:
    """Write down for whom jobs of this process wait, so that others leave a slot for them."""
    mine: dict[str, Any] = {**request.scope, "worker_id": request.worker_id}
    mine["waits_until"] = now + timedelta(seconds=_WAITS)
    shares = sorted(request.waiting | {request.share})
    connection.execute(insert(waiting), [mine | {"share": f"{whose}{one}"} for one in shares])


def _this(request: ClaimRequest) -> dict[str, Any]:
    return {f"this_{name}": value for name, value in request.scope.items()}


@cache
def _labels_in_flight(account: Account | None) -> Select[Any]:
    return select(attempts.c.labels).where(holds_slot(account))


@cache
def _labels_of_run(account: Account | None) -> Select[Any]:
    return _labels_in_flight(account).where(*_of_run())


@cache
def _count_in_flight(account: Account | None) -> Select[Any]:
    return select(func.count()).select_from(attempts).where(holds_slot(account))


@cache
def _count_of_run(account: Account | None) -> Select[Any]:
    return _count_in_flight(account).where(*_of_run())


def _of_run() -> tuple[ColumnElement[bool], ...]:
    """Select the requests that a run still waits for, as a run in one process holds its slots."""
    return attempts.c.run_id == bindparam("run_id"), attempts.c.claimed_at > bindparam("since")


def holds_slot(account: Account | None) -> ColumnElement[bool]:
    """Select the requests of an account that hold a slot `now`."""
    waits = and_(attempts.c.state.in_(_MAY_BE_THERE), attempts.c.slot_until > bindparam("now"))
    return and_(or_(attempts.c.state == JobState.SUBMITTING, waits), belongs_to(account))
