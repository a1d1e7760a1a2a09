"""Who holds the profile's slots: requests that RunComfy has, as far as anybody has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from comfyline.config.account import Account
from comfyline.job import JobState
from comfyline.ledger.holds import Holder
from comfyline.ledger.reading import UNFINISHED, belongs_to
from comfyline.ledger.tables import attempts, holds
from comfyline.ledger.writing import IsDead

_AT_RUNCOMFY = [
    state for state in UNFINISHED if state not in {JobState.SUBMITTING, JobState.COMPLETED}
]


@dataclass(frozen=True, slots=True)
class SlotHolder:
    """A request that holds a slot; `is_watched` where a process is there that will see its end."""

    attempt_id: int
    request_id: str
    run_id: str
    is_watched: bool


def in_flight(connection: Connection, now: datetime, account: Account | None) -> int:
    """How many requests of an account all processes have at RunComfy, or are sending there."""
    query = select(func.count()).select_from(attempts).where(_holds_slot(now, account))
    return connection.execute(query).scalar_one()


def slot_holders(
    connection: Connection, now: datetime, holder: Holder, is_dead: IsDead
) -> Sequence[SlotHolder]:
    """The same one by one, the oldest first."""
    query = (
        select(attempts.c.id, attempts.c.request_id, attempts.c.run_id)
        .add_columns(holds.c.held_by, holds.c.held_until)
        .outerjoin(holds, (holds.c.key == attempts.c.key) & holder.among_its_own())
        .where(_holds_slot(now, holder.account))
        .order_by(attempts.c.id)
    )
    return [
        SlotHolder(
            attempt_id=row.id,
            request_id=row.request_id or "",
            run_id=row.run_id,
            # What is being submitted has a lease, which ends by itself.
            is_watched=row.request_id is None
            or (row.held_until is not None and row.held_until > now and not is_dead(row.held_by)),
        )
        for row in connection.execute(query)
    ]


def free_slot(connection: Connection, attempt_id: int, now: datetime) -> None:
    """Let a request hold its slot no longer, whatever state it is in."""
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(slot_until=now))


def _holds_slot(now: datetime, account: Account | None) -> ColumnElement[bool]:
    waits = and_(attempts.c.state.in_(_AT_RUNCOMFY), attempts.c.slot_until > now)
    return and_(or_(attempts.c.state == JobState.SUBMITTING, waits), belongs_to(account))
