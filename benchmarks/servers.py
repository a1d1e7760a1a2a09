"""The servers that a benchmark needs, on 127.0.0.1 and in a folder that goes away with them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.race import ROOT
from comfyline.stack.services import ServiceName
from comfyline.stack.stack import StackAddresses, addresses, ensure, stop


@asynccontextmanager
async def playground(services: Sequence[ServiceName] = ()) -> AsyncIterator[Path]:
    """Make a project folder with its home inside and these services; remove it all afterwards."""
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as name:
        project = await asyncio.to_thread(Path(name).resolve)
        shutil.copytree(ROOT / "configs", project / "configs")
        try:
            if services:
                await ensure(home_of(project), services, model_dirs=[project / "configs/models"])
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
