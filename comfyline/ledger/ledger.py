"""The ledger: each method is one transaction, and says which crash it is safe against."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from comfyline.addresses import without_secrets
from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, JobState, StoredOutput
from comfyline.ledger import reading, writing
from comfyline.ledger.connection import LedgerDatabase
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.records import Attempt

_STORED = frozenset({JobState.PERSISTED})
_SETTLED = frozenset(JobState) - {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS}
"""Where another process may have brought an attempt that this one still watches."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a claim must fit into: requests in flight over all processes, dollars of this run.

    `flight_window` is in seconds: the request claimed now holds its slot no longer than that,
    should it be abandoned.
    """

    in_flight: int
    flight_window: float
    max_cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The intent is committed: the holder of this may POST once."""

    attempt_id: int
    number: int


@dataclass(frozen=True, slots=True)
class NotOurs:
    """Something else is to be done about this job; `attempt` is what the ledger knows."""

    decision: Decision
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class NoSlot:
    """As many requests are at RunComfy as the profile allows; ask again in a moment."""


@dataclass(frozen=True, slots=True)
class NoMoney:
    """The job does not fit into the run's cost limit, or its price is unknown under one."""

    reserved_usd: float


Claim = Claimed | NotOurs | NoSlot | NoMoney


class Ledger:
    """The record of jobs, attempts, costs and outputs in one database.

    `owner` names this process; `now` is the clock, which tests replace.
    """

    def __init__(self, url: str, owner: str, now: Callable[[], datetime]) -> None:
        self._database = LedgerDatabase(url)
        self._owner = owner
        self._now = now

    def close(self) -> None:
        """Closes the database. Nothing is lost by not calling it."""
        self._database.close()

    async def find(self, keys: Sequence[str]) -> dict[str, Attempt]:
        """The latest attempt of each known key."""
        return await self._database.read(lambda c: reading.latest_attempts(c, keys))

    async def list(self, state: JobState | None, pipeline: str | None) -> Sequence[Attempt]:
        """All attempts, newest first."""
        return await self._database.read(lambda c: reading.list_attempts(c, state, pipeline))

    async def unfinished(self) -> Sequence[Attempt]:
        """What was paid for and is not stored, oldest first."""
        return await self._database.read(reading.unfinished_attempts)

    async def end_dead_leases(self) -> int:
        """Puts in doubt what dead processes were submitting; how many those were."""
        return await self._database.run(lambda c: writing.end_dead_leases(c, self._now()))

    async def claim(
        self, checked: CheckedJob, *, run_id: str, refresh: bool, limits: Limits
    ) -> Claim:
        """Decides and commits the intent to submit, in one transaction before the POST.

        Of any number of processes that ask for the same key at once, one gets `Claimed`.
        """

        def work(connection: Connection) -> Claim:
            now = self._now()
            writing.end_dead_leases(connection, now)
            latest = writing.latest(connection, checked.key)
            seen = latest
            if latest and writing.has_submitted(connection, checked.key, run_id):
                # What another run did since then is no reason for this one to submit twice.
                seen = replace(latest, run_id=run_id)
            decision = decide(seen, refresh=refresh, run_id=run_id, now=now)
            if decision is not Decision.SUBMIT:
                assert latest is not None  # noqa: S101  # SUBMIT is the answer to None
                return NotOurs(decision, latest)
            if writing.in_flight(connection, now) >= limits.in_flight:
                return NoSlot()
            if limits.max_cost_usd is not None:
                reserved = writing.reserved_usd(connection, run_id)
                if not _affordable(reserved, checked.estimate_usd, limits.max_cost_usd):
                    return NoMoney(reserved)
            attempt_id, number = writing.open_attempt(connection, checked, run_id, now)
            writing.lease(connection, attempt_id, self._owner, now, limits.flight_window)
            return Claimed(attempt_id, number)

        claiming = asyncio.ensure_future(self._database.run(work))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Nobody hears of this claim, so its POST never leaves: that is not to be doubted.
            with suppress(ComfylineError):
                claim = await claiming
                if isinstance(claim, Claimed):
                    await self.not_sent(claim.attempt_id)
            raise

    async def accepted(self, attempt_id: int, request_id: str) -> datetime:
        """Writes the request id down right after the POST: from here on nothing can be lost.

        Also when the lease is over and the attempt in doubt already: this ends the doubt.
        """
        try:
            return await self._database.run(
                lambda c: writing.accept(c, attempt_id, request_id, self._now())
            )
        except ComfylineError as error:
            # The only trace of something paid for: the error has to carry it to a person.
            error.message = f"RunComfy accepted request {request_id}. {error.message}"
            error.hint = f"Keep the id for `comfyline resolve JOB --request-id {request_id}`."
            error.request_id = request_id
            raise

    async def not_sent(self, attempt_id: int) -> None:
        """The POST is known not to have been accepted: the attempt may be submitted again."""
        await self._database.run(lambda c: writing.give_back(c, attempt_id, self._now()))

    async def observed(self, attempt_id: int, state: JobState) -> None:
        """RunComfy says where the request waits or runs; an older answer changes nothing."""
        await self._move(attempt_id, state, unless=_SETTLED)

    async def completed(self, attempt_id: int, cost_usd: float | None) -> None:
        """The result is known to be there, and what it cost where RunComfy says."""
        await self._move(attempt_id, JobState.COMPLETED, unless=_STORED, **_known(cost_usd))

    async def persisted(self, attempt_id: int, stored: Sequence[StoredOutput]) -> None:
        """The outputs lie under their final names, verified: written last of all."""

        def work(connection: Connection) -> None:
            writing.record_outputs(connection, attempt_id, stored)
            writing.move(connection, attempt_id, JobState.PERSISTED, self._now())

        await self._database.run(work)

    async def ended(
        self,
        attempt_id: int,
        state: JobState,
        error: ComfylineError,
        *,
        cost_usd: float | None = None,
    ) -> None:
        """The attempt ends without outputs, for the reason that `error` gives.

        `cost_usd` is what it was charged all the same, where RunComfy says so.
        """
        await self._move(
            attempt_id,
            state,
            owner=None,
            lease_until=None,
            error_kind=error.kind,
            # RunComfy's own words may repeat the presigned URL that it could not read.
            error_message=without_secrets(str(error)),
            **_known(cost_usd),
        )

    async def _move(
        self,
        attempt_id: int,
        to: JobState,
        *,
        unless: frozenset[JobState] = frozenset(),
        **values: object,
    ) -> None:
        def work(connection: Connection) -> None:
            writing.move(connection, attempt_id, to, self._now(), unless=unless, **values)

        await self._database.run(work)


def _known(cost_usd: float | None) -> dict[str, Any]:
    """A cost as a value to write; one that is not known never overwrites one that is."""
    return {} if cost_usd is None else {"cost_usd": cost_usd}


def _affordable(reserved_usd: float, estimate_usd: float | None, limit_usd: float) -> bool:
    """Whether a job fits under a limit. What is no amount of money fits under none."""
    if estimate_usd is None or not math.isfinite(estimate_usd) or estimate_usd < 0:
        return False
    # Said this way round, a limit that is no number refuses everything.
    return reserved_usd + estimate_usd <= limit_usd + 1e-9
