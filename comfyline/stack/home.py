"""What lies in one home: the paths of the local stack, and the keys it asks for, at mode 0600."""

import json
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.files import appearing_whole

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Layout:
    """The paths of one home, an absolute directory. Two homes share nothing."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stack = home / "stack"
        # Held while somebody starts or stops something in this home.
        self.lock = self.stack / "lock"
        # The ports used last, kept after `stop` so that addresses stay the same.
        self.ports = self.stack / "ports.json"
        # The key pair of the storage, and the `user:password` of the Prefect server.
        self.credentials = self.stack / "credentials.json"
        self.prefect_auth_string = self.stack / "prefect-auth-string"
        # Where each service keeps what it has; in the storage, one directory a bucket.
        self.prefect = home / "prefect"
        self.storage = home / "storage"
        self.sandbox = home / "sandbox"

    def record(self, service: str) -> Path:
        """Return the pid file of a service."""
        return self.stack / f"{service}.json"

    def log(self, service: str) -> Path:
        """Return the file with what a service has written to its stdout and stderr."""
        return self.home / "logs" / f"{service}.log"


@dataclass(frozen=True, slots=True)
class StorageCredentials:
    """An S3 key pair. Its repr can stand in a log, because it shows no secret."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


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


def private_opener(path: str, flags: int) -> int:
    """Open a file that is its owner's alone from its first moment; an opener for `open`."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read; a reader sees the old or the new text whole."""
    private_folder(path.parent)
    with appearing_whole(path) as part, open(part, "x", opener=private_opener) as file:
        file.write(text)


def read_credentials(path: Path) -> StorageCredentials | None:
    """Read the key pair of a home; None where there is none yet."""
    try:
        pair = json.loads(path.read_text(encoding="utf-8"))
        return StorageCredentials(str(pair["access_key_id"]), str(pair["secret_access_key"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # The parser's own message would quote the file, so it is left out of the chain.
        raise Unreachable(
            f"{path} does not contain a key pair",
            hint="remove the file; the next start makes a new pair",
        ) from None


def make_credentials(path: Path) -> StorageCredentials:
    """Read the key pair of a home, or make it now. Needs the home's lock."""
    if found := read_credentials(path):
        return found
    # Some S3 clients refuse keys of fewer than 17 characters; neither alphabet has the comma or
    # the quote that rclone's RCLONE_AUTH_KEY gives a meaning to.
    made = StorageCredentials(f"comfyline{secrets.token_hex(8)}", secrets.token_urlsafe(32))
    pair = {"access_key_id": made.access_key_id, "secret_access_key": made.secret_access_key}
    write_private(path, json.dumps(pair) + "\n")
    return made


def read_auth_string(path: Path) -> str | None:
    """Read the Prefect server's `user:password` of a home; None where there is none yet."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except FileNotFoundError:
        return None


def make_auth_string(path: Path) -> str:
    """Read the Prefect server's `user:password`, or make it now. Needs the home's lock."""
    if found := read_auth_string(path):
        return found
    made = f"comfyline:{secrets.token_urlsafe(24)}"
    write_private(path, made + "\n")
    return made
