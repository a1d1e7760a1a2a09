"""One file, read once: hashed, counted, recognised and opened. Everything here blocks."""

import errno
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from comfyline.errors import Unreachable
from comfyline.job import MediaInfo
from comfyline.media.probe import probe
from comfyline.media.types import HEAD_BYTES, MOST_BYTES, kind_of, media_type_of
from comfyline.storage.file_info import FileInfo, ReadError
from comfyline.storage.known_files import Stamp

_CHUNK = 1024 * 1024
LARGEST = 256 * 2**20
"""Beyond this nothing else matters of a file, and it is not read. What RunComfy takes is smaller,
but of a picture that is too large a smaller copy may be submitted."""


class Hasher:
    """What has been seen of a file's bytes so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._head = b""
        self.bytes = 0

    def take(self, chunk: bytes) -> None:
        """Take the next piece."""
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
        self._digest.update(chunk)
        self.bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """The hash so far."""
        return self._digest.hexdigest()

    @property
    def media_type(self) -> str:
        """The type that the first bytes show."""
        return media_type_of(self._head)


class Passing:
    """A file that passes by: what is not too large is put down for a moment, to be opened.

    The copy has no name, so that it is gone with the process, however that ends.
    """

    def __init__(self) -> None:
        self._seen = Hasher()
        self._copy = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`

    def take(self, chunk: bytes) -> None:
        """Take the next piece. Raises `Unreachable` when the disk is full."""
        self._seen.take(chunk)
        try:
            if self._seen.bytes <= LARGEST:
                self._copy.write(chunk)
        except OSError as error:
            message = f"a copy cannot be kept in {tempfile.gettempdir()}: {error.strerror}"
            raise Unreachable(message, hint="Set TMPDIR to a folder with free space.") from error

    def facts(self) -> FileInfo:
        """Return what the whole file is."""
        self._copy.flush()
        return _facts(self._copy, self._seen)

    def close(self) -> None:
        """Give the copy up."""
        self._copy.close()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a local file, read as a stream. Raises `OSError`."""
    with _open(path) as file:
        return _hashed(file).sha256


def look_at_file(path: str) -> tuple[FileInfo | ReadError, Stamp | None]:
    """Read a local file: its facts, or what is in the way; raises nothing.

    With a stamp when nothing has touched the file for a while: then the facts are good for as long
    as the stamp is the same.
    """
    began = time.time()
    try:
        with _open(Path(path)) as file:
            before = Stamp.of(os.fstat(file.fileno()))
            if before.size > LARGEST:
                return too_large(file.read(HEAD_BYTES), before.size), None
            facts = _facts(file, _hashed(file))
            is_same = before == Stamp.of(os.fstat(file.fileno()))
    except OSError as error:
        return error, None
    except ValueError:  # a path with a zero byte in it
        return OSError(errno.EINVAL, "it is not a path", path), None
    return facts, before if is_same and before.is_settled(began) else None


def too_large(head: bytes, size: int) -> FileInfo:
    """Return what the beginning tells of a file that is too large to be read."""
    return FileInfo("", size, MediaInfo(media_type_of(head[:HEAD_BYTES])))


def _open(path: Path) -> BinaryIO:
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # closed by who asked
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a named pipe as well, instead of waiting for somebody who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _hashed(file: BinaryIO) -> Hasher:
    seen = Hasher()
    while chunk := file.read(_CHUNK):
        seen.take(chunk)
    return seen


def _facts(file: BinaryIO, seen: Hasher) -> FileInfo:
    kind = kind_of(seen.media_type)
    is_opened = seen.bytes <= (LARGEST if kind == "image" else MOST_BYTES[kind]) if kind else False
    look = probe(file, seen.media_type) if is_opened else MediaInfo(seen.media_type)
    return FileInfo(seen.sha256, seen.bytes, look)
