"""What the journal knows and the ledger does not: found, and written down where that is this one's.

A ledger remembers how far it has been compared with each journal. One that was restored from a
copy remembers less, and so compares again by itself.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from comfyline.config.account import command
from comfyline.files import is_dead
from comfyline.job import JobState
from comfyline.ledger import writes
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.block_reasons import short
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.journal import Entry, Journal, Line
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.tables import attempts, journals

_AT_A_TIME = 500
_NAMED = 5
_ANSWERS_WITHIN = timedelta(days=1)
"""Until when an answer may still be written into a line whose writer may be alive."""

_Lines = Sequence[Line]


@dataclass(frozen=True, slots=True)
class Compared:
    """How far a journal was compared: up to `until`, but for the lines at `open`.

    `last` is where the last line before began, and its mark: it tells a copy of the journal, which
    went on differently, from the journal itself.
    """

    until: int = 0
    open: tuple[int, ...] = ()
    last: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Something that RunComfy accepted, or may have, and the ledger does not have.

    `key` is its job's, None for `request_id` where an answer never arrived.
    """

    key: str
    request_id: str | None
    label: str
    line: Line | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many attempts were written down: as accepted, and as in doubt."""

    accepted: int = 0
    in_doubt: int = 0


async def recover(journal: Journal, ledger: Ledger) -> Recovered:
    """Write into the ledger what was accepted and it does not have, as far as that is its own."""
    accepted = await _recover_strays(journal.path.with_name("strays"), ledger)
    in_doubt = 0
    identity = await asyncio.to_thread(journal.identity)
    if identity is None:
        return Recovered(accepted)
    ledger_id, now = await ledger.identity(), (await ledger.clock())()
    compared = await _compared(journal, identity, ledger)
    reopened = await asyncio.to_thread(_lines_at, journal, compared.open)
    fresh = journal.lines(compared.until)
    still_open: list[int] = []
    while lines := reopened or await asyncio.to_thread(lambda: list(islice(fresh, _AT_A_TIME))):
        reopened = []
        ours = [one for one in lines if _belongs(one.entry, ledger_id, journal.place)]

        def work(connection: Connection, ours: _Lines = tuple(ours)) -> list[tuple[Line, bool]]:
            return _write_down(connection, ours, now)

        changed = await ledger.write(work) if ours else []
        accepted += sum(one.request_id is not None for one, done in changed if done)
        in_doubt += sum(one.request_id is None for one, done in changed if done)
        failed = {one.at for one, done in changed if not done}
        still_open += [one.at for one in ours if one.at in failed or _may_be_answered(one, now)]
        until = max(compared.until, lines[-1].until)
        last = lines[-1] if lines[-1].until >= compared.until else None
        compared = Compared(
            until, tuple(still_open), (last.at, last.entry.mark) if last else compared.last
        )
        await _remember(identity, compared, ledger)
    return Recovered(accepted, in_doubt)


async def recover_asked(journal: Journal, ledger: Ledger, key: str) -> None:
    """Write down what other ledgers have had accepted of one job that this one is asked for."""
    now = (await ledger.clock())()

    def found() -> list[Line]:
        return [one for one in journal.lines() if one.entry.key == key and not one.is_nothing]

    lines = await asyncio.to_thread(found)
    await ledger.write(lambda c: _write_down(c, lines, now))
    for line in lines:
        if line.request_id is not None or _is_over(line, now):
            journal.settled(line.entry.mark)


async def unrecorded(journal: Journal, ledger: Ledger) -> list[Unrecorded]:
    """Find what `recover` would write down, and what it could not, without writing anything."""
    strays = journal.path.with_name("strays")
    told = await asyncio.to_thread(lambda: dict(_read_strays(strays)))
    paths = await asyncio.to_thread(lambda: sorted(strays.glob("*.json")))
    found = [Unrecorded(told.get(path, {"key": ""})["key"], path.stem, "") for path in paths]
    identity = await asyncio.to_thread(journal.identity)
    if identity is None:
        return found
    ledger_id, now = await ledger.identity(), (await ledger.clock())()
    compared = await _compared(journal, identity, ledger)

    def read() -> list[Line]:
        lines = [*_lines_at(journal, compared.open), *journal.lines(compared.until)]
        return [one for one in lines if _belongs(one.entry, ledger_id, journal.place)]

    lines = await asyncio.to_thread(read)
    for some in _chunks(lines):
        missing = await ledger.read(lambda c, some=some: _missing(c, some, now))  # type: ignore[misc]
        found += [Unrecorded(o.entry.key, o.request_id, _label(o.entry), o) for o in missing]
    return found


def recovered_in_words(recovered: Recovered) -> Iterator[str]:
    """Say what was written down that the ledger did not know."""
    if number := recovered.accepted:
        said = (
            "accepted request that the ledger did not have is"
            if number == 1
            else ("accepted requests that the ledger did not have are")
        )
        yield f"{number:,} {said} written down: what is paid for is collected, not paid again"
    if number := recovered.in_doubt:
        jobs = (
            "job that the ledger did not know is"
            if number == 1
            else ("jobs that the ledger did not know are")
        )
        yield f"{number:,} {jobs} in doubt: {command('jobs --state in_doubt')} lists them"


def unrecorded_in_words(found: Sequence[Unrecorded]) -> Iterator[str]:
    """Say what RunComfy accepted, or may have, and the ledger does not have."""
    for one in found[:_NAMED]:
        account = one.line.entry.account if one.line else None
        reconcile = account.command("reconcile") if account else command("reconcile")
        what = f"request {one.request_id}" if one.request_id else "a POST without an answer"
        yield f"{what} of {short(one.key)} {one.label} is not in the ledger: {reconcile} adds it"
    if len(found) > _NAMED:
        yield f"and {len(found) - _NAMED:,} more"


def _label(entry: Entry) -> str:
    job = entry.request["job"]
    return f"{job['item']} · {job['step']} ({job['pipeline']})"


def _belongs(entry: Entry, ledger_id: str, place: str) -> bool:
    """Return whether a line is this ledger's: its own, or of one that lay here, or is gone.

    What another ledger has, which lives beside this one, is that one's to collect.
    """
    if entry.ledger == ledger_id or entry.place == place:
        return True
    return entry.place.startswith("/") and not Path(entry.place).exists()


def _is_over(line: Line, now: datetime) -> bool:
    """Return whether nobody will be in the middle of the POST any more."""
    late = now - line.entry.at > timedelta(seconds=LEASE_SECONDS)
    return late or is_dead(line.entry.writer)


def _may_be_answered(line: Line, now: datetime) -> bool:
    is_recent = now - line.entry.at < _ANSWERS_WITHIN
    return line.is_open and is_recent and not is_dead(line.entry.writer)


async def _compared(journal: Journal, identity: str, ledger: Ledger) -> Compared:
    query = select(journals.c.compared).where(journals.c.id == identity)
    told = await ledger.read(lambda c: c.execute(query).scalar_one_or_none())
    if not told:
        return Compared()
    compared = Compared(told["until"], tuple(told["open"]), tuple(told["last"] or ()) or None)
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

    await ledger.write(work)


def _lines_at(journal: Journal, places: Sequence[int]) -> list[Line]:
    return [line for at in places if (line := journal.line_at(at))]


def _chunks(lines: _Lines) -> Iterator[_Lines]:
    return (lines[start : start + _AT_A_TIME] for start in range(0, len(lines), _AT_A_TIME))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger has of some lines: their request ids, and their attempts by mark."""

    request_ids: frozenset[tuple[str, str | None]]
    by_mark: Mapping[tuple[str, str | None], Any]

    @classmethod
    def of(cls, connection: Connection, lines: _Lines) -> "_Known":
        column = attempts.c
        ids = [line.request_id for line in lines if line.request_id]
        query = select(column.request_id, column.origin).where(column.request_id.in_(ids))
        found = frozenset((row.request_id, row.origin) for row in connection.execute(query))
        keys = {line.entry.key for line in lines}
        parts = (column.id, column.key, column.state, column.request_id, column.evidence)
        rows = connection.execute(select(*parts).where(column.key.in_(keys)))
        marked = {(row.key, (row.evidence or {}).get("mark")): row for row in rows}
        return cls(found, marked)

    def has(self, line: Line) -> bool:
        """Return whether nothing is to be written down of a line."""
        if line.is_nothing:
            return True
        account, is_known = line.entry.account, (line.entry.key, line.entry.mark) in self.by_mark
        if line.request_id is None or not (account.is_paid or is_known):
            # What the local sandbox made and may have forgotten is not worth a question.
            return is_known or not account.is_paid
        origin = account.origin
        ids = self.request_ids
        return (line.request_id, origin) in ids or (line.request_id, None) in ids


def _missing(connection: Connection, lines: _Lines, now: datetime) -> list[Line]:
    known = _Known.of(connection, lines)
    return [
        line
        for line in lines
        if not known.has(line) and (line.request_id is not None or _is_over(line, now))
    ]


def _write_down(connection: Connection, lines: _Lines, now: datetime) -> list[tuple[Line, bool]]:
    """Write down what is missing; each of it, and whether it could be."""
    changed: list[tuple[Line, bool]] = []
    for some in _chunks(lines):
        known = _Known.of(connection, some)
        for line in _missing(connection, some, now):
            row = known.by_mark.get((line.entry.key, line.entry.mark))
            try:
                if row is not None and line.request_id is not None:
                    writes.accept(connection, row.id, line.request_id, now)
                else:
                    _insert(connection, line, now)
            except writes.StateConflict:
                changed.append((line, False))
            else:
                changed.append((line, True))
    return changed


def _insert(connection: Connection, line: Line, now: datetime) -> None:
    """Write down an attempt of which this ledger knows nothing."""
    entry = line.entry
    at = entry.at
    steps = {JobState.PLANNED: at, JobState.SUBMITTING: at}
    values: dict[str, Any] = {
        "number": entry.number,
        "evidence": asdict(Evidence(mark=entry.mark)),
        "claimed_at": at,
        "reserved_usd": entry.request["estimate_usd"],
    }
    if line.request_id is not None:
        steps[JobState.SUBMITTED] = at
        values |= {"request_id": line.request_id, "submitted_at": at}
    else:
        steps[JobState.IN_DOUBT] = now
        reason = "The ledger does not know it, and its answer was never written down."
        values |= {"error_kind": "in-doubt", "error_message": reason}
    writes.insert_attempt(
        connection, entry.request, entry.account, steps, now, run_id=entry.run_id, **values
    )


# Before there was a journal, an id that could not be written down had a file of its own.


def _read_strays(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(path.read_text(encoding="utf-8"))
            needed = {name: told[name] for name in ("key", "number", "mark", "request_id")}
            found.append((path, needed))
    return found


async def _recover_strays(folder: Path, ledger: Ledger) -> int:
    recovered = 0
    for path, told in await asyncio.to_thread(_read_strays, folder):
        for attempt in await ledger.list(Selection(key_prefix=str(told["key"])), of_all=True):
            # By its mark, because another ledger may have the same key and number as well.
            if (attempt.number, attempt.evidence.mark) == (told["number"], told["mark"]):
                with suppress(writes.StateConflict):
                    await ledger.accepted(attempt.id, str(told["request_id"]))
                    await asyncio.to_thread(path.unlink)
                    recovered += 1
    return recovered
