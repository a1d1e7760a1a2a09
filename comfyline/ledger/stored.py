"""Where outputs lie: one place belongs to one attempt, the last that was stored there."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from comfyline.job import StoredOutput
from comfyline.ledger.tables import outputs


def record_outputs(connection: Connection, attempt_id: int, stored: Sequence[StoredOutput]) -> None:
    """Remembers where outputs lie; the same place again is no second one.

    What another attempt had at one of these places is not there any more, and its record goes.
    An attempt that thereby lost an output keeps none of its records: it has to be stored anew.
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


def _indices(connection: Connection, attempt_id: int) -> set[int]:
    query = select(outputs.c.index).where(outputs.c.attempt_id == attempt_id)
    return set(connection.execute(query).scalars())
