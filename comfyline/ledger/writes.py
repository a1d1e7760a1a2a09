"""Every write to an attempt: compare-and-set on its state, checked against `ALLOWED`."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from comfyline import files
from comfyline.config.account import Account, command
from comfyline.errors import ComfylineError
from comfyline.job import ALLOWED, JobState, StoredOutput
from comfyline.ledger.attempts import KEPT, NOT_SENT, read_evidence
from comfyline.ledger.queries import STORED
from comfyline.ledger.tables import attempts, jobs, outputs, transitions

# Made once: to build a statement takes longer than to execute it.
_STANDS = select(*(one for one in attempts.c if one is not attempts.c.request)).where(
    attempts.c.id == bindparam("attempt_id")
)
_CHANGE = update(attempts).where(attempts.c.id == bindparam("attempt_id"))
_NOTE = insert(transitions)
_NUMBERS = select(attempts.c.number).where(attempts.c.key == bindparam("key"))
_OF_REQUEST = select(attempts.c.id, attempts.c.origin).where(
    attempts.c.request_id == bindparam("request_id")
)
_SENDING = select(attempts.c.id, attempts.c.owner, attempts.c.lease_until).where(
    attempts.c.state == JobState.SUBMITTING
)


class StateConflict(ComfylineError):
    """Another process moved the attempt on in between, or the step is not one of `ALLOWED`."""

    kind = "state-conflict"

    def __init__(self, message: str, hint: str = "") -> None:
        shows = f"{command('jobs')} shows its state."
        super().__init__(message, hint=hint or f"Another process has changed it meanwhile: {shows}")


def insert_attempt(
    connection: Connection,
    asked: Mapping[str, Any],
    steps: Mapping[JobState, datetime],
    now: datetime,
    *,
    number: int | None = None,
    **values: Any,
) -> tuple[int, int]:
    """Add an attempt that has gone through these `steps`; return its id and number.

    `asked` are its values by `asked_values`. It has `number`, or the next one where that is taken.
    """
    packed = asked["request"]
    key = packed["key"]
    taken = {*connection.execute(_NUMBERS, {"key": key}).scalars()}
    if not taken:
        job = {"key": key, "model_id": packed["job"]["model_id"], "created_at": now}
        connection.execute(insert(jobs), job)
    if number is None or number in taken:
        number = max(taken, default=0) + 1
    row = {
        "key": key,
        "number": number,
        "state": list(steps)[-1],
        "created_at": min(steps.values()),
        "updated_at": now,
        **asked,
        **values,
    }
    [attempt_id] = connection.execute(insert(attempts), row).inserted_primary_key or [0]
    noted = [{"attempt_id": attempt_id, "state": one, "at": at} for one, at in steps.items()]
    connection.execute(_NOTE, noted)
    return int(attempt_id), number


def asked_values(packed: Mapping[str, Any], account: Account | None, run_id: str) -> dict[str, Any]:
    """Return what is asked for, for whom and by which run, as values to write."""
    job = packed["job"]
    return {
        "run_id": run_id,
        "pipeline": job["pipeline"],
        "item": job["item"],
        "step": job["step"],
        "request": dict(packed),
        "labels": job.get("labels") or None,
        "estimate_usd": packed["estimate_usd"],
        **whose(account),
        "profile": account.profile if account else None,
    }


def whose(account: Account | None) -> dict[str, str]:
    """Return an account as values to write."""
    return {"origin": account.origin, "account": account.name} if account else {}


def set_values(connection: Connection, attempt_id: int, **values: Any) -> None:
    """Write values of one attempt, whatever state it is in."""
    connection.execute(_CHANGE, {"attempt_id": attempt_id, **values})


def move(
    connection: Connection,
    attempt_id: int,
    to: JobState,
    now: datetime,
    *,
    unless: frozenset[JobState] = frozenset(),
    heard_by: Account | None = None,
    **values: Any,
) -> None:
    """Move one attempt to another state. The same state again only refreshes `values`.

    An attempt that stands in one of `unless` keeps its state and takes the values. Whoever is
    answered about a request, `heard_by`, knows whose it is, and that RunComfy knows it. Raises
    `StateConflict` when the step is not allowed from where the attempt stands.
    """
    row = standing(connection, attempt_id)
    if row.missing_since is not None and to is not JobState.EXPIRED:
        values["missing_since"] = None
    if heard_by and row.origin is None:
        values |= whose(heard_by) | {"profile": heard_by.profile}
    current = JobState(row.state)
    to = current if current in unless else to
    if current is not to and to not in ALLOWED[current]:
        raise StateConflict(f"Attempt {attempt_id} cannot go from {current} to {to}")
    if current is not to:
        set_values(connection, attempt_id, state=to, updated_at=now, **values)
        connection.execute(_NOTE, {"attempt_id": attempt_id, "state": to, "at": now})
    elif values:
        set_values(connection, attempt_id, updated_at=now, **values)


def accept(connection: Connection, attempt_id: int, request_id: str, now: datetime) -> datetime:
    """Write a request id down, also after the lease is over. Return when it was accepted.

    The same id again changes nothing; another one is refused, because the first was paid for. What
    becomes known late was accepted when its POST left: from then on RunComfy keeps the result. So
    does what a person took for lost, also where the job was submitted again since then: both are
    paid for.
    """
    row = standing(connection, attempt_id)
    if row.request_id is not None and row.request_id != request_id:
        raise StateConflict(f"Attempt {attempt_id} is request {row.request_id} already")
    for other, origin in connection.execute(_OF_REQUEST, {"request_id": request_id}).all():
        # Another origin may give the same id.
        if other != attempt_id and (None in {origin, row.origin} or origin == row.origin):
            raise StateConflict(f"Request {request_id} already belongs to attempt {other}")
    if row.request_id is not None and row.submitted_at is not None:
        known: datetime = row.submitted_at
        return known
    late = row.state in {JobState.IN_DOUBT, JobState.FAILED} and row.claimed_at is not None
    when: datetime = row.claimed_at if late else now
    values = {"request_id": request_id, "submitted_at": when, **clear_owner()}
    # RunComfy keeps nothing for longer; before, whoever sees its end frees the slot.
    values["slot_until"] = when + KEPT
    move(connection, attempt_id, JobState.SUBMITTED, now, **values)
    return when


def release(connection: Connection, attempt_id: int, mark: str | None, now: datetime) -> None:
    """End the claim of that mark without a request: `planned` again, for whoever comes next.

    When the lease ran out first (a laptop that slept), the doubt ends here instead, in `failed`.
    What was released already, or is another's claim by now, stays as it is.
    """
    row = standing(connection, attempt_id)
    if read_evidence(row.evidence).mark != mark:
        return
    if row.state == JobState.IN_DOUBT:
        reason = {"error_kind": NOT_SENT, "error_message": "RunComfy never accepted it."}
        move(connection, attempt_id, JobState.FAILED, now, **{**clear_owner(), **reason})
    elif row.state == JobState.SUBMITTING:
        move(connection, attempt_id, JobState.PLANNED, now, **clear_owner())


def release_unheard(connection: Connection, marks: Collection[str], now: datetime) -> None:
    """Release the claims of these marks, as far as they were committed: nothing left under them."""
    if marks:
        in_hand = attempts.c.state.in_((JobState.SUBMITTING, JobState.IN_DOUBT))
        open_ones = select(attempts.c.id, attempts.c.evidence).where(in_hand)
        for row in connection.execute(open_ones).all():
            if (mark := read_evidence(row.evidence).mark) in marks:
                release(connection, row.id, mark, now)


def end_dead_leases(connection: Connection, now: datetime) -> int:
    """Put in doubt what a dead process was submitting. Return how many those are."""
    ids = [
        row.id
        for row in connection.execute(_SENDING).all()
        if row.lease_until is None or row.lease_until <= now or files.is_dead(row.owner)
    ]
    reason = "The process that submitted it ended before RunComfy's answer was written down."
    values = {**clear_owner(), "error_kind": "in-doubt", "error_message": reason}
    for attempt_id in ids:
        move(connection, attempt_id, JobState.IN_DOUBT, now, **values)
    return len(ids)


def standing(connection: Connection, attempt_id: int) -> Row[Any]:
    """Return an attempt as it stands, but for its request, which may be long."""
    return connection.execute(_STANDS, {"attempt_id": attempt_id}).one()


def clear_owner() -> dict[str, Any]:
    """Return the values of an attempt that nobody is submitting: no owner, no error."""
    return {"owner": None, "lease_until": None, "error_kind": None, "error_message": None}


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
    rows = [
        {name: getattr(output, name) for name in STORED} | {"attempt_id": attempt_id}
        for output in stored
    ]
    if rows:
        connection.execute(insert(outputs), rows)


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
