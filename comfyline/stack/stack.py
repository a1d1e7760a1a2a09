"""The stack as a whole: `ensure` it runs, `stop` it, `inspect` it, and its `addresses`.

Nothing here reads the settings of the user: the command line hands in the home and the ports.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Literal

import httpx
from filelock import AsyncFileLock, Timeout

from comfyline.errors import Unreachable, UsageError
from comfyline.stack.home import (
    Layout,
    StorageCredentials,
    private_folder,
    read_auth_string,
    read_credentials,
)
from comfyline.stack.ports import (
    check_free,
    first_free,
    is_free,
    read_ports,
    remember_port,
)
from comfyline.stack.process import ServerRecord, end, log_tail, read_record, start
from comfyline.stack.services import (
    SANDBOX_TOKEN,
    SERVICES,
    SPECS,
    ServiceName,
    http_client,
    is_well,
    launch,
    origin,
    port_variable,
    wait_until_well,
)

Tell = Callable[[str], None]

_PORTS_TRIED = 5
"""Where other servers start at the same time, one may lose its port; hardly so often."""


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


async def ensure(
    home: Path,
    services: Sequence[ServiceName] = SERVICES,
    *,
    ports: Mapping[ServiceName, int] | None = None,
    model_dirs: Sequence[Path] = (),
    tell: Tell = lambda _: None,
) -> StackAddresses:
    """Start what of these services does not run, all at once, and return when all are well.

    What runs is left alone. `ports` are binding: a taken one is an `Unreachable`, before anything
    is started. When a service does not start, the others go on running; the error names each one
    that failed, with its log. `model_dirs` matter only for a sandbox that is started now.
    """
    asked = dict(ports or {})
    if len(set(asked.values())) < len(asked):
        raise UsageError("two services cannot have the same port", hint="choose different ones")
    _close_to_others(home, is_needed=bool(services))
    layout = Layout(home)
    async with http_client() as client:
        starting = _Start(layout, client, asked, model_dirs, tell)
        # Without the lock: a `run` beside a long start of something else need not wait for it.
        if not await starting.is_needless(services):
            async with _locked(layout, tell):
                failures = await starting.all(services)
            if failures:
                raise Unreachable("\n".join(failures))
    return addresses(home)


async def stop(home: Path, *, tell: Tell = lambda _: None) -> list[ServiceName]:
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
        raise Unreachable(f"{', '.join(survivors)} did not stop, even when killed")
    return list(running)


async def inspect(home: Path) -> list[ServiceStatus]:
    """Return the state of each service. Changes nothing and waits for nobody."""
    layout = Layout(home)
    async with http_client() as client:

        async def status(name: ServiceName) -> ServiceStatus:
            log, pid_file = layout.log(name), layout.record(name)
            record = read_record(pid_file)
            if record is None or not record.is_alive():
                return ServiceStatus(name, "stale" if pid_file.exists() else "stopped", log)
            state: Literal["running", "unhealthy"] = (
                "running" if await is_well(client, record) else "unhealthy"
            )
            since = datetime.fromisoformat(record.started_at)
            return ServiceStatus(name, state, log, origin(record.port), record.pid, since)

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


@dataclass(frozen=True, slots=True)
class _Start:
    """One start of one home."""

    layout: Layout
    client: httpx.AsyncClient
    asked: Mapping[ServiceName, int]
    model_dirs: Sequence[Path]
    tell: Tell

    async def is_needless(self, wanted: Sequence[ServiceName]) -> bool:
        """Tell whether all of these run and are well."""
        alive = _alive(self.layout)
        for name in alive:
            if (port := self.asked.get(name)) not in {None, alive[name].port}:
                self.tell(
                    f"{name}: already runs at {origin(alive[name].port)}, not at the port "
                    f"{port} that was asked for; to move it, stop the stack first"
                )
        if not alive.keys() >= set(wanted) or any(self._is_open(name) for name in wanted):
            return False
        return all(await asyncio.gather(*(is_well(self.client, alive[name]) for name in wanted)))

    def _is_open(self, name: ServiceName) -> bool:
        """Tell whether a running server asks nobody for a password, being older than it."""
        return name == "prefect" and read_auth_string(self.layout.prefect_auth_string) is None

    async def all(self, wanted: Sequence[ServiceName]) -> list[str]:
        """Start what does not live, wait for all, and return what failed. Needs the home's lock."""
        running = _alive(self.layout)
        # Before the first start: an explicit port that is taken starts nothing.
        for name in wanted:
            if name in self.asked and name not in running:
                check_free(name, self.asked[name], port_variable(name))
        found = await asyncio.gather(*(self._bring_up(name, running.get(name)) for name in wanted))
        return [failure for failure in found if failure]

    async def _bring_up(self, name: ServiceName, running: ServerRecord | None) -> str | None:
        if running and self._is_open(name):
            self.tell(f"{name}: runs without the password of this home; restarting it")
            await asyncio.to_thread(end, [running])
        elif running:
            if not await is_well(self.client, running):
                self.tell(f"{name}: was started earlier and does not answer yet; waiting for it")
            # Where its part of the log begins was known to whoever started it.
            return await self._wait(name, running, begin=0)
        failure: str | None = None
        for _ in range(_PORTS_TRIED):
            port = self._port(name)
            failure = await self._start(name, port)
            if failure is None or name in self.asked or name in _alive(self.layout):
                return failure
            # Somebody took the port between our look at it and the server's, and may be gone again.
            if is_free(port) and "already in use" not in failure.lower():
                return failure
            self.tell(f"{name}: port {port} was taken in the meantime; starting at another")
        return failure

    async def _start(self, name: ServiceName, port: int) -> str | None:
        self.tell(f"{name}: starting at {origin(port)}")
        began = monotonic()
        command = launch(name, self.layout, port, self.model_dirs)
        record, begin = start(self.layout, name, port, command)
        failure = await self._wait(name, record, begin)
        if failure is None:
            self.tell(f"{name}: ready after {monotonic() - began:.1f} s")
        return failure

    async def _wait(self, name: ServiceName, record: ServerRecord, begin: int) -> str | None:
        if await wait_until_well(self.client, record):
            return None
        what = "stopped while it was starting"
        if record.is_alive():
            what = (
                f"is running (pid {record.pid}) but does not answer at {origin(record.port)} "
                f"within {SPECS[name].start_limit:.0f} s"
            )
        log = self.layout.log(name)
        pair = read_credentials(self.layout.credentials)
        hidden = [pair.secret_access_key, pair.access_key_id] if pair else []
        if auth_string := read_auth_string(self.layout.prefect_auth_string):
            hidden.append(auth_string.partition(":")[2])
        tail = log_tail(log, begin, hidden)
        return f"{name} {what}; its log is {log}" + (f":\n{tail}" if tail else ", and is empty")

    def _port(self, name: ServiceName) -> int:
        """Choose the port of a service and remember it: no other service of the home gets it."""
        used = read_ports(self.layout.ports)
        last = used.pop(name, None)
        # Ports that were asked for belong to the services that asked.
        kept = {*used.values(), *self.asked.values()}
        port = self.asked.get(name) or first_free(SPECS[name].default_port, last, kept)
        if port is None:
            raise Unreachable(
                f"no free port for {name} between 4270 and 4372",
                hint=f"choose one with {port_variable(name)}",
            )
        remember_port(self.layout.ports, name, port)
        return port


def _alive(layout: Layout) -> dict[ServiceName, ServerRecord]:
    records = {name: read_record(layout.record(name)) for name in SERVICES}
    return {name: record for name, record in records.items() if record and record.is_alive()}


def _close_to_others(home: Path, *, is_needed: bool) -> None:
    try:
        private_folder(home)
    except OSError as error:
        # A volume of another's does for who starts no server in it.
        if not is_needed:
            return
        raise UsageError(
            f"{home}, where the local servers keep your data, cannot be made private: "
            f"{error.strerror}",
            hint="set COMFYLINE_HOME to a folder that belongs to you",
        ) from error
