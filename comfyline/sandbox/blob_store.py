"""The files of the sandbox: outputs, those on the CDN and those that are handed over once.

A file is written on a workbench and then moved, so that a name is never a promise of bytes that
are not there.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TYPES = {
    ".flac": "audio/flac",
    ".jpg": "image/jpeg",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}


def media_type(name: str) -> str:
    """Return the media type of a file by its name."""
    return _TYPES.get(Path(name).suffix, "application/octet-stream")


class BlobStore:
    """The directories `outputs` and `tmp` under the state directory."""

    def __init__(self, directory: Path) -> None:
        self._outputs, self._tmp = directory / "outputs", directory / "tmp"
        # What an earlier process left half-written is of use to nobody.
        shutil.rmtree(self._tmp, ignore_errors=True)
        for path in (self._outputs, self._tmp):
            path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def workbench(self) -> Iterator[Path]:
        """Make a directory for the inputs of one request, gone afterwards."""
        # A thread may still be writing there when its request is broken off.
        with tempfile.TemporaryDirectory(dir=self._tmp, ignore_cleanup_errors=True) as name:
            yield Path(name)

    def put(self, request_id: str, name: str, made: Path) -> None:
        """Take one finished output of a request from the workbench."""
        target = self.path(request_id, name)
        target.parent.mkdir(exist_ok=True)
        made.replace(target)

    def path(self, request_id: str, name: str) -> Path:
        """Return where an output lies, if it is there. Ask only for names from the store."""
        return self._outputs / request_id / name

    def drop(self, request_id: str) -> None:
        """Remove all outputs of a request."""
        shutil.rmtree(self._outputs / request_id, ignore_errors=True)
