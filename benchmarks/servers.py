"""The servers that a benchmark needs, on 127.0.0.1 and in a folder that goes away with them."""

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.processes import ROOT, end, environment
from comfyline.stack.services import SANDBOX_TOKEN, ServiceName
from comfyline.stack.stack import StackAddresses, addresses, ensure, stop

_START_LIMIT = 30.0


@asynccontextmanager
async def playground(services: Sequence[ServiceName] = ()) -> AsyncIterator[Path]:
    """Make a project folder with its home inside and these services; remove it all afterwards."""
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as name:
        project = _project(name)
        try:
            if services:
                await ensure(home_of(project), services)
            yield project
        finally:
            await stop(home_of(project))


def home_of(project: Path) -> Path:
    """Return the COMFYLINE_HOME of a playground."""
    return project / ".comfyline"


def storage_environment(project: Path) -> dict[str, str]:
    """Return the address and the key pair of a playground's storage, for a process to start."""
    found: StackAddresses = addresses(home_of(project))
    keys = found.storage_credentials
    if found.storage_endpoint is None or keys is None:
        raise RuntimeError("the object storage does not run")
    return {
        "AWS_ENDPOINT_URL": found.storage_endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@asynccontextmanager
async def sandbox(project: Path, *, slots: int, speed: float) -> AsyncIterator[str]:
    """Run a sandbox process of its own and yield the origin at which it answers."""
    process, origin = _start(project, slots, speed)
    try:
        await _until_healthy(process, origin)
        yield origin
    finally:
        end(process)


def _project(name: str) -> Path:
    project = Path(name).resolve()
    shutil.copytree(ROOT / "configs", project / "configs")
    home_of(project).mkdir()
    return project


def _start(project: Path, slots: int, speed: float) -> tuple[subprocess.Popen[bytes], str]:
    port = _free_port()
    command = [sys.executable, "-m", "comfyline.sandbox", "--state", str(project / "sandbox")]
    command += ["--models", str(project / "configs/models"), "--token", SANDBOX_TOKEN]
    command += ["--port", str(port), "--slots", str(slots), "--speed", str(speed)]
    with (project / "sandbox.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project, env=environment(), stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


async def _until_healthy(process: subprocess.Popen[bytes], origin: str) -> None:
    deadline = time.monotonic() + _START_LIMIT
    async with httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                if (await http.get(f"{origin}/health")).is_success:
                    return
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the sandbox does not start") from None
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
