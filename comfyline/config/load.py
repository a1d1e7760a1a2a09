"""Profile + environment + local stack → one frozen `Settings`, read once at the edge.

Precedence, strongest first: RUNCOMFY_BASE_URL and COMFYLINE_LEDGER_URL, the profile, what it
extends, the AWS variables where the profile leaves `endpoint_url` open, the defaults. Nothing below
this module looks at the environment.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from comfyline.config.account import LOCAL_SANDBOX, Account, origin_of
from comfyline.config.files import config_directories, model_directories
from comfyline.config.profile import (
    LOCAL_STORAGE,
    ProfileDocument,
    api_origin,
    load_profile,
    storage_endpoint,
)
from comfyline.config.secrets import SecretReference
from comfyline.config.settings import (
    NO_BLOCKS,
    BlockOutOfReach,
    Blocks,
    LocalStack,
    RuncomfySettings,
    Secret,
    Settings,
    StorageSettings,
)
from comfyline.errors import InputInvalid, Problem, TokenRejected, Unreachable

_SANDBOX_BALANCE = "/prod/v2/balance"


def home_directory(environ: Mapping[str, str], working_directory: Path) -> Path:
    """Return where local state lives: COMFYLINE_HOME, else `.comfyline/` in the working folder."""
    return (working_directory / (_variable(environ, "COMFYLINE_HOME") or ".comfyline")).resolve()


def local_services(
    profile: ProfileDocument, environ: Mapping[str, str]
) -> tuple[Literal["storage", "sandbox"], ...]:
    """List the services of the local stack a profile needs: `sandbox`, `storage`, both or none."""
    needed: list[Literal["storage", "sandbox"]] = []
    if profile.storage.endpoint_url == LOCAL_STORAGE:
        needed.append("storage")
    if _base_url(profile, environ) == LOCAL_SANDBOX:
        needed.append("sandbox")
    return tuple(needed)


def read_profile(name: str, working_directory: Path) -> ProfileDocument:
    """Read the profile of that name or file, as it stands in YAML."""
    return load_profile(name, config_directories(working_directory))


def account_of(name: str, profile: ProfileDocument, environ: Mapping[str, str]) -> Account:
    """Return whom requests of a profile belong to; `name` is the profile's own."""
    base_url = _base_url(profile, environ)
    origin = base_url if base_url == LOCAL_SANDBOX else origin_of(base_url)
    return Account(origin, profile.runcomfy.account, name)


def named_blocks(profile: ProfileDocument, environ: Mapping[str, str]) -> tuple[str, ...]:
    """List the Prefect Secret blocks without which a profile cannot be resolved here."""
    token = profile.runcomfy.token_block
    is_needed = _base_url(profile, environ) != LOCAL_SANDBOX
    ledger = profile.ledger.block if isinstance(profile.ledger, SecretReference) else None
    if _variable(environ, "COMFYLINE_LEDGER_URL"):
        ledger = None
    return tuple(name for name in (token if is_needed else None, ledger) if name)


def find_token(
    profile: ProfileDocument, environ: Mapping[str, str], blocks: Blocks = NO_BLOCKS
) -> Secret | None:
    """Find the token in the environment or a block; None when the sandbox brings its own.

    Raises `TokenRejected` when there is none, and `BlockOutOfReach`. Called before anything is
    uploaded.
    """
    if _base_url(profile, environ) == LOCAL_SANDBOX:
        return None
    if block := profile.runcomfy.token_block:
        held = _in_block(block, "The RunComfy token", blocks)
        return Secret(_whole_token(held.value.strip(), f"the Prefect block `{block}`"))
    names = [profile.runcomfy.token_env]
    if names == ["RUNCOMFY_API_TOKEN"]:
        names.append("RUNCOMFY_TOKEN")
    for name in names:
        if token := _variable(environ, name):
            return Secret(_whole_token(token, name))
    raise TokenRejected(
        f"There is no RunComfy token: {' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
        " not set",
        hint=f"Create a token in your RunComfy profile and `export {names[0]}=…`.",
    )


def _whole_token(token: str, keeper: str) -> str:
    if not token or not (token.isascii() and token.isprintable() and " " not in token):
        flaw = "there is a space or a strange character in it" if token else "it is empty"
        raise TokenRejected(
            f"What {keeper} holds is not a token: {flaw}",
            hint="Set it to the token alone, without `Bearer` and without a line break.",
        )
    return token


def _in_block(name: str, what: str, blocks: Blocks) -> Secret:
    if name not in blocks:
        raise BlockOutOfReach(
            f"{what} is in the Prefect Secret block `{name}`, which needs a Prefect server: only "
            "`run`, `generate` and `reconcile` read it",
            hint="For this command name a profile that takes it from an environment variable.",
        )
    return blocks[name]


def resolve(
    name: str,
    profile: ProfileDocument,
    environ: Mapping[str, str],
    working_directory: Path,
    local: LocalStack,
    blocks: Blocks = NO_BLOCKS,
) -> Settings:
    """Merge everything into `Settings`.

    Raises `TokenRejected` without a token, `InputInvalid` for an origin that must not get one,
    `BlockOutOfReach` for a secret in a block that was not read, and `Unreachable` where the
    profile needs a local service that does not run.
    """
    home = home_directory(environ, working_directory)
    base_url, token = _base_url(profile, environ), find_token(profile, environ, blocks)
    # Each token goes with its own origin: the sandbox's nowhere else, the user's never to it.
    if base_url == LOCAL_SANDBOX:
        base_url, token = local.sandbox_url or "", local.sandbox_token
    if token is None or not base_url:
        raise Unreachable("The sandbox does not run", hint="Start it with `comfyline up`.")
    return Settings(
        profile=name,
        home=home,
        model_directories=model_directories(working_directory),
        runcomfy=RuncomfySettings(
            base_url=base_url,
            token=token,
            account=account_of(name, profile, environ),
            download_hosts=profile.runcomfy.download_hosts,
            in_flight=profile.runcomfy.in_flight,
            submits_per_second=profile.runcomfy.submits_per_second,
            patience=profile.runcomfy.patience,
            balance_url=_balance_url(profile, base_url, local),
        ),
        storage=storage_settings(profile, environ, local),
        ledger_url=Secret(ledger_url(profile, environ, home, blocks)),
    )


def storage_settings(
    profile: ProfileDocument, environ: Mapping[str, str], local: LocalStack
) -> StorageSettings:
    """Resolve the storage alone, for which no token is needed. Raises as `resolve` does."""
    endpoint = profile.storage.endpoint_url
    key: Secret | None = None
    secret: Secret | None = None
    if endpoint == LOCAL_STORAGE:
        endpoint, key, secret = local.storage_endpoint, local.storage_key, local.storage_secret
        if endpoint is None:
            # Without an address the driver would ask AWS itself.
            raise Unreachable("The local storage does not run", hint="`comfyline up` starts it.")
    elif endpoint is None:
        endpoint = _aws_endpoint(environ)
    return StorageSettings(
        uploads=profile.storage.uploads.rstrip("/"),
        endpoint_url=endpoint,
        key=key,
        secret=secret,
        url_expires=profile.storage.url_expires,
        addressing_style=profile.storage.addressing_style,
        ca_bundle=profile.storage.ca_bundle and str(Path(profile.storage.ca_bundle).expanduser()),
        aws_profile=profile.storage.aws_profile,
        encryption=profile.storage.encryption,
        kms_key=profile.storage.kms_key,
        storage_class=profile.storage.storage_class,
        public_endpoint_url=profile.storage.public_endpoint_url,
    )


def ledger_url(
    profile: ProfileDocument | None,
    environ: Mapping[str, str],
    home: Path,
    blocks: Blocks = NO_BLOCKS,
) -> str:
    """Return the ledger's SQLAlchemy URL: COMFYLINE_LEDGER_URL, the profile's, else SQLite at home.

    Raises `InputInvalid` for what is no such URL, without repeating it: it may hold a password.
    Raises `BlockOutOfReach` for one in a block that was not read.
    """
    if named := _variable(environ, "COMFYLINE_LEDGER_URL"):
        return _database_url(named, "COMFYLINE_LEDGER_URL")
    match profile.ledger if profile else None:
        case SecretReference(env=str(name)):
            if kept := _variable(environ, name):
                return _database_url(kept, name)
            problem = f"the ledger's URL is in the variable {name}, which is not set"
            raise InputInvalid([Problem("ledger", problem, f"export {name}=postgresql://…")])
        case SecretReference(block=str(name)):
            held = _in_block(name, "The ledger's URL", blocks)
            return _database_url(held.value.strip(), f"the Prefect block `{name}`")
        case str(url):
            return url
    if "?" in str(home):
        problem = f"a folder with a question mark in its name cannot hold the ledger: {home}"
        raise InputInvalid([Problem("COMFYLINE_HOME", problem, "choose another folder")])
    return f"sqlite:///{home / 'ledger.sqlite3'}"


def _database_url(url: str, where: str) -> str:
    # Loading it takes a quarter of a second, and `check` reads no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        hint = "write sqlite:////folder/file.sqlite3 or postgresql://user:password@host/database"
        raise InputInvalid([Problem(where, "this is not an SQLAlchemy URL", hint)]) from None
    return url


def _balance_url(profile: ProfileDocument, base_url: str, local: LocalStack) -> str | None:
    """Return where the balance is told; the sandbox, which gets no user's token, has its own."""
    named = profile.runcomfy.balance_url
    if named == LOCAL_SANDBOX:
        return f"{local.sandbox_url}{_SANDBOX_BALANCE}" if base_url == local.sandbox_url else None
    return named if base_url != local.sandbox_url else None


def _base_url(profile: ProfileDocument, environ: Mapping[str, str]) -> str:
    named = _variable(environ, "RUNCOMFY_BASE_URL")
    if not named:
        return profile.runcomfy.base_url
    return _checked(api_origin, named, "RUNCOMFY_BASE_URL")


def _aws_endpoint(environ: Mapping[str, str]) -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := _variable(environ, name):
            return _checked(storage_endpoint, url, name)
    return None


def _checked(check: Callable[[str], str], value: str, name: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise InputInvalid([Problem(name, f"it {error}")]) from None


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Return a variable of the environment; what is set to nothing, or to blanks, is not set."""
    return environ.get(name, "").strip()
