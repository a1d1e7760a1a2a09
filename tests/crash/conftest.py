"""The process that forks, the sandboxes in which scenes are played, and the table at the end."""

import asyncio
import queue
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import botocore.session
import certifi
import pytest

from comfyline.services import open_ledger
from comfyline.stack.stack import StackAddresses
from tests.conftest import ROOT, Sandbox, prefect_variables
from tests.crash.scene import Scene, Servers
from tests.forking import clean_environment, fork_server

LANES = 4
"""Scenes that are played at a time, each with a sandbox of its own, where its faults are its own.

More than there are processors: much of a scene is waiting."""
_SPEED = 400.0


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Another RunComfy than the one at which a scene is played."""
    state = tmp_path_factory.mktemp("elsewhere") / "state"
    sandbox = Sandbox(state, [ROOT / "configs/models"], slots=2, speed=_SPEED).start()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="session")
def servers(
    stack: StackAddresses, tmp_path_factory: pytest.TempPathFactory, elsewhere: Sandbox
) -> Iterator[Servers]:
    """The process that forks, with what its children need to reach the shared stack."""
    folder = tmp_path_factory.mktemp("forks")
    assert stack.storage_endpoint
    keys = stack.storage_credentials
    assert keys is not None
    environment = clean_environment() | {
        **prefect_variables(stack),
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "SSL_CERT_FILE": str(_one_authority(folder / "authority.pem")),
    }
    credentials = {
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": "us-east-1",
    }
    s3 = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=stack.storage_endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
    )
    # Not below pytest's folders: a socket's path may have a hundred characters.
    ledger = _empty_ledger(folder / "empty.sqlite3")
    try:
        changed = ("tests.crash.breaks", "tests.crash.clocks", "tests.crash.mutations")
        with fork_server(environment, *changed) as forks:
            yield Servers(
                forks=forks,
                storage_url=stack.storage_endpoint,
                environment=credentials | {"RUNCOMFY_API_TOKEN": "sandbox-token"},
                empty_ledger=ledger,
                s3=s3,
                elsewhere=elsewhere,
            )
    finally:
        s3.close()


@pytest.fixture(scope="session")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sandbox]]:
    """Sandboxes of which each is used by one scene at a time."""
    folder = tmp_path_factory.mktemp("lanes")
    models = [ROOT / "configs/models"]
    sandboxes = [
        Sandbox(folder / f"{number}", models, slots=2, speed=_SPEED) for number in range(LANES)
    ]
    try:
        with ThreadPoolExecutor(LANES) as starting:
            list(starting.map(Sandbox.start, sandboxes))
        yield sandboxes
    finally:
        for sandbox in sandboxes:
            sandbox.close()


@pytest.fixture(scope="session")
def free_lanes(lanes: list[Sandbox]) -> "queue.SimpleQueue[Sandbox]":
    free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    for sandbox in lanes:
        free.put(sandbox)
    return free


@contextmanager
def in_lane(free_lanes: "queue.SimpleQueue[Sandbox]") -> Iterator[Sandbox]:
    """A sandbox for one scene; no fault outlives it."""
    sandbox = free_lanes.get()
    try:
        yield sandbox
    finally:
        sandbox.open.delete("/sandbox/faults")
        free_lanes.put(sandbox)


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    servers: Servers,
    free_lanes: "queue.SimpleQueue[Sandbox]",
) -> Iterator[Callable[..., Scene]]:
    """Makes the scene of a test, in a sandbox that it has for itself."""
    with in_lane(free_lanes) as sandbox:
        name = request.node.name.replace("[", "-").rstrip("]")
        yield lambda **more: Scene(tmp_path / name, sandbox, servers, **more)


def _empty_ledger(path: Path) -> Path:
    """A ledger as any run but the first finds it: migrating takes longer than all else in it."""
    made = path.with_name("made.sqlite3")
    ledger = open_ledger(f"sqlite:///{made}", None)
    asyncio.run(ledger.end_dead_leases())
    ledger.close()
    assert not made.with_name("made.sqlite3-wal").exists()
    shutil.move(made, path)
    return path


def _one_authority(path: Path) -> Path:
    """A file of trusted authorities with one in it: reading all takes longer than a run."""
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end
    path.write_text(first[first.index("-----BEGIN") :])
    return path
