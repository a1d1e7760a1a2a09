"""Profile + environment + local stack → one frozen `Settings`.

No other place reads the process environment or the working directory. Precedence, strongest first:
RUNCOMFY_BASE_URL and COMFYLINE_LEDGER_URL, the profile, what it extends, the AWS variables where
the profile leaves `endpoint_url` open, the defaults.
"""

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr

from comfyline.config.account import LOCAL_SANDBOX, Account, origin_of
from comfyline.config.profile import (
    LOCAL_STORAGE,
    ProfileDocument,
    SecretReference,
    api_origin,
    database_url,
    load_profile,
    model_directories,
    storage_endpoint,
)
from comfyline.config.settings import (
    RuncomfySettings,
    Settings,
    StorageSettings,
    TelemetrySettings,
)
from comfyline.errors import InputInvalid, Problem, TokenRejected, Unreachable, UsageError
from comfyline.stack.home import StorageCredentials, private_folder
from comfyline.stack.ports import is_port
from comfyline.stack.services import SERVICES, ServiceName, port_variable
from comfyline.stack.stack import StackAddresses, addresses, ensure

_SANDBOX_BALANCE = "/prod/v2/balance"
_NOWHERE = "http://127.0.0.1:9"
"""An address at which nothing answers."""
_PORT = re.compile(r"[0-9]{1,5}")

ONLY_RUNCOMFY: tuple[ServiceName, ...] = ("sandbox",)
"""What a command needs of the local stack that asks RunComfy and touches no stored file."""


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile, to be completed from the environment."""

    name: str
    document: ProfileDocument
    held: Mapping[str, SecretStr] = field(default_factory=dict)
    """What the Prefect Secret blocks hold that it names, where they have been read."""

    @property
    def base_url(self) -> str:
        """The origin of the API, or `local:sandbox`."""
        if named := _variable("RUNCOMFY_BASE_URL"):
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
            None if _variable("COMFYLINE_LEDGER_URL") else in_block,
        )
        return tuple(name for name in named if name)

    def check_token(self) -> None:
        """Raise `TokenRejected` where the token is missing, before anything is started for it.

        A token in a Prefect block can be looked for only once the server is there.
        """
        if self.document.runcomfy.token_block is None:
            self.token()

    def token(self) -> SecretStr | None:
        """Find the token in the environment or a block; None when the sandbox brings its own.

        Raises `TokenRejected` when there is none, and `UsageError` for a block that was not read.
        """
        if self.base_url == LOCAL_SANDBOX:
            return None
        if block := self.document.runcomfy.token_block:
            held = self._in_block(block, "The RunComfy token")
            return _whole_token(held, f"the Prefect block `{block}`")
        names = [self.document.runcomfy.token_env]
        if names == ["RUNCOMFY_API_TOKEN"]:
            names.append("RUNCOMFY_TOKEN")
        for name in names:
            if token := _variable(name):
                return _whole_token(token, name)
        raise TokenRejected(
            f"There is no RunComfy token: {' and '.join(names)} "
            f"{'is' if len(names) == 1 else 'are'} not set",
            hint=f"Create a token in your RunComfy profile and `export {names[0]}=…`.",
        )

    def ledger_url(self) -> str:
        """Return the ledger's URL: COMFYLINE_LEDGER_URL, the profile's, else SQLite at home.

        Raises `InputInvalid` for what is no such URL, without repeating it: it may hold a password.
        Raises `UsageError` for one in a block that was not read.
        """
        if named := _variable("COMFYLINE_LEDGER_URL"):
            return _checked(database_url, named, "COMFYLINE_LEDGER_URL")
        match self.document.ledger:
            case SecretReference(env=str(name)):
                if kept := _variable(name):
                    return _checked(database_url, kept, name)
                message = f"the ledger's URL is in the variable {name}, which is not set"
                raise InputInvalid([Problem("ledger", message, f"export {name}=postgresql://…")])
            case SecretReference(block=str(name)):
                held = self._in_block(name, "The ledger's URL")
                return _checked(database_url, held, f"the Prefect block `{name}`")
            case str(url):
                return url
        if "?" in str(home()):
            message = f"the path of the ledger cannot contain a question mark: {home()}"
            raise InputInvalid([Problem("COMFYLINE_HOME", message, "choose another folder")])
        return f"sqlite:///{home() / 'ledger.sqlite3'}"

    def storage(self, local: StackAddresses) -> StorageSettings:
        """Return the settings of the storage alone, for which no token is needed.

        Raises `Unreachable` where it is the local one and does not run.
        """
        given = self.document.storage.model_dump()
        if given["endpoint_url"] == LOCAL_STORAGE:
            keys = local.storage_credentials
            # Without an address the driver would ask AWS itself, with the machine's keys.
            if local.storage_endpoint is None or keys is None:
                raise Unreachable(
                    "The local storage is not running", hint="`comfyline up` starts it."
                )
            given["endpoint_url"] = local.storage_endpoint
            given["key"] = SecretStr(keys.access_key_id)
            given["secret"] = SecretStr(keys.secret_access_key)
        elif given["endpoint_url"] is None:
            given["endpoint_url"] = _aws_endpoint()
        return StorageSettings(**given)

    def settings(self, local: StackAddresses) -> Settings:
        """Merge everything; a local service that does not run has an address that never answers.

        Raises `TokenRejected` without a token, `InputInvalid` for an origin that must not get one,
        and `UsageError` for a secret in a block that was not read.
        """
        runcomfy, token = self.document.runcomfy, self.token()
        base_url, balance_url = self.base_url, runcomfy.balance_url
        # Each token goes with its own origin: the sandbox's nowhere else, the user's never to it.
        if token is None:
            base_url = local.sandbox_url or _NOWHERE
            token = SecretStr(local.sandbox_token or "nobody")
            is_its_own = balance_url == LOCAL_SANDBOX
            balance_url = f"{base_url}{_SANDBOX_BALANCE}" if is_its_own else None
        elif balance_url == LOCAL_SANDBOX:
            balance_url = None
        if local.storage_endpoint is None:
            nobody = StorageCredentials("nobody", "nobody")
            local = replace(local, storage_endpoint=_NOWHERE, storage_credentials=nobody)
        return Settings(
            profile=self.name,
            home=home(),
            model_directories=model_directories(),
            runcomfy=RuncomfySettings(
                base_url=base_url,
                token=token,
                account=self.account,
                download_hosts=runcomfy.download_hosts,
                in_flight=runcomfy.in_flight,
                submits_per_second=runcomfy.submits_per_second,
                patience=runcomfy.patience,
                polling=runcomfy.polling,
                balance_url=balance_url,
            ),
            storage=self.storage(local),
            ledger_url=SecretStr(self.ledger_url()),
            telemetry=self.telemetry(),
        )

    def telemetry(self) -> TelemetrySettings:
        """Read OpenTelemetry's own variables: without any of them nothing is exported.

        They are often meant for a whole cluster, so what comfyline cannot do stops nothing.
        """
        if _variable("OTEL_SDK_DISABLED").lower() == "true":
            return TelemetrySettings()
        try:
            return TelemetrySettings(
                metrics=_exporters("METRICS", {"otlp", "prometheus"}),
                traces="otlp" in _exporters("TRACES", {"otlp"}),
                page=_page(),
                labels=self.document.telemetry.labels,
            )
        except UsageError as error:
            return TelemetrySettings(mistake=str(error))

    def _in_block(self, name: str, what: str) -> str:
        if name not in self.held:
            raise UsageError(
                f"{what} is in the Prefect Secret block `{name}`, which needs a Prefect server: "
                "only `run`, `generate` and `reconcile` read it",
                hint="Use a profile that takes it from an environment variable for this command.",
            )
        return self.held[name].get_secret_value().strip()


def read_profile(name: str) -> LoadedProfile:
    """Read the profile of that name or file. Raises `UsageError` or `InputInvalid`."""
    return LoadedProfile(name, load_profile(name))


async def prepare(
    profile_name: str,
    tell: Callable[[str], None],
    read_block: Callable[[str], Awaitable[str]] | None = None,
    *,
    only: tuple[ServiceName, ...] = SERVICES,
) -> Settings:
    """Load the settings of a profile, after starting those local services it needs among `only`.

    `read_block` gives what a Prefect Secret block holds; without it a profile that names one is a
    `UsageError`. Raises `UsageError`, `InputInvalid`, `TokenRejected` or `Unreachable`, each with
    what to do.
    """
    profile = read_profile(profile_name)
    if read_block:
        held = {name: SecretStr(await read_block(name)) for name in profile.blocks}
        profile = replace(profile, held=held)
    profile.token()
    needed = tuple(name for name in profile.local_services if name in only)
    found = await start_services(needed, tell) if needed else addresses(home())
    return profile.settings(found)


def look(profile_name: str, patience: float = 0) -> Settings:
    """Load the settings of a profile with the local services as they are; nothing is started.

    RunComfy may be away for `patience` seconds, or for the profile's when that is less.
    """
    settings = read_profile(profile_name).settings(addresses(home()))
    waits = min(patience, settings.runcomfy.patience)
    return replace(settings, runcomfy=replace(settings.runcomfy, patience=waits))


async def start_services(
    services: tuple[ServiceName, ...], tell: Callable[[str], None]
) -> StackAddresses:
    """Start what of these services does not run yet."""
    return await ensure(
        home(),
        services,
        ports={name: port for name, port in asked_ports().items() if name in services},
        # The sandbox lets a later folder win.
        model_dirs=model_directories()[::-1],
        tell=tell,
    )


def asked_ports() -> dict[ServiceName, int]:
    """Read the ports that the environment gives services. Raises `UsageError` for a bad one."""
    written = {service: _variable(port_variable(service)) for service in SERVICES}
    asked = {service: port for service, port in written.items() if port}
    for service, port in asked.items():
        # A port that is asked for is binding, so a misspelt one must not become any free one.
        if not _PORT.fullmatch(port) or not is_port(int(port)):
            raise UsageError(
                f"{port_variable(service)} is {port!r}, which is not a port",
                hint="Set it to a number from 1 to 65535, or unset it.",
            )
    return {service: int(port) for service, port in asked.items()}


def logs_are_json() -> bool:
    """Return whether COMFYLINE_LOG_FORMAT asks for JSON. Raises `UsageError` for another word."""
    asked = _variable("COMFYLINE_LOG_FORMAT").lower()
    if asked not in {"", "text", "json"}:
        raise UsageError(
            f"COMFYLINE_LOG_FORMAT is {asked!r}, which is not a format",
            hint="Set it to json or text, or unset it.",
        )
    return asked == "json"


def _exporters(signal: str, known: set[str]) -> frozenset[str]:
    """Read what exports metrics or traces; an address to export to asks for OTLP by itself."""
    chosen = f"OTEL_{signal}_EXPORTER"
    addresses = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    asked = _variable(chosen) or ("otlp" if any(map(_variable, addresses)) else "none")
    names = {name.strip().lower() for name in asked.split(",")} - {"none", ""}
    if unknown := sorted(names - known):
        raise UsageError(
            f"{chosen} is {asked!r}, and comfyline cannot export to {unknown[0]}",
            hint=f"It knows {', '.join(sorted(known))} and none; several are parted by commas.",
        )
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if "otlp" in names and _variable(variable) not in {"", "http/protobuf"}:
            raise UsageError(
                f"{variable} is {_variable(variable)!r}, which comfyline does not speak",
                hint="Set it to http/protobuf, and the endpoint to the collector's port for it, "
                "4318 as a rule.",
            )
    return frozenset(names)


def _page() -> tuple[str, int]:
    port = _variable("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    if not _PORT.fullmatch(port) or not is_port(int(port)):
        raise UsageError(
            f"OTEL_EXPORTER_PROMETHEUS_PORT is {port!r}, which is not a port",
            hint="Set it to a number from 1 to 65535, or unset it.",
        )
    return _variable("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost", int(port)


def home() -> Path:
    """Return where local state lives, an absolute path; one that is there is closed to others.

    It is COMFYLINE_HOME, else `.comfyline/` in the working directory.
    """
    path = Path(_variable("COMFYLINE_HOME") or ".comfyline").resolve()
    if path.is_dir():
        # Another's is not ours to close: no local server is started in it.
        with suppress(OSError):
            private_folder(path)
    return path


def variable(name: str) -> str | None:
    """Return a variable of the process's environment as it is, None when it is not set."""
    return os.environ.get(name)


def _variable(name: str) -> str:
    """Return a variable of the environment; what is set to nothing, or to blanks, is not set."""
    return os.environ.get(name, "").strip()


def _aws_endpoint() -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := _variable(name):
            return _checked(storage_endpoint, url, name)
    return None


def _whole_token(token: str, keeper: str) -> SecretStr:
    if not token or not (token.isascii() and token.isprintable() and " " not in token):
        flaw = "it contains a space or an unusual character" if token else "it is empty"
        raise TokenRejected(
            f"What {keeper} holds is not a token: {flaw}",
            hint="Set it to the token alone, without `Bearer` and without a line break.",
        )
    return SecretStr(token)


def _checked(check: Callable[[str], str], value: str, name: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise InputInvalid([Problem(name, f"it {error}")]) from None
