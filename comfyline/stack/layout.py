"""Where the stack keeps its things under one home."""

import os
import stat
import tempfile
from contextlib import suppress
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
    def prefect_auth_string(self) -> Path:
        """What the Prefect server of this home asks everybody for, as `user:password`."""
        return self.stack / "prefect-auth-string"

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
        """Return the pid file of a service."""
        return self.stack / f"{service}.json"

    def log(self, service: str) -> Path:
        """Return the file with what a service has written to its stdout and stderr."""
        return self.home / "logs" / f"{service}.log"


_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(folder: Path) -> None:
    """Make a folder its owner's alone; what lies in one that was open is closed with it.

    Raises `OSError` where it can be neither made nor closed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=stat.S_IRWXU)
    if not folder.stat().st_mode & _OTHERS:
        return
    # The folder first: nobody else gets at what lies in it from here on.
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if mode & _OTHERS and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read; a reader sees the old or the new text whole."""
    private_folder(path.parent)
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
