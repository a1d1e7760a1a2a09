"""Secrets in a profile: never the secret itself, only the name of the place where it is kept."""

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
_BLOCK = re.compile(r"[a-z0-9][a-z0-9-]{0,99}", re.ASCII)
_SECRET_OPTIONS = {"password", "passwd", "pwd", "sslpassword", "token", "secret"}
"""Options of a database URL that hold a secret, whichever driver reads them."""
INSTEAD = "write {env: NAME} or {block: NAME}, or leave the password to ~/.pgpass"
"""How a URL with a password is written in a profile."""


def _variable_name(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        # What was written instead is not repeated: it may be the secret.
        raise ValueError("should be the name of an environment variable, never the token itself")
    return name


def _block_name(name: str) -> str:
    if not _BLOCK.fullmatch(name):
        raise ValueError(
            "should be the name of a Prefect Secret block (small letters, digits and dashes), "
            "never the secret itself"
        )
    return name


VariableName = Annotated[
    str,
    AfterValidator(_variable_name),
    # For editors: what pydantic says of a pattern would repeat the secret.
    Field(json_schema_extra={"pattern": f"^{_VARIABLE.pattern}$"}),
]
BlockName = Annotated[
    str,
    AfterValidator(_block_name),
    Field(json_schema_extra={"pattern": f"^{_BLOCK.pattern}$"}),
]


class SecretReference(BaseModel):
    """Where a secret is kept: exactly one of an environment variable and a Prefect block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: Annotated[
        VariableName | None,
        Field(description="Name of the environment variable.", examples=["LEDGER_URL"]),
    ] = None
    block: Annotated[
        BlockName | None,
        Field(description="Name of the Prefect Secret block.", examples=["ledger-url"]),
    ] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretReference":
        if (self.env is None) == (self.block is None):
            raise ValueError("should have exactly one of `env` and `block`")
        return self


def _without_password(url: str) -> str:
    # Loading it takes a quarter of a second, and `check` reads no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            "should be a database URL: sqlite:////folder/file.sqlite3 or "
            "postgresql://user@host/database"
        ) from None
    options = {name.lower() for name in parts.query}
    if parts.password is not None or options & _SECRET_OPTIONS:
        raise ValueError(f"contains a password, which does not belong in YAML: {INSTEAD}")
    return url


def _kind(value: Any) -> str:
    return "[reference]" if isinstance(value, dict | SecretReference) else "[url]"


LedgerAddress = Annotated[
    Annotated[Annotated[str, AfterValidator(_without_password)], Tag("[url]")]
    | Annotated[SecretReference, Tag("[reference]")],
    Discriminator(_kind),
]
"""An SQLAlchemy URL without a password, or where the whole URL is kept."""
