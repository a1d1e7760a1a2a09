"""Which part of a run a shard makes: pure rules, by which all who share a run agree.

A shard has whole items, with all their combinations and steps. Steps that collect, and what follows
them, belong to no shard: the run itself makes them, when all shards have ended.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comfyline.errors import UsageError
from comfyline.job import Item

_WRITTEN = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `of` parts of a run, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def items(self, items: Iterable[Item]) -> list[Item]:
        """Return those of a run's items that are in this shard."""
        return [item for item in items if shard_number(item.name, self.of) == self.number]


def parse_shard(text: str) -> Shard:
    """Read `3/8`. Raises `UsageError` for anything else."""
    found = _WRITTEN.fullmatch(text)
    if not found or not int(found[1]) <= int(found[2]):
        raise UsageError(
            f"Invalid shard: {text}",
            hint="Write which of how many: 3/8. A run gives its shards to workers by itself.",
        )
    return Shard(int(found[1]), int(found[2]))


def shard_number(item: str, of: int) -> int:
    """Return the shard of an item, by its name alone: whatever else there is, it stays there."""
    name = item.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) % of + 1


def how_many(jobs: int, items: Sequence[Item], limit: int | None, asked: int | None) -> int:
    """Return into how many shards to cut a run that has so many jobs left to make.

    `asked` is a number of shards, else `limit` says how many jobs one shard is to have; 1 is for a
    run that is not cut.
    """
    wanted = asked or (math.ceil(jobs / limit) if limit else 1)
    return max(1, min(wanted, jobs, len({item.name for item in items})))
