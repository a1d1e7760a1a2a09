"""What was found out about media inputs, remembered over processes by their fingerprints.

Ten thousand photos that have not changed are neither hashed nor decoded again, nor downloaded. A
cache and nothing more: whatever is wrong with it is no error, and the files are read again.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.job import FileInfo, MediaInfo
from comfyline.media.probe import probed_by
from comfyline.storage.place import Listed

KNOWN_FILES = "known-files.sqlite3"
"""Its usual name in the home."""
SETTLED = 2.0
"""Seconds for which a file has to have been left alone. File systems count time in ticks of up to
two seconds: one that is changed twice in a tick looks the same before and after."""
_TABLE = """CREATE TABLE IF NOT EXISTS known_files (
    path BLOB PRIMARY KEY, stamp TEXT NOT NULL, examined_by TEXT NOT NULL, facts TEXT NOT NULL
) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO known_files VALUES (?, ?, ?, ?)"
_GET = "SELECT facts FROM known_files WHERE path = ? AND stamp = ? AND examined_by = ?"
_PATIENCE = 0.5
"""Seconds to wait for who writes: it is quicker to read a few files again."""
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


ReadError = OSError | Unreachable
"""Why a media input cannot be read; `FileNotFoundError` when it is not there."""


def file_fingerprint(found: os.stat_result) -> str:
    """Return what changes with a file's content: size, both times, and the inode.

    The time of change as well, because tools that copy or mend files put the other one back.
    """
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def is_settled(found: os.stat_result, read_at: float) -> bool:
    """Tell whether nothing can have changed unseen since reading began (Unix time)."""
    return max(found.st_mtime_ns, found.st_ctime_ns) < (read_at - SETTLED) * 1e9


def object_fingerprint(found: Listed) -> str:
    """Return what changes with an object's content; empty where the storage gives no ETag."""
    return f"{found.bytes} {found.etag}" if found.etag else ""


def fingerprints_of(paths: Iterable[str]) -> dict[str, str]:
    """Return the fingerprints of those local files that are there. Blocks."""
    found: dict[str, str] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            found[path] = file_fingerprint(os.stat(path))  # noqa: PTH116  # there may be many
    return found


class KnownFiles:
    """The memory in one SQLite file; without a file nothing is remembered. All methods block."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def recall(self, fingerprints: Mapping[str, str]) -> dict[str, FileInfo]:
        """Return what is known of those paths and objects that are the same as then."""
        found: dict[str, FileInfo] = {}
        if self._file is None or not self._file.is_file():
            return found
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE)) as connection:
                for address, fingerprint in fingerprints.items():
                    key = (_name(address), fingerprint, probed_by())
                    row = connection.execute(_GET, key).fetchone()
                    if row and (info := _parse(row[0])):
                        found[address] = info
        except (sqlite3.Error, OSError) as error:
            _forgive(error, self._file)
        return found

    def remember(self, found: Mapping[str, tuple[str, FileInfo]]) -> None:
        """Keep the fingerprints of paths and objects, and what they are, for the next process.

        A home that is not there yet is not made for it: a plan writes nothing.
        """
        if self._file is None or not found or not self._file.parent.is_dir():
            return
        rows = [
            (_name(address), fingerprint, probed_by(), json.dumps(asdict(info)))
            for address, (fingerprint, info) in found.items()
        ]
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE)) as connection, connection:
                connection.execute(_TABLE)
                connection.executemany(_PUT, rows)
        except (sqlite3.Error, OSError) as error:
            _forgive(error, self._file)


def _forgive(error: Exception, file: Path) -> None:
    """Go on without; a file that can never be read again makes room for a new one."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
        with suppress(OSError):
            file.unlink()


def _name(address: str) -> bytes:
    """Return an address as the database knows it: a path absolute, and not every one is text."""
    if not address.startswith("s3://"):
        address = os.path.abspath(address)  # noqa: PTH100  # `resolve` asks the disk
    return os.fsencode(address)


def _parse(info: str) -> FileInfo | None:
    try:
        known = json.loads(info)
        return FileInfo(**{**known, "info": MediaInfo(**known["info"])})
    except (ValueError, TypeError, KeyError):
        return None
