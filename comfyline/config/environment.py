"""From a profile's name to `Settings`, with whatever of the local stack the profile needs running.

The one place that reads the process environment and the working directory.
"""

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from comfyline.config.account import Account
from comfyline.config.files import model_directories
from comfyline.config.load import (
    account_of,
    find_token,
    home_directory,
    ledger_url,
    local_services,
    named_blocks,
    read_profile,
    resolve,
    storage_settings,
)
from comfyline.config.settings import NO_BLOCKS, LocalStack, Secret, Settings, StorageSettings
from comfyline.errors import UsageError
from comfyline.stack.home import private_folder
from comfyline.stack.services import SERVICES, ServiceName, port_variable
from comfyline.stack.stack import StackAddresses, addresses, ensure

_NOWHERE = "http://127.0.0.1:9"
_PORT = re.compile(r"[0-9]{1,5}")
_HIGHEST_PORT = 65535

ONLY_RUNCOMFY: tuple[ServiceName, ...] = ("sandbox",)
"""What a command needs of the local stack that asks RunComfy and touches no stored file."""

ReadBlock = Callable[[str], Awaitable[str]]
"""Gives what the Prefect Secret block of that name holds."""


def home() -> Path:
    """Return where local state lives, an absolute path; one that is there is closed to others."""
    path = home_directory(os.environ, Path.cwd())
    if path.is_dir():
        # Another's is not ours to close: no local server is started in it.
        with suppress(OSError):
            private_folder(path)
    return path


def variable(name: str) -> str | None:
    """Return a variable of the process's environment, None when it is not set."""
    return os.environ.get(name)


def asked_ports() -> dict[ServiceName, int]:
    """Read the ports that the environment gives services. Raises `UsageError` for a bad one."""
    asked: dict[ServiceName, int] = {}
    for service in SERVICES:
        name = port_variable(service)
        written = os.environ.get(name, "").strip()
        if not written:
            continue
        # A port that is asked for is binding, so a misspelt one must not become any free one.
        if not _PORT.fullmatch(written) or not 0 < int(written) <= _HIGHEST_PORT:
            raise UsageError(
                f"{name} is {written!r}, which is not a port",
                hint=f"Set it to a number from 1 to {_HIGHEST_PORT}, or unset it.",
            )
        asked[service] = int(written)
    return asked


def check_token(profile_name: str) -> None:
    """Raise `TokenRejected` before anything starts when the profile's token is missing.

    A token in a Prefect block can be looked for only once the server is there.
    """
    profile = read_profile(profile_name, Path.cwd())
    if profile.runcomfy.token_block is None:
        find_token(profile, os.environ)


def needed_services(profile_name: str) -> tuple[ServiceName, ...]:
    """Return what of the local stack a profile needs, besides the orchestrator."""
    return local_services(read_profile(profile_name, Path.cwd()), os.environ)


async def start_services(
    services: tuple[ServiceName, ...], tell: Callable[[str], None]
) -> StackAddresses:
    """Start what of these services does not run yet."""
    ports = {name: port for name, port in asked_ports().items() if name in services}
    return await ensure(
        home(),
        services,
        ports=ports,
        # The sandbox lets a later folder win.
        model_dirs=model_directories(Path.cwd())[::-1],
        tell=tell,
    )


async def prepare(
    profile_name: str,
    tell: Callable[[str], None],
    read_block: ReadBlock | None = None,
    *,
    only: tuple[ServiceName, ...] = SERVICES,
) -> Settings:
    """Load the settings of a profile, after starting the local services that it needs.

    Of these `only` the named ones; at the address of another that does not run nothing answers.
    `read_block` gives what a Prefect Secret block holds; without it a profile that names one is a
    `UsageError`. Raises `UsageError`, `InputInvalid`, `TokenRejected` or `Unreachable`, each with
    what to do.
    """
    profile = read_profile(profile_name, Path.cwd())
    names = named_blocks(profile, os.environ) if read_block else ()
    blocks = {name: Secret(await read_block(name)) for name in names} if read_block else NO_BLOCKS
    find_token(profile, os.environ, blocks)
    needed = tuple(name for name in local_services(profile, os.environ) if name in only)
    found = await start_services(needed, tell) if needed else addresses(home())
    return resolve(profile_name, profile, os.environ, Path.cwd(), _or_nowhere(found), blocks)


def look(profile_name: str, patience: float = 0) -> Settings:
    """Load the settings of a profile with the local services as they are; nothing is started.

    RunComfy may be away for `patience` seconds, or for the profile's when that is less.

    Where the sandbox or the local storage does not run, its address is one at which nothing
    answers.
    """
    profile = read_profile(profile_name, Path.cwd())
    local = _or_nowhere(addresses(home()))
    settings = resolve(profile_name, profile, os.environ, Path.cwd(), local)
    waits = min(patience, settings.runcomfy.patience)
    return replace(settings, runcomfy=replace(settings.runcomfy, patience=waits))


async def prepare_storage(profile_name: str, tell: Callable[[str], None]) -> StorageSettings:
    """Load the storage of a profile alone, started where it is the local one; needs no token.

    Raises `UsageError`, `InputInvalid` or `Unreachable`.
    """
    profile = read_profile(profile_name, Path.cwd())
    is_local = "storage" in local_services(profile, os.environ)
    found = await start_services(("storage",), tell) if is_local else StackAddresses()
    return storage_settings(profile, os.environ, _local(found))


def look_at_storage(profile_name: str) -> StorageSettings:
    """Load the storage of a profile as it is: nothing is started, and no token is needed.

    Raises `UsageError`, `InputInvalid`, or `Unreachable` where the local storage does not run.
    """
    profile = read_profile(profile_name, Path.cwd())
    return storage_settings(profile, os.environ, _local(addresses(home())))


def _or_nowhere(found: StackAddresses) -> LocalStack:
    """Return what runs, and for what does not an address at which nothing answers."""
    local, nobody = _local(found), Secret("nobody")
    if local.sandbox_url is None:
        local = replace(local, sandbox_url=_NOWHERE, sandbox_token=nobody)
    if local.storage_endpoint is None:
        local = replace(local, storage_endpoint=_NOWHERE, storage_key=nobody, storage_secret=nobody)
    return local


def _local(found: StackAddresses) -> LocalStack:
    keys = found.storage_credentials
    return LocalStack(
        sandbox_url=found.sandbox_url,
        sandbox_token=Secret(found.sandbox_token) if found.sandbox_token else None,
        storage_endpoint=found.storage_endpoint,
        storage_key=Secret(keys.access_key_id) if keys else None,
        storage_secret=Secret(keys.secret_access_key) if keys else None,
    )


def profile_account(profile_name: str) -> Account:
    """Return whom the requests of a profile belong to, without resolving the rest of it."""
    return account_of(profile_name, read_profile(profile_name, Path.cwd()), os.environ)


def profile_ledger_url(profile_name: str) -> str:
    """Return where the ledger of a profile lies, without resolving the rest of it."""
    return ledger_url(read_profile(profile_name, Path.cwd()), os.environ, home())
