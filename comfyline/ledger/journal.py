"""The journal: what RunComfy accepted from this machine, in a file outside of the database.

A database can be restored from yesterday, fail over to a stale copy, or be another one. So each
POST has its line here, written and synced before it leaves, with the room for its request id: to
write the id down later takes no new space on a disk that is full by then. A line is never removed;
only its last field, `end`, is overwritten in place, once: `null` until it is known how the POST
ended, then `{"accepted": ID}`, or `{"nothing": WHY}` where it is known to cost nothing.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import make_url

from comfyline.config.account import Account
from comfyline.errors import TryLater
from comfyline.files import sync_directory

JOURNAL = "accepted.jsonl"
"""Its name in COMFYLINE_HOME."""

_ROOM = 192
"""Bytes of `end`: a request id has 128 letters, digits and signs at the most."""
_TAIL = b"}\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """A POST that is about to leave.

    `ledger` is the id of the ledger that claimed it, and `place` where that lies; `writer` the
    process, `request` the job as the ledger keeps it.
    """

    # In the order of a line: it is told by its beginning whose it is.
    ledger: str
    key: str
    number: int
    mark: str
    place: str
    account: Account
    at: datetime
    run_id: str
    writer: str
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the journal, which begins `at` and is over before `until`.

    With a `request_id` it was accepted. `is_nothing`: it is known to have cost nothing.
    """

    at: int
    until: int
    entry: Entry
    request_id: str | None
    is_nothing: bool

    @property
    def is_open(self) -> bool:
        """Whether nothing is written of how the POST ended."""
        return self.request_id is None and not self.is_nothing


class AskedElsewhere(Exception):  # `submit` handles it, and nobody else sees it
    """Another ledger has asked for the same job at the same account: this one has to adopt that."""


class Journal:
    """The journal in one file; any number of processes use it at once.

    `place` is where the ledger of this process lies, see `place_of`.
    """

    def __init__(self, path: Path, place: str) -> None:
        self.path = path
        self.place = place
        self._read_until = 0
        self._others: dict[tuple[str, Account], set[str]] = {}
        self._settled: set[str] = set()

    def reserve(self, entry: Entry) -> int:
        """Write a line down durably, with the room for what becomes of it; return where that is.

        Raises `TryLater` when there is no room, and `AskedElsewhere`: the POST must not leave.
        """
        try:
            with self._locked() as file:
                self._look_at_others(file, entry.ledger)
                others = self._others.get((entry.key, entry.account), set())
                if entry.account.is_paid and others - self._settled:
                    raise AskedElsewhere
                return _append(file, _line_of(entry))
        except OSError as error:
            raise TryLater(
                f"No room for its request id could be reserved in {self.path} "
                f"({error.strerror or error}), so it was not submitted",
                hint="Free some space on that disk, then run again.",
            ) from error

    def accepted(self, at: int, request_id: str) -> None:
        """Write the request id into its reserved place."""
        self._fill(at, {"accepted": request_id})

    def nothing(self, at: int, why: str) -> None:
        """Write into the reserved place that nothing was accepted. That it fails costs nothing."""
        with suppress(OSError):
            self._fill(at, {"nothing": why})

    def settled(self, mark: str) -> None:
        """Let a job be asked for again although another ledger has, whose answer is known here."""
        self._settled.add(mark)

    def identity(self) -> str | None:
        """Return what tells this journal from one that was made anew; None where there is none."""
        with (
            suppress(FileNotFoundError, ValueError, KeyError, TypeError),
            self.path.open("rb") as file,
        ):
            return str(json.loads(file.readline())["journal"])
        return None

    def lines(self, start: int = 0) -> Iterator[Line]:
        """Read the lines from a place on; what is no whole line of the journal's is left out."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(start)
            for at, raw in _whole_lines(file):
                if line := _read(at, raw):
                    yield line

    def line_at(self, at: int) -> Line | None:
        """Return the line that begins at a place; None when none does."""
        line = next(self.lines(at), None)
        return line if line and line.at == at else None

    def _fill(self, at: int, end: dict[str, str]) -> None:
        told = json.dumps(end).encode()
        if len(told) > _ROOM:
            raise OSError(f"{len(told)} bytes are more than the room of {_ROOM}")
        with self.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), told.ljust(_ROOM), at)
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_size:
                head = {"journal": secrets.token_hex(16), "version": 1}
                _append(file, json.dumps(head).encode() + b"\n")
                sync_directory(self.path.parent)
            yield file

    def _look_at_others(self, file: BinaryIO, ledger: str) -> None:
        """Take in what other ledgers have asked for since the last look."""
        file.seek(self._read_until)
        ours = json.dumps(ledger).encode()
        for at, raw in _whole_lines(file):
            self._read_until = at + len(raw)
            # Without reading the line, which may be long, where it is our own.
            if ours not in raw[:200] and (line := _read(at, raw)) and not line.is_nothing:
                one = line.entry
                self._others.setdefault((one.key, one.account), set()).add(one.mark)


def place_of(url: str) -> str:
    """Return where a ledger lies, without user and password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return str(Path(parsed.database).resolve()) if parsed.database else ""
    host = parsed.host or parsed.query.get("host", "localhost")
    return f"{parsed.get_backend_name()}://{host}:{parsed.port or 5432}/{parsed.database}"


def _line_of(entry: Entry) -> bytes:
    told = asdict(entry) | {"at": entry.at.isoformat()}
    return json.dumps(told).encode()[:-1] + b', "end": ' + b"null".ljust(_ROOM) + _TAIL


def _append(file: BinaryIO, line: bytes) -> int:
    """Write a line at the end, whole or not at all; return where its last field begins."""
    end = os.lseek(file.fileno(), 0, os.SEEK_END)
    # A process that died in the middle of a line has sent nothing for it.
    torn = b"\n" if end and os.pread(file.fileno(), 1, end - 1) != b"\n" else b""
    left = torn + line
    at = end + len(left)
    try:
        file.seek(end)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), end)
        raise
    return at - len(_TAIL) - _ROOM


def _whole_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line that ends, and where it begins; much is read at a time."""
    at = file.tell()
    rest = b""
    while piece := file.read(1024 * 1024):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield at, line + b"\n"
            at += len(line) + 1


def _read(at: int, raw: bytes) -> Line | None:
    try:
        told = json.loads(raw)
        end = told.pop("end") or {}
        told["account"] = Account(**told["account"])
        told["at"] = datetime.fromisoformat(told["at"]).astimezone(UTC)
        entry = Entry(**told)
        return Line(at, at + len(raw), entry, end.get("accepted"), "nothing" in end)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
