"""A ledger with a clock of its own, and the few moves that every test makes with it."""

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from comfyline.errors import GenerationFailed, InDoubt, Unreachable
from comfyline.job import CheckedJob, Job, JobState, Placement, StoredOutput
from comfyline.keys import job_key
from comfyline.ledger import writes
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.claims import BudgetExceeded, Claim, Claimed, Limits, NotOurs
from comfyline.ledger.database import WRITE_LOCK
from comfyline.ledger.ledger import Ledger
from tests.conftest import drop_database, new_database

MODEL = "acme/painter"
ROOMY = Limits(in_flight=1000)


class Clock:
    """The time as a test wants it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def asked(prompt: str = "a cat", *, price: float | None = 0.5, **of_job: Any) -> CheckedJob:
    """A job that asks for one picture, and that nothing is wrong with."""
    inputs = {"prompt": prompt}
    job = Job("scenes", "cat", "edit", MODEL, inputs, Placement("/out", "{{ index }}.png", {}))
    job = replace(job, **of_job)
    return CheckedJob(job, job_key(MODEL, job.inputs, (), job.variant), (), price)


def output(uri: str = "file:///out/cat.png", index: int = 0) -> StoredOutput:
    return StoredOutput(index, uri, "0" * 64, 123, "image/png")


class Desk:
    """Claims and reads with a ledger, with the defaults of a test."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._ids = itertools.count(1)
        self._marks: dict[int, str] = {}

    async def claim(
        self, job: CheckedJob, run: str = "run-1", *, limits: Limits = ROOMY, **more: Any
    ) -> Claim:
        return await self.ledger.claim(job, run_id=run, limits=limits, **{"refresh": False, **more})

    async def asks(self, job: CheckedJob, run: str = "run-1", **more: Any) -> str:
        """What a claim comes to in a word: CLAIMED, WAIT, …, or which limit it exceeds."""
        match await self.claim(job, run, **more):
            case Claimed():
                return "CLAIMED"
            case NotOurs(decision=decision):
                return decision.name
            case BudgetExceeded(limit=limit, reserved_usd=reserved):
                return f"{limit} has {reserved:g}"
            case other:
                return type(other).__name__

    async def claimed(self, job: CheckedJob, run: str = "run-1", **more: Any) -> int:
        """The id of an attempt that may be submitted now."""
        claim = await self.claim(job, run, **more)
        assert isinstance(claim, Claimed)
        self._marks[claim.attempt_id] = claim.mark
        return claim.attempt_id

    async def not_sent(self, attempt_id: int) -> None:
        """Gives back what was last claimed here of an attempt."""
        await self.ledger.not_sent(attempt_id, self._marks[attempt_id])

    async def submitted(
        self, job: CheckedJob, run: str = "run-1", request_id: str | None = None, **more: Any
    ) -> int:
        attempt_id = await self.claimed(job, run, **more)
        await self.ledger.accepted(attempt_id, request_id or f"request-{next(self._ids)}")
        return attempt_id

    async def stored(
        self, job: CheckedJob, *outputs: StoredOutput, run: str = "run-1", cost: float = 0.4
    ) -> int:
        attempt_id = await self.submitted(job, run)
        await self.ledger.completed(attempt_id, cost)
        await self.ledger.persisted(attempt_id, outputs or (output(),))
        return attempt_id

    async def brought(self, attempt_id: int, to: JobState) -> None:
        """Takes one step with an attempt, whoever would take it."""
        now = (await self.ledger.clock())()
        await self.ledger.database.run(lambda c: writes.move(c, attempt_id, to, now))

    async def known(self, job: CheckedJob) -> Attempt:
        return (await self.ledger.find([job.key]))[job.key]

    async def in_doubt(self, job: CheckedJob) -> int:
        """The id of an attempt whose process died with its POST."""
        attempt_id = await self.claimed(job)
        await self.ledger.ended(attempt_id, JobState.IN_DOUBT, InDoubt("no answer"))
        return attempt_id

    async def failed(self, job: CheckedJob, run: str = "run-1", **more: Any) -> int:
        """The id of an attempt that was accepted and failed."""
        attempt_id = await self.submitted(job, run)
        await self.ledger.ended(attempt_id, JobState.FAILED, GenerationFailed("no"), **more)
        return attempt_id

    async def state(self, job: CheckedJob) -> JobState:
        return (await self.known(job)).state


@pytest.fixture
def clock() -> Clock:
    return Clock()


ON_BOTH = {"test_budget", "test_claim", "test_database", "test_kept", "test_locks"}
ON_BOTH |= {"test_move", "test_pace", "test_processes", "test_report", "test_schema"}
ON_BOTH |= {"test_shards", "test_shares", "test_standing"}
"""Where the databases differ: locks, races, sums, JSON, migrations; all else runs on SQLite."""
ON_POSTGRESQL = {"test_outage"}
"""What is about the network: a connection to a file is not lost."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which database each test runs on."""
    if "database" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        databases = ["sqlite"] if module not in ON_POSTGRESQL else []
        databases += ["postgresql"] if module in ON_POSTGRESQL | ON_BOTH else []
        metafunc.parametrize("database", databases)


@pytest.fixture(scope="session")
def ledger_template(postgresql_url: str) -> str:
    """The name of a PostgreSQL database with the ledger's tables, to be copied."""
    url = new_database(postgresql_url)
    ledger = Ledger(url, "template")
    asyncio.run(ledger.find([]))
    ledger.close()
    return str(make_url(url).database)


@pytest.fixture
def new_url(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a database in which nothing is yet, not even a table."""
    if database == "postgresql":
        return str(request.getfixturevalue("postgresql_database"))
    return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger's file in which nothing is yet, to be copied: migrating takes longer than a test."""
    file = tmp_path_factory.mktemp("template") / "ledger.sqlite3"
    ledger = Ledger(f"sqlite:///{file}", "template")
    asyncio.run(ledger.find([]))
    ledger.close()
    return file


@pytest.fixture
def url(
    database: str, tmp_path: Path, empty_file: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of an empty ledger that several can open."""
    if database == "sqlite":
        yield f"sqlite:///{shutil.copyfile(empty_file, tmp_path / 'ledger.sqlite3')}"
        return
    server = request.getfixturevalue("postgresql_url")
    made = new_database(server, request.getfixturevalue("ledger_template"))
    yield made
    drop_database(server, made)


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger(url, "here:1", clock)
    yield opened
    opened.close()


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return Desk(ledger)


@pytest.fixture
def there(url: str, clock: Clock) -> Iterator[Desk]:
    """Another process at the same ledger."""
    opened = Ledger(url, "there:2", clock)
    yield Desk(opened)
    opened.close()


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else writes for as long as the block lasts."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as lite:
            lite.execute("BEGIN IMMEDIATE")
            yield
            lite.rollback()
    else:
        with psycopg.connect(url) as post:
            post.execute(WRITE_LOCK)
            yield


@contextlib.contextmanager
def unheard_commits(ledger: Ledger) -> Iterator[None]:
    """What is committed in this block is committed, and the answer that says so is lost."""
    transact = ledger.database.transact

    def commits_and_fails(*work: Any) -> Any:
        transact(*work)
        raise Unreachable("the connection was lost")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger.database, "transact", commits_and_fails)
        yield
