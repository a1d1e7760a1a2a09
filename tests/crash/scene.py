"""One small pipeline with a home, a ledger and a sandbox of its own, and what must hold of it."""

import asyncio
import json
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, select

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.tables import attempts, jobs
from comfyline.pipeline.output_names import output_uris
from comfyline.services import open_ledger
from tests.conftest import EDIT, ROOT, Sandbox, jpeg
from tests.crash.breaks import Break
from tests.forking import Command, Process, start
from tests.money import discrepancies

_PROFILE = """
runcomfy: {{base_url: "{sandbox}", in_flight: 32, submits_per_second: 200, patience: {patience}}}
storage: {{uploads: "s3://comfyline/uploads", endpoint_url: "{storage}", url_expires: 1h}}
"""
_PIPELINE = """
name: crash
source: {{items: {items}}}
steps:
  edit:
    model: {model}
    input:
      prompt: "{{{{ item.prompt }}}}{edited}"
      image_urls: [photo.jpg]
      # The flattest format is painted in the shortest time.
      aspect_ratio: "21:9"
      output_format: jpeg
output: {{to: "{to}", name: "{{{{ item.name }}}}-{{{{ index }}}}.{{{{ ext }}}}"}}
limits: {{in_flight: {in_flight}}}
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """What all scenes share: the process that forks, and the object storage."""

    forks: Path
    storage_url: str
    environment: dict[str, str]
    empty_ledger: Path
    s3: Any
    elsewhere: Sandbox


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    log: str

    @property
    def json(self) -> Any:
        assert self.stdout, self.log
        return json.loads(self.stdout)


class Scene:
    """A working directory in which one pipeline is run, killed, and run again.

    Its jobs are told from all others by their prompts, which begin with its name. Without
    `ledger_url` it has a SQLite ledger of its own, which is empty, or not there yet. `environment`
    and `changes` are for each command from now on.
    """

    def __init__(
        self,
        directory: Path,
        sandbox: Sandbox,
        servers: Servers,
        *,
        items: int = 1,
        in_flight: int = 16,
        to: str = "out",
        ledger_url: str | None = None,
        has_ledger: bool = True,
        patience: str = "20s",
    ) -> None:
        self.directory, self.sandbox, self.servers, self.items = directory, sandbox, servers, items
        self.environment: dict[str, str] = {}
        self.changes: tuple[tuple[str, Any], ...] = ()
        self._kept: dict[str, list[bytes]] = {}
        self.name = directory.name
        self.to = to
        self.in_flight = in_flight
        # How many jobs there are to be in the end: more than items, once prompts were edited.
        self.jobs = items
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        own = self.home / "ledger.sqlite3"
        self.ledger_url = ledger_url or f"sqlite:///{own}"
        if ledger_url is None and has_ledger:
            shutil.copyfile(servers.empty_ledger, own)
        self._write(patience)
        self._commands = 0

    def edit(self, more: str) -> None:
        """Gives all prompts another end; every job is another one then."""
        self.jobs = 2 * self.items
        self._write_pipeline(more)

    def _write(self, patience: str) -> None:
        (self.directory / "configs").symlink_to(ROOT / "configs")
        # Bytes that no other scene has, so that its upload is its own.
        (self.directory / "photo.jpg").write_bytes(jpeg((96, 54)) + secrets.token_bytes(8))
        profile = _PROFILE.format(
            sandbox=self.sandbox.url, storage=self.servers.storage_url, patience=patience
        )
        (self.directory / "profile.yaml").write_text(profile)
        self._write_pipeline("")

    def _write_pipeline(self, edited: str) -> None:
        names = [f"{self.name} {number:03}" for number in range(self.items)]
        listed = json.dumps([{"prompt": one, "name": one.replace(" ", "-")} for one in names])
        pipeline = _PIPELINE.format(
            items=listed, model=EDIT, to=self.to, in_flight=self.in_flight, edited=edited
        )
        (self.directory / "crash.yaml").write_text(pipeline)

    def start(
        self, *arguments: str, break_at: Break | None = None, mutation: str | None = None
    ) -> Process:
        self._commands += 1
        environment = self.servers.environment | {
            "COMFYLINE_HOME": str(self.home),
            "COMFYLINE_LEDGER_URL": self.ledger_url,
            **self.environment,
        }
        command = Command(
            arguments=(*arguments, "--profile", "profile.yaml"),
            directory=str(self.directory),
            environment=environment,
            output=str(self.directory / f"command-{self._commands}"),
            changes=self.changes + _changes(break_at, mutation),
        )
        return start(self.servers.forks, command)

    def start_run(
        self, break_at: Break | None = None, mutation: str | None = None, *more: str
    ) -> Process:
        run = ("run", "crash.yaml", "--json", *more)
        return self.start(*run, break_at=break_at, mutation=mutation)

    def ended(self, process: Process) -> Ended:
        code = process.wait()
        stdout = process.output.with_suffix(".json").read_text()
        return Ended(code, stdout, process.output.with_suffix(".log").read_text())

    def run(self, *more: str) -> Ended:
        return self.ended(self.start("run", "crash.yaml", "--json", *more))

    def command(self, *arguments: str) -> Ended:
        return self.ended(self.start(*arguments))

    def requests(self, at: Sandbox | None = None) -> list[dict[str, Any]]:
        """What a sandbox accepted of this scene, charged now or as soon as it is made."""
        rows = (at or self.sandbox).account()["requests"]
        return [row for row in rows if row["input"].get("prompt", "").startswith(f"{self.name} ")]

    def attempts(self) -> list[Attempt]:
        """What the ledger knows, but for what was asked for elsewhere."""
        elsewhere = {row["request_id"] for row in self.requests(self.servers.elsewhere)}
        return [one for one in self.all_attempts() if one.request_id not in elsewhere]

    def all_attempts(self) -> list[Attempt]:
        ledger = open_ledger(self.ledger_url, None, reading=True)
        try:
            return list(asyncio.run(ledger.list()))
        finally:
            ledger.close()

    def pictures(self, request_id: str) -> list[bytes]:
        """What the sandbox made for a request."""
        if request_id in self._kept:
            return self._kept[request_id]
        return self.sandbox.download(self.sandbox.result(request_id))

    def expire(self, request_id: str) -> None:
        """Lets the sandbox forget a request, as after seven days."""
        self._kept[request_id] = self.pictures(request_id)
        self.sandbox.open.post(f"/sandbox/expire/{request_id}").raise_for_status()

    def state(self) -> str:
        """Where the ledger says that the jobs stand."""
        return ", ".join(sorted({attempt.state.value for attempt in self.attempts()})) or "–"

    def resolve(self) -> list[str]:
        """Does what a person does about a doubt who knows what RunComfy has; what that was."""
        truth = {row["input"]["prompt"]: row["request_id"] for row in self.requests()}
        done = []
        for attempt in self.attempts():
            if attempt.state is not JobState.IN_DOUBT:
                continue
            request_id = truth.get(str(attempt.checked.job.inputs["prompt"]))
            answer = ("--request-id", request_id) if request_id else ("--lost",)
            ended = self.command("resolve", attempt.checked.key, *answer)
            # A request id that only the journal has is written down by the command itself.
            assert ended.code == 0 or "not in doubt" in ended.log, ended.log
            done.append(answer[0])
        return done


def broken_rules(scene: Scene, *, paid_in_vain: int = 0) -> list[str]:
    """What does not hold once everything has been made; empty when all is as it must be.

    `paid_in_vain` counts the requests that a person gave up.
    """
    made = [one for one in scene.attempts() if one.state is not JobState.FAILED]
    return [
        *_money(scene, made, paid_in_vain),
        *_files(scene, made),
        *_leftovers(scene),
        *_locks(scene),
    ]


def _money(scene: Scene, made: list[Attempt], paid_in_vain: int) -> list[str]:
    charged = {row["request_id"] for row in scene.requests()}
    broken = []
    if len(charged) != scene.jobs + paid_in_vain:
        broken.append(f"{len(charged)} charges for {scene.jobs} jobs")
    known = {one.request_id for one in made}
    if not (known <= charged and len(known) == len(made) == scene.jobs):
        broken.append(f"charged are {sorted(charged)}, in the ledger are {known}")
    broken += discrepancies({scene.sandbox.url: scene.requests()}, scene.attempts())
    return broken + [f"a job is {one.state}" for one in made if one.state is not JobState.PERSISTED]


def _files(scene: Scene, made: list[Attempt]) -> list[str]:
    """Every paid result is stored as the sandbox serves it, with its sidecar, and nothing else."""
    broken, expected = [], set()
    there = lying(scene)
    ours = {output.uri.rsplit("/", 1)[-1] for attempt in made for output in attempt.outputs}
    for attempt in made:
        if attempt.request_id is None or not attempt.outputs:
            broken.append(f"{attempt.request_id} has no output")
            continue
        pictures = scene.pictures(attempt.request_id)
        uris = output_uris(attempt.checked.job.placement, attempt.outputs)
        for output, uri, picture in zip(attempt.outputs, uris, pictures, strict=True):
            name = output.uri.rsplit("/", 1)[-1]
            planned = uri.rsplit("/", 1)[-1]
            if name != planned and planned not in ours:
                broken.append(f"{name} was stored beside what was taken for somebody else's")
            expected |= {name, f"{name}.json"}
            if there.get(name) != picture:
                broken.append(f"{name} is not what was paid for")
            sidecar = json.loads(there.get(f"{name}.json", b"{}"))
            if sidecar.get("request_id") != attempt.request_id or (
                sidecar["output"]["name"] != name
            ):
                broken.append(f"{name} has no sidecar that is right")
    if set(there) != expected:
        broken.append(f"there lie {sorted(set(there) ^ expected)} too many or too few")
    return broken


def lying(scene: Scene) -> dict[str, bytes]:
    """Every file where the outputs go, by its name."""
    if not scene.to.startswith("s3://"):
        folder = scene.directory / scene.to
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    s3, prefix = scene.servers.s3, scene.to.split("/", 3)[3]
    listed = s3.list_objects_v2(Bucket="comfyline", Prefix=prefix).get("Contents", [])
    return {
        one["Key"].rsplit("/", 1)[-1]: s3.get_object(Bucket="comfyline", Key=one["Key"])[
            "Body"
        ].read()
        for one in listed
    }


def _leftovers(scene: Scene) -> list[str]:
    """Nothing half-written lies anywhere, and nothing in the work folder at all."""
    found = [path for path in scene.home.rglob("*") if path.is_file()]
    odd = [path for path in found if path.name.endswith(".part") or "work" in path.parts]
    return [f"{path.relative_to(scene.home)} was left behind" for path in odd]


def _locks(scene: Scene) -> list[str]:
    """Nobody holds anything any more, and SQLite itself finds nothing wrong."""
    url = make_url(scene.ledger_url)
    postgresql = url.get_backend_name() == "postgresql"
    engine = create_engine(url.set(drivername="postgresql+psycopg") if postgresql else url)
    with engine.begin() as ledger:
        held = ledger.execute(select(jobs.c.key).where(jobs.c.held_by.is_not(None))).scalars().all()
        owned = select(attempts.c.id).where(
            attempts.c.owner.is_not(None) | attempts.c.lease_until.is_not(None)
        )
        owners = ledger.execute(owned).scalars().all()
        sound = ["ok"]
        if not postgresql:
            sound = list(ledger.exec_driver_sql("PRAGMA integrity_check").scalars())
    engine.dispose()
    broken = [f"job {key} is still held" for key in held]
    broken += [f"attempt {number} still has an owner" for number in owners]
    return broken if sound == ["ok"] else [*broken, f"the ledger is broken: {sound}"]


def _changes(break_at: Break | None, mutation: str | None) -> tuple[tuple[str, Any], ...]:
    changed = (("tests.crash.mutations:install", mutation),) if mutation else ()
    breaks = (("tests.crash.breaks:break_at", asdict(break_at)),) if break_at else ()
    return changed + breaks
