"""What a claim counts before it is granted: submissions of a run, and money set aside."""

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from comfyline.job import JobState
from comfyline.ledger.records import PAID_IN_VAIN
from comfyline.ledger.tables import attempts


def has_submitted(connection: Connection, key: str, run_id: str) -> bool:
    """Whether a run has sent a job of this key already, whoever came after it."""
    query = select(func.count()).where(
        attempts.c.key == key,
        attempts.c.run_id == run_id,
        attempts.c.state != JobState.PLANNED,
    )
    return connection.execute(query).scalar_one() > 0


def reserved_usd(connection: Connection, *which: ColumnElement[bool]) -> float:
    """What some attempts have cost or set aside: the real cost where known, else the reservation.

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
    query = select(func.sum(func.coalesce(attempts.c.cost_usd, reserved))).where(
        attempts.c.state.in_(committed), *which
    )
    return float(connection.execute(query).scalar_one() or 0.0)
