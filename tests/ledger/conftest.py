"""A ledger with a clock of its own, and the few moves that every test makes with it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfyline.job import CheckedJob, Job, JobState, Placement, StoredOutput
from comfyline.keys import job_key
from comfyline.ledger.ledger import Claim, Claimed, Ledger, Limits
from comfyline.ledger.records import Attempt

MODEL = "acme/painter"
ROOMY = Limits(in_flight=1000, flight_window=3600, max_cost_usd=None)


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

    async def claim(
        self,
        job: CheckedJob,
        run: str = "run-1",
        *,
        refresh: bool = False,
        limits: Limits = ROOMY,
    ) -> Claim:
        return await self.ledger.claim(job, run_id=run, refresh=refresh, limits=limits)

    async def claimed(self, job: CheckedJob, run: str = "run-1", *, refresh: bool = False) -> int:
        """The id of an attempt that may be submitted now."""
        claim = await self.claim(job, run, refresh=refresh)
        assert isinstance(claim, Claimed)
        return claim.attempt_id

    async def submitted(self, job: CheckedJob, run: str = "run-1", request_id: str = "r-1") -> int:
        attempt_id = await self.claimed(job, run)
        await self.ledger.accepted(attempt_id, request_id)
        return attempt_id

    async def stored(
        self, job: CheckedJob, *outputs: StoredOutput, run: str = "run-1", cost: float = 0.4
    ) -> int:
        attempt_id = await self.submitted(job, run)
        await self.ledger.completed(attempt_id, cost)
        await self.ledger.persisted(attempt_id, outputs or (output(),))
        return attempt_id

    async def known(self, job: CheckedJob) -> Attempt:
        return (await self.ledger.find([job.key]))[job.key]

    async def state(self, job: CheckedJob) -> JobState:
        return (await self.known(job)).state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"


@pytest.fixture
def ledger(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Ledger]:
    """In memory, which spares the disk; in the file of `url` for a test that names it."""
    is_file = "url" in request.fixturenames
    opened = Ledger(request.getfixturevalue("url") if is_file else "sqlite://", "here:1", clock)
    yield opened
    opened.close()


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return Desk(ledger)
