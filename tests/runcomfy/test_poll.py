"""All waiting in one place: at most sixteen questions at a time, every answer heard."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import DeadlinePassed, NotKnownNow, Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.poll import Poller, next_poll
from comfyline.runcomfy.wire import RequestStatus
from tests.runcomfy.conftest import FakeTime

AGES = st.floats(0, 1e9)
PLACES = st.integers(0, 10**6)
PATIENCE = 20
UNKNOWN = NotKnownNow("?")


async def deaf(_status: RequestStatus) -> None:
    pass


class Runcomfy:
    """Answers each request from its own list, the last one for ever; time passes meanwhile."""

    def __init__(self, time: FakeTime, seconds: float = 0, **answers: list[Any]) -> None:
        self.time, self.seconds, self.answers = time, seconds, answers
        self.asked: list[str] = []
        self.now, self.most = 0, 0
        self.poller = Poller(self.ask, time, PATIENCE, time.sleep)

    async def ask(self, request_id: str) -> RequestStatus:
        self.asked.append(request_id)
        self.now += 1
        self.most = max(self.most, self.now)
        self.time.now += self.seconds
        await asyncio.sleep(0)
        self.now -= 1
        script = self.answers[request_id]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return RequestStatus.read({"status": answer})


async def test_a_wait_returns_the_end_and_hears_every_answer(time: FakeTime):
    words = ["in_queue", "in_queue", "paused", "error", "in_progress", "completed"]
    heard: list[str] = []

    async def hear(status: RequestStatus) -> None:
        heard.append(status.word)

    poller = Runcomfy(time, a=list(words)).poller
    end = await poller.wait("a", age=0, time_left=60, hear=hear)
    assert (end.state, heard) == (JobState.COMPLETED, words)


async def test_many_requests_share_sixteen_calls(time: FakeTime):
    runcomfy = Runcomfy(time, **{f"r{n}": ["in_progress", "completed"] for n in range(100)})
    waits = (runcomfy.poller.wait(f"r{n}", age=0, time_left=600, hear=deaf) for n in range(100))
    ends = await asyncio.gather(*waits)
    assert {end.word for end in ends} == {"completed"}
    assert (runcomfy.most, len(runcomfy.asked)) == (16, 200)


async def test_an_error_and_a_cancellation_belong_to_the_one_who_waits(time: FakeTime):
    runcomfy = Runcomfy(
        time, a=["in_queue", Unreachable("away")], b=["in_queue"] * 9 + ["failed"], c=["in_queue"]
    )
    gone = asyncio.create_task(runcomfy.poller.wait("c", age=0, time_left=60, hear=deaf))
    await asyncio.sleep(0)
    gone.cancel()
    broken, fine = await asyncio.gather(
        *(runcomfy.poller.wait(name, age=0, time_left=60, hear=deaf) for name in "ab"),
        return_exceptions=True,
    )
    assert isinstance(broken, Unreachable)
    assert isinstance(fine, RequestStatus)
    assert runcomfy.asked.count("c") <= 1


async def test_the_next_question_depends_on_age_and_place(time: FakeTime):
    async def ask(_request_id: str) -> RequestStatus:
        time.now += 2
        word = "in_queue" if time.now < 8 else "completed"
        return RequestStatus.read({"status": word, "queue_position": 7})

    await Poller(ask, time, PATIENCE, time.sleep).wait("a", age=0.5, time_left=60, hear=deaf)
    assert time.slept == [next_poll(0.5, None), next_poll(3.25, 7), next_poll(8.05, 7)]


async def test_the_deadline_ends_the_wait_and_the_request_stays_collectable(time: FakeTime):
    runcomfy = Runcomfy(time, seconds=10, a=["in_progress"])
    with pytest.raises(DeadlinePassed, match="reconcile") as raised:
        await runcomfy.poller.wait("a", age=0, time_left=25, hear=deaf)
    assert (raised.value.request_id, len(runcomfy.asked)) == ("a", 3)


@pytest.mark.parametrize("time_left", [0, -3600])
async def test_a_passed_deadline_still_asks_once(time: FakeTime, time_left: float):
    runcomfy = Runcomfy(time, a=["in_progress"], b=["completed"])
    with pytest.raises(DeadlinePassed):
        await runcomfy.poller.wait("a", age=7200, time_left=time_left, hear=deaf)
    assert (await runcomfy.poller.wait("b", age=7200, time_left=time_left, hear=deaf)).word
    assert runcomfy.asked == ["a", "b"]


async def test_a_wait_is_never_longer_than_the_deadline(time: FakeTime):
    poller = Runcomfy(time, a=["in_progress", "completed"]).poller
    assert (await poller.wait("a", age=7200, time_left=3, hear=deaf)).word == "completed"
    assert time.slept == [0, 3]


@pytest.mark.parametrize("age", [0, 3600])
async def test_a_request_that_runcomfy_does_not_know_is_asked_about_while_patience_lasts(
    time: FakeTime, age: float
):
    some = [UNKNOWN, UNKNOWN, "in_queue", UNKNOWN, "completed"]
    runcomfy = Runcomfy(time, seconds=2, a=some, b=[UNKNOWN])
    end = await runcomfy.poller.wait("a", age=age, time_left=60, hear=deaf)
    assert end.word == "completed"
    began = time.now
    with pytest.raises(NotKnownNow):
        await runcomfy.poller.wait("b", age=age, time_left=600, hear=deaf)
    assert PATIENCE <= time.now - began < PATIENCE + 10


@given(AGES, AGES, st.none() | PLACES)
def test_an_older_request_is_asked_no_more_often(age: float, more: float, place: int | None):
    assert 0.4 <= next_poll(age, place) <= next_poll(age + more, place) <= 5


@given(AGES, PLACES, PLACES)
def test_a_request_further_back_is_asked_no_more_often(age: float, place: int, more: int):
    assert next_poll(age, None) <= next_poll(age, place) <= next_poll(age, place + more)
