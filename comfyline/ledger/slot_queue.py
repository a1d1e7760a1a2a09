"""Waiting for one of the profile's slots: visibly, and not for requests that have long ended.

One job of a process claims at a time, and the others wait for their turn: however many there are,
a process that waits for a slot asks the ledger once a second.

A request holds its slot until somebody sees its end. What a process that is gone has left at
RunComfy is watched by nobody, so whoever waits for a slot asks about it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from comfyline.config.account import command
from comfyline.config.duration import format_duration, seconds_awake_or_asleep
from comfyline.errors import ComfylineError, NotKnownNow, TryLater
from comfyline.fair_share import FairSlots
from comfyline.job import CheckedJob
from comfyline.ledger.claims import AtCapacity, Claim, Claimed, SlotHolder, TooSoon
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.pace import EARLY
from comfyline.ledger.settle import settle
from comfyline.progress import Note, tell
from comfyline.run import Run
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.wire import ENDS

TRY_AGAIN = 1.0
"""Seconds between two claims of a process for a slot, unless one of its own requests ends."""
_LOOK_AGAIN = 10.0
"""Seconds between two looks at who holds them."""
_SELDOM = 30.0
"""Seconds between two words about it."""
_NAMED = 3
"""Runs that are named."""
_AT_ONCE = 8
_MOST = 1.0
"""Seconds before its place at which a claim may be begun at most, however long one takes."""


class Slots:
    """What this process knows of the slots that others hold: it looks once for all of its jobs.

    `most` is how many there are; `work` is the folder of results that are not stored yet.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: RuncomfyClient,
        work: Path,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._work = work
        self._most = most
        self._clock = clock
        self._looking = asyncio.Lock()
        self._turns = FairSlots(1)
        self._freed = asyncio.Event()
        self._place: float | None = None
        # How long the last claim took, so that the next one is begun in time for its place.
        self._took = 0.0
        self._looked_at = self._said_at = float("-inf")
        self._full: frozenset[int] = frozenset()
        self._full_since = 0.0
        # Why nobody waits any longer, until the next look.
        self._given_up = ""

    @asynccontextmanager
    async def turn(self, run: Run, share: str = "") -> AsyncIterator[None]:
        """Wait until a job may claim: it is the only one of this process in the block."""
        async with self._turns.of(share):
            if self._place is not None:
                begin = self._place - EARLY / 2 - self._took
                await run.cancel_token.cancelled_within(begin - seconds_awake_or_asleep())
            yield

    async def claim(self, checked: CheckedJob, share: str = "", **asked: Any) -> Claim:
        """Claim in one's turn, with the place in time that this process has been given."""
        waiting, place, self._place = self._turns.waiting, self._place, None
        self._freed.clear()
        began = seconds_awake_or_asleep()
        claim = await self._ledger.claim(
            checked,
            place=place,
            takes=self._took,
            more=bool(waiting),
            share=share,
            waiting=waiting,
            **asked,
        )
        match claim:
            case Claimed(next_place=next_place):
                self._place = next_place
                self._took = min(seconds_awake_or_asleep() - began, _MOST)
                self._turns.held_elsewhere[share] += 1
            case TooSoon(place=given):
                self._place = given
            case AtCapacity(held=held):
                self._turns.held_elsewhere = Counter(held)
        return claim

    def freed(self) -> None:
        """Note that a request of this process has ended: whoever waits may claim at once."""
        self._freed.set()

    async def wait(self, run: Run) -> None:
        """Wait until it is worth claiming again, or the run is told to stop.

        Raises `TryLater` once the very same requests have filled the slots for as long as a job of
        the run may take.
        """
        stopping = asyncio.ensure_future(run.cancel_token.cancelled())
        freed = asyncio.ensure_future(self._freed.wait())
        looking = asyncio.ensure_future(self.look(run))
        try:
            await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()
                some = {stopping, freed}
                await asyncio.wait(some, timeout=TRY_AGAIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (looking, stopping, freed):
                one.cancel()

    async def look(self, run: Run) -> None:
        """Ask about abandoned requests and say who holds the slots; raise as `wait` does.

        One look at a time, and seldom, however many jobs wait.
        """
        async with self._looking:
            now = self._clock()
            if now - self._looked_at < _LOOK_AGAIN:
                if self._given_up:
                    raise self._no_slot(run, self._given_up)
                return
            self._given_up = ""
            is_first = now - self._looked_at > 2 * _LOOK_AGAIN
            await self._ask_about_abandoned()
            holders = await self._ledger.slot_holders()
            self._looked_at = self._clock()
            if len(holders) < self._most:
                return
            ids = frozenset(holder.attempt_id for holder in holders)
            if is_first or ids != self._full:
                self._full, self._full_since = ids, self._looked_at
            words = self._words(holders, run)
            if self._looked_at - self._full_since >= run.timeout:
                self._given_up = words
                raise self._no_slot(run, words)
            is_others = any(holder.run_id != run.id for holder in holders)
            if is_others and self._looked_at - self._said_at >= _SELDOM:
                self._said_at = self._looked_at
                tell(Note(f"waiting for a free slot: {words}"))

    def _no_slot(self, run: Run, words: str) -> TryLater:
        return TryLater(
            f"No slot became free within {format_duration(run.timeout)}: {words}",
            hint=f"{command('jobs')} lists what is at RunComfy. Run again later, or raise "
            "runcomfy.in_flight in the profile.",
        )

    async def _ask_about_abandoned(self) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(holder: SlotHolder) -> None:
            # Whatever is in the way: the request may go on, and keeps its slot.
            async with gate:
                with suppress(ComfylineError):
                    await self._ask(holder)

        abandoned = [one for one in await self._ledger.slot_holders() if not one.is_watched]
        await asyncio.gather(*map(ask, abandoned))

    async def _ask(self, holder: SlotHolder) -> None:
        try:
            status = await self._client.status(holder.request_id)
        except NotKnownNow:
            # What RunComfy does not know takes no room there, whatever is to become of it.
            await self._ledger.free_slot(holder.attempt_id)
            return
        if status.state in ENDS:
            spool = self._work / holder.request_id / "result.json"
            await settle(
                status, holder.attempt_id, holder.request_id, spool, self._client, self._ledger
            )

    def _words(self, holders: Sequence[SlotHolder], run: Run) -> str:
        others = Counter(holder.run_id for holder in holders if holder.run_id != run.id)
        named = [f"{number} of them from run {name}" for name, number in others.most_common(_NAMED)]
        if rest := sum(others.values()) - sum(n for _, n in others.most_common(_NAMED)):
            named.append(f"{rest} from other runs")
        if doubts := sum(holder.is_in_doubt for holder in holders):
            named.append(f"{doubts} in doubt ({command('jobs --state in_doubt')} lists them)")
        return ", ".join([f"{len(holders)} of {self._most} in flight", *named])
