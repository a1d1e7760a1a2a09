"""What was paid for and the ledger does not know: by the journal, or by sidecars beside outputs.

A ledger remembers how far it has been compared with each journal. One that was restored from a
copy remembers less, and so compares again by itself.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from comfyline.config.account import Account, command
from comfyline.files import is_dead
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger import writes
from comfyline.ledger.attempts import KEPT, UNKNOWN_ORIGIN, Evidence, pack, read_evidence
from comfyline.ledger.block_reasons import short
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.journal import Journal, Line
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection, belongs_to, latest_attempts
from comfyline.ledger.tables import attempts, in_batches, journals

_AT_A_TIME = 500
_NAMED = 5
_ANSWERS_WITHIN = timedelta(days=1)
"""Until when an answer may still be written into a line whose writer may be alive."""
_STEPS = (
    JobState.PLANNED,
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.COMPLETED,
    JobState.PERSISTED,
)


@dataclass(frozen=True, slots=True)
class Compared:
    """How far a journal was compared: up to `until`, but for the lines at `open`.

    `last` is where the last line before began, and its mark: it tells a copy of the journal, which
    went on differently, from the journal itself.
    """

    until: int = 0
    open: Sequence[int] = ()
    last: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many attempts were written down: as accepted, and as in doubt."""

    accepted: int = 0
    in_doubt: int = 0


async def recover(journal: Journal, ledger: Ledger) -> Recovered:
    """Write into the ledger what was accepted and it does not have, as far as that is its own."""
    accepted, in_doubt = await _take_strays(journal.path.with_name("strays"), ledger), 0
    identity = await asyncio.to_thread(journal.identity)
    if identity is None:
        return Recovered(accepted)
    is_ours, now = await _owned_by(ledger, journal), (await ledger.clock())()
    compared = await _compared(journal, identity, ledger)
    reopened = await asyncio.to_thread(_lines_at, journal, compared.open)
    fresh = journal.lines(compared.until)
    still_open: list[int] = []
    while lines := reopened or await asyncio.to_thread(lambda: list(islice(fresh, _AT_A_TIME))):
        reopened = []
        ours = [one for one in lines if is_ours(one)]
        changed = await _write_down(ours, ledger, now)
        accepted += sum(one.request_id is not None for one, done in changed if done)
        in_doubt += sum(one.request_id is None for one, done in changed if done)
        failed = {one.at for one, done in changed if not done}
        still_open += [one.at for one in ours if one.at in failed or _may_be_answered(one, now)]
        until, last = compared.until, compared.last
        if lines[-1].until >= until:
            until, last = lines[-1].until, (lines[-1].at, lines[-1].entry.mark)
        compared = Compared(until, still_open, last)
        await _remember(identity, compared, ledger)
    return Recovered(accepted, in_doubt)


async def _take_strays(folder: Path, ledger: Ledger) -> int:
    """Write down the ids that versions before the journal kept in a file each; return how many."""
    taken = 0
    for path in await asyncio.to_thread(lambda: sorted(folder.glob("*.json"))):
        # What cannot be read, or is another ledger's, stays where it is.
        with suppress(writes.StateConflict, OSError, ValueError, KeyError, TypeError):
            told = json.loads(await asyncio.to_thread(path.read_bytes))
            for one in await ledger.list(Selection(key_prefix=str(told["key"])), of_all=True):
                if (one.number, one.evidence.mark) == (told["number"], told["mark"]):
                    await ledger.accepted(one.id, str(told["request_id"]))
                    await asyncio.to_thread(path.unlink)
                    taken += 1
    return taken


async def recover_asked(journal: Journal, ledger: Ledger, key: str) -> None:
    """Write down what other ledgers have had accepted of one job that this one is asked for."""
    now = (await ledger.clock())()

    def found() -> list[Line]:
        return [one for one in journal.lines() if one.entry.key == key and not one.is_nothing]

    lines = await asyncio.to_thread(found)
    await _write_down(lines, ledger, now)
    for line in lines:
        if line.request_id is not None or _is_over(line, now):
            journal.settled(line.entry.mark)


async def unrecorded(journal: Journal, ledger: Ledger) -> list[Line]:
    """Find what `recover` would write down, and what it could not, without writing anything."""
    identity = await asyncio.to_thread(journal.identity)
    if identity is None:
        return []
    is_ours, now = await _owned_by(ledger, journal), (await ledger.clock())()
    compared = await _compared(journal, identity, ledger)

    def read() -> list[Line]:
        lines = [*_lines_at(journal, compared.open), *journal.lines(compared.until)]
        return [one for one in lines if is_ours(one)]

    lines = await asyncio.to_thread(read)
    return await ledger.database.read(lambda c: [line for line, _ in _missing(c, lines, now)])


def recovered_in_words(recovered: Recovered) -> Iterator[str]:
    """Say what was written down that the ledger did not know."""
    if number := recovered.accepted:
        requests = f"{number:,} accepted request{'s' * (number != 1)} that the ledger did not have"
        verb = "is" if number == 1 else "are"
        yield f"{requests} {verb} written down: what is paid for is collected, not paid again"
    if number := recovered.in_doubt:
        jobs = f"{number:,} job{'s' * (number != 1)} that the ledger did not know"
        verb = "is" if number == 1 else "are"
        yield f"{jobs} {verb} in doubt: {command('jobs --state in_doubt')} lists them"


def unrecorded_in_words(found: Sequence[Line]) -> Iterator[str]:
    """Say what RunComfy accepted, or may have, and the ledger does not have."""
    for line in found[:_NAMED]:
        job, account = line.entry.request["job"], line.entry.account
        what = f"request {line.request_id}" if line.request_id else "a POST without an answer"
        label = f"{short(line.entry.key)} {job['item']} · {job['step']} ({job['pipeline']})"
        reconcile = account.command("reconcile")
        yield f"{what} of {label} is not in the ledger: {reconcile} adds it"
    if len(found) > _NAMED:
        yield f"and {len(found) - _NAMED:,} more"


async def _owned_by(ledger: Ledger, journal: Journal) -> Callable[[Line], bool]:
    """Tell which lines are this ledger's: its own, and of one that lay here, or is gone.

    What another ledger has, which lives beside this one, is that one's to collect.
    """
    identity = await ledger.identity()

    def is_ours(line: Line) -> bool:
        entry = line.entry
        if entry.ledger == identity or entry.place == journal.place:
            return True
        return entry.place.startswith("/") and not Path(entry.place).exists()

    return is_ours


def _is_over(line: Line, now: datetime) -> bool:
    """Return whether nobody will be in the middle of the POST any more."""
    late = now - line.entry.at > timedelta(seconds=LEASE_SECONDS)
    return late or is_dead(line.entry.writer)


def _may_be_answered(line: Line, now: datetime) -> bool:
    is_recent = now - line.entry.at < _ANSWERS_WITHIN
    return line.is_open and is_recent and not is_dead(line.entry.writer)


async def _compared(journal: Journal, identity: str, ledger: Ledger) -> Compared:
    query = select(journals.c.compared).where(journals.c.id == identity)
    told = await ledger.database.read(lambda c: c.execute(query).scalar_one_or_none())
    compared = Compared(**(told or {}))
    if compared.last:
        at, mark = compared.last
        line = await asyncio.to_thread(journal.line_at, at)
        if line is None or line.entry.mark != mark:
            return Compared()
    return compared


async def _remember(identity: str, compared: Compared, ledger: Ledger) -> None:
    def work(connection: Connection) -> None:
        values = {"compared": asdict(compared)}
        this = update(journals).where(journals.c.id == identity).values(values)
        if not connection.execute(this).rowcount:
            connection.execute(insert(journals).values(id=identity, **values))

    await ledger.database.run(work)


def _lines_at(journal: Journal, places: Sequence[int]) -> list[Line]:
    return [line for at in places if (line := journal.line_at(at))]


def _missing(
    connection: Connection, lines: Sequence[Line], now: datetime
) -> Iterator[tuple[Line, int | None]]:
    """Yield what is to be written down of some lines, each with its attempt if there is one."""
    column = attempts.c
    for some in in_batches(lines):
        ids = [line.request_id for line in some if line.request_id]
        query = select(column.request_id, column.origin).where(column.request_id.in_(ids))
        recorded = {(row.request_id, row.origin) for row in connection.execute(query)}
        by_job = select(column.id, column.key, column.evidence)
        by_job = by_job.where(column.key.in_({line.entry.key for line in some}))
        by_mark = {
            (row.key, read_evidence(row.evidence).mark): int(row.id)
            for row in connection.execute(by_job)
        }
        for line in some:
            entry, request_id = line.entry, line.request_id
            attempt_id = by_mark.get((entry.key, entry.mark))
            if line.is_nothing or not (entry.account.is_paid or attempt_id):
                # What the local sandbox made and may have forgotten is not worth a question.
                continue
            if request_id is None:
                is_due = attempt_id is None and _is_over(line, now)
            else:
                is_due = recorded.isdisjoint(
                    {(request_id, entry.account.origin), (request_id, None)}
                )
            if is_due:
                yield line, attempt_id


async def _write_down(
    lines: Sequence[Line], ledger: Ledger, now: datetime
) -> list[tuple[Line, bool]]:
    """Write down what is missing; return each of it, and whether it could be."""

    def work(connection: Connection) -> list[tuple[Line, bool]]:
        changed: list[tuple[Line, bool]] = []
        for line, attempt_id in _missing(connection, lines, now):
            done = False
            with suppress(writes.StateConflict):
                if attempt_id is not None and line.request_id is not None:
                    writes.accept(connection, attempt_id, line.request_id, now)
                else:
                    _insert(connection, line, now)
                done = True
            changed.append((line, done))
        return changed

    return await ledger.database.run(work) if lines else []


def _insert(connection: Connection, line: Line, now: datetime) -> None:
    """Write down an attempt of which this ledger knows nothing."""
    entry = line.entry
    steps = {JobState.PLANNED: entry.at, JobState.SUBMITTING: entry.at}
    values: dict[str, Any] = {
        "number": entry.number,
        "evidence": asdict(Evidence(mark=entry.mark)),
        "claimed_at": entry.at,
        "reserved_usd": entry.request["estimate_usd"],
    }
    if line.request_id is not None:
        steps[JobState.SUBMITTED] = entry.at
        values |= {"request_id": line.request_id, "submitted_at": entry.at}
        values["slot_until"] = entry.at + KEPT
    else:
        steps[JobState.IN_DOUBT] = now
        reason = "The ledger does not know it, and its answer was never written down."
        values |= {"error_kind": "in-doubt", "error_message": reason}
    asked = writes.asked_values(entry.request, entry.account, entry.run_id)
    writes.insert_attempt(connection, asked, steps, now, **values)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job whose outputs lie under their names, as their sidecars tell of it.

    `account` is None where they do not say whose it is.
    """

    checked: CheckedJob
    account: Account | None
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
        asked = writes.asked_values(pack(found.checked), account, "sidecar")
        told = {"number": found.number, "request_id": found.request_id, **when, **cost}
        attempt_id, _ = writes.insert_attempt(connection, asked, at, now, **told)
        writes.record_outputs(connection, attempt_id, found.outputs)
        return True
    state = JobState(row.state)
    if state is JobState.IN_DOUBT:
        connection.execute(update(attempts).where(attempts.c.id == row.id).values(when))
        writes.accept(connection, row.id, found.request_id, now)
        state = JobState.SUBMITTED
    if state is not JobState.COMPLETED and JobState.COMPLETED not in ALLOWED[state]:
        return False
    writes.record_outputs(connection, row.id, found.outputs)
    writes.move(connection, row.id, JobState.COMPLETED, now, **cost)
    writes.move(connection, row.id, JobState.PERSISTED, now)
    return True


def _waiting(connection: Connection, found: StoredJob, account: Account) -> Row[Any] | None:
    """Find the attempt of this very request, or the one that a person was asked about."""
    column = attempts.c
    of_request = column.request_id == found.request_id
    doubted = (column.state == JobState.IN_DOUBT) & (column.error_kind == UNKNOWN_ORIGIN)
    asked = (column.key == found.checked.key) & doubted
    query = select(column.id, column.state).where(of_request | asked, belongs_to(account))
    return connection.execute(query.order_by(column.request_id.is_(None)).limit(1)).one_or_none()


def ask_whose(
    connection: Connection, checked: CheckedJob, uri: str, account: Account, now: datetime
) -> None:
    """Put a job in doubt whose output at `uri` does not say whose it is, unless it is known."""
    if latest_attempts(connection, [checked.key], account):
        return
    said = f"{uri} was made for this job by an older version, which did not record at which "
    said += "expense"
    steps = dict.fromkeys((JobState.PLANNED, JobState.SUBMITTING, JobState.IN_DOUBT), now)
    doubt: dict[str, Any] = {"error_kind": UNKNOWN_ORIGIN, "error_message": said}
    asked = writes.asked_values(pack(checked), account, "sidecar")
    evidence = asdict(Evidence(reason=said))
    writes.insert_attempt(connection, asked, steps, now, evidence=evidence, **doubt)


def _times(told: Mapping[JobState, datetime], now: datetime) -> dict[JobState, datetime]:
    """Return a time for every step, none before that of the one before."""
    found: dict[JobState, datetime] = {}
    last = min(told.values(), default=now)
    for state in _STEPS:
        last = max(last, told.get(state, last))
        found[state] = last
    return found
