"""The queue's far end: slots that take requests in order, fetch, paint, and end them."""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx

from comfyline.sandbox import inputs
from comfyline.sandbox.catalogue import Catalogue, Entry
from comfyline.sandbox.dialect import media_values
from comfyline.sandbox.faults import Faults
from comfyline.sandbox.store import Request, Store
from comfyline.sandbox.vault import Vault

log = logging.getLogger(__name__)

_MEDIAN_SECONDS = {"image": 1.2, "video": 8.0, "audio": 5.0}
_FACTORS = {"2K": 1.8, "4K": 3.2}
_SPREAD = 0.35


class GenerationFailed(Exception):
    """The request was accepted and cannot be fulfilled; the message is for the caller."""


def seconds_for(request_id: str, makes: str, given: Mapping[str, Any]) -> float:
    """How long a request takes at speed 1: log-normal, and always the same for the same id."""
    chance = Random(request_id)  # noqa: S311 - a believable duration, not a secret
    median = _MEDIAN_SECONDS[makes] * _FACTORS.get(str(given.get("resolution")), 1.0)
    median *= 1 + 0.25 * (_how_many(given) - 1)
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
    ) -> None:
        self._store, self._vault, self._catalogue = store, vault, catalogue
        self._faults = faults
        self._slots, self._speed = slots, speed
        self._waiting = asyncio.Semaphore(0)

    def announce(self) -> None:
        """Says that one more request waits in the queue."""
        self._waiting.release()

    async def run(self) -> None:
        """Works until it is cancelled. What is in progress then starts again with the process."""
        for _ in range(await asyncio.to_thread(self._store.recover)):
            self.announce()
        painters = ThreadPoolExecutor(min(self._slots, os.cpu_count() or 1), "painter")
        try:
            async with inputs.client() as http, asyncio.TaskGroup() as slots:
                for _ in range(self._slots):
                    slots.create_task(self._slot(http, painters))
        finally:
            painters.shutdown(wait=False, cancel_futures=True)

    async def _slot(self, http: httpx.AsyncClient, painters: ThreadPoolExecutor) -> None:
        while True:
            await self._waiting.acquire()
            # None: the request that was announced has been cancelled.
            if (request := await asyncio.to_thread(self._store.claim)) is not None:
                await self._work(request, http, painters)

    async def _work(
        self, request: Request, http: httpx.AsyncClient, painters: ThreadPoolExecutor
    ) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            entry = self._entry(request)
            due = began + seconds_for(request.request_id, entry.makes, request.input) / self._speed
            due += self._ordered_delay()
            files = await self._make(request, entry, http, painters)
            await asyncio.sleep(max(0.0, due - clock()))
        except (GenerationFailed, inputs.NotFetched) as error:
            await asyncio.to_thread(self._store.fail, request, str(error))
        except Exception:
            # A bug must cost one request, not a slot.
            log.exception("request %s broke the sandbox", request.request_id)
            await asyncio.to_thread(self._store.fail, request, "internal error")
        else:
            await asyncio.to_thread(self._store.complete, request, files)

    def _ordered_delay(self) -> float:
        fault = self._faults.take("generation")
        if fault is None:
            return 0.0
        if fault.kind == "fail":
            raise GenerationFailed(fault.message)
        return fault.seconds

    def _entry(self, request: Request) -> Entry:
        entry = self._catalogue.find(request.model_id)
        if entry is None:
            raise GenerationFailed("the model is no longer in the catalogue")
        if entry.makes != "image":
            raise GenerationFailed(f"the sandbox cannot make {entry.makes} yet")
        return entry

    async def _make(
        self,
        request: Request,
        entry: Entry,
        http: httpx.AsyncClient,
        painters: ThreadPoolExecutor,
    ) -> list[str]:
        # Pillow takes its time to import, and the port should be open before.
        from comfyline.sandbox import painter

        loop = asyncio.get_running_loop()
        names: list[str] = []
        with self._vault.workbench() as bench:
            pictures: list[Path] = []
            for number, media in enumerate(media_values(entry.input_schema, request.input)):
                target = bench / str(number)
                await inputs.fetch(http, media, target)
                if media.kind == "image":
                    pictures.append(target)
            order = painter.PaintOrder(
                prompt=str(request.input.get("prompt", "")),
                pictures=tuple(pictures),
                aspect_ratio=str(request.input.get("aspect_ratio", "auto")),
                resolution=str(request.input.get("resolution", "1K")),
                output_format=str(request.input.get("output_format", "png")),
                seed=json.dumps(request.input.get("seed")),
            )
            extension = painter.EXTENSIONS.get(order.output_format, "png")
            for index in range(_how_many(request.input)):
                try:
                    content = await loop.run_in_executor(painters, painter.paint, order, index)
                except painter.NotAPicture as error:
                    raise GenerationFailed("an input is no picture that can be read") from error
                name = f"{index}.{extension}"
                await asyncio.to_thread(
                    self._vault.put, request.request_id, name, content, once=request.once
                )
                names.append(name)
        return names


def _how_many(given: Mapping[str, Any]) -> int:
    return int(given.get("num_images") or 1)
