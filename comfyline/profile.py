"""The profile: where a pipeline runs. One YAML file, every unknown key an error."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from comfyline.duration import Seconds
from comfyline.errors import UsageError
from comfyline.yamlfile import did_you_mean, load_yaml, validate_document

LOCAL_SANDBOX = "local:sandbox"
LOCAL_STORAGE = "local:storage"

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)


def api_origin(base_url: str) -> str:
    """The one origin that gets the token, or `local:sandbox`.

    Raises ValueError with the end of a sentence; it repeats nothing that may be a secret.
    """
    if base_url == LOCAL_SANDBOX:
        return base_url
    parts = _web_address(base_url, f"be https://HOST, or {LOCAL_SANDBOX}")
    if parts.path.strip("/"):
        raise ValueError("should be an origin, https://HOST or https://HOST:PORT, without a path")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            "would get the token unencrypted: use https:// (http:// is for this machine only)"
        )
    return f"{parts.scheme}://{parts.netloc}"


def balance_address(url: str) -> str:
    """The address of the balance, or `local:sandbox`. Raises ValueError as `api_origin` does."""
    if url == LOCAL_SANDBOX:
        return url
    parts = _web_address(url, f"be https://HOST/PATH, or {LOCAL_SANDBOX}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("would get the token unencrypted: use https://")
    return url


def storage_endpoint(endpoint_url: str) -> str:
    """An S3-compatible endpoint, or `local:storage`. Raises ValueError as `api_origin` does."""
    if endpoint_url != LOCAL_STORAGE:
        _web_address(endpoint_url, f"be https://HOST, http://HOST or {LOCAL_STORAGE}")
    return endpoint_url


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _web_address(url: str, should: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or re.search(r"[\s\\]", url):
        raise ValueError(f"should {should}")
    if "@" in parts.netloc:
        raise ValueError("should hold no user and no password")
    if "?" in url or "#" in url:
        raise ValueError("should hold nothing after `?` or `#`")
    return parts


def _variable_name(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        # What was written instead is not repeated: it may be the token.
        raise ValueError("should be the name of an environment variable, never the token itself")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RuncomfySection(_Section):
    """How RunComfy is reached."""

    base_url: Annotated[
        str,
        AfterValidator(api_origin),
        Field(description="Origin of the API, or local:sandbox for the local stand-in."),
    ]
    token_env: Annotated[
        str,
        AfterValidator(_variable_name),
        Field(description="Name of the environment variable that holds the token."),
    ] = "RUNCOMFY_API_TOKEN"  # noqa: S105  # the name of a variable
    download_hosts: Annotated[
        tuple[str, ...],
        Field(description="Hosts that outputs may come from; * stands for any subdomain."),
    ] = ("*.runcomfy.net", "*.runcomfy.com")
    in_flight: Annotated[
        int,
        Field(ge=1, strict=True, description="Requests at RunComfy at a time, over all processes."),
    ] = 32
    submits_per_second: Annotated[
        float,
        Field(
            gt=0,
            strict=True,
            allow_inf_nan=False,
            description="Submissions a second of one process.",
        ),
    ] = 5
    patience: Annotated[
        Seconds, Field(description="How long RunComfy may be away before a run stops waiting.")
    ] = 120.0

    balance_url: Annotated[
        Annotated[str, AfterValidator(balance_address)] | None,
        Field(
            description="Where RunComfy tells the account's balance: the only other address that "
            "gets the token, and only when it is named here."
        ),
    ] = None


class StorageSection(_Section):
    """Where inputs are put so that RunComfy can fetch them."""

    uploads: Annotated[str, Field(pattern=r"^s3://[^/]+(/.*)?$", description="s3://bucket/prefix")]
    endpoint_url: Annotated[
        Annotated[str, AfterValidator(storage_endpoint)] | None,
        Field(description="S3-compatible endpoint; local:storage for the local stack's own."),
    ] = None
    url_expires: Annotated[
        Seconds, Field(description="Life of a presigned GET, at most 7 days.", gt=0, le=604800)
    ] = 21600.0
    access_log: Annotated[
        str | None,
        Field(
            description="Where the storage writes its S3 server access log: a folder, a file or "
            "s3://bucket/prefix. It tells whether an input was fetched."
        ),
    ] = None


class ProfileDocument(_Section):
    """A whole profile file."""

    runcomfy: RuncomfySection
    storage: StorageSection
    ledger: Annotated[
        str | None, Field(description="SQLAlchemy URL; null = SQLite under COMFYLINE_HOME.")
    ] = None


def load_profile(name_or_file: str, directories: tuple[Path, ...]) -> ProfileDocument:
    """Reads a profile by name (`configs/profiles/NAME.yaml`) or by file.

    Raises `UsageError` when there is none of that name, never falling back to another, and
    `InputInvalid` when the file is wrong.
    """
    return validate_document(load_yaml(_find(name_or_file, directories)), ProfileDocument)


def _find(name_or_file: str, directories: tuple[Path, ...]) -> Path:
    if "/" in name_or_file or name_or_file.endswith((".yaml", ".yml")):
        return Path(name_or_file)
    for directory in directories:
        path = directory / "profiles" / f"{name_or_file}.yaml"
        if path.is_file():
            return path
    known = sorted({path.stem for d in directories for path in d.glob("profiles/*.yaml")})
    nearest = did_you_mean(name_or_file, known)
    hint = f"{nearest} " * bool(nearest) + f"There are: {', '.join(known) or 'none'}"
    raise UsageError(f"There is no profile {name_or_file!r} in configs/profiles/", hint=hint)
