"""Where the stack keeps its things under one home."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one home, an absolute directory. Two homes share nothing."""

    home: Path

    @property
    def stack(self) -> Path:
        """Pid files, ports, credentials and the lock."""
        return self.home / "stack"

    @property
    def lock(self) -> Path:
        """Held while somebody starts or stops something in this home."""
        return self.stack / "lock"

    @property
    def ports(self) -> Path:
        """The ports used last, kept after `stop` so that addresses stay the same."""
        return self.stack / "ports.json"

    @property
    def credentials(self) -> Path:
        """The key pair of this home's storage."""
        return self.stack / "credentials.json"

    @property
    def prefect(self) -> Path:
        """The server's PREFECT_HOME, with its database."""
        return self.home / "prefect"

    @property
    def storage(self) -> Path:
        """The root of the object storage: one directory a bucket, one plain file an object."""
        return self.home / "storage"

    @property
    def sandbox(self) -> Path:
        """The sandbox's state."""
        return self.home / "sandbox"

    def record(self, service: str) -> Path:
        """The pid file of a service."""
        return self.stack / f"{service}.json"

    def log(self, service: str) -> Path:
        """What a service has written to its stdout and stderr."""
        return self.home / "logs" / f"{service}.log"


def write_private(path: Path, text: str) -> None:
    """Writes a file that its owner alone may read; a reader sees the old or the new text whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes the file with mode 0600, so that it is never readable in between.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
