"""The stack as a whole: `ensure` it runs, `stop` it, `inspect` it, and its `addresses`.

Nothing here reads the settings of the user: the command line hands in the home and the ports.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import httpx
from filelock import AsyncFileLock, Timeout

from comfyline.errors import Unreachable, UsageError
from comfyline.stack.credentials import StorageCredentials, read_auth_string, read_credentials
from comfyline.stack.health import Health, http_client, look
from comfyline.stack.layout import Layout, private_folder
from comfyline.stack.process import Record, end, read_record
from comfyline.stack.services import SANDBOX_TOKEN, SERVICES, SPECS, ServiceName, origin
from comfyline.stack.start import Starter, tell_if_elsewhere

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """Where the running services are; None for what does not run.

    `prefect_auth_string` is the `user:password` without which the Prefect server says nothing.
    """

    prefect_api_url: str | None = None
    prefect_auth_string: str | None = field(default=None, repr=False)
    prefect_ui_url: str | None = None
    storage_endpoint: str | None = None
    storage_credentials: StorageCredentials | None = None
    sandbox_url: str | None = None
    sandbox_token: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One line of `comfyline status`.

    `stale`: a pid file is there, its process is not. `unhealthy`: the process lives and does not
    answer, or not yet. `address`, `pid` and `since` are those of a living process.
    """

    name: ServiceName
    state: Literal["running", "stopped", "unhealthy", "stale"]
    log: Path
    address: str | None = None
    pid: int | None = None
    since: datetime | None = None


def _silent(_: str) -> None:
    """Tell nobody."""


async def ensure(
    home: Path,
    services: Sequence[ServiceName] = SERVICES,
    *,
    ports: Mapping[ServiceName, int] | None = None,
    model_dirs: Sequence[Path] = (),
    tell: Tell = _silent,
) -> StackAddresses:
    """Start what of these services does not run, all at once, and return when all are well.

    What runs is left alone. `ports` are binding: a taken one is an `Unreachable`, before anything
    is started. When a service does not start, the others go on running; the error names each one
    that failed, with its log. `model_dirs` matter only for a sandbox that is started now.
    """
    asked = dict(ports or {})
    _refuse_unknown([*services, *asked])
    _refuse_bad_ports(asked)
    wanted = list(dict.fromkeys(services))
    layout = Layout(home)
    _close_to_others(home, is_needed=bool(wanted))
    async with http_client() as client:
        # Without the lock: a `run` beside a long start of something else need not wait for it.
        if not await _all_well(client, layout, wanted, asked, tell):
            async with _locked(layout, tell):
                starter = Starter(layout, client, asked, tuple(model_dirs), tell)
                failures = await starter.bring_up(wanted)
            if failures:
                raise Unreachable("\n".join(failures))
    return addresses(home)


async def stop(home: Path, *, tell: Tell = _silent) -> list[ServiceName]:
    """End exactly what was started in this home, and return the names of what ran."""
    layout = Layout(home)
    if not layout.stack.is_dir():
        return []
    async with _locked(layout, tell):
        running = _alive(layout)
        for name in running:
            tell(f"{name}: stopping")
        await asyncio.to_thread(end, list(running.values()))
        for name in SERVICES:
            record = running.get(name)
            if record is None or not record.is_alive():
                layout.record(name).unlink(missing_ok=True)
    survivors = [name for name, record in running.items() if record.is_alive()]
    if survivors:
        raise Unreachable(f"{', '.join(survivors)} did not end, not even when killed")
    return list(running)


async def inspect(home: Path) -> list[ServiceStatus]:
    """Return the state of each service. Changes nothing and waits for nobody."""
    layout = Layout(home)
    auth_string = read_auth_string(layout.prefect_auth_string)
    async with http_client() as client:

        async def status(name: ServiceName) -> ServiceStatus:
            log = layout.log(name)
            record = read_record(layout.record(name))
            if record is None:
                left_over = layout.record(name).exists()
                return ServiceStatus(name, "stale" if left_over else "stopped", log)
            health = await look(client, SPECS[name], record, auth_string)
            if health is Health.ENDED:
                return ServiceStatus(name, "stale", log)
            return ServiceStatus(
                name,
                "running" if health is Health.WELL else "unhealthy",
                log,
                origin(record.port),
                record.pid,
                datetime.fromisoformat(record.started_at),
            )

        return await asyncio.gather(*(status(name) for name in SERVICES))


def addresses(home: Path) -> StackAddresses:
    """Return the addresses of the processes that live now, by the pid files; no server is asked."""
    layout = Layout(home)
    origins = {name: origin(record.port) for name, record in _alive(layout).items()}
    prefect, storage, sandbox = (origins.get(name) for name in SERVICES)
    return StackAddresses(
        prefect_api_url=f"{prefect}/api" if prefect else None,
        prefect_auth_string=read_auth_string(layout.prefect_auth_string) if prefect else None,
        prefect_ui_url=prefect,
        storage_endpoint=storage,
        storage_credentials=read_credentials(layout.credentials) if storage else None,
        sandbox_url=sandbox,
        sandbox_token=SANDBOX_TOKEN if sandbox else None,
    )


@asynccontextmanager
async def _locked(layout: Layout, tell: Tell) -> AsyncIterator[None]:
    """Hold the lock of a home, so that one process at a time starts or stops servers there.

    The kernel gives it up with the process, so nothing is left of it after a `kill -9`. The
    servers do not inherit it, because Python opens files so that a child does not keep them.
    """
    private_folder(layout.stack)
    lock = AsyncFileLock(layout.lock, mode=0o600)
    try:
        await lock.acquire(blocking=False)
    except Timeout:
        tell("another comfyline is starting or stopping the stack here; waiting for it")
        await lock.acquire()
    try:
        yield
    finally:
        await lock.release()


async def _all_well(
    client: httpx.AsyncClient,
    layout: Layout,
    wanted: Sequence[ServiceName],
    asked: Mapping[ServiceName, int],
    tell: Tell,
) -> bool:
    alive = _alive(layout)
    if not all(name in alive for name in wanted):
        return False
    auth_string = read_auth_string(layout.prefect_auth_string)
    looks = await asyncio.gather(
        *(look(client, SPECS[name], alive[name], auth_string) for name in wanted)
    )
    if any(health is not Health.WELL for health in looks):
        return False
    for name in wanted:
        tell_if_elsewhere(alive[name], asked.get(name), tell)
    return True


def _alive(layout: Layout) -> dict[ServiceName, Record]:
    records = {name: read_record(layout.record(name)) for name in SERVICES}
    return {name: record for name, record in records.items() if record and record.is_alive()}


def _close_to_others(home: Path, *, is_needed: bool) -> None:
    try:
        private_folder(home)
    except OSError as error:
        if not is_needed:
            return
        raise UsageError(
            f"{home}, where the local servers keep what is yours, cannot be closed to others: "
            f"{error.strerror}",
            hint="set COMFYLINE_HOME to a folder that belongs to you",
        ) from error


def _refuse_unknown(names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(SERVICES))
    if unknown:
        raise UsageError(
            f"the stack has no service named {', '.join(unknown)}",
            hint=f"there are {', '.join(SERVICES)}",
        )


def _refuse_bad_ports(asked: Mapping[ServiceName, int]) -> None:
    for name, port in asked.items():
        if not 0 < port < 2**16:
            raise UsageError(f"{port}, asked for {name}, is no port", hint="ports are 1 to 65535")
    if len(set(asked.values())) < len(asked):
        raise UsageError("two services cannot have the same port", hint="choose different ones")
