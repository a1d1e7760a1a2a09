"""Whose turn it is: nobody's thousand jobs make another's three wait, and no slot lies idle."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from comfyline.fair_share import FairLine, FairSlots, may_take, next_share, share_of

SHARES = st.sampled_from("abcd")
HELD = st.dictionaries(SHARES, st.integers(0, 5))


@given(st.sets(SHARES, min_size=1), HELD)
def test_the_next_share_is_one_that_has_the_fewest(waiting: set[str], held: dict[str, int]):
    fewest = min(held.get(share, 0) for share in waiting)
    assert held.get(next_share(sorted(waiting), held), 0) == fewest


@given(st.sets(SHARES, min_size=1), HELD, st.integers(1, 9))
def test_over_processes_somebody_may_always_take_a_free_slot_and_one_is_left_for_who_has_fewer(
    waiting: set[str], held: dict[str, int], free: int
):
    may = {share for share in waiting if may_take(share, free, held, waiting)}
    assert next_share(sorted(waiting), held) in may
    for share in may:
        fewer = [one for one in waiting if held.get(one, 0) < held.get(share, 0)]
        assert free - 1 >= len(fewer)
    assert free <= len(SHARES.elements) or may == waiting  # type: ignore[attr-defined]


@given(st.data(), st.integers(1, 6), st.integers(0, 60))
def test_three_jobs_of_one_go_before_the_thousand_of_another_whenever_they_come(
    data: st.DataObject, slots: int, after: int
):
    line: FairLine[str] = FairLine()
    for _ in range(1000):
        line.add("many", "many")
    under_way: list[str] = []
    begun: list[str] = []
    for step in range(after + 2 * slots + 6):
        if step == after:
            for _ in range(3):
                line.add("few", "few")
        while len(under_way) < slots:
            held = Counter(under_way)
            line.held = held
            share, _ = line.take()
            if "few" in line.shares:
                assert share == "few" or held["many"] <= held["few"]
            under_way.append(share)
            begun.append(share)
        under_way.remove(data.draw(st.sampled_from(under_way)))
    # Had all been first come, first served, none of the three would have begun yet.
    assert begun.count("few") == 3


@given(st.lists(SHARES, max_size=40))
def test_within_a_share_it_is_first_come_first_served_and_nobody_is_lost(shares: list[str]):
    line: FairLine[int] = FairLine()
    for number, share in enumerate(shares):
        line.add(share, number)
    taken = [line.take() for _ in range(len(line))]
    assert sorted(number for _, number in taken) == list(range(len(shares)))
    for share in set(shares):
        mine = [number for one, number in taken if one == share]
        assert mine == sorted(mine)


async def test_slots_are_held_in_the_block_only_also_by_those_that_are_cancelled():
    slots, order = FairSlots(1), list[str]()

    async def work(share: str) -> None:
        async with slots.of(share):
            order.append(share)
            await asyncio.sleep(0)

    async with slots.of("a"):
        waiting = [asyncio.create_task(work(share)) for share in "aabb"]
        await asyncio.sleep(0)
        assert slots.waiting == {"a", "b"}
        waiting[1].cancel()
        waiting[3].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert sorted(order) == ["a", "b"]
    assert slots.waiting == frozenset()
    async with asyncio.timeout(5), slots.of("a"):
        pass


async def test_what_a_share_has_elsewhere_counts():
    slots, order = FairSlots(1), list[str]()
    slots.held_elsewhere = Counter({"a": 3})

    async def work(share: str) -> None:
        async with slots.of(share):
            order.append(share)

    async with slots.of("c"):
        waiting = [asyncio.create_task(work(share)) for share in "aab"]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == ["b", "a", "a"]


def test_a_job_without_the_label_is_of_a_share_of_its_own():
    assert len({share_of("client", {}), share_of("client", {"client": "acme"})}) == 2
