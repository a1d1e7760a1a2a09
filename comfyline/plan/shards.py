"""Which part of a run a shard makes: pure rules, by which all who share a run agree.

A shard has whole items, with all their combinations and steps. Steps that collect, and what follows
them, belong to no shard: the run itself makes them, when all shards have ended.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from comfyline.errors import UsageError, recorded_error
from comfyline.job import Item, Job, JobState, Stage
from comfyline.ledger.attempts import AnyAttempt
from comfyline.ledger.block_reasons import not_started
from comfyline.ledger.shards import Entry
from comfyline.redact import without_secrets
from comfyline.run import Outcome

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


def entry_of(outcome: Outcome) -> Entry:
    """Write down what became of a job in a shard, for the run that the shard is a part of."""
    error = outcome.error
    told = {
        "key": outcome.key,
        "label": outcome.job.label,
        "state": outcome.state,
        "stage": outcome.stage,
        "seconds": outcome.seconds,
        "cost_usd": outcome.cost_usd,
        "cost_unknown": outcome.cost_unknown or None,
        "request_id": outcome.request_id,
        "kind": error and error.kind,
        "message": error and without_secrets(error.message),
        "hint": error and without_secrets(error.hint),
    }
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ShardResults:
    """What the shards of a run have come to; nothing at all for a run that is not cut.

    `entries` are by label and key what became of each job that was not there before. Of the shards
    that are `cancelled`, each of `of`, nobody has begun the jobs; `steps` are those that shards
    make. `estimate_usd` is for the whole run, as it was before.
    """

    entries: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    of: int = 1
    cancelled: frozenset[int] = frozenset()
    steps: frozenset[str] = frozenset()
    estimate_usd: float | None = None

    def has_told(self, outcome: Outcome) -> bool:
        """Whether the shard has told of a job's end already."""
        return (outcome.job.label, outcome.key) in self.entries

    def outcome(self, job: Job, key: str) -> Outcome | None:
        """Return how a job ended in its shard, without its outputs; None if it is to be made."""
        entry = self.entries.get((job.label, key))
        if entry and entry["state"] != JobState.PERSISTED:
            return Outcome(
                job=job,
                key=key,
                state=JobState(entry["state"]),
                stage=Stage(entry["stage"]) if "stage" in entry else None,
                seconds=entry.get("seconds"),
                cost_usd=entry.get("cost_usd"),
                cost_unknown=entry.get("cost_unknown", False),
                request_id=entry.get("request_id"),
                error=recorded_error(
                    entry.get("kind", ""),
                    entry.get("message", ""),
                    entry.get("hint", ""),
                    entry.get("request_id"),
                ),
            )
        if job.step in self.steps and shard_number(job.item, self.of) in self.cancelled:
            error = not_started("its shard was cancelled in Prefect")
            return Outcome(job, key, JobState.PLANNED, error=error)
        return None

    def credited(
        self, there: Iterable[Outcome], known: Mapping[str, AnyAttempt], run_id: str
    ) -> tuple[Outcome, ...]:
        """Count what the shards have made as made by the run, and no longer as there already.

        A shard that died has told nothing: what it had submitted for the run counts likewise.
        """
        told = {key for _, key in self.entries}
        return tuple(self._credited(one, known, run_id, told) for one in there)

    def _credited(
        self, one: Outcome, known: Mapping[str, AnyAttempt], run_id: str, told: set[str]
    ) -> Outcome:
        entry = self.entries.get((one.job.label, one.key))
        if one.is_old or one.job.step not in self.steps:
            return one
        if entry:
            return replace(
                one,
                reused=False,
                seconds=entry.get("seconds"),
                cost_usd=entry.get("cost_usd"),
                cost_unknown=entry.get("cost_unknown", False),
            )
        if one.key not in told and known[one.key].run_id == run_id:
            told.add(one.key)
            return replace(one, reused=False)
        return one
