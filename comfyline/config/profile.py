"""The profile: where a pipeline runs. One YAML file, every unknown key an error.

Files are looked for in the working directory first, then in what is built in: an installed
comfyline carries a copy of `configs/` as `comfyline/defaults`, in a checkout the folder itself
serves. So `comfyline generate` also works in an empty directory.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from comfyline.config.account import LOCAL_SANDBOX
from comfyline.config.duration import Seconds
from comfyline.config.settings import Polling
from comfyline.errors import UsageError, did_you_mean
from comfyline.yaml.file import load_yaml
from comfyline.yaml.validate import validate_document

LOCAL_STORAGE = "local:storage"

_PACKAGE = Path(__file__).parents[1]
_VARIABLE = "[A-Z_][A-Z0-9_]*"
_BLOCK = "[a-z0-9][a-z0-9-]{0,99}"
_SECRET_OPTIONS = {"password", "passwd", "pwd", "sslpassword", "token", "secret"}
"""Options of a database URL that hold a secret, whichever driver reads them."""


def api_origin(base_url: str) -> str:
    """Check the one origin that gets the token, or `local:sandbox`.

    Raises ValueError with the end of a sentence; it repeats nothing that may be a secret.
    """
    if base_url == LOCAL_SANDBOX:
        return base_url
    parts = _web_address(base_url, f"https://HOST, or {LOCAL_SANDBOX}", gets_token=True)
    if parts.path.strip("/"):
        raise ValueError("should be an origin, https://HOST or https://HOST:PORT, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def balance_address(url: str) -> str:
    """Check the address of the balance, or `local:sandbox`. Raises as `api_origin` does."""
    if url != LOCAL_SANDBOX:
        _web_address(url, f"https://HOST/PATH, or {LOCAL_SANDBOX}", gets_token=True)
    return url


def storage_endpoint(endpoint_url: str) -> str:
    """Check an S3-compatible endpoint, or `local:storage`. Raises as `api_origin` does."""
    if endpoint_url != LOCAL_STORAGE:
        _web_address(endpoint_url, f"https://HOST, http://HOST or {LOCAL_STORAGE}")
    return endpoint_url


def database_url(url: str) -> str:
    """Check the SQLAlchemy URL of a ledger. Raises as `api_origin` does."""
    # Loading it takes a quarter of a second, and `check` reads no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            "should be a database URL, sqlite:////folder/file.sqlite3 or "
            "postgresql://user@host/database"
        ) from None
    return url


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _web_address(url: str, kinds: str, *, gets_token: bool = False) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or re.search(r"[\s\\]", url):
        raise ValueError(f"should be {kinds}")
    if "@" in parts.netloc:
        raise ValueError("should contain no user and no password")
    if "?" in url or "#" in url:
        raise ValueError("should have nothing after `?` or `#`")
    if gets_token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            "would get the token unencrypted: use https:// (http:// is for this machine only)"
        )
    return parts


def _name(pattern: str, should: str) -> AfterValidator:
    """Check a name; what was written instead is not repeated: it may be the secret."""

    def check(name: str) -> str:
        if not re.fullmatch(pattern, name, re.ASCII):
            raise ValueError(f"should be {should}")
        return name

    return AfterValidator(check)


def _without_password(url: str) -> str:
    from sqlalchemy import make_url

    parts = make_url(database_url(url))
    options = {name.lower() for name in parts.query}
    if parts.password is not None or options & _SECRET_OPTIONS:
        raise ValueError(
            "contains a password, which does not belong in YAML: write {env: NAME} or "
            "{block: NAME}, or leave the password to ~/.pgpass"
        )
    return url


Endpoint = Annotated[str, AfterValidator(storage_endpoint)]
LocalFile = Annotated[
    str, Field(min_length=1), AfterValidator(lambda path: str(Path(path).expanduser()))
]
# The patterns are given to editors: what pydantic says of a pattern would repeat the secret.
VariableName = Annotated[
    str,
    _name(_VARIABLE, "the name of an environment variable, never the token itself"),
    Field(json_schema_extra={"pattern": f"^{_VARIABLE}$"}),
]
BlockName = Annotated[
    str,
    _name(
        _BLOCK,
        "the name of a Prefect Secret block (small letters, digits and dashes), never the secret "
        "itself",
    ),
    Field(json_schema_extra={"pattern": f"^{_BLOCK}$"}),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretReference(_Section):
    """Where a secret is kept: exactly one of an environment variable and a Prefect block."""

    env: VariableName | None = Field(
        None, description="Name of the environment variable.", examples=["LEDGER_URL"]
    )
    block: BlockName | None = Field(
        None, description="Name of the Prefect Secret block.", examples=["ledger-url"]
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretReference":
        if (self.env is None) == (self.block is None):
            raise ValueError("should have exactly one of `env` and `block`")
        return self


def _kind(value: Any) -> str:
    return "[reference]" if isinstance(value, dict | SecretReference) else "[url]"


# With a union of its own kind a mistake is told once, and not for each alternative.
Ledger = Annotated[
    Annotated[str, AfterValidator(_without_password), Tag("[url]")]
    | Annotated[SecretReference, Tag("[reference]")],
    Discriminator(_kind),
]


class RuncomfySection(_Section):
    """How RunComfy is reached."""

    base_url: Annotated[str, AfterValidator(api_origin)] = Field(
        description="Origin of the API, or local:sandbox for the local stand-in."
    )
    token_env: VariableName = Field(
        "RUNCOMFY_API_TOKEN",
        description="Name of the environment variable that holds the token.",
    )
    token_block: BlockName | None = Field(
        None,
        description="Name of the Prefect Secret block that holds the token, in the place of "
        "`token_env`.",
        examples=["runcomfy-token"],
    )
    download_hosts: tuple[str, ...] = Field(
        ("*.runcomfy.net", "*.runcomfy.com"),
        description="Hosts that outputs may come from; * stands for any subdomain. A host without "
        "* is allowed even in a private network.",
    )
    account: str = Field(
        "default",
        description="A name that distinguishes several accounts at one origin: what one has paid "
        "for is never reused for another.",
        examples=["team-a"],
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    )
    in_flight: int = Field(
        32,
        ge=1,
        strict=True,
        description="Most requests at RunComfy at a time, of all processes.",
    )
    submits_per_second: float = Field(
        5,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="Most submissions per second, of all processes.",
    )
    patience: Seconds = Field(
        120.0, description="How long RunComfy may be away before a run stops waiting."
    )
    polling: Polling = Field(
        "balanced",
        description="How often requests are looked at: eager notices an end sooner, frugal makes "
        "fewer calls. When to look is learned from how long the model takes.",
    )
    balance_url: Annotated[str, AfterValidator(balance_address)] | None = Field(
        None,
        description="Where RunComfy reports the account's balance: the only other address that "
        "gets the token, and only when it is named here.",
    )

    @model_validator(mode="after")
    def _one_token(self) -> "RuncomfySection":
        if self.token_block and "token_env" in self.model_fields_set:
            raise ValueError(
                "should name one source of the token, `token_env` or `token_block`; a profile that "
                "extends another takes its `token_env` away with null"
            )
        return self


class StorageSection(_Section):
    """Where inputs are put so that RunComfy can fetch them."""

    uploads: Annotated[str, AfterValidator(lambda uploads: uploads.rstrip("/"))] = Field(
        pattern=r"^s3://[^/]+(/.*)?$", description="s3://bucket/prefix"
    )
    endpoint_url: Endpoint | None = Field(
        None, description="S3-compatible endpoint; local:storage for the local stack's own."
    )
    public_endpoint_url: Endpoint | None = Field(
        None,
        description="Where RunComfy reaches the same storage, if not at `endpoint_url`: "
        "presigned URLs are made for it.",
        examples=["https://s3.example.org"],
    )
    url_expires: Annotated[Seconds, Field(le=604800)] = Field(
        21600.0, description="Life of a presigned GET, at most 7 days."
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where an address has the bucket: path is https://HOST/BUCKET/, virtual is "
        "https://BUCKET.HOST/; auto is virtual at AWS and path elsewhere.",
    )
    ca_bundle: LocalFile | None = Field(
        None,
        description="PEM file with the certificate authority of the endpoint.",
        examples=["/etc/ssl/certs/company.pem"],
    )
    aws_profile: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Profile of ~/.aws/config that the keys and the region come from; null = "
        "the usual chain: AWS_* variables, AWS_PROFILE, the machine's role.",
    )
    encryption: Literal["AES256", "aws:kms"] | None = Field(
        None,
        description="Server-side encryption of every object that comfyline writes; null = what "
        "the bucket does by itself.",
    )
    kms_key: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Id or ARN of the key for `encryption: aws:kms`; null = the account's own.",
    )
    storage_class: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = Field(
        None,
        description="Storage class of every object that comfyline writes; null = the bucket's.",
        examples=["STANDARD_IA", "INTELLIGENT_TIERING"],
    )

    @model_validator(mode="after")
    def _key_has_its_use(self) -> "StorageSection":
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("should say `encryption: aws:kms` beside `kms_key`, or have no key")
        return self


class TelemetrySection(_Section):
    """What metrics tell; whether and where they go, OpenTelemetry's variables say."""

    labels: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], ...] = Field(
        (),
        description="Labels of pipelines that become attributes of metrics; each value makes "
        "series of its own, so name those with few values.",
        examples=[["client"]],
    )


class ProfileDocument(_Section):
    """A whole profile file."""

    runcomfy: RuncomfySection = Field(description="How RunComfy is reached.")
    storage: StorageSection = Field(
        description="Where inputs are put so that RunComfy can fetch them."
    )
    ledger: Ledger | None = Field(
        None,
        description="SQLAlchemy URL without a password, or {env: NAME} or {block: NAME} where "
        "the URL is kept; null = SQLite under COMFYLINE_HOME.",
        examples=["sqlite:////srv/ledger.sqlite3", {"env": "LEDGER_URL"}],
    )
    telemetry: TelemetrySection = Field(
        TelemetrySection(), description="What metrics tell beside pipeline and model."
    )


def config_directories(package: Path = _PACKAGE) -> tuple[Path, ...]:
    """List the folders that may hold `models/` and `profiles/`, in the order in which they win."""
    installed = package / "defaults"
    # Beside an installed package lie other people's packages, and one may be called `configs`.
    built_in = installed if installed.is_dir() else package.parent / "configs"
    found = (folder.resolve() for folder in (Path("configs"), built_in) if folder.is_dir())
    return tuple(dict.fromkeys(found))


def model_directories() -> tuple[Path, ...]:
    """List the folders with model schemas, in the order in which they win."""
    return tuple(directory / "models" for directory in config_directories())


def profile_names() -> list[str]:
    """List the profiles that have a name."""
    return _names(config_directories())


def _names(directories: tuple[Path, ...]) -> list[str]:
    return sorted({path.stem for d in directories for path in d.glob("profiles/*.yaml")})


def load_profile(name_or_file: str, package: Path = _PACKAGE) -> ProfileDocument:
    """Read a profile by name (`configs/profiles/NAME.yaml`) or by file.

    Raises `UsageError` when there is none of that name, never falling back to another, and
    `InputInvalid` when the file is wrong.
    """
    return validate_document(
        load_yaml(_find(name_or_file, config_directories(package))), ProfileDocument
    )


def _find(name_or_file: str, directories: tuple[Path, ...]) -> Path:
    if "/" in name_or_file or name_or_file.endswith((".yaml", ".yml")):
        return Path(name_or_file)
    for directory in directories:
        path = directory / "profiles" / f"{name_or_file}.yaml"
        if path.is_file():
            return path
    known = _names(directories)
    nearest = did_you_mean(name_or_file, known)
    hint = f"{nearest} " * bool(nearest) + f"There are: {', '.join(known) or 'none'}"
    raise UsageError(f"There is no profile {name_or_file!r} in configs/profiles/", hint=hint)
