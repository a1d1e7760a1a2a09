"""All waiting in one place: at most sixteen questions at a time, every answer heard."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from comfyline.errors import DeadlinePassed, NotKnownNow, Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.poll import Observation, Poller
from comfyline.runcomfy.wire import RequestStatus, read_status
from tests.runcomfy.conftest import FakeTime

PATIENCE = 20


def status(word: str, position: int | None = None) -> RequestStatus:
    return read_status({"status": word, "queue_position": position})


def at_once(_seen: Observation) -> float:
    return 0


async def deaf(_status: RequestStatus) -> None:
    pass


class Runcomfy:
    """Answers each request from its own list, the last one for ever; time passes meanwhile."""

    def __init__(self, time: FakeTime, **answers: list[Any]) -> None:
        self.time, self.answers = time, answers
        self.asked: list[str] = []
        self.now, self.most = 0, 0
        self.seconds = 0.0
        self.gate: asyncio.Event | None = None
        self.full = asyncio.Event()

    async def __call__(self, request_id: str) -> RequestStatus:
        self.asked.append(request_id)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 16:
            self.full.set()
        self.time.now += self.seconds
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        finally:
            self.now -= 1
        script = self.answers[request_id]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return status(answer)


@asynccontextmanager
async def polling(
    ask: Callable[[str], Awaitable[RequestStatus]],
    time: FakeTime,
    policy: Callable[[Observation], float] = at_once,
) -> AsyncIterator[Poller]:
    async with asyncio.timeout(10):
        yield Poller(ask, policy, time, PATIENCE, time.sleep)


async def test_a_wait_returns_the_end_and_hears_every_answer(time: FakeTime):
    runcomfy = Runcomfy(time, a=["in_queue", "in_queue", "in_progress", "completed"])
    heard: list[str] = []

    async def hear(status: RequestStatus) -> None:
        heard.append(status.word)

    async with polling(runcomfy, time) as poller:
        end = await poller.wait("a", age=0, time_left=60, hear=hear)
    assert end.state is JobState.COMPLETED
    assert heard == ["in_queue", "in_queue", "in_progress", "completed"]


async def test_an_unknown_word_goes_on(time: FakeTime):
    runcomfy = Runcomfy(time, a=["paused", "error", "completed"])
    async with polling(runcomfy, time) as poller:
        assert (await poller.wait("a", age=0, time_left=60, hear=deaf)).word == "completed"
    assert len(runcomfy.asked) == 3


async def test_many_requests_share_sixteen_calls(time: FakeTime):
    runcomfy = Runcomfy(time, **{f"r{n}": ["in_progress", "completed"] for n in range(100)})
    async with polling(runcomfy, time) as poller:
        waits = (poller.wait(f"r{n}", age=0, time_left=60, hear=deaf) for n in range(100))
        ends = await asyncio.gather(*waits)
    assert {end.word for end in ends} == {"completed"}
    assert runcomfy.most == 16
    assert len(runcomfy.asked) == 200


async def test_an_error_belongs_to_the_one_who_waits(time: FakeTime):
    runcomfy = Runcomfy(time, a=["in_queue", Unreachable("away")], b=["in_queue"] * 9 + ["failed"])
    async with polling(runcomfy, time) as poller:
        broken, fine = await asyncio.gather(
            *(poller.wait(name, age=0, time_left=60, hear=deaf) for name in "ab"),
            return_exceptions=True,
        )
    assert isinstance(broken, Unreachable)
    assert isinstance(fine, RequestStatus)


async def test_the_policy_learns_age_state_and_place(time: FakeTime):
    seen: list[Observation] = []

    async def ask(_request_id: str) -> RequestStatus:
        time.now += 2
        return status("in_queue", 7) if time.now < 6 else status("completed")

    def policy(observation: Observation) -> float:
        seen.append(observation)
        return 0

    async with polling(ask, time, policy) as poller:
        await poller.wait("a", age=0.5, time_left=60, hear=deaf)
    assert seen == [
        Observation(0.5, None, None),
        Observation(2.5, JobState.IN_QUEUE, 7),
        Observation(4.5, JobState.IN_QUEUE, 7),
    ]


async def test_the_deadline_ends_the_wait_and_the_request_stays_collectable(time: FakeTime):
    runcomfy = Runcomfy(time, a=["in_progress"])
    runcomfy.seconds = 10
    async with polling(runcomfy, time) as poller:
        with pytest.raises(DeadlinePassed, match="reconcile") as raised:
            await poller.wait("a", age=0, time_left=25, hear=deaf)
    assert raised.value.request_id == "a"
    assert len(runcomfy.asked) == 3


@pytest.mark.parametrize("time_left", [0, -3600])
async def test_a_passed_deadline_still_asks_once(time: FakeTime, time_left: float):
    runcomfy = Runcomfy(time, a=["in_progress"], b=["completed"])
    async with polling(runcomfy, time) as poller:
        with pytest.raises(DeadlinePassed):
            await poller.wait("a", age=7200, time_left=time_left, hear=deaf)
        assert (await poller.wait("b", age=7200, time_left=time_left, hear=deaf)).word
    assert runcomfy.asked == ["a", "b"]


async def test_a_wait_is_never_longer_than_the_deadline(time: FakeTime):
    runcomfy = Runcomfy(time, a=["in_progress", "completed"])

    def policy(_seen: Observation) -> float:
        return 3600

    async with asyncio.timeout(10):
        poller = Poller(runcomfy, policy, monotonic, PATIENCE)
        assert (await poller.wait("a", age=7200, time_left=0.01, hear=deaf)).word == "completed"


@pytest.mark.parametrize("age", [0, 3600])
async def test_a_request_that_runcomfy_does_not_know_is_asked_about_again(
    time: FakeTime, age: float
):
    unknown = NotKnownNow("?")
    runcomfy = Runcomfy(time, a=[unknown, unknown, "in_queue", unknown, "completed"])
    runcomfy.seconds = 2
    async with polling(runcomfy, time) as poller:
        assert (await poller.wait("a", age=age, time_left=60, hear=deaf)).word == "completed"


async def test_a_request_that_stays_unknown_is_left_when_the_patience_is_over(time: FakeTime):
    runcomfy = Runcomfy(time, a=[NotKnownNow("?")])
    runcomfy.seconds = 1
    async with polling(runcomfy, time) as poller:
        with pytest.raises(NotKnownNow):
            await poller.wait("a", age=3600, time_left=600, hear=deaf)
    assert PATIENCE < len(runcomfy.asked) < PATIENCE + 3


async def test_whoever_stops_waiting_is_not_asked_for(time: FakeTime):
    runcomfy = Runcomfy(time, a=["in_queue"], b=["in_queue", "in_queue", "in_queue", "completed"])
    async with polling(runcomfy, time) as poller:
        gone = asyncio.create_task(poller.wait("a", age=0, time_left=60, hear=deaf))
        await asyncio.sleep(0)
        gone.cancel()
        await poller.wait("b", age=0, time_left=60, hear=deaf)
    assert runcomfy.asked.count("a") <= 1
