"""What was found out about files and objects, remembered over processes.

Ten thousand photos that have not changed are neither hashed nor decoded again, nor downloaded. A
cache and nothing more: whatever is wrong with it is no error, and the files are read again.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from comfyline.job import MediaInfo
from comfyline.media.probe import probed_by
from comfyline.storage.file_info import FileInfo
from comfyline.storage.remote_stamps import RemoteStamp

KNOWN_FILES = "known-files.sqlite3"
"""Its usual name in the home."""
_TABLE = """CREATE TABLE IF NOT EXISTS known_files (
    path BLOB PRIMARY KEY, stamp TEXT NOT NULL, examined_by TEXT NOT NULL, facts TEXT NOT NULL
) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO known_files VALUES (?, ?, ?, ?)"
_AT_A_TIME = 500
_PATIENCE = 0.5
"""Seconds to wait for who writes: it is quicker to read a few files again."""
_SETTLED = 2.0
"""Seconds for which a file has to have been left alone. File systems count time in ticks of up to
two seconds: one that is changed twice in a tick looks the same before and after."""
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes with a file's content: size, both times in nanoseconds, and the inode.

    The time of change as well, because tools that copy or mend files put the other one back.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        """Return the stamp of a file as the system describes it."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def is_settled(self, read_at: float) -> bool:
        """Tell whether nothing can have changed unseen since reading began (Unix time)."""
        return max(self.modified, self.changed) < (read_at - _SETTLED) * 1e9

    def __str__(self) -> str:
        return f"{self.size} {self.modified} {self.changed} {self.inode}"


class KnownFiles:
    """The memory in one SQLite file; without a file nothing is remembered. All methods block."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def recall(self, paths: Sequence[str]) -> dict[str, FileInfo]:
        """Return the facts of those local files that are known and have not changed since."""
        return self._recall({name: path for path in paths if (name := _name(path))}, _stamp_now)

    def recall_objects(self, stamps: Mapping[str, RemoteStamp]) -> dict[str, FileInfo]:
        """Return the facts of those objects that are known and are the same as then."""
        by_name = {name: uri for uri in stamps if (name := _name(uri))}
        return self._recall(by_name, lambda name: str(stamps[by_name[name]]))

    def _recall(
        self, by_name: Mapping[bytes, str], now: Callable[[bytes], str]
    ) -> dict[str, FileInfo]:
        found: dict[str, FileInfo] = {}
        if self._file is None or not self._file.is_file():
            return found
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE)) as connection:
                for name, stamp, facts in _rows(connection, list(by_name)):
                    if stamp == now(name) and (read := _read(facts)):
                        found[by_name[name]] = read
        except (sqlite3.Error, OSError) as error:
            _forgive(error, self._file)
        return found

    def remember(self, found: Mapping[str, tuple[Stamp | RemoteStamp, FileInfo]]) -> None:
        """Keep the facts of files and objects for the next process.

        A home that is not there yet is not made for it: a plan writes nothing.
        """
        if self._file is None or not found or not self._file.parent.is_dir():
            return
        rows = [
            (name, str(stamp), probed_by(), json.dumps(asdict(facts)))
            for path, (stamp, facts) in found.items()
            if (name := _name(path))
        ]
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE)) as connection, connection:
                connection.execute(_TABLE)
                connection.executemany(_PUT, rows)
        except (sqlite3.Error, OSError) as error:
            _forgive(error, self._file)


def _forgive(error: Exception, file: Path) -> None:
    """Goes on without; a file that can never be read again makes room for a new one."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
        with suppress(OSError):
            file.unlink()


def _name(path: str) -> bytes:
    """Return a path as the database knows it: absolute, in bytes, as not every name is text."""
    try:
        if path.startswith("s3://"):
            return os.fsencode(path)
        return os.fsencode(os.path.abspath(path))  # noqa: PTH100  # `resolve` asks the disk
    except ValueError:
        return b""


def _rows(
    connection: sqlite3.Connection, names: Sequence[bytes]
) -> Iterator[tuple[bytes, str, str]]:
    left: Iterable[bytes] = iter(names)
    while some := list(islice(left, _AT_A_TIME)):
        marks = ",".join("?" * len(some))
        query = f"SELECT path, stamp, facts FROM known_files WHERE examined_by = ? AND path IN ({marks})"  # noqa: E501, S608
        yield from connection.execute(query, (probed_by(), *some))


def _stamp_now(name: bytes) -> str:
    try:
        return str(Stamp.of(os.stat(name)))  # noqa: PTH116  # a path in bytes
    except OSError:
        return ""


def _read(facts: str) -> FileInfo | None:
    try:
        known = json.loads(facts)
        return FileInfo(**{**known, "look": MediaInfo(**known["look"])})
    except (ValueError, TypeError, KeyError):
        return None
