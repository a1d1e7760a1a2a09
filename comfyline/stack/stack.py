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
    is_port,
    read_ports,
    remember_port,
)
from comfyline.stack.process import ServerRecord, end, log_tail, read_record, start
from comfyline.stack.services import (
    SANDBOX_TOKEN,
    SERVICES,
    SPECS,
    Health,
    ServiceName,
    http_client,
    launch,
    origin,
    port_variable,
    probe,
    wait_until_well,
)

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
    _check_request([*services, *asked], asked)
    wanted = list(dict.fromkeys(services))
    _close_to_others(home, is_needed=bool(wanted))
    async with http_client() as client:
        starting = _Start(Layout(home), client, asked, model_dirs, tell)
        # Without the lock: a `run` beside a long start of something else need not wait for it.
        if not await starting.is_needless(wanted):
            async with _locked(starting.layout, tell):
                failures = await starting.all(wanted)
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
    auth_string = read_auth_string(layout.prefect_auth_string)
    async with http_client() as client:

        async def status(name: ServiceName) -> ServiceStatus:
            log = layout.log(name)
            record = read_record(layout.record(name))
            if record is None:
                left_over = layout.record(name).exists()
                return ServiceStatus(name, "stale" if left_over else "stopped", log)
            health = await probe(client, record, auth_string)
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
        if not alive.keys() >= set(wanted):
            return False
        auth_string = read_auth_string(self.layout.prefect_auth_string)
        probes = (probe(self.client, alive[name], auth_string) for name in wanted)
        if any(health is not Health.WELL for health in await asyncio.gather(*probes)):
            return False
        for name in wanted:
            self._tell_if_elsewhere(alive[name], self.asked.get(name))
        return True

    def _tell_if_elsewhere(self, record: ServerRecord, asked: int | None) -> None:
        if asked is not None and asked != record.port:
            self.tell(
                f"{record.service}: already runs at {origin(record.port)}, not at the port "
                f"{asked} that was asked for; to move it, stop the stack first"
            )

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
        if running is not None:
            auth_string = read_auth_string(self.layout.prefect_auth_string)
            health = await probe(self.client, running, auth_string)
            if health is Health.UNWELL:
                self.tell(f"{name}: was started earlier and does not answer yet; waiting for it")
            if health is not Health.OPEN:
                # Where its part of the log begins was known to whoever started it.
                waited = await self._wait(name, running, begin=0)
                if waited is None:
                    self._tell_if_elsewhere(running, self.asked.get(name))
                return waited
            self.tell(f"{name}: runs without the password of this home; restarting it")
            await asyncio.to_thread(end, [running])
        while True:
            port = self._port(name)
            failure = await self._start(name, port)
            lost_port = failure is not None and name not in _alive(self.layout)
            if not lost_port or name in self.asked or is_free(port):
                return failure
            # Somebody took the port between our look at it and the server's.
            self.tell(f"{name}: port {port} was taken in the meantime; starting at another")

    async def _start(self, name: ServiceName, port: int) -> str | None:
        self.tell(f"{name}: starting at {origin(port)}")
        began = monotonic()
        record, begin = start(
            self.layout, name, port, launch(name, self.layout, port, self.model_dirs)
        )
        failure = await self._wait(name, record, begin)
        if failure is None:
            self.tell(f"{name}: ready after {monotonic() - began:.1f} s")
        return failure

    async def _wait(self, name: ServiceName, record: ServerRecord, begin: int) -> str | None:
        auth_string = read_auth_string(self.layout.prefect_auth_string)
        health = await wait_until_well(self.client, record, auth_string)
        if health is Health.WELL:
            return None
        log = self.layout.log(name)
        pair = read_credentials(self.layout.credentials)
        hidden = [pair.secret_access_key, pair.access_key_id] if pair else []
        hidden += [auth_string.partition(":")[2]] if auth_string else []
        match health:
            case Health.ENDED:
                what = "stopped while it was starting"
            case Health.OPEN:
                what = f"is running (pid {record.pid}) without the password of this home"
            case _:
                what = f"is running (pid {record.pid}) but does not answer at {origin(record.port)}"
                what += f" within {SPECS[name].start_limit:.0f} s"
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
        if not is_needed:
            return
        raise UsageError(
            f"{home}, where the local servers keep your data, cannot be made private: "
            f"{error.strerror}",
            hint="set COMFYLINE_HOME to a folder that belongs to you",
        ) from error


def _check_request(names: Sequence[str], asked: Mapping[ServiceName, int]) -> None:
    unknown = sorted(set(names) - set(SERVICES))
    if unknown:
        raise UsageError(
            f"the stack has no service named {', '.join(unknown)}",
            hint=f"there are {', '.join(SERVICES)}",
        )
    for name, port in asked.items():
        if not is_port(port):
            raise UsageError(f"Invalid port for {name}: {port}", hint="use 1 to 65535")
    if len(set(asked.values())) < len(asked):
        raise UsageError("two services cannot have the same port", hint="choose different ones")
