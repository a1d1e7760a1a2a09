"""Profile + environment + local stack → one frozen `Settings`, read once at the edge.

Precedence, strongest first: RUNCOMFY_BASE_URL and COMFYLINE_LEDGER_URL, the profile, the AWS
variables where the profile leaves `endpoint_url` open, the defaults. Nothing below this module
looks at the environment.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from comfyline.config_files import config_directories, model_directories
from comfyline.errors import InputInvalid, Problem, TokenRejected
from comfyline.profile import LOCAL_SANDBOX, LOCAL_STORAGE, ProfileDocument, load_profile


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no repr, log or error shows."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class LocalStack:
    """What the settings need to know of the local stack; None where it does not run."""

    sandbox_url: str | None = None
    sandbox_token: Secret | None = None
    storage_endpoint: str | None = None
    storage_key: Secret | None = None
    storage_secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class RuncomfySettings:
    """How RunComfy is reached; times are in seconds."""

    base_url: str
    token: Secret
    download_hosts: tuple[str, ...]
    in_flight: int
    submits_per_second: float
    patience: float


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Object storage. Without key and secret the AWS chain of the machine decides."""

    uploads: str
    endpoint_url: str | None
    key: Secret | None
    secret: Secret | None
    url_expires: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a run needs to know about where it runs."""

    profile: str
    home: Path
    model_directories: tuple[Path, ...]
    runcomfy: RuncomfySettings
    storage: StorageSettings
    ledger_url: Secret


def home_directory(environ: Mapping[str, str], working_directory: Path) -> Path:
    """Where local state lives: COMFYLINE_HOME, else `.comfyline/` in the working directory."""
    return (working_directory / environ.get("COMFYLINE_HOME", ".comfyline")).resolve()


def local_services(
    profile: ProfileDocument, environ: Mapping[str, str]
) -> tuple[Literal["storage", "sandbox"], ...]:
    """Which services of the local stack a profile needs: `sandbox`, `storage`, both or none."""
    needed: list[Literal["storage", "sandbox"]] = []
    if profile.storage.endpoint_url == LOCAL_STORAGE:
        needed.append("storage")
    if _base_url(profile, environ) == LOCAL_SANDBOX:
        needed.append("sandbox")
    return tuple(needed)


def read_profile(name: str, working_directory: Path) -> ProfileDocument:
    """The profile of that name or file, as it stands in YAML."""
    return load_profile(name, config_directories(working_directory))


def find_token(profile: ProfileDocument, environ: Mapping[str, str]) -> Secret | None:
    """The token from the environment; None when the sandbox brings its own.

    Raises `TokenRejected` when there is none. Called before anything is uploaded.
    """
    if _base_url(profile, environ) == LOCAL_SANDBOX:
        return None
    names = [profile.runcomfy.token_env]
    if names == ["RUNCOMFY_API_TOKEN"]:
        names.append("RUNCOMFY_TOKEN")
    for name in names:
        if token := environ.get(name, "").strip():
            return Secret(token)
    raise TokenRejected(
        f"There is no RunComfy token: {' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
        " not set",
        hint=f"Create a token in your RunComfy profile and `export {names[0]}=…`.",
    )


def resolve(
    name: str,
    profile: ProfileDocument,
    environ: Mapping[str, str],
    working_directory: Path,
    local: LocalStack,
) -> Settings:
    """Merges everything into `Settings`.

    Raises `TokenRejected` without a token and `InputInvalid` for an origin that must not get one.
    """
    home = home_directory(environ, working_directory)
    token = find_token(profile, environ) or local.sandbox_token
    base_url = _base_url(profile, environ)
    if base_url == LOCAL_SANDBOX:
        base_url = local.sandbox_url or ""
    if token is None or not base_url:
        raise TokenRejected("The sandbox does not run", hint="Start it with `comfyline up`.")
    endpoint = profile.storage.endpoint_url
    key: Secret | None = None
    secret: Secret | None = None
    if endpoint == LOCAL_STORAGE:
        endpoint, key, secret = local.storage_endpoint, local.storage_key, local.storage_secret
    elif endpoint is None:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    return Settings(
        profile=name,
        home=home,
        model_directories=model_directories(working_directory),
        runcomfy=RuncomfySettings(
            base_url=_origin(base_url),
            token=token,
            download_hosts=profile.runcomfy.download_hosts,
            in_flight=profile.runcomfy.in_flight,
            submits_per_second=profile.runcomfy.submits_per_second,
            patience=profile.runcomfy.patience,
        ),
        storage=StorageSettings(
            uploads=profile.storage.uploads.rstrip("/"),
            endpoint_url=endpoint,
            key=key,
            secret=secret,
            url_expires=profile.storage.url_expires,
        ),
        ledger_url=Secret(ledger_url(profile, environ, home)),
    )


def ledger_url(profile: ProfileDocument | None, environ: Mapping[str, str], home: Path) -> str:
    """The ledger's SQLAlchemy URL: COMFYLINE_LEDGER_URL, the profile's, else SQLite at home."""
    named = environ.get("COMFYLINE_LEDGER_URL") or (profile.ledger if profile else None)
    return named or f"sqlite:///{home / 'ledger.sqlite3'}"


def _base_url(profile: ProfileDocument, environ: Mapping[str, str]) -> str:
    return environ.get("RUNCOMFY_BASE_URL", "").strip() or profile.runcomfy.base_url


def _origin(base_url: str) -> str:
    """The origin that gets the token: https, or this machine itself."""
    parts = urlsplit(base_url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return base_url.rstrip("/")
    raise InputInvalid(
        [
            Problem(
                "runcomfy.base_url",
                f"{base_url!r} would get the token unencrypted",
                "use https:// (http:// is for this machine only)",
            )
        ]
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
