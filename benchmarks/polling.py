"""Waiting: comfyline's `Poller` beside loops that ask at a fixed interval.

All share one sandbox, one HTTP client and one event loop, and get the requests in turn. A question
costs a call, a late one costs time, so a policy is judged by the product of calls and lag.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from benchmarks.servers import playground, sandbox
from benchmarks.table import Table, ratio
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.outage import RetryBudget
from comfyline.runcomfy.poller import Poller
from comfyline.runcomfy.polling import next_poll
from comfyline.runcomfy.verdict import Accepted
from comfyline.runcomfy.wire import RequestStatus
from comfyline.stack.services import SANDBOX_TOKEN

_REQUESTS, _QUICK = 60, 12
_SLOTS = 8
_PAUSE = 0.22
"""Seconds between two submissions that keep the slots busy and the queue short, at speed 1."""
_MODEL = "benchmark/text-to-image"
_INPUT = {"prompt": "a cat, black and white", "aspect_ratio": "21:9", "output_format": "jpeg"}
_ENDS = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}

Waits = Callable[[str], Awaitable[None]]
"""Returns when a request has ended."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One request that was waited for: how often it was asked for, how late its end was known.

    `age` is the time from its submission to its end, in seconds.
    """

    policy: str
    calls: int
    lag: float
    age: float


async def measure(*, quick: bool) -> list[Table]:
    """Play three scenes: short jobs, jobs four times as long, and short ones all at once."""
    requests = _QUICK if quick else _REQUESTS
    return [
        await _scene("short jobs, one by one", requests, speed=1, pause=_PAUSE),
        await _scene("longer jobs, one by one", requests, speed=0.25, pause=_PAUSE * 4),
        await _scene("short jobs, all at once", requests, speed=1, pause=0),
    ]


async def _scene(what: str, requests: int, *, speed: float, pause: float) -> Table:
    async with playground() as project:
        _add_model(project)
        async with sandbox(project, slots=_SLOTS, speed=speed) as origin, _field(origin) as field:
            seen = await field.play(requests, pause)
    mean = statistics.fmean(one.age for one in seen)
    title = f"polling: {what} ({requests} requests in turn, {_SLOTS} slots, {mean:.1f} s each)"
    return _table(title, seen)


class _Field:
    """The policies on one client, and how often each request was asked for."""

    def __init__(self, client: RuncomfyClient, origin: str) -> None:
        self._client = client
        self._origin = origin
        self._calls: dict[str, int] = {}
        self.policies: dict[str, Waits] = {}

    async def ask(self, request_id: str) -> RequestStatus:
        """Make the status call of all policies."""
        self._calls[request_id] = self._calls.get(request_id, 0) + 1
        return await self._client.status(request_id)

    async def play(self, requests: int, pause: float) -> list[_Seen]:
        """Submit, `pause` seconds apart, to each policy in turn; return when all have ended."""
        names = list(self.policies)
        async with asyncio.TaskGroup() as waiting:
            tasks = []
            for number in range(requests):
                answer = await self._client.submit(_MODEL, _INPUT)
                if not isinstance(answer, Accepted):
                    raise TypeError(f"the sandbox did not accept a request: {answer}")
                name = names[number % len(names)]
                tasks.append(waiting.create_task(self._wait(answer.request_id, name)))
                await asyncio.sleep(pause)
        async with httpx.AsyncClient(base_url=self._origin, trust_env=False) as http:
            return [await self._seen(http, *task.result()) for task in tasks]

    async def _wait(self, request_id: str, name: str) -> tuple[str, str, float]:
        await self.policies[name](request_id)
        return request_id, name, time.time()

    async def _seen(
        self, http: httpx.AsyncClient, request_id: str, name: str, known: float
    ) -> _Seen:
        headers = {"Authorization": f"Bearer {SANDBOX_TOKEN}"}
        answer = await http.get(f"/v1/requests/{request_id}/result", headers=headers)
        content = answer.raise_for_status().json()
        born, ended = (
            datetime.fromisoformat(content[name]).timestamp()
            for name in ("created_at", "finished_at")
        )
        return _Seen(name, self._calls[request_id], known - ended, ended - born)


@asynccontextmanager
async def _field(origin: str) -> AsyncIterator[_Field]:
    budget = RetryBudget(20, time.monotonic)
    async with RuncomfyClient(origin, SANDBOX_TOKEN, budget) as client:
        field = _Field(client, origin)
        async with Poller(field.ask, next_poll, time.monotonic, 20) as poller:
            field.policies = {
                "comfyline, next_poll": _adaptive(poller),
                "every 2 s": _fixed(field, 2),
                "every 0.5 s": _fixed(field, 0.5),
            }
            yield field


def _adaptive(poller: Poller) -> Waits:
    async def hear(_: RequestStatus) -> None:
        """Ignore the news: nothing depends on what happens in between."""

    async def wait(request_id: str) -> None:
        await poller.wait(request_id, age=0, time_left=600, hear=hear)

    return wait


def _fixed(field: _Field, seconds: float) -> Waits:
    async def wait(request_id: str) -> None:
        while True:
            await asyncio.sleep(seconds)
            if (await field.ask(request_id)).state in _ENDS:
                return

    return wait


def _table(title: str, seen: Sequence[_Seen]) -> Table:
    rows, products = [], {}
    for policy in dict.fromkeys(one.policy for one in seen):
        mine = [one for one in seen if one.policy == policy]
        calls = statistics.fmean(one.calls for one in mine)
        lags = sorted(one.lag for one in mine)
        lag, late = statistics.fmean(lags), lags[round(0.95 * (len(lags) - 1))]
        products[policy] = calls * lag
        row = (f"{calls:.2f}", f"{lag:.3f}", f"{late:.3f}", f"{calls * lag:.2f}")
        rows.append((policy, *row))
    ours, *others = products
    return Table(
        title,
        ("policy", "calls/job", "lag mean s", "lag p95 s", "calls × lag"),
        rows,
        [
            f"{other} ÷ comfyline, calls × lag: {ratio(products[other], products[ours])}"
            " (above 1: comfyline is better)"
            for other in others
        ],
    )


def _add_model(project: Path) -> None:
    """Add a model that needs no input picture: only the waiting is measured."""
    folder = project / "configs/models/benchmark"
    folder.mkdir(parents=True)
    entry = {"model_id": _MODEL, "categories": ["text-to-image"], "price_unit": "output"}
    (folder / "text-to-image.json").write_text(json.dumps(entry))
