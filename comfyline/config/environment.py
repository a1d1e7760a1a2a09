"""The edge: the process environment and the working directory, and the local services they need.

No other place reads either of them. What is asked of a profile is in `load`.
"""

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from comfyline.config.account import Account
from comfyline.config.load import LoadedProfile, home_directory, read_profile
from comfyline.config.profile import model_directories
from comfyline.config.settings import NO_BLOCKS, Secret, Settings, StorageSettings
from comfyline.errors import UsageError
from comfyline.stack.home import StorageCredentials, private_folder
from comfyline.stack.ports import is_port
from comfyline.stack.services import SERVICES, ServiceName, port_variable
from comfyline.stack.stack import StackAddresses, addresses, ensure

_NOWHERE = "http://127.0.0.1:9"
"""An address at which nothing answers."""
_NOBODY = StorageCredentials("nobody", "nobody")
_PORT = re.compile(r"[0-9]{1,5}")

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
        if not _PORT.fullmatch(written) or not is_port(int(written)):
            raise UsageError(
                f"{name} is {written!r}, which is not a port",
                hint="Set it to a number from 1 to 65535, or unset it.",
            )
        asked[service] = int(written)
    return asked


def check_token(profile_name: str) -> None:
    """Raise `TokenRejected` before anything starts when the profile's token is missing.

    A token in a Prefect block can be looked for only once the server is there.
    """
    profile = _profile(profile_name)
    if profile.document.runcomfy.token_block is None:
        profile.token()


def needed_services(profile_name: str) -> tuple[ServiceName, ...]:
    """Return what of the local stack a profile needs, besides the orchestrator."""
    return _profile(profile_name).local_services


def profile_account(profile_name: str) -> Account:
    """Return whom the requests of a profile belong to, without resolving the rest of it."""
    return _profile(profile_name).account


def profile_ledger_url(profile_name: str) -> str:
    """Return where the ledger of a profile lies, without resolving the rest of it."""
    home()
    return _profile(profile_name).ledger_url()


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
    profile, blocks = _profile(profile_name), NO_BLOCKS
    if read_block:
        blocks = {name: Secret(await read_block(name)) for name in profile.blocks}
    profile.token(blocks)
    needed = tuple(name for name in profile.local_services if name in only)
    found = await start_services(needed, tell) if needed else addresses(home())
    return profile.settings(_or_nowhere(found), blocks)


def look(profile_name: str, patience: float = 0) -> Settings:
    """Load the settings of a profile with the local services as they are; nothing is started.

    RunComfy may be away for `patience` seconds, or for the profile's when that is less. Where the
    sandbox or the local storage does not run, its address is one at which nothing answers.
    """
    settings = _profile(profile_name).settings(_or_nowhere(addresses(home())))
    waits = min(patience, settings.runcomfy.patience)
    return replace(settings, runcomfy=replace(settings.runcomfy, patience=waits))


async def prepare_storage(profile_name: str, tell: Callable[[str], None]) -> StorageSettings:
    """Load the storage of a profile alone, started where it is the local one; needs no token.

    Raises `UsageError`, `InputInvalid` or `Unreachable`.
    """
    profile = _profile(profile_name)
    is_local = "storage" in profile.local_services
    return profile.storage(
        await start_services(("storage",), tell) if is_local else StackAddresses()
    )


def look_at_storage(profile_name: str) -> StorageSettings:
    """Load the storage of a profile as it is: nothing is started, and no token is needed.

    Raises `UsageError`, `InputInvalid`, or `Unreachable` where the local storage does not run.
    """
    return _profile(profile_name).storage(addresses(home()))


def _profile(name: str) -> LoadedProfile:
    return read_profile(name, os.environ, Path.cwd())


def _or_nowhere(found: StackAddresses) -> StackAddresses:
    """Return what runs, and for what does not an address at which nothing answers."""
    if found.sandbox_url is None:
        found = replace(found, sandbox_url=_NOWHERE, sandbox_token="nobody")  # noqa: S106
    if found.storage_endpoint is None:
        found = replace(found, storage_endpoint=_NOWHERE, storage_credentials=_NOBODY)
    return found
