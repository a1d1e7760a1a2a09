"""An output on its way in: the file it grows in, its hash so far, and what was promised of it.

After a break it goes on where it stopped, when the server proves that it is still the same file;
otherwise it starts over. Whatever is wrong, nothing of it stands under a final name.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from comfyline.errors import BrokenOutput
from comfyline.files import require_space
from comfyline.runcomfy.hosts import RefusedOutput

HEAD_BYTES = 4096
"""How much has to be there before an output is judged by its beginning."""

_PIECE = 1024 * 1024
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_ANY_GZIP = zlib.MAX_WBITS | 32


class SpoiltOutput(BrokenOutput):
    """What arrived so far is worth nothing: the next try starts over."""


class Incoming:
    """One output that is being fetched to `part`; used as a context manager.

    `most_bytes` is the size from which on it is refused. Blocking where files are touched: `take`
    and `finish` are called in a thread.
    """

    def __init__(self, shown: str, part: Path, most_bytes: int) -> None:
        self._shown = shown
        self._part = part
        self._most_bytes = most_bytes
        self._file: IO[bytes] | None = None
        self._promised: int | None = None
        self._unpack: zlib._Decompress | None = None
        self._forget()

    def __enter__(self) -> Self:
        """The file is opened with the first bytes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file; unless all went well, removes it."""
        if self._file:
            self._file.close()
        if kind:
            self._part.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The hash of what has arrived."""
        return self._digest.hexdigest()

    @property
    def has_begun(self) -> bool:
        """Whether anything of it has come, or was promised."""
        return bool(self.size or self._promised)

    @property
    def progress(self) -> str:
        """How much has arrived, of how much where that was promised."""
        of = "" if self._promised is None else f" of {self._promised:,}"
        return f"{self.size:,}{of} bytes"

    def wanted(self) -> dict[str, str]:
        """The headers that ask for what is missing; none when it has to be the whole file."""
        if not (self.size and self._validator):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    def begin(self, status: int, headers: Mapping[str, str], *, asked_for_rest: bool) -> None:
        """Reads the head of an answer with HTTP 200 or 206.

        Raises `SpoiltOutput` for a part that does not fit what is there, `RefusedOutput` for a
        promise beyond the limit.
        """
        if status == HTTPStatus.PARTIAL_CONTENT:
            self._go_on(headers, asked_for_rest=asked_for_rest)
            return
        self.start_over()
        length = headers.get("Content-Length", "")
        packed = headers.get("Content-Encoding", "identity").strip().lower()
        if packed in {"gzip", "x-gzip", "deflate"}:
            self._unpack = zlib.decompressobj(_ANY_GZIP)
            return
        if packed not in {"identity", ""}:
            raise SpoiltOutput(f"{self._shown} comes packed as {packed[:20]!r}")
        if length.isdecimal():
            self._promised = int(length)
            if self._promised > self._most_bytes:
                raise self._too_large()
            require_space(self._part.parent, self._promised)
        # A weak tag does not vouch for single bytes (RFC 9110, 13.1.5).
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")

    def take(self, piece: bytes) -> None:
        """Writes and hashes the next bytes of the answer. Raises as `begin` does."""
        for chunk in self._unpacked(piece):
            self.size += len(chunk)
            if self.size > self._most_bytes:
                raise self._too_large()
            if len(self.head) < HEAD_BYTES:
                self.head += chunk[: HEAD_BYTES - len(self.head)]
            take(chunk, self._digest, self._opened())

    def finish(self) -> None:
        """Proves that all that was promised is there. Raises `SpoiltOutput`."""
        if self._promised is not None and self.size != self._promised:
            raise SpoiltOutput(f"{self._shown} sent {self.progress}")
        if self._unpack and not self._unpack.eof:
            raise SpoiltOutput(f"{self._shown} is packed and cut short")
        if not self.size:
            raise SpoiltOutput(f"{self._shown} is empty")
        self._opened().flush()

    def start_over(self) -> None:
        """Forgets what has arrived."""
        if self._file:
            self._file.seek(0)
            self._file.truncate()
        self._forget()

    def _forget(self) -> None:
        self.size, self.head = 0, b""
        self._digest = hashlib.sha256()
        self._promised, self._unpack = None, None
        # What proves to the server that the rest belongs to what is here.
        self._validator = ""

    def _go_on(self, headers: Mapping[str, str], *, asked_for_rest: bool) -> None:
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        fits = first == self.size and last + 1 == total and self._promised in {None, total}
        same = headers.get("ETag", self._validator) == self._validator
        if not self._validator.startswith('"'):
            same = headers.get("Last-Modified", self._validator) == self._validator
        if not (asked_for_rest and fits and same) or "Content-Encoding" in headers:
            raise SpoiltOutput(f"{self._shown} sent a part that was not asked for")
        self._promised = total

    def _unpacked(self, piece: bytes) -> Iterator[bytes]:
        if self._unpack is None:
            yield piece
            return
        while piece and not self._unpack.eof:
            try:
                # A few bytes may promise terabytes: never more than a piece of it at a time.
                chunk = self._unpack.decompress(piece, _PIECE)
            except zlib.error:
                raise SpoiltOutput(f"{self._shown} is packed and cannot be unpacked") from None
            piece = self._unpack.unconsumed_tail
            if chunk:
                yield chunk

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = self._part.open("wb")
        return self._file

    def _too_large(self) -> RefusedOutput:
        return RefusedOutput(f"{self._shown} is larger than {self._most_bytes} bytes")


def take(chunk: bytes, digest: "hashlib._Hash", file: IO[bytes]) -> None:
    """Adds some bytes to a file and to its hash."""
    digest.update(chunk)
    file.write(chunk)
