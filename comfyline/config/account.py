"""At whose expense: the origin that a request is sent to, and the account there that pays for it.

What was asked for at one origin or account is never taken for, asked about or counted at another.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LOCAL_SANDBOX = "local:sandbox"
"""How a profile names the local stack's sandbox, whichever port it has today; also its origin."""

_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a request belongs to.

    `origin` is scheme, host and port of the profile's `base_url`, `name` its `runcomfy.account`;
    nothing of it is derived from the token. `profile` is how people reach it and tells nothing
    apart.
    """

    origin: str
    name: str = "default"
    profile: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.origin if self.name == "default" else f"{self.origin}, account {self.name}"

    @property
    def is_paid(self) -> bool:
        """Whether what it makes costs money: all but the local sandbox's."""
        return self.origin != LOCAL_SANDBOX

    def command_line(self, words: str) -> str:
        """Return a command as people type it for this account: comfyline WORDS --profile NAME."""
        option = f" --profile {shlex.quote(self.profile)}" if self.profile else ""
        return f"comfyline {words}{option}"

    def command(self, words: str) -> str:
        """Return a command of this account in backticks, for a sentence."""
        return f"`{self.command_line(words)}`"


def origin_of(base_url: str) -> str:
    """Return scheme, host and port of a web address, the scheme's own port left out."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port
    shown = "" if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


_ANY = Account("")
_current: ContextVar[Account] = ContextVar("comfyline_account", default=_ANY)


@contextmanager
def acting_for(account: Account) -> Iterator[None]:
    """Let the hints inside the block name this account's profile."""
    token = _current.set(account)
    try:
        yield
    finally:
        _current.reset(token)


def command_line(words: str) -> str:
    """Return a command as people type it, with the profile that this process works for."""
    return _current.get().command_line(words)


def command(words: str) -> str:
    """Return a command as people type it in backticks, for a sentence."""
    return _current.get().command(words)
