"""What a run needs to know about where it runs: frozen values, no secret of which can be shown.

`load` makes them; nothing below it looks at the environment.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from comfyline.config.account import Account

Polling = Literal["eager", "balanced", "frugal"]


@dataclass(frozen=True, slots=True)
class RuncomfySettings:
    """How RunComfy is reached, and for whom; times are in seconds."""

    base_url: str
    token: SecretStr
    download_hosts: tuple[str, ...]
    in_flight: int
    submits_per_second: float
    patience: float
    account: Account
    balance_url: str | None = None
    polling: Polling = "balanced"


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Object storage. Without key and secret the AWS chain of the machine decides."""

    uploads: str
    endpoint_url: str | None = None
    key: SecretStr | None = None
    secret: SecretStr | None = None
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
class TelemetrySettings:
    """Which metrics and traces are exported: nothing, unless OpenTelemetry's variables ask for it.

    `metrics` are `otlp` and `prometheus`; `page` is where the latter serves. `labels` are those of
    pipelines that become attributes. `mistake` is what the variables ask for and comfyline cannot.
    """

    metrics: frozenset[str] = frozenset()
    traces: bool = False
    page: tuple[str, int] = ("localhost", 9464)
    labels: tuple[str, ...] = ()
    mistake: str = ""

    @property
    def is_on(self) -> bool:
        """Whether anything is exported."""
        return bool(self.metrics) or self.traces


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a run needs to know about where it runs."""

    profile: str
    home: Path
    model_directories: tuple[Path, ...]
    runcomfy: RuncomfySettings
    storage: StorageSettings
    ledger_url: SecretStr
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
