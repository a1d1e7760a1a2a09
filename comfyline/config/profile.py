"""The profile: where a pipeline runs. One YAML file, every unknown key an error."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from comfyline.config.account import LOCAL_SANDBOX
from comfyline.config.duration import Seconds
from comfyline.config.secrets import BlockName, LedgerAddress, VariableName
from comfyline.errors import UsageError, did_you_mean
from comfyline.yaml.file import load_yaml
from comfyline.yaml.validate import validate_document

LOCAL_STORAGE = "local:storage"


def api_origin(base_url: str) -> str:
    """Check the one origin that gets the token, or `local:sandbox`.

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
    """Check the address of the balance, or `local:sandbox`. Raises as `api_origin` does."""
    if url == LOCAL_SANDBOX:
        return url
    parts = _web_address(url, f"be https://HOST/PATH, or {LOCAL_SANDBOX}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("would get the token unencrypted: use https://")
    return url


def storage_endpoint(endpoint_url: str) -> str:
    """Check an S3-compatible endpoint, or `local:storage`. Raises as `api_origin` does."""
    if endpoint_url != LOCAL_STORAGE:
        _web_address(endpoint_url, f"be https://HOST, http://HOST or {LOCAL_STORAGE}")
    return endpoint_url


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine."""
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
        VariableName,
        Field(description="Name of the environment variable that holds the token."),
    ] = "RUNCOMFY_API_TOKEN"  # noqa: S105  # the name of a variable
    token_block: Annotated[
        BlockName | None,
        Field(
            description="Name of the Prefect Secret block that holds the token, in the place of "
            "`token_env`.",
            examples=["runcomfy-token"],
        ),
    ] = None
    download_hosts: Annotated[
        tuple[str, ...],
        Field(
            description="Hosts that outputs may come from; * stands for any subdomain. One without "
            "* is meant even if it lies in a private network."
        ),
    ] = ("*.runcomfy.net", "*.runcomfy.com")
    account: Annotated[
        str,
        Field(
            description="A name that tells several accounts at one origin apart: what one has paid "
            "for is never taken for another's.",
            examples=["team-a"],
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        ),
    ] = "default"
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

    @model_validator(mode="after")
    def _one_token(self) -> "RuncomfySection":
        if self.token_block and "token_env" in self.model_fields_set:
            raise ValueError(
                "should name one place for the token, `token_env` or `token_block`; a profile that "
                "extends another takes its `token_env` away with null"
            )
        return self


class StorageSection(_Section):
    """Where inputs are put so that RunComfy can fetch them."""

    uploads: Annotated[str, Field(pattern=r"^s3://[^/]+(/.*)?$", description="s3://bucket/prefix")]
    endpoint_url: Annotated[
        Annotated[str, AfterValidator(storage_endpoint)] | None,
        Field(description="S3-compatible endpoint; local:storage for the local stack's own."),
    ] = None
    public_endpoint_url: Annotated[
        Annotated[str, AfterValidator(storage_endpoint)] | None,
        Field(
            description="Where RunComfy reaches the same storage, if not at `endpoint_url`: "
            "presigned URLs are made for it.",
            examples=["https://s3.example.org"],
        ),
    ] = None
    url_expires: Annotated[
        Seconds, Field(description="Life of a presigned GET, at most 7 days.", gt=0, le=604800)
    ] = 21600.0
    addressing_style: Annotated[
        Literal["auto", "path", "virtual"],
        Field(
            description="Where an address has the bucket: path is https://HOST/BUCKET/, virtual is "
            "https://BUCKET.HOST/; auto is virtual at AWS and path elsewhere."
        ),
    ] = "auto"
    ca_bundle: Annotated[
        str | None,
        Field(
            description="PEM file with the authority that the endpoint's certificate is from.",
            examples=["/etc/ssl/certs/company.pem"],
            min_length=1,
        ),
    ] = None
    aws_profile: Annotated[
        str | None,
        Field(
            description="Profile of ~/.aws/config that the keys and the region come from; null = "
            "the usual chain: AWS_* variables, AWS_PROFILE, the machine's role.",
            min_length=1,
        ),
    ] = None
    encryption: Annotated[
        Literal["AES256", "aws:kms"] | None,
        Field(
            description="Server-side encryption of every object that comfyline writes; null = what "
            "the bucket does by itself."
        ),
    ] = None
    kms_key: Annotated[
        str | None,
        Field(
            description="Id or ARN of the key for `encryption: aws:kms`; null = the account's own.",
            min_length=1,
        ),
    ] = None
    storage_class: Annotated[
        str | None,
        Field(
            description="Storage class of every object that comfyline writes; null = the bucket's.",
            examples=["STANDARD_IA", "INTELLIGENT_TIERING"],
            pattern=r"^[A-Z][A-Z0-9_]*$",
        ),
    ] = None

    @model_validator(mode="after")
    def _key_has_its_use(self) -> "StorageSection":
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("should say `encryption: aws:kms` beside `kms_key`, or have no key")
        return self


class ProfileDocument(_Section):
    """A whole profile file."""

    runcomfy: Annotated[RuncomfySection, Field(description="How RunComfy is reached.")]
    storage: Annotated[
        StorageSection, Field(description="Where inputs are put so that RunComfy can fetch them.")
    ]
    ledger: Annotated[
        LedgerAddress | None,
        Field(
            description="SQLAlchemy URL without a password, or {env: NAME} or {block: NAME} where "
            "the URL is kept; null = SQLite under COMFYLINE_HOME.",
            examples=["sqlite:////srv/ledger.sqlite3", {"env": "LEDGER_URL"}],
        ),
    ] = None


def load_profile(name_or_file: str, directories: tuple[Path, ...]) -> ProfileDocument:
    """Read a profile by name (`configs/profiles/NAME.yaml`) or by file.

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
