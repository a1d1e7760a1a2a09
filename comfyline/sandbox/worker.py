"""Take requests from the queue in order, make what they ask for, and end them.

What takes the processor's time is done in threads, so that the calls are answered meanwhile.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import httpx

from comfyline.sandbox import output_shape, params
from comfyline.sandbox.blob_store import BlobStore
from comfyline.sandbox.catalogue import ModelCatalogue
from comfyline.sandbox.dialect import media_values
from comfyline.sandbox.faults import Faults
from comfyline.sandbox.image_generator import generate_image
from comfyline.sandbox.inputs import Unfulfillable, fetch, inspect
from comfyline.sandbox.order import Order
from comfyline.sandbox.recordings import generate_sound, generate_video
from comfyline.sandbox.server import SandboxOptions
from comfyline.sandbox.store import Request, Store

log = logging.getLogger(__name__)

_GENERATORS = {"image": generate_image, "video": generate_video, "audio": generate_sound}
_MEDIAN_SECONDS = {"image": 1.2, "video": 8.0, "audio": 5.0}
_FACTORS = {"2K": 1.8, "4K": 3.2}
_SPREAD = 0.35


def seconds_for(request_id: str, makes: str, given: Mapping[str, Any]) -> float:
    """Tell how long a request takes at speed 1: log-normal, and always the same for the same id."""
    chance = Random(request_id)  # noqa: S311 - a believable duration, not a secret
    median = _MEDIAN_SECONDS[makes] * _FACTORS.get(str(given.get("resolution")), 1.0)
    median *= 1 + 0.25 * (params.how_many(given) - 1)
    return median * chance.lognormvariate(0, _SPREAD)


class Worker:
    """N slots over one queue, first come, first served, and all that the calls share with them."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.store = Store(options.state)
        self.blobs = BlobStore(options.state)
        self.catalogue = ModelCatalogue(options.models)
        self.faults = Faults()
        self._waiting = asyncio.Semaphore(0)
        self._threads = ThreadPoolExecutor(min(options.slots, os.cpu_count() or 1), "generator")
        # A proxy of the machine's leads outwards, never back to the machine.
        direct = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(20.0, connect=10.0),
            headers={"User-Agent": "RunComfy-Sandbox/1.0"},
            mounts=direct,
        )

    def announce(self) -> None:
        """Say that one more request waits in the queue."""
        self._waiting.release()

    async def run(self) -> None:
        """Work until it is cancelled. What is in progress then starts again with the process."""
        for _ in range(self.store.recover()):
            self.announce()
        try:
            async with self._http, asyncio.TaskGroup() as slots:
                for _ in range(self.options.slots):
                    slots.create_task(self._slot())
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _slot(self) -> None:
        while True:
            await self._waiting.acquire()
            # None: the request that was announced has been cancelled.
            if request := self.store.claim():
                await self._work(request)

    async def _work(self, request: Request) -> None:
        try:
            files, charge = await self._fulfil(request)
        except Unfulfillable as error:
            self.store.fail(request, str(error))
        except Exception:
            # A bug must cost one request, not a slot.
            log.exception("request %s broke the sandbox", request.request_id)
            self.store.fail(request, "internal error")
        else:
            self.store.complete(request, files, charge)

    async def _fulfil(self, request: Request) -> tuple[list[str], float]:
        """Make and store all files of a request; return their names, and what they cost."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if (entry := self.catalogue.find(request.model_id)) is None:
            raise Unfulfillable("the model is no longer in the catalogue")
        usual = seconds_for(request.request_id, entry.makes, request.input)
        due = began + usual / self.options.speed
        fault = self.faults.take("generation")
        if fault and fault.kind == "fail":
            raise Unfulfillable(fault.message)
        if fault and fault.kind == "delay":
            due += fault.seconds
        is_blank = fault is not None and fault.kind == "blank"
        with self.blobs.workbench() as bench:
            inputs = []
            for number, media in enumerate(media_values(entry.input_schema, request.input)):
                target = bench / str(number)
                await fetch(self._http, media, target)
                self.store.fetched(request, str(media.value))
                inputs.append(await loop.run_in_executor(self._threads, inspect, target, media))
            order = Order(entry, request.input, tuple(inputs), is_blank, self.options.pixels)
            kinds = output_shape.media_to_make(entry, request.input)
            names = [f"{number}.{order.extension(kind)}" for number, kind in enumerate(kinds)]
            for number, (kind, name) in enumerate(zip(kinds, names, strict=True)):
                target = bench / f"made-{name}"
                generator = _GENERATORS[kind]
                await loop.run_in_executor(self._threads, generator, order, number, target)
                self.blobs.put(request.request_id, name, target)
        await asyncio.sleep(max(0.0, due - loop.time()))
        lasting = any(kind != "image" for kind in kinds)
        return names, entry.charge(request.input, order.seconds() if lasting else None)
