"""What a run needs to know about where it runs: frozen values, no secret of which can be shown.

`load` makes them; nothing below it looks at the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comfyline.config.account import Account
from comfyline.errors import UsageError


class Secret:
    """A text that no repr, log or error shows. No dataclass: `asdict` would lay it open."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @property
    def value(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


Blocks = Mapping[str, Secret]
"""What the Prefect Secret blocks hold that a profile names; empty where no Prefect server is."""


NO_BLOCKS: Blocks = {}


class BlockOutOfReach(UsageError):
    """A profile keeps a secret in a Prefect block, and this command works without a server."""

    kind = "block-out-of-reach"


@dataclass(frozen=True, slots=True)
class RuncomfySettings:
    """How RunComfy is reached, and for whom; times are in seconds."""

    base_url: str
    token: Secret
    download_hosts: tuple[str, ...]
    in_flight: int
    submits_per_second: float
    patience: float
    account: Account
    balance_url: str | None = None


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Object storage. Without key and secret the AWS chain of the machine decides."""

    uploads: str
    endpoint_url: str | None = None
    key: Secret | None = None
    secret: Secret | None = None
    url_expires: float = 0
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    ca_bundle: str | None = None
    aws_profile: str | None = None
    encryption: str | None = None
    kms_key: str | None = None
    storage_class: str | None = None
    public_endpoint_url: str | None = None


NO_STORAGE = StorageSettings("")
"""For who reads folders alone."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a run needs to know about where it runs."""

    profile: str
    home: Path
    model_directories: tuple[Path, ...]
    runcomfy: RuncomfySettings
    storage: StorageSettings
    ledger_url: Secret
