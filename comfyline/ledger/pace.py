"""When the next submission of an account may leave: one pace for all processes, kept in the ledger.

A claim takes a place in time, and its POST leaves at that place or shortly after it. A process that
dies wastes its own places and nobody else's.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, insert, select, update

from comfyline.ledger.tables import paces

EARLY = 0.05
"""Seconds before its place at which a claim may be there; its POST waits for the rest."""
LATE = 0.1
"""Seconds after its place until which a POST may leave; later it needs another place."""

# Made once: to build a statement takes longer than to execute it.
_THIS = (paces.c.origin == bindparam("this_origin")) & (
    paces.c.account == bindparam("this_account")
)
_PACE = select(paces.c.next_at, paces.c.noted_at).where(_THIS)
_SET = update(paces).where(_THIS)


def spacing(per_second: float) -> timedelta:
    """Return how far apart places are for so many submissions a second.

    Of places so far apart no window of a second sees more than the limit and one, although one POST
    may leave on time and another late.
    """
    return timedelta(seconds=max(1 / per_second, (1 + LATE) / (per_second + 1)))


def next_place(next_at: datetime, noted_at: datetime, now: datetime) -> datetime:
    """Return the first free place, where `next_at` was written down as that at `noted_at`.

    A clock that was set back since then makes nobody wait for it to come round again.
    """
    return min(max(now, next_at), now + (next_at - noted_at))


def take_place(
    connection: Connection,
    scope: dict[str, str],
    per_second: float,
    now: datetime,
    after: float = 0,
) -> float:
    """Take the next free place of an account; return in how many seconds that is.

    It is one `after` so many seconds at least: no earlier one could be used.
    """
    this = {f"this_{name}": value for name, value in scope.items()}
    row = connection.execute(_PACE, this).one_or_none()
    place = next_place(row.next_at, row.noted_at, now) if row else now
    place = max(place, now + timedelta(seconds=after))
    noted = {"next_at": place + spacing(per_second), "noted_at": now}
    if row:
        connection.execute(_SET, this | noted)
    else:
        connection.execute(insert(paces), scope | noted)
    return (place - now).total_seconds()
