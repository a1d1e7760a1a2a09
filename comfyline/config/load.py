"""Profile + environment + local stack → one frozen `Settings`.

Precedence, strongest first: RUNCOMFY_BASE_URL and COMFYLINE_LEDGER_URL, the profile, what it
extends, the AWS variables where the profile leaves `endpoint_url` open, the defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from comfyline.config.account import LOCAL_SANDBOX, Account, origin_of
from comfyline.config.profile import (
    LOCAL_STORAGE,
    ProfileDocument,
    api_origin,
    config_directories,
    load_profile,
    model_directories,
    storage_endpoint,
)
from comfyline.config.secrets import SecretReference
from comfyline.config.settings import (
    NO_BLOCKS,
    BlockOutOfReach,
    Blocks,
    RuncomfySettings,
    Secret,
    Settings,
    StorageSettings,
)
from comfyline.errors import InputInvalid, Problem, TokenRejected, Unreachable
from comfyline.stack.services import ServiceName
from comfyline.stack.stack import StackAddresses

_SANDBOX_BALANCE = "/prod/v2/balance"


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile with the environment and the working directory that it is read in."""

    name: str
    document: ProfileDocument
    environ: Mapping[str, str]
    working_directory: Path

    @property
    def base_url(self) -> str:
        """The origin of the API, or `local:sandbox`."""
        if named := _variable(self.environ, "RUNCOMFY_BASE_URL"):
            return _checked(api_origin, named, "RUNCOMFY_BASE_URL")
        return self.document.runcomfy.base_url

    @property
    def account(self) -> Account:
        """Whom requests of this profile belong to."""
        origin = self.base_url if self.base_url == LOCAL_SANDBOX else origin_of(self.base_url)
        return Account(origin, self.document.runcomfy.account, self.name)

    @property
    def local_services(self) -> tuple[ServiceName, ...]:
        """What of the local stack it needs, besides the orchestrator."""
        needed: list[ServiceName] = []
        if self.document.storage.endpoint_url == LOCAL_STORAGE:
            needed.append("storage")
        if self.base_url == LOCAL_SANDBOX:
            needed.append("sandbox")
        return tuple(needed)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The Prefect Secret blocks without which it has no settings here."""
        token, ledger = self.document.runcomfy.token_block, self.document.ledger
        in_block = ledger.block if isinstance(ledger, SecretReference) else None
        named = (
            None if self.base_url == LOCAL_SANDBOX else token,
            None if _variable(self.environ, "COMFYLINE_LEDGER_URL") else in_block,
        )
        return tuple(name for name in named if name)

    def token(self, blocks: Blocks = NO_BLOCKS) -> Secret | None:
        """Find the token in the environment or a block; None when the sandbox brings its own.

        Raises `TokenRejected` when there is none, and `BlockOutOfReach`.
        """
        if self.base_url == LOCAL_SANDBOX:
            return None
        if block := self.document.runcomfy.token_block:
            held = _in_block(block, "The RunComfy token", blocks)
            return _whole_token(held.value.strip(), f"the Prefect block `{block}`")
        names = [self.document.runcomfy.token_env]
        if names == ["RUNCOMFY_API_TOKEN"]:
            names.append("RUNCOMFY_TOKEN")
        for name in names:
            if token := _variable(self.environ, name):
                return _whole_token(token, name)
        raise TokenRejected(
            f"There is no RunComfy token: {' and '.join(names)} "
            f"{'is' if len(names) == 1 else 'are'} not set",
            hint=f"Create a token in your RunComfy profile and `export {names[0]}=…`.",
        )

    def ledger_url(self, blocks: Blocks = NO_BLOCKS) -> str:
        """Return the ledger's URL: COMFYLINE_LEDGER_URL, the profile's, else SQLite at home.

        Raises `InputInvalid` for what is no such URL, without repeating it: it may hold a password.
        Raises `BlockOutOfReach` for one in a block that was not read.
        """
        if named := _variable(self.environ, "COMFYLINE_LEDGER_URL"):
            return _database_url(named, "COMFYLINE_LEDGER_URL")
        match self.document.ledger:
            case SecretReference(env=str(name)):
                if kept := _variable(self.environ, name):
                    return _database_url(kept, name)
                message = f"the ledger's URL is in the variable {name}, which is not set"
                raise InputInvalid([Problem("ledger", message, f"export {name}=postgresql://…")])
            case SecretReference(block=str(name)):
                held = _in_block(name, "The ledger's URL", blocks)
                return _database_url(held.value.strip(), f"the Prefect block `{name}`")
            case str(url):
                return url
        home = home_directory(self.environ, self.working_directory)
        if "?" in str(home):
            message = f"the path of the ledger cannot contain a question mark: {home}"
            raise InputInvalid([Problem("COMFYLINE_HOME", message, "choose another folder")])
        return f"sqlite:///{home / 'ledger.sqlite3'}"

    def storage(self, local: StackAddresses) -> StorageSettings:
        """Return the settings of the storage alone, for which no token is needed.

        Raises `Unreachable` where it is the local one and does not run.
        """
        given = self.document.storage.model_dump()
        if given["endpoint_url"] == LOCAL_STORAGE:
            # Without an address the driver would ask AWS itself.
            if local.storage_endpoint is None:
                raise Unreachable(
                    "The local storage is not running", hint="`comfyline up` starts it."
                )
            given["endpoint_url"] = local.storage_endpoint
            if keys := local.storage_credentials:
                given["key"] = Secret(keys.access_key_id)
                given["secret"] = Secret(keys.secret_access_key)
        elif given["endpoint_url"] is None:
            given["endpoint_url"] = self._aws_endpoint()
        return StorageSettings(**given)

    def settings(self, local: StackAddresses, blocks: Blocks = NO_BLOCKS) -> Settings:
        """Merge everything.

        Raises `TokenRejected` without a token, `InputInvalid` for an origin that must not get one,
        `BlockOutOfReach` for a secret in a block that was not read, and `Unreachable` where the
        profile needs a local service that does not run.
        """
        base_url, token = self.base_url, self.token(blocks)
        balance_url = self.document.runcomfy.balance_url
        # Each token goes with its own origin: the sandbox's nowhere else, the user's never to it.
        if base_url == LOCAL_SANDBOX:
            if local.sandbox_url is None or local.sandbox_token is None:
                raise Unreachable(
                    "The sandbox is not running", hint="Start it with `comfyline up`."
                )
            base_url, token = local.sandbox_url, Secret(local.sandbox_token)
            is_its_own = balance_url == LOCAL_SANDBOX
            balance_url = f"{base_url}{_SANDBOX_BALANCE}" if is_its_own else None
        elif balance_url == LOCAL_SANDBOX:
            balance_url = None
        runcomfy = self.document.runcomfy
        return Settings(
            profile=self.name,
            home=home_directory(self.environ, self.working_directory),
            model_directories=model_directories(self.working_directory),
            runcomfy=RuncomfySettings(
                base_url=base_url,
                token=token or Secret(""),
                account=self.account,
                download_hosts=runcomfy.download_hosts,
                in_flight=runcomfy.in_flight,
                submits_per_second=runcomfy.submits_per_second,
                patience=runcomfy.patience,
                balance_url=balance_url,
            ),
            storage=self.storage(local),
            ledger_url=Secret(self.ledger_url(blocks)),
        )

    def _aws_endpoint(self) -> str | None:
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if url := _variable(self.environ, name):
                return _checked(storage_endpoint, url, name)
        return None


def read_profile(name: str, environ: Mapping[str, str], working_directory: Path) -> LoadedProfile:
    """Read the profile of that name or file. Raises `UsageError` or `InputInvalid`."""
    document = load_profile(name, config_directories(working_directory))
    return LoadedProfile(name, document, environ, working_directory)


def home_directory(environ: Mapping[str, str], working_directory: Path) -> Path:
    """Return where local state lives: COMFYLINE_HOME, else `.comfyline/` in the working folder."""
    return (working_directory / (_variable(environ, "COMFYLINE_HOME") or ".comfyline")).resolve()


def _whole_token(token: str, keeper: str) -> Secret:
    if not token or not (token.isascii() and token.isprintable() and " " not in token):
        flaw = "it contains a space or an unusual character" if token else "it is empty"
        raise TokenRejected(
            f"What {keeper} holds is not a token: {flaw}",
            hint="Set it to the token alone, without `Bearer` and without a line break.",
        )
    return Secret(token)


def _in_block(name: str, what: str, blocks: Blocks) -> Secret:
    if name not in blocks:
        raise BlockOutOfReach(
            f"{what} is in the Prefect Secret block `{name}`, which needs a Prefect server: only "
            "`run`, `generate` and `reconcile` read it",
            hint="Use a profile that takes it from an environment variable for this command.",
        )
    return blocks[name]


def _database_url(url: str, where: str) -> str:
    # Loading it takes a quarter of a second, and `check` reads no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        hint = "write sqlite:////folder/file.sqlite3 or postgresql://user:password@host/database"
        raise InputInvalid([Problem(where, "this is not a database URL", hint)]) from None
    return url


def _checked(check: Callable[[str], str], value: str, name: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise InputInvalid([Problem(name, f"it {error}")]) from None


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Return a variable of the environment; what is set to nothing, or to blanks, is not set."""
    return environ.get(name, "").strip()
