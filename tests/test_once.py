import asyncio

import pytest

from comfyline.models.catalogue import SingleFlight


class Oracle:
    """Counts who asks, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False
        self.time = 0.0

    async def ask(self, name: str) -> str:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.broken:
            raise ValueError(name)
        return name.upper()

    def clock(self) -> float:
        return self.time


async def test_all_who_ask_at_once_share_one_question() -> None:
    oracle = Oracle()
    once = SingleFlight(oracle.ask, 60)

    assert await asyncio.gather(*(once.get("a") for _ in range(20))) == ["A"] * 20
    assert await once.get("a") == "A"
    assert oracle.asked == 1


async def test_an_error_is_remembered_for_a_while_and_not_for_ever() -> None:
    oracle = Oracle()
    oracle.broken = True
    once = SingleFlight(oracle.ask, 60, oracle.clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="a"):
            await once.get("a")
    assert oracle.asked == 1

    oracle.broken, oracle.time = False, 61

    assert await once.get("a") == "A"


async def test_who_is_cancelled_does_not_cancel_what_others_wait_for() -> None:
    once = SingleFlight(Oracle().ask, 60)
    first = asyncio.create_task(once.get("a"))
    second = asyncio.create_task(once.get("a"))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == "A"
    assert first.cancelled()
