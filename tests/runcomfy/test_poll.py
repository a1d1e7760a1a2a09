"""All waiting in one place: at most sixteen questions at a time, every answer heard."""

import asyncio
from collections.abc import Callable
from statistics import fmean
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.polls import Wait, draw, fixed, learning, mean, virtually
from comfyline.config.settings import Polling
from comfyline.errors import DeadlinePassed, NotKnownNow, Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.durations import SHORTEST_WAIT, Place, estimate, next_wait
from comfyline.runcomfy.poll import Poller
from comfyline.runcomfy.wire import RequestStatus

PATIENCE = 20
UNKNOWN = NotKnownNow("?")
DURATIONS = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=80)
POLLINGS = st.sampled_from(get_args(Polling))


async def deaf(_status: RequestStatus) -> None:
    pass


class Runcomfy:
    """Answers each request from its own list, the last one for ever; time passes meanwhile."""

    def __init__(self, seconds: float = 0, **answers: list[Any]) -> None:
        self.seconds, self.answers = seconds, answers
        self.asked: list[str] = []
        self.at: list[float] = []
        self.now, self.most = 0, 0
        self.poller = Poller(self.ask, PATIENCE)

    async def ask(self, request_id: str) -> RequestStatus:
        self.asked.append(request_id)
        self.at.append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        script = self.answers[request_id]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return RequestStatus.read(answer if isinstance(answer, dict) else {"status": answer})

    async def wait(
        self, request_id: str, age: float = 0, time_left: float = 60, **more: Any
    ) -> str:
        """Waits for a request; the word with which it ended."""
        asking = self.poller.wait(request_id, age=age, time_left=time_left, hear=deaf, **more)
        return (await asking).status.word


def test_a_wait_returns_the_end_and_hears_every_answer():
    words = ["in_queue", "in_queue", "paused", "error", "in_progress", "completed"]
    heard: list[str] = []

    async def hear(status: RequestStatus) -> None:
        heard.append(status.word)

    poller = Runcomfy(a=list(words)).poller
    end = virtually(poller.wait("a", age=0, time_left=60, hear=hear)).status
    assert (end.state, heard) == (JobState.COMPLETED, words)


def test_many_requests_share_sixteen_calls():
    async def all_of_them() -> set[str]:
        return set(await asyncio.gather(*(runcomfy.wait(f"r{n}") for n in range(100))))

    scripts = {f"r{n}": ["in_progress", "completed"] for n in range(100)}
    runcomfy = Runcomfy(0.01, **scripts)
    assert virtually(all_of_them()) == {"completed"}
    assert (runcomfy.most, len(runcomfy.asked)) == (16, 200)


def test_an_error_and_a_cancellation_belong_to_the_one_who_waits():
    runcomfy = Runcomfy(
        a=["in_queue", Unreachable("away")], b=["in_queue"] * 5 + ["failed"], c=["in_queue"]
    )

    async def work() -> list[Any]:
        gone = asyncio.create_task(runcomfy.wait("c"))
        await asyncio.sleep(0)
        gone.cancel()
        waits = (runcomfy.wait(name, time_left=600) for name in "ab")
        return await asyncio.gather(*waits, return_exceptions=True)

    broken, fine = virtually(work())
    assert isinstance(broken, Unreachable)
    assert fine == "failed"
    assert runcomfy.asked.count("c") <= 1


def test_the_deadline_ends_the_wait_and_the_request_stays_collectable():
    runcomfy = Runcomfy(10, a=["in_progress"])
    with pytest.raises(DeadlinePassed, match="reconcile") as raised:
        virtually(runcomfy.wait("a", time_left=25))
    assert (raised.value.request_id, len(runcomfy.asked)) == ("a", 3)


@pytest.mark.parametrize("time_left", [0, -3600])
def test_a_passed_deadline_still_asks_once(time_left: float):
    runcomfy = Runcomfy(a=["in_progress"], b=["completed"])
    with pytest.raises(DeadlinePassed):
        virtually(runcomfy.wait("a", age=7200, time_left=time_left))
    assert virtually(runcomfy.wait("b", age=7200, time_left=time_left))
    assert runcomfy.asked == ["a", "b"]


def test_a_wait_is_never_longer_than_the_deadline():
    runcomfy = Runcomfy(a=["in_progress", "completed"])
    assert virtually(runcomfy.wait("a", age=7200, time_left=3)) == "completed"
    assert runcomfy.at == [0, 3]


@pytest.mark.parametrize("age", [0, 3600])
def test_a_request_that_runcomfy_does_not_know_is_asked_about_while_patience_lasts(age: float):
    some = [UNKNOWN, UNKNOWN, "in_queue", UNKNOWN, "completed"]
    runcomfy = Runcomfy(2, a=some, b=[UNKNOWN])
    assert virtually(runcomfy.wait("a", age=age)) == "completed"
    runcomfy.at.clear()
    with pytest.raises(NotKnownNow):
        virtually(runcomfy.wait("b", age=age, time_left=6000))
    assert PATIENCE <= runcomfy.at[-1] - runcomfy.at[0] < PATIENCE + 10


def test_the_ledger_is_asked_once_for_each_kind_and_its_failure_stops_nobody():
    asked: list[str] = []

    async def known() -> list[float]:
        asked.append("known")
        return [30.0] * 40

    async def away() -> list[float]:
        asked.append("away")
        raise Unreachable("the ledger is away")

    async def work() -> list[str]:
        kinds = {"known": known, "away": away}
        waits = [
            runcomfy.wait(f"{kind}{n}", kind=kind, recall=recall)
            for kind, recall in kinds.items()
            for n in range(3)
        ]
        return await asyncio.gather(*waits)

    runcomfy = Runcomfy(
        **{f"{kind}{n}": ["completed"] for kind in ("known", "away") for n in range(3)}
    )
    virtually(work())
    assert sorted(asked) == ["away", "known"]
    first = dict(zip(runcomfy.asked, runcomfy.at, strict=True))
    assert first["away0"] < 2
    assert 15 < first["known0"] < 40


def test_kinds_without_number_are_not_all_remembered():
    recalled: list[str] = []

    async def work() -> None:
        for number in [*range(1000), 999, 0]:

            async def recall(kind: str = f"{number}") -> list[float]:
                recalled.append(kind)
                return [1.0]

            await runcomfy.wait("a", kind=f"{number}", recall=recall)

    runcomfy = Runcomfy(a=["completed"])
    virtually(work())
    assert recalled == [*(f"{number}" for number in range(1000)), "0"]


def test_an_end_wakes_those_who_know_too_little():
    async def work() -> None:
        await runcomfy.wait("first", time_left=600)
        began = asyncio.get_running_loop().time()
        await runcomfy.wait("second", time_left=600)
        assert runcomfy.at[-1] - began == pytest.approx(30, abs=20)

    runcomfy = Runcomfy(first=["in_progress"] * 12 + ["completed"], second=["completed"])
    virtually(work())


def test_a_wait_tells_how_long_a_request_ran_without_the_queue():
    def queued(place: int) -> dict[str, Any]:
        return {"status": "in_queue", "queue_position": place}

    async def work() -> float | None:
        asking = runcomfy.poller.wait("a", age=0, time_left=600, hear=deaf)
        return (await asking).generation_seconds

    runcomfy = Runcomfy(a=[queued(4), queued(2), "in_progress", "in_progress", "completed"])
    ran = virtually(work())
    assert ran is not None
    assert runcomfy.at[-1] - runcomfy.at[2] < ran + 2
    assert ran < runcomfy.at[-1] - runcomfy.at[1]
    # Of one that ended while nobody looked, nothing is known.
    runcomfy.answers["a"] = ["completed"]
    asking = runcomfy.poller.wait("a", age=500, time_left=600, hear=deaf)
    assert virtually(asking).generation_seconds is None


@given(DURATIONS, DURATIONS, POLLINGS, st.floats(0, 1e6))
def test_the_next_look_is_later_and_comes(
    ended: list[float], running: list[float], polling: Polling, age: float
):
    known = estimate(ended, running, polling)
    assert known is not None
    assert age < known.next_look(age) < 1e9


@given(
    st.none() | DURATIONS,
    st.floats(0, 1e6),
    st.none() | st.builds(Place, st.integers(0, 10**6), st.none() | st.floats(0, 1e4)),
)
def test_no_wait_is_over_twice_what_was_waited(
    ended: list[float] | None, waited: float, place: Place | None
):
    known = estimate(ended, (), "balanced") if ended else None
    wait = next_wait(known, 0 if place else waited, waited, place)
    assert wait >= SHORTEST_WAIT
    if waited:
        assert wait <= max(2 * waited, 1.0)


@given(st.lists(st.floats(0.01, 600), min_size=1), st.floats(0, 1e6))
def test_one_that_outlasts_all_that_is_known_is_looked_at_all_the_same(
    ended: list[float], age: float
):
    assert next_wait(estimate(ended, (), "balanced"), age, age) <= 600


@given(DURATIONS, st.floats(0, 1e5))
def test_frugal_looks_less_often_than_eager(ended: list[float], age: float):
    eager, balanced, frugal = (estimate(ended, (), polling) for polling in get_args(Polling))
    assert eager
    assert balanced
    assert frugal
    assert eager.next_look(age) <= balanced.next_look(age) <= frugal.next_look(age)


@pytest.mark.parametrize(
    ("interval", "calls", "lag"), [(0.5, 21.6, 0.261), (2, 5.82, 1.04), (5, 2.62, 2.5)]
)
def test_the_simulator_reproduces_what_was_measured_of_fixed_intervals(
    interval: float, calls: float, lag: float
):
    figures = mean("lognormal", lambda _: fixed(interval))
    assert figures.calls == pytest.approx(calls, rel=0.05)
    assert figures.lag == pytest.approx(lag, rel=0.05)


@pytest.mark.parametrize("kind", ["lognormal", "humps", "tail", "drift"])
def test_what_is_learned_beats_every_fixed_interval(kind: str):
    def learned(seed: int) -> Callable[[], Wait]:
        return learning("balanced", draw(kind if kind != "drift" else "lognormal", 64, seed + 100))

    ours = mean(kind, learned)
    usual = fmean(draw(kind, 200, 1) + draw(kind, 200, 2) + draw(kind, 200, 3))
    rival = mean(kind, lambda _: fixed(usual / (ours.calls - 0.5)))
    assert rival.calls == pytest.approx(ours.calls, rel=0.05)
    assert ours.lag < 0.8 * rival.lag
    # Who knows nothing at first has learned enough after some dozens.
    assert mean(kind, lambda _: learning("balanced")).product < rival.product


def test_many_at_once_on_few_slots_need_few_looks_each():
    figures = mean(
        "lognormal",
        lambda seed: learning("balanced", draw("lognormal", 64, seed + 100)),
        slots=8,
        in_flight=200,
    )
    assert (figures.calls < 9.5, figures.lag < 1.3) == (True, True)
