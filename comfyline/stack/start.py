"""Starting: claims a port for each service that does not run, and starts them all at once."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx

from comfyline.errors import Unreachable
from comfyline.stack.credentials import (
    read_auth_string,
    read_credentials,
    read_or_make_auth_string,
    read_or_make_credentials,
)
from comfyline.stack.health import Health, look, wait_until_well
from comfyline.stack.layout import Layout, private_folder
from comfyline.stack.ports import (
    Claim,
    candidates,
    claim_explicit,
    claim_first,
    is_free,
    read_ports,
    remember_port,
)
from comfyline.stack.process import Record, end, log_tail, read_record, start
from comfyline.stack.services import (
    BUCKET,
    SPECS,
    Launch,
    ServiceName,
    origin,
    port_variable,
    prefect_launch,
    sandbox_launch,
    storage_launch,
)


def tell_if_elsewhere(record: Record, asked: int | None, tell: Callable[[str], None]) -> None:
    """Say that a service is left at another port than was asked for; otherwise nothing."""
    if asked is not None and asked != record.port:
        tell(
            f"{record.service}: already runs at {origin(record.port)}, not at the port {asked} "
            "that was asked for; to move it, stop the stack first"
        )


@dataclass(frozen=True, slots=True)
class Starter:
    """One start of one home. The caller holds the home's lock."""

    layout: Layout
    client: httpx.AsyncClient
    asked: Mapping[ServiceName, int]
    model_dirs: Sequence[Path]
    tell: Callable[[str], None]

    async def bring_up(self, wanted: Sequence[ServiceName]) -> list[str]:
        """Start what does not live, wait for all, and return what failed, each in words."""
        with ExitStack() as claims:
            # All claims before the first start: an explicit port that is taken starts nothing.
            plan = [(name, self._living(name) or self._claim(name, claims)) for name in wanted]
            said = await asyncio.gather(*(self._bring_up_one(*step, claims) for step in plan))
        return [failure for failure in said if failure is not None]

    async def _bring_up_one(
        self, name: ServiceName, basis: Record | Claim, claims: ExitStack
    ) -> str | None:
        if isinstance(basis, Record):
            health = await look(self.client, SPECS[name], basis, self._auth_string())
            if health is Health.UNWELL:
                self.tell(f"{name}: was started before and does not answer yet, waiting for it")
            if health is not Health.OPEN:
                # Where its part of the log begins was known to whoever started it.
                waited = await self._wait(name, basis, begin=0)
                if waited is None:
                    tell_if_elsewhere(basis, self.asked.get(name), self.tell)
                return waited
            self.tell(f"{name}: runs without this home's password, and is started anew with it")
            await asyncio.to_thread(end, [basis])
            basis = self._claim(name, claims)
        failure = await self._start(name, basis)
        lost_port = failure is not None and self._living(name) is None and not is_free(basis.port)
        if lost_port and name not in self.asked:
            # Somebody took the port between our look at it and the server's.
            self.tell(f"{name}: port {basis.port} was taken meanwhile, starting at another")
            failure = await self._start(name, self._claim(name, claims))
        return failure

    async def _start(self, name: ServiceName, claim: Claim) -> str | None:
        self.tell(f"{name}: starting at {origin(claim.port)}")
        began = monotonic()
        record, begin = start(
            name,
            self._command(name, claim.port),
            claim.port,
            home=self.layout.home,
            log=self.layout.log(name),
            pid_file=self.layout.record(name),
        )
        remember_port(self.layout.ports, name, claim.port)
        failure = await self._wait(name, record, begin)
        if failure is None:
            self.tell(f"{name}: ready after {monotonic() - began:.1f} s")
        return failure

    async def _wait(self, name: ServiceName, record: Record, begin: int) -> str | None:
        auth_string = self._auth_string()
        health = await wait_until_well(self.client, SPECS[name], record, auth_string)
        if health is Health.WELL:
            return None
        log = self.layout.log(name)
        pair = read_credentials(self.layout.credentials)
        hidden = [pair.secret_access_key, pair.access_key_id] if pair else []
        hidden += [auth_string.partition(":")[2]] if auth_string else []
        match health:
            case Health.ENDED:
                what = "ended while it was starting"
            case Health.OPEN:
                what = f"lives (pid {record.pid}) and does not ask for this home's password"
            case _:
                what = f"lives (pid {record.pid}) and does not answer at {origin(record.port)}"
                what += f" within {SPECS[name].start_limit:.0f} s"
        tail = log_tail(log, begin, hidden)
        return f"{name} {what}; its log is {log}" + (f":\n{tail}" if tail else ", and says nothing")

    def _command(self, name: ServiceName, port: int) -> Launch:
        # The one place where the stack reads its environment: to hand it down, cleaned.
        environment = os.environ
        match name:
            case "prefect":
                private_folder(self.layout.prefect)
                auth_string = read_or_make_auth_string(self.layout.prefect_auth_string)
                return prefect_launch(self.layout, port, environment, auth_string)
            case "storage":
                private_folder(self.layout.storage)
                private_folder(self.layout.storage / BUCKET)
                pair = read_or_make_credentials(self.layout.credentials)
                return storage_launch(self.layout, port, environment, pair)
            case "sandbox":
                private_folder(self.layout.sandbox)
                return sandbox_launch(self.layout, port, environment, self.model_dirs)

    def _auth_string(self) -> str | None:
        return read_auth_string(self.layout.prefect_auth_string)

    def _living(self, name: ServiceName) -> Record | None:
        record = read_record(self.layout.record(name))
        return record if record and record.is_alive() else None

    def _claim(self, name: ServiceName, claims: ExitStack) -> Claim:
        if name in self.asked:
            got = claim_explicit(name, self.asked[name], port_variable(name))
        else:
            used = read_ports(self.layout.ports)
            mine = used.pop(name, None)
            # Ports that were asked for belong to the services that asked.
            kept = {*used.values(), *self.asked.values()}
            found = claim_first(candidates(SPECS[name].default_port, mine, kept))
            if found is None:
                raise Unreachable(
                    f"no free port for {name} between 4270 and 4372",
                    hint=f"choose one with {port_variable(name)}",
                )
            got = found
        claims.callback(got.release)
        return got
