"""Jobs that wait for their turn: those that ask for the same go one after the other."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from comfyline.plan.preflight import Validated


@dataclass(slots=True)
class Group:
    """Jobs with one key: the second takes what the first has paid for."""

    key: str
    jobs: list[Validated] = field(default_factory=list)


class Queue:
    """Groups in the order in which they came; whoever takes one says when it is done."""

    def __init__(self) -> None:
        self._ready: deque[Group] = deque()
        self._groups: dict[str, Group] = {}
        self._out = 0
        self._changed = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to be taken."""
        return bool(self._ready)

    def add(self, jobs: Iterable[Validated]) -> None:
        """Lines jobs up; one that asks for what is in line already, or under way, joins it."""
        for job, checked in jobs:
            group = self._groups.get(checked.key) if checked else None
            if group is None:
                group = Group(checked.key if checked else "")
                self._ready.append(group)
                if checked:
                    self._groups[checked.key] = group
            group.jobs.append((job, checked))
        self._changed.set()

    async def take(self) -> Group | None:
        """The next group; None when nothing is left and nothing under way can bring more."""
        while not self._ready:
            if not self._out:
                return None
            self._changed.clear()
            await self._changed.wait()
        self._out += 1
        return self._ready.popleft()

    def close(self, group: Group) -> None:
        """No job joins this group any more."""
        if self._groups.get(group.key) is group:
            del self._groups[group.key]

    def done(self, group: Group) -> None:
        """A group that was taken is at its end, or put off."""
        self.close(group)
        self._out -= 1
        self._changed.set()
