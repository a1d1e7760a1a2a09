"""Every write to an attempt: compare-and-set on its state, checked against `ALLOWED`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    delete,
    insert,
    select,
    update,
)

from comfyline.config.account import Account, command
from comfyline.errors import ComfylineError
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger.attempts import (
    KEPT,
    NOT_SENT,
    REFRESH,
    UNKNOWN_ORIGIN,
    Attempt,
    Evidence,
    pack,
)
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.queries import belongs_to, latest_attempts, read_attempts
from comfyline.ledger.tables import attempts, jobs, outputs, transitions

IsDead = Callable[[str | None], bool]
"""Whether the process of that name has certainly ended."""


class StateConflict(ComfylineError):
    """Another process moved the attempt on in between, or the step is not one of `ALLOWED`."""

    kind = "state-conflict"


def _look() -> str:
    return f"Something else has moved it on meanwhile: {command('jobs')} shows where it stands."


def open_attempt(
    connection: Connection,
    checked: CheckedJob,
    run_id: str,
    now: datetime,
    *,
    account: Account | None,
    is_refresh: bool = False,
) -> tuple[int, int]:
    """Return id and number of a row in `planned`: the one that never left, else a new one.

    With `is_refresh` only the refresh that was asked for is the reason for it.
    """
    packed = pack(checked) | {REFRESH: is_refresh}
    asked = {
        "run_id": run_id,
        "pipeline": packed["job"]["pipeline"],
        "item": packed["job"]["item"],
        "step": packed["job"]["step"],
        "request": packed,
        "estimate_usd": packed["estimate_usd"],
        **whose(account),
        "profile": account.profile if account else None,
    }
    last = select(attempts.c.id, attempts.c.number, attempts.c.state)
    last = last.where(attempts.c.key == checked.key).order_by(attempts.c.number.desc()).limit(1)
    newest = connection.execute(last.where(belongs_to(account))).one_or_none()
    if newest is not None and newest.state == JobState.PLANNED:
        connection.execute(update(attempts).where(attempts.c.id == newest.id).values(**asked))
        return newest.id, newest.number
    know_job(connection, checked.key, checked.job.model_id, now)
    newest = connection.execute(last).one_or_none()
    number = newest.number + 1 if newest else 1
    row = connection.execute(
        insert(attempts).values(
            key=checked.key,
            number=number,
            state=JobState.PLANNED,
            created_at=now,
            updated_at=now,
            **asked,
        )
    )
    attempt_id = int(row.inserted_primary_key[0]) if row.inserted_primary_key else 0
    _note(connection, attempt_id, JobState.PLANNED, now)
    return attempt_id, number


def insert_attempt(
    connection: Connection,
    packed: Mapping[str, Any],
    account: Account,
    steps: Mapping[JobState, datetime],
    now: datetime,
    *,
    run_id: str,
    number: int = 1,
    **values: Any,
) -> int:
    """Add an attempt that went through these `steps` without this ledger; return its id.

    It has `number`, or the next one where that is taken.
    """
    job = packed["job"]
    key = packed["key"]
    know_job(connection, key, job["model_id"], now)
    taken = set(
        connection.execute(select(attempts.c.number).where(attempts.c.key == key)).scalars()
    )
    row = connection.execute(
        insert(attempts).values(
            key=key,
            number=max(taken) + 1 if number in taken else number,
            state=list(steps)[-1],
            run_id=run_id,
            pipeline=job["pipeline"],
            item=job["item"],
            step=job["step"],
            request=dict(packed),
            estimate_usd=packed["estimate_usd"],
            created_at=min(steps.values()),
            updated_at=now,
            **whose(account),
            profile=account.profile,
            **values,
        )
    )
    attempt_id = int(row.inserted_primary_key[0]) if row.inserted_primary_key else 0
    for state, at in steps.items():
        _note(connection, attempt_id, state, at)
    return attempt_id


def whose(account: Account | None) -> dict[str, str]:
    """Return an account as values to write."""
    return {"origin": account.origin, "account": account.name} if account else {}


def adopt(connection: Connection, attempt_id: int, account: Account) -> None:
    """Record whose an attempt is, where that was not known."""
    unknown = (attempts.c.id == attempt_id) & attempts.c.origin.is_(None)
    told = {**whose(account), "profile": account.profile}
    connection.execute(update(attempts).where(unknown).values(**told))


def missing(connection: Connection, attempt_id: int, now: datetime) -> tuple[JobState, datetime]:
    """Write down that RunComfy does not know a request. Return its state, and since when."""
    this = attempts.c.id == attempt_id
    row = connection.execute(
        select(attempts.c.state, attempts.c.missing_since).where(this).with_for_update()
    ).one()
    if row.missing_since is None:
        connection.execute(update(attempts).where(this).values(missing_since=now))
    return JobState(row.state), row.missing_since or now


def heard_of(connection: Connection, attempt_id: int, account: Account | None) -> None:
    """Write down that RunComfy knows a request, and so whose it is."""
    if account is not None:
        adopt(connection, attempt_id, account)
    missed = (attempts.c.id == attempt_id) & attempts.c.missing_since.is_not(None)
    connection.execute(update(attempts).where(missed).values(missing_since=None))


def know_job(connection: Connection, key: str, model_id: str, now: datetime) -> None:
    """Insert a row for a job, unless there is one."""
    known = connection.execute(select(jobs.c.key).where(jobs.c.key == key)).one_or_none()
    if known is None:
        values = {"key": key, "model_id": model_id, "created_at": now}
        connection.execute(insert(jobs).values(values))


def move(
    connection: Connection,
    attempt_id: int,
    to: JobState,
    now: datetime,
    *,
    unless: frozenset[JobState] = frozenset(),
    **values: Any,
) -> None:
    """Move one attempt to another state. The same state again only refreshes `values`.

    An attempt that stands in one of `unless` keeps its state and takes the values. Raises
    `StateConflict` when the step is not allowed from where the attempt stands.
    """
    row = connection.execute(
        select(attempts.c.state).where(attempts.c.id == attempt_id).with_for_update()
    ).one()
    current = JobState(row.state)
    to = current if current in unless else to
    if current is to and not values:
        return
    if current is not to and to not in ALLOWED[current]:
        raise StateConflict(f"Attempt {attempt_id} cannot go from {current} to {to}", hint=_look())
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id)
        .values(state=to, updated_at=now, **values)
    )
    if current is not to:
        _note(connection, attempt_id, to, now)


def lease(
    connection: Connection,
    attempt_id: int,
    worker_id: str,
    now: datetime,
    *,
    reserved_usd: float | None,
    evidence: Evidence,
) -> None:
    """Commit the intent to submit: from here on only this worker may POST."""
    move(
        connection,
        attempt_id,
        JobState.SUBMITTING,
        now,
        owner=worker_id,
        claimed_at=now,
        reserved_usd=reserved_usd,
        evidence=asdict(evidence),
        lease_until=now + timedelta(seconds=LEASE_SECONDS),
        # RunComfy keeps nothing for longer; before, whoever sees its end frees the slot.
        slot_until=now + KEPT,
        error_kind=None,
        error_message=None,
    )


def accept(connection: Connection, attempt_id: int, request_id: str, now: datetime) -> datetime:
    """Write a request id down, also after the lease is over. Return when it was accepted.

    The same id again changes nothing; another one is refused, because the first was paid for. What
    becomes known late was accepted when its POST left: from then on RunComfy keeps the result. So
    does what a person took for lost, also where the job was submitted again since then: both are
    paid for.
    """
    row = connection.execute(
        select(
            attempts.c.request_id,
            attempts.c.submitted_at,
            attempts.c.state,
            attempts.c.claimed_at,
            attempts.c.origin,
        )
        .where(attempts.c.id == attempt_id)
        .with_for_update()
    ).one()
    if row.request_id is not None and row.request_id != request_id:
        raise StateConflict(
            f"Attempt {attempt_id} is request {row.request_id} already", hint=_look()
        )
    taken = select(attempts.c.id).where(
        attempts.c.request_id == request_id, attempts.c.id != attempt_id
    )
    if row.origin is not None:
        # Another origin may give the same id.
        taken = taken.where((attempts.c.origin == row.origin) | attempts.c.origin.is_(None))
    if (other := connection.execute(taken.limit(1)).scalar_one_or_none()) is not None:
        raise StateConflict(
            f"Request {request_id} is that of attempt {other} already", hint=_look()
        )
    if row.request_id is not None and row.submitted_at is not None:
        known: datetime = row.submitted_at
        return known
    late = row.state in {JobState.IN_DOUBT, JobState.FAILED} and row.claimed_at is not None
    when: datetime = row.claimed_at if late else now
    values = {"request_id": request_id, "submitted_at": when, **_clear_owner()}
    move(connection, attempt_id, JobState.SUBMITTED, now, **values)
    return when


def undecided(connection: Connection, key: str, account: Account | None) -> Attempt | None:
    """Find the attempt of a job that is being submitted or in doubt, the latest or not.

    What was found after a person had taken it for lost goes on beside a later one.
    """
    column = attempts.c
    open_ones = select(attempts).where(
        column.key == key,
        column.state.in_((JobState.SUBMITTING, JobState.IN_DOUBT)),
        belongs_to(account),
    )
    found = read_attempts(connection, open_ones.order_by(column.number.desc()).limit(1))
    return next(iter(found), None)


def record_evidence(connection: Connection, attempt_id: int, said: Mapping[str, Any]) -> None:
    """Add to what is known of an attempt's POST."""
    row = attempts.c.id == attempt_id
    known = connection.execute(select(attempts.c.evidence).where(row)).scalar_one() or {}
    connection.execute(update(attempts).where(row).values(evidence={**known, **said}))


def release(connection: Connection, attempt_id: int, worker_id: str, now: datetime) -> None:
    """End a claim without a request: `planned` again, for whoever comes next.

    When the lease ran out first (a laptop that slept), the doubt ends here instead, in `failed`.
    Raises `StateConflict` when it is somebody else's claim by now, whose POST may be under way.
    """
    row = connection.execute(
        select(attempts.c.state, attempts.c.owner)
        .where(attempts.c.id == attempt_id)
        .with_for_update()
    ).one()
    if row.state == JobState.SUBMITTING and row.owner != worker_id:
        raise StateConflict(f"Attempt {attempt_id} is being submitted by another", hint=_look())
    if row.state == JobState.IN_DOUBT:
        reason = {"error_kind": NOT_SENT, "error_message": "RunComfy never accepted it."}
        move(connection, attempt_id, JobState.FAILED, now, **{**_clear_owner(), **reason})
    else:
        move(connection, attempt_id, JobState.PLANNED, now, **_clear_owner())


def mark_lost(
    connection: Connection, attempt_id: int, now: datetime, reason: Mapping[str, Any]
) -> None:
    """End a submission in doubt as never accepted; said again, it changes nothing.

    Raises `StateConflict` when it is not in doubt any more: its answer may have come meanwhile.
    """
    row = connection.execute(
        select(attempts.c.state, attempts.c.error_kind, attempts.c.error_message)
        .where(attempts.c.id == attempt_id)
        .with_for_update()
    ).one()
    if row.state == JobState.FAILED and reason == {
        "error_kind": row.error_kind,
        "error_message": row.error_message,
    }:
        return
    if row.state != JobState.IN_DOUBT:
        raise StateConflict(f"Attempt {attempt_id} is {row.state}, not in doubt", hint=_look())
    move(connection, attempt_id, JobState.FAILED, now, **{**_clear_owner(), **reason})


def end_dead_leases(connection: Connection, now: datetime, is_dead: IsDead) -> int:
    """Put in doubt what a dead process was submitting. Return how many those are."""
    sending = select(attempts.c.id, attempts.c.owner, attempts.c.lease_until).where(
        attempts.c.state == JobState.SUBMITTING
    )
    rows = connection.execute(sending).all()
    ids = [
        row.id
        for row in rows
        if row.lease_until is None or row.lease_until <= now or is_dead(row.owner)
    ]
    reason = "The process that submitted it ended before RunComfy's answer was written down."
    values = {**_clear_owner(), "error_kind": "in-doubt", "error_message": reason}
    for attempt_id in ids:
        move(connection, attempt_id, JobState.IN_DOUBT, now, **values)
    return len(ids)


def latest(connection: Connection, key: str, account: Account | None) -> Attempt | None:
    """Return the latest attempt of one key that an account has."""
    return latest_attempts(connection, [key], account).get(key)


def _clear_owner() -> dict[str, Any]:
    """Return the values of an attempt that nobody is submitting: no owner, no error."""
    return {"owner": None, "lease_until": None, "error_kind": None, "error_message": None}


def _note(connection: Connection, attempt_id: int, state: JobState, now: datetime) -> None:
    values = {"attempt_id": attempt_id, "state": state, "at": now}
    connection.execute(insert(transitions).values(values))


_STEPS = (
    JobState.PLANNED,
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.COMPLETED,
    JobState.PERSISTED,
)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job whose outputs lie whole under their names, as their sidecars tell of it."""

    checked: CheckedJob
    request_id: str
    number: int
    cost_usd: float | None
    reached: Mapping[JobState, datetime]
    outputs: tuple[StoredOutput, ...]


def adopt_stored(connection: Connection, found: StoredJob, account: Account, now: datetime) -> bool:
    """Write down that a job is stored; whether that was new.

    An attempt that is still to be collected ends so, and one in doubt because of its origin.
    """
    at = _times(found.reached, now)
    when = {"claimed_at": at[JobState.SUBMITTING], "submitted_at": at[JobState.SUBMITTED]}
    cost: dict[str, Any] = {} if found.cost_usd is None else {"cost_usd": found.cost_usd}
    row = _waiting(connection, found, account)
    if row is None:
        packed, number = pack(found.checked), found.number
        told = {"request_id": found.request_id, **when, **cost}
        attempt_id = insert_attempt(
            connection, packed, account, at, now, run_id="sidecar", number=number, **told
        )
        record_outputs(connection, attempt_id, found.outputs)
        return True
    state = JobState(row.state)
    if state is JobState.IN_DOUBT:
        connection.execute(update(attempts).where(attempts.c.id == row.id).values(when))
        accept(connection, row.id, found.request_id, now)
        state = JobState.SUBMITTED
    if state is not JobState.COMPLETED and JobState.COMPLETED not in ALLOWED[state]:
        return False
    record_outputs(connection, row.id, found.outputs)
    move(connection, row.id, JobState.COMPLETED, now, **cost)
    move(connection, row.id, JobState.PERSISTED, now)
    return True


def _waiting(connection: Connection, found: StoredJob, account: Account) -> Row[Any] | None:
    """Find the attempt of this very request, or the one that a person was asked about."""
    column = attempts.c
    own = select(column.id, column.state).where(belongs_to(account))
    asked = own.where(
        column.key == found.checked.key,
        column.state == JobState.IN_DOUBT,
        column.error_kind == UNKNOWN_ORIGIN,
    )
    of_request = own.where(column.request_id == found.request_id)
    row = connection.execute(of_request.limit(1)).one_or_none()
    return row or connection.execute(asked.limit(1)).one_or_none()


def ask_whose(
    connection: Connection, checked: CheckedJob, uri: str, account: Account, now: datetime
) -> bool:
    """Put a job in doubt whose output at `uri` does not say whose it is; whether that was new."""
    if latest(connection, checked.key, account) is not None:
        return False
    said = f"{uri} was made for this job by an older version, which did not write down at whose "
    said += "expense"
    values: dict[str, Any] = {"error_kind": UNKNOWN_ORIGIN, "error_message": said}
    steps = dict.fromkeys((JobState.PLANNED, JobState.SUBMITTING, JobState.IN_DOUBT), now)
    insert_attempt(
        connection,
        pack(checked),
        account,
        steps,
        now,
        run_id="sidecar",
        evidence=asdict(Evidence(reason=said)),
        **values,
    )
    return True


def _times(told: Mapping[JobState, datetime], now: datetime) -> dict[JobState, datetime]:
    """Return a time for every step, none before that of the one before."""
    found: dict[JobState, datetime] = {}
    last = min(told.values(), default=now)
    for state in _STEPS:
        last = max(last, told.get(state, last))
        found[state] = last
    return found


def record_outputs(connection: Connection, attempt_id: int, stored: Sequence[StoredOutput]) -> None:
    """Remember where outputs lie; the same place again is no second one.

    What another attempt is still said to have at one of these places was gone, or was not paid for,
    and its record goes. An attempt that thereby lost an output keeps none of its records: it has to
    be stored anew.
    """
    here = outputs.c.uri.in_([output.uri for output in stored])
    others = set(connection.execute(select(outputs.c.attempt_id).where(here)).scalars())
    others.discard(attempt_id)
    before = {other: _indices(connection, other) for other in others}
    connection.execute(delete(outputs).where(here))
    for other, indices in before.items():
        if _indices(connection, other) < indices:
            connection.execute(delete(outputs).where(outputs.c.attempt_id == other))
    for output in stored:
        connection.execute(
            insert(outputs).values(
                attempt_id=attempt_id,
                index=output.index,
                uri=output.uri,
                sha256=output.sha256,
                bytes=output.bytes,
                media_type=output.media_type,
            )
        )


def move_output(connection: Connection, attempt_id: int, uri: str, to: str) -> bool:
    """Write down that an output lies somewhere else now; whether it was still recorded there."""
    mine = outputs.c.attempt_id == attempt_id
    # A copy of its own that was recorded there before is the same file.
    connection.execute(delete(outputs).where(mine, outputs.c.uri == to))
    move = update(outputs).where(mine, outputs.c.uri == uri).values(uri=to)
    return connection.execute(move).rowcount > 0


def _indices(connection: Connection, attempt_id: int) -> set[int]:
    query = select(outputs.c.index).where(outputs.c.attempt_id == attempt_id)
    return set(connection.execute(query).scalars())
