"""What the local servers ask for, made at random once for each home, and kept at 0600."""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.stack.layout import write_private


@dataclass(frozen=True, slots=True)
class StorageCredentials:
    """An S3 key pair. Its repr can stand in a log, because it shows no secret."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


def read_credentials(path: Path) -> StorageCredentials | None:
    """Read the pair of this home; None where there is none yet. `Unreachable` for a broken file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        pair = json.loads(text)
        return StorageCredentials(str(pair["access_key_id"]), str(pair["secret_access_key"]))
    except (ValueError, KeyError, TypeError):
        # The parser's own message would quote the file, so it is left out of the chain.
        raise Unreachable(
            f"{path} does not hold a key pair",
            hint="remove the file; the next start makes a new pair",
        ) from None


def read_or_make_credentials(path: Path) -> StorageCredentials:
    """Read the pair of this home, or make it now. To be called under the home's lock."""
    found = read_credentials(path)
    if found is not None:
        return found
    # Some S3 clients refuse keys of fewer than 17 characters; neither alphabet has the comma or
    # the quote that rclone's RCLONE_AUTH_KEY gives a meaning to.
    made = StorageCredentials(f"comfyline{secrets.token_hex(8)}", secrets.token_urlsafe(32))
    pair = {"access_key_id": made.access_key_id, "secret_access_key": made.secret_access_key}
    write_private(path, json.dumps(pair) + "\n")
    return made


def read_auth_string(path: Path) -> str | None:
    """Read `user:password` of the home's Prefect server; None when there is none yet."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    user, _, password = text.partition(":")
    if not (user and password):
        raise Unreachable(
            f"{path} does not hold user:password",
            hint="remove the file; `comfyline up` makes a new password",
        )
    return text


def read_or_make_auth_string(path: Path) -> str:
    """Read the Prefect server's `user:password`, or make it now. Needs the home's lock."""
    found = read_auth_string(path)
    if found is not None:
        return found
    made = f"comfyline:{secrets.token_urlsafe(24)}"
    write_private(path, made + "\n")
    return made
