"""Waiting for one of the profile's slots: visibly, and not for requests that have long ended.

A request holds its slot until somebody sees its end. What a process that is gone has left at
RunComfy is watched by nobody, so whoever waits for a slot asks about it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from comfyline.config.account import command
from comfyline.config.duration import format_duration
from comfyline.errors import ComfylineError, NotKnownNow, TryLater
from comfyline.ledger.claims import SlotHolder
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.settle import settle
from comfyline.progress import Note, tell
from comfyline.run import Run
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.wire import ENDS

_TRY_AGAIN = 0.5
"""Seconds between two claims for a slot."""
_LOOK_AGAIN = 10.0
"""Seconds between two looks at who holds them."""
_SELDOM = 30.0
"""Seconds between two words about it."""
_NAMED = 3
"""Runs that are named."""
_AT_ONCE = 8


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
        self._turn = asyncio.Lock()
        self._looked_at = self._said_at = float("-inf")
        self._full: frozenset[int] = frozenset()
        self._full_since = 0.0

    async def wait(self, run: Run) -> None:
        """Wait until it is worth claiming again, or the run is told to stop.

        Raises `TryLater` once the very same requests have filled the slots for as long as a job of
        the run may take.
        """
        stopping = asyncio.ensure_future(run.cancel_token.cancelled())
        looking = asyncio.ensure_future(self.look(run))
        try:
            await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()
                await asyncio.wait({stopping}, timeout=_TRY_AGAIN)
        finally:
            looking.cancel()
            stopping.cancel()

    async def look(self, run: Run) -> None:
        """Ask about abandoned requests and say who holds the slots; raise as `wait` does.

        One look at a time, and seldom, however many jobs wait.
        """
        async with self._turn:
            now = self._clock()
            if now - self._looked_at < _LOOK_AGAIN:
                return
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
                raise TryLater(
                    f"No slot became free within {format_duration(run.timeout)}: {words}",
                    hint=f"{command('jobs')} lists what is at RunComfy. Run again later, or raise "
                    "runcomfy.in_flight in the profile.",
                )
            is_others = any(holder.run_id != run.id for holder in holders)
            if is_others and self._looked_at - self._said_at >= _SELDOM:
                self._said_at = self._looked_at
                tell(Note(f"waiting for a free slot: {words}"))

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
        return ", ".join([f"{len(holders)} of {self._most} in flight", *named])
