"""Where outputs lie: one place belongs to one attempt, the last that was stored there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from comfyline.config.account import Account
from comfyline.job import JobState, StoredOutput
from comfyline.ledger.reading import belongs_to, read_attempts
from comfyline.ledger.records import Attempt
from comfyline.ledger.tables import attempts, outputs, transitions

_PER_QUERY = 500
_LATELY = 1000


def record_outputs(connection: Connection, attempt_id: int, stored: Sequence[StoredOutput]) -> None:
    """Remembers where outputs lie; the same place again is no second one.

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


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored file as the ledger knows it, and whose it is."""

    uri: str
    index: int
    key: str
    pipeline: str


def stored_in(connection: Connection, folders: Sequence[str]) -> list[Recorded]:
    """Find all files that are recorded in some folders, whoever has made them."""
    columns = (outputs.c.uri, outputs.c.index, attempts.c.key, attempts.c.pipeline)
    query = select(*columns).join(attempts, attempts.c.id == outputs.c.attempt_id)
    return [
        Recorded(*row)
        for folder in folders
        for row in connection.execute(
            query.where(outputs.c.uri.startswith(f"{folder}/", autoescape=True))
        )
    ]


def sources(connection: Connection, pipeline: str) -> set[str]:
    """Find where the steps were written that a pipeline of this name has run lately."""
    latest = (
        select(attempts.c.request[("job", "source")].as_string().label("source"))
        .where(attempts.c.pipeline == pipeline)
        .order_by(attempts.c.id.desc())
        .limit(_LATELY)
        .subquery()
    )
    found = connection.execute(select(latest.c.source).distinct()).scalars()
    return {source for source in found if source}


@dataclass(frozen=True, slots=True)
class Provenance:
    """By which attempt a job's outputs were made, for how much in US dollars, stored when."""

    request_id: str | None
    attempt: int
    cost_usd: float | None
    stored_at: datetime


def provenance(
    connection: Connection, keys: Sequence[str], account: Account | None
) -> dict[str, Provenance]:
    """Where what is stored of these jobs came from, in few queries however many they are."""
    found: dict[str, Provenance] = {}
    for start in range(0, len(keys), _PER_QUERY):
        query = (
            select(
                attempts.c.key,
                attempts.c.request_id,
                attempts.c.number,
                attempts.c.cost_usd,
                transitions.c.at,
            )
            .join(transitions, transitions.c.attempt_id == attempts.c.id)
            .where(attempts.c.key.in_(keys[start : start + _PER_QUERY]))
            .where(transitions.c.state == JobState.PERSISTED, belongs_to(account))
            .order_by(attempts.c.number)
        )
        for key, *told in connection.execute(query):
            found[key] = Provenance(*told)
    return found


def owners(connection: Connection, uris: Sequence[str]) -> dict[str, Attempt]:
    """For each of these places that an output was stored in, the attempt that it belongs to."""
    ids = select(outputs.c.attempt_id).where(outputs.c.uri.in_(uris))
    found = read_attempts(connection, select(attempts).where(attempts.c.id.in_(ids)))
    asked = set(uris)
    return {
        output.uri: attempt
        for attempt in found
        for output in attempt.outputs
        if output.uri in asked
    }


def _indices(connection: Connection, attempt_id: int) -> set[int]:
    query = select(outputs.c.index).where(outputs.c.attempt_id == attempt_id)
    return set(connection.execute(query).scalars())
