"""The queue's far end: slots that take requests in order, have them made, and end them."""

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from comfyline.sandbox import inputs
from comfyline.sandbox.catalogue import Catalogue, Entry
from comfyline.sandbox.faults import Fault, Faults
from comfyline.sandbox.records import Request
from comfyline.sandbox.store import Store
from comfyline.sandbox.vault import Vault
from comfyline.sandbox.wishes import how_many

if TYPE_CHECKING:
    from comfyline.sandbox.making import Workshop

log = logging.getLogger(__name__)

_MEDIAN_SECONDS = {"image": 1.2, "video": 8.0, "audio": 5.0}
_FACTORS = {"2K": 1.8, "4K": 3.2}
_SPREAD = 0.35


class GenerationFailed(Exception):
    """The request was accepted and cannot be fulfilled; the message is for the caller."""


def seconds_for(request_id: str, makes: str, given: Mapping[str, Any]) -> float:
    """Tell how long a request takes at speed 1: log-normal, and always the same for the same id."""
    chance = Random(request_id)  # noqa: S311 - a believable duration, not a secret
    median = _MEDIAN_SECONDS[makes] * _FACTORS.get(str(given.get("resolution")), 1.0)
    median *= 1 + 0.25 * (how_many(given) - 1)
    return median * chance.lognormvariate(0, _SPREAD)


class Execution:
    """N slots over one queue, first come, first served."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        catalogue: Catalogue,
        faults: Faults,
        slots: int,
        speed: float,
        pixels: int,
    ) -> None:
        self._store, self._vault, self._catalogue = store, vault, catalogue
        self._faults = faults
        self._slots, self._speed, self._pixels = slots, speed, pixels
        self._waiting = asyncio.Semaphore(0)

    def announce(self) -> None:
        """Say that one more request waits in the queue."""
        self._waiting.release()

    async def run(self) -> None:
        """Work until it is cancelled. What is in progress then starts again with the process."""
        for _ in range(await asyncio.to_thread(self._store.recover)):
            self.announce()
        painters = ThreadPoolExecutor(min(self._slots, os.cpu_count() or 1), "painter")
        try:
            workshop = await asyncio.to_thread(self._open_workshop, painters)
            async with inputs.client() as http, asyncio.TaskGroup() as slots:
                for _ in range(self._slots):
                    slots.create_task(self._slot(http, workshop))
        finally:
            painters.shutdown(wait=False, cancel_futures=True)

    def _open_workshop(self, painters: Executor) -> "Workshop":
        # Pillow and FFmpeg take their time to import, and the port should be open before.
        from comfyline.sandbox.making import Workshop

        return Workshop(self._store, self._vault, painters, self._pixels)

    async def _slot(self, http: httpx.AsyncClient, workshop: "Workshop") -> None:
        while True:
            await self._waiting.acquire()
            # None: the request that was announced has been cancelled.
            if (request := await asyncio.to_thread(self._store.claim)) is not None:
                await self._work(request, http, workshop)

    async def _work(self, request: Request, http: httpx.AsyncClient, workshop: "Workshop") -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            entry = self._entry(request)
            due = began + seconds_for(request.request_id, entry.makes, request.input) / self._speed
            fault = self._faults.take("generation")
            due += self._delay(fault)
            is_blank = fault is not None and fault.kind == "blank"
            made = await workshop.make(request, entry, http, is_blank=is_blank)
            await asyncio.sleep(max(0.0, due - clock()))
        except (GenerationFailed, inputs.Unusable) as error:
            await asyncio.to_thread(self._store.fail, request, str(error))
        except Exception:
            # A bug must cost one request, not a slot.
            log.exception("request %s broke the sandbox", request.request_id)
            await asyncio.to_thread(self._store.fail, request, "internal error")
        else:
            charge = entry.charge(request.input, made.seconds)
            await asyncio.to_thread(self._store.complete, request, made.files, charge)

    def _delay(self, fault: Fault | None) -> float:
        if fault is not None and fault.kind == "fail":
            raise GenerationFailed(fault.message)
        return fault.seconds if fault is not None and fault.kind == "delay" else 0.0

    def _entry(self, request: Request) -> Entry:
        entry = self._catalogue.find(request.model_id)
        if entry is None:
            raise GenerationFailed("the model is no longer in the catalogue")
        return entry
