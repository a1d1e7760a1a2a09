"""The files of the sandbox: outputs on the CDN, sync-mode media that are handed over once.

A file is written under a temporary name and renamed, so that a name is never a promise of bytes
that are not there.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Vault:
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
        """A directory for the inputs of one request, gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._tmp) as name:
            yield Path(name)

    def put(self, request_id: str, name: str, content: bytes, *, once: bool) -> None:
        """Stores one output of a request."""
        place = self._place(request_id, once=once)
        place.mkdir(exist_ok=True)
        half = self._tmp / f"{request_id}-{name}"
        half.write_bytes(content)
        half.replace(place / name)

    def path(self, request_id: str, name: str, *, once: bool) -> Path:
        """Where an output lies, if it is there. Only names from the store may be asked for."""
        return self._place(request_id, once=once) / name

    def drop(self, request_id: str) -> None:
        """Removes all outputs of a request."""
        for once in (True, False):
            shutil.rmtree(self._place(request_id, once=once), ignore_errors=True)

    def _place(self, request_id: str, *, once: bool) -> Path:
        return (self._once if once else self._outputs) / request_id
