"""The files of the sandbox: outputs on the CDN, sync-mode media that are handed over once.

A file is written on a workbench and then moved, so that a name is never a promise of bytes that
are not there.
"""

import mimetypes
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Without the machine's own tables: the same file has the same type everywhere.
_TYPES = mimetypes.MimeTypes(())
for _type, _extension in {
    "audio/flac": ".flac",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
}.items():
    _TYPES.add_type(_type, _extension)


def media_type(name: str) -> str:
    """Return the media type of a file by its name."""
    return _TYPES.guess_type(name)[0] or "application/octet-stream"


class BlobStore:
    """The directories `outputs`, `once` and `tmp` under the state directory."""

    def __init__(self, directory: Path) -> None:
        self._outputs, self._once = directory / "outputs", directory / "once"
        self._tmp = directory / "tmp"
        # What an earlier process left half-written is of use to nobody.
        shutil.rmtree(self._tmp, ignore_errors=True)
        for path in (self._outputs, self._once, self._tmp):
            path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def workbench(self) -> Iterator[Path]:
        """Make a directory for the inputs of one request, gone afterwards."""
        # A thread may still be writing there when its request is broken off.
        with tempfile.TemporaryDirectory(dir=self._tmp, ignore_cleanup_errors=True) as name:
            yield Path(name)

    def put(self, request_id: str, name: str, made: Path, *, once: bool) -> None:
        """Take one finished output of a request from the workbench."""
        place = self._place(request_id, once=once)
        place.mkdir(exist_ok=True)
        made.replace(place / name)

    def path(self, request_id: str, name: str, *, once: bool) -> Path:
        """Return where an output lies, if it is there. Ask only for names from the store."""
        return self._place(request_id, once=once) / name

    def drop(self, request_id: str) -> None:
        """Remove all outputs of a request."""
        for once in (True, False):
            shutil.rmtree(self._place(request_id, once=once), ignore_errors=True)

    def _place(self, request_id: str, *, once: bool) -> Path:
        return (self._once if once else self._outputs) / request_id
