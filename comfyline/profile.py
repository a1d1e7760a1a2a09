"""The profile: where a pipeline runs. One YAML file, every unknown key an error."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from comfyline.duration import Seconds
from comfyline.errors import UsageError
from comfyline.yamlfile import did_you_mean, load_yaml, validate_document

LOCAL_SANDBOX = "local:sandbox"
LOCAL_STORAGE = "local:storage"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RuncomfySection(_Section):
    """How RunComfy is reached."""

    base_url: Annotated[
        str, Field(description="Origin of the API, or local:sandbox for the local stand-in.")
    ]
    token_env: Annotated[
        str, Field(description="Name of the environment variable that holds the token.")
    ] = "RUNCOMFY_API_TOKEN"  # noqa: S105  # the name of a variable
    download_hosts: Annotated[
        tuple[str, ...],
        Field(description="Hosts that outputs may come from; * stands for any subdomain."),
    ] = ("*.runcomfy.net", "*.runcomfy.com")
    in_flight: Annotated[
        int, Field(ge=1, description="Requests at RunComfy at a time, over all processes.")
    ] = 32
    submits_per_second: Annotated[
        float, Field(gt=0, description="Submissions a second of one process.")
    ] = 5
    patience: Annotated[
        Seconds, Field(description="How long RunComfy may be away before a run stops waiting.")
    ] = 120.0


class StorageSection(_Section):
    """Where inputs are put so that RunComfy can fetch them."""

    uploads: Annotated[str, Field(pattern=r"^s3://[^/]+(/.*)?$", description="s3://bucket/prefix")]
    endpoint_url: Annotated[
        str | None,
        Field(description="S3-compatible endpoint; local:storage for the local stack's own."),
    ] = None
    url_expires: Annotated[
        Seconds, Field(description="Life of a presigned GET, at most 7 days.", gt=0, le=604800)
    ] = 21600.0


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
    hint = did_you_mean(name_or_file, known) or f"there are: {', '.join(known) or 'none'}"
    raise UsageError(f"There is no profile {name_or_file!r} in configs/profiles/", hint=hint)
