"""polls: calls against lag, for comfyline's poller and for fixed intervals, on a virtual clock.

A first-come-first-served RunComfy with so many slots is asked by the real `Poller`. Nothing sleeps,
so that the figures are exact and the machine's load does not touch them. The rows of the fixed
intervals reproduce what was measured of other clients (RunComfy's own command line asks every 2 s,
its ComfyUI nodes every 5 s, replicate every 0.5 s, fal every 0.1 s).
"""

import asyncio
import heapq
import math
import random
import selectors
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from statistics import fmean, quantiles
from typing import Any

from benchmarks.table import Table, ratio
from comfyline.config.settings import Polling
from comfyline.runcomfy.poll import Poller
from comfyline.runcomfy.wire import RequestStatus

ROUND_TRIP = 0.0045
"""Seconds for one call."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody sleeps, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Skipping(self))

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self.now


class _Skipping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """Skip the time that would be slept. Nobody to wake up is a test that would hang."""
        if timeout is None:
            raise RuntimeError("everybody waits and nobody sleeps")
        self._loop.now += max(0.0, timeout)
        return super().select(0)


def virtually(work: Awaitable[Any]) -> Any:
    """Run a coroutine on a virtual clock."""

    async def wrapped() -> Any:
        return await work

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(wrapped())


@dataclass
class Server:
    """RunComfy with so many slots, first come, first served; what was asked of it, and when."""

    durations: Sequence[float]
    slots: int
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        self._free = [0.0] * self.slots

    def submit(self) -> str:
        """Take the next request, and return its id."""
        start = max(_time(), heapq.heappop(self._free))
        end = start + self.durations[len(self.ends)]
        heapq.heappush(self._free, end)
        self.starts.append(start)
        self.ends.append(end)
        return str(len(self.ends) - 1)

    async def status(self, request_id: str) -> RequestStatus:
        """Answer as RunComfy does."""
        number = int(request_id)
        self.calls += 1
        await asyncio.sleep(ROUND_TRIP / 2)
        now = _time()
        if now >= self.ends[number]:
            answer: dict[str, Any] = {"status": "completed"}
        elif now >= self.starts[number]:
            answer = {"status": "in_progress"}
        else:
            ahead = sum(start > now for start in self.starts[:number])
            answer = {"status": "in_queue", "queue_position": ahead}
        await asyncio.sleep(ROUND_TRIP / 2)
        if now >= self.ends[number]:
            self.lags.append(_time() - self.ends[number])
        return RequestStatus.read(answer)


def _time() -> float:
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Figures:
    """Calls a job, lag in seconds, time of the whole against the list-scheduling bound.

    `product` is calls x mean lag over the mean duration: half for any fixed interval at best.
    """

    calls: float
    lag: float
    p95: float
    wall: float
    product: float


Wait = Callable[[Server, str], Awaitable[None]]


def fixed(interval: float) -> Callable[[], Wait]:
    """Ask again and again, as plain clients do."""

    async def wait(server: Server, request_id: str) -> None:
        while True:
            await asyncio.sleep(interval)
            if (await server.status(request_id)).word == "completed":
                return

    return lambda: wait


def learning(polling: Polling, known: Sequence[float] = ()) -> Callable[[], Wait]:
    """Ask as comfyline does, which knows so many durations from before."""

    def made() -> Wait:
        pollers: dict[int, Poller] = {}

        async def recall() -> Sequence[float]:
            return known

        async def hear(_: RequestStatus) -> None: ...

        async def wait(server: Server, request_id: str) -> None:
            poller = pollers.setdefault(id(server), Poller(server.status, 60, polling))
            await poller.wait(request_id, age=0, time_left=1e9, hear=hear, recall=recall)

        return wait

    return made


def simulate(
    durations: Sequence[float], wait: Wait, *, slots: int = 32, in_flight: int = 32
) -> Figures:
    """Bring all requests to an end, so many in flight, and measure."""
    server = Server(durations, slots)

    async def work() -> float:
        gate = asyncio.Semaphore(in_flight)

        async def one() -> None:
            async with gate:
                await wait(server, server.submit())

        await asyncio.gather(*(one() for _ in durations))
        return _time()

    wall = virtually(work())
    free = [0.0] * slots
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    calls, lag = server.calls / len(durations), fmean(server.lags)
    p95 = quantiles(server.lags, n=20)[-1]
    return Figures(calls, lag, p95, wall / max(free), calls * lag / fmean(durations))


def draw(kind: str, count: int, seed: int, usual: float = 10.0) -> list[float]:
    """Draw durations: `lognormal` (sigma .35), two `humps`, a `tail` of 5 %, or a `drift`."""
    dice = random.Random(seed)  # noqa: S311  # no secret
    drawn = []
    for number in range(count):
        if kind == "humps":
            seconds = usual * dice.choice((0.5, 2.0)) * math.exp(0.15 * dice.gauss(0, 1))
        else:
            seconds = usual * math.exp(0.35 * dice.gauss(0, 1))
        if kind == "tail" and dice.random() < 0.05:  # noqa: PLR2004
            seconds *= 5
        if kind == "drift" and count <= number * 3 < 2 * count:
            seconds *= 2.5
        drawn.append(seconds)
    return drawn


def mean(kind: str, wait: Callable[[int], Callable[[], Wait]], **server: int) -> Figures:
    """Simulate 200 requests with three seeds; `wait` is told the seed."""
    runs = [simulate(draw(kind, 200, seed), wait(seed)(), **server) for seed in (1, 2, 3)]
    return Figures(*(fmean(getattr(run, one.name) for run in runs) for one in fields(Figures)))


async def measure(*, quick: bool) -> list[Table]:
    """Compare what is learned with fixed intervals, by kinds of durations."""
    # In a thread: each simulation runs a loop of its own.
    return await asyncio.to_thread(_tables, quick)


def _tables(quick: bool) -> list[Table]:  # noqa: FBT001
    rows, ratios = [], []
    for kind in _KINDS[:1] if quick else _KINDS:
        warm = mean(kind, partial(_knowing, kind, "balanced"))
        cold = mean(kind, lambda _: learning("balanced"))
        usual = fmean([seconds for seed in (1, 2, 3) for seconds in draw(kind, 200, seed)])
        interval = usual / (warm.calls - 0.5)
        alike = mean(kind, partial(_fixed, interval))
        rows += [
            _row(f"{kind}: 64 durations known", warm),
            _row(f"{kind}: nothing known", cold),
            _row(f"{kind}: fixed, as many calls", alike),
            _row(f"{kind}: fixed 2 s", mean(kind, lambda _: fixed(2))),
        ]
        ratios.append(
            f"{kind}: lag at equally many calls, fixed ÷ learned: {ratio(alike.lag, warm.lag)} "
            "(above 1, comfyline is better)"
        )
    others: tuple[Polling, ...] = ("eager", "frugal")
    for polling in others:
        some = mean("lognormal", partial(_knowing, "lognormal", polling))
        rows.append(_row(f"lognormal: {polling}", some))
    queue = {"slots": 8, "in_flight": 200}
    learned = mean("lognormal", partial(_knowing, "lognormal", "balanced"), **queue)
    rows.append(_row("200 at once on 8 slots", learned))
    rows.append(_row("200 at once on 8, fixed 2 s", mean("lognormal", lambda _: fixed(2), **queue)))
    columns = ("policy", "calls/job", "lag s", "p95 s", "wall ÷ bound", "calls × lag ÷ duration")
    return [Table("200 requests of 10 s, 32 slots, three seeds", columns, rows, ratios)]


_KINDS = ("lognormal", "humps", "tail", "drift")


def _fixed(interval: float, _: int) -> Callable[[], Wait]:
    return fixed(interval)


def _knowing(kind: str, polling: Polling, seed: int) -> Callable[[], Wait]:
    """Learn from 64 durations of before; of a drift, from what came before it."""
    before = "lognormal" if kind == "drift" else kind
    return learning(polling, draw(before, 64, seed + 100))


def _row(name: str, of: Figures) -> Sequence[str]:
    figures = (f"{of.calls:.2f}", f"{of.lag:.2f}", f"{of.p95:.2f}", f"{of.wall:.3f}")
    return (name, *figures, f"{of.product:.3f}")
