"""What the ledger answers: frozen records of attempts, and the job inside one of them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeVar

from comfyline.config.account import Account, command
from comfyline.errors import GivenUp, Rejected
from comfyline.job import (
    CheckedJob,
    ContentChecks,
    Job,
    JobState,
    Media,
    Placement,
    Preparation,
    StoredOutput,
)
from comfyline.keys import replace_values
from comfyline.redact import bare_origin, without_secrets

T = TypeVar("T")

KEPT = timedelta(days=7)
"""How long RunComfy keeps a result; counted from the submission, which is the safe side."""

PAID_IN_VAIN = frozenset({Rejected.kind, GivenUp.kind})
"""What failed here and not at RunComfy: it was paid for, whether its cost is known or not."""

UNKNOWN_ORIGIN = "unknown-origin"
"""The kind of error with which a job is in doubt whose stored output does not say whose it is."""

REFRESH = "refresh"
"""Stands beside the job in what the ledger keeps of an attempt: whether a refresh began it."""

_SHOWN = ("pipeline", "item", "step", "model_id", "variant", "settings", "source", "part")
"""What of a job is kept as it is, but for the secrets of addresses."""

NOT_SENT = "not-sent"
"""How a doubt ends that this very process can end: it knows that nothing was ever accepted."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a POST beside its outcome, for the person who has to end a doubt.

    `mark` is the journal's name of this POST and no other's. `how_far` is the client's word for how
    much of it left, `reason` what came instead of an answer. The balance is the account's right
    before, in US dollars, None where nobody was asked.
    """

    mark: str | None = None
    how_far: str | None = None
    reason: str | None = None
    balance_before_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, with its outputs and the time of each state.

    `account` is whose it is, None where a version before accounts wrote it and nothing has told.
    `outputs` are whole or empty: an attempt that lost one of its files to another job has none.
    `reserved_usd` is what its claim set aside, `claimed_at` when the POST was about to leave.
    `missing_since` is since when RunComfy has not known the request, without an answer in between
    that did. `rejections` counts the attempts that ended as rejected since the job was last
    refreshed, this one with them; it is counted for one that was rejected itself.
    """

    id: int
    number: int
    state: JobState
    checked: CheckedJob
    account: Account | None
    run_id: str
    owner: str | None
    lease_until: datetime | None
    request_id: str | None
    reserved_usd: float | None
    cost_usd: float | None
    error_kind: str | None
    error_message: str | None
    evidence: Evidence
    created_at: datetime
    claimed_at: datetime | None
    submitted_at: datetime | None
    updated_at: datetime
    outputs: tuple[StoredOutput, ...]
    reached: Mapping[JobState, datetime]
    missing_since: datetime | None = None
    rejections: int = 0

    @property
    def pipeline(self) -> str:
        """The pipeline that asked for it."""
        return self.checked.job.pipeline

    def command(self, words: str) -> str:
        """Return a command as people type it for the account of this attempt."""
        return self.account.command(words) if self.account else command(words)

    @property
    def placement(self) -> Placement:
        """Where its outputs were to go."""
        return self.checked.job.placement


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    """An attempt as far as it decides about its job: ten thousand whole ones take seconds to read.

    `packed` is its request as the ledger keeps it.
    """

    state: JobState
    run_id: str
    pipeline: str
    updated_at: datetime
    packed: str
    lease_until: datetime | None = None
    submitted_at: datetime | None = None
    request_id: str | None = None
    cost_usd: float | None = None
    error_kind: str | None = None
    outputs: tuple[StoredOutput, ...] = ()
    rejections: int = 0

    @property
    def placement(self) -> Placement:
        """Where its outputs were to go."""
        try:
            return _placement(json.loads(self.packed)["job"]["placement"])
        except UNREADABLE:
            return _NOWHERE


AnyAttempt = Attempt | AttemptSummary
"""What of an attempt decides about its job, both know."""


def pack(checked: CheckedJob) -> dict[str, Any]:
    """Return a checked job as JSON, without the secrets that addresses carry.

    The query of a presigned `https://` input is one, wherever an item's value was put to use. So
    what comes out of the ledger is good for naming and showing, and never for submitting again.
    """
    job, price, placement = checked.job, checked.estimate_usd, checked.job.placement
    origins = {part.pointer: bare_origin(part.origin) for part in checked.media}
    packed: dict[str, Any] = _shown({name: getattr(job, name) for name in _SHOWN})
    # A local path keeps its question mark, which no rule for texts can know.
    packed["inputs"] = replace_values(_shown(job.inputs), origins)
    # The folder and the template decide where outputs go, and are kept to the letter.
    packed["placement"] = {
        "folder": placement.folder,
        "name": placement.name,
        "scope": _shown(placement.scope),
        "on_conflict": placement.on_conflict,
        "root": placement.root,
        # Not where it says nothing: a version that does not know of it reads the rest.
        **({"accept": list(placement.accept)} if placement.accept else {}),
    }
    if job.labels:
        packed["labels"] = dict(job.labels)
    packed["preparation"] = asdict(job.preparation)
    packed["checks"] = asdict(job.checks) if job.checks else None
    return {
        "job": packed,
        "key": checked.key,
        "media": [asdict(part) | {"origin": origins[part.pointer]} for part in checked.media],
        "estimate_usd": price if price is not None and 0 <= price < math.inf else None,
    }


def unpack(packed: Mapping[str, Any]) -> CheckedJob:
    """Return the checked job that `pack` wrote down, also when that was another version's."""
    job = dict(packed["job"])
    job["placement"] = _placement(job["placement"])
    job["preparation"] = _made(Preparation, job.get("preparation") or {})
    job["checks"] = _made(ContentChecks, job["checks"]) if job.get("checks") else None
    return CheckedJob(
        job=_made(Job, job),
        key=packed["key"],
        media=tuple(
            _made(Media, {**part, "pointer": tuple(part["pointer"])}) for part in packed["media"]
        ),
        estimate_usd=packed["estimate_usd"],
    )


UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What comes of reading a row that somebody has broken."""

_NOWHERE = Placement(folder="", name="{{ the_ledger_cannot_read_where_it_goes }}", scope={})
"""No file can be stored there: what is paid for is fetched, and waits until the row is mended."""


def unpack_row(packed: Any, *, key: str, pipeline: str, item: str, step: str) -> CheckedJob:
    """Unpack a row; of one that is broken, the little that stands beside it.

    It must hide no other row, and not itself be missing: its job would be paid for again.
    """
    try:
        return unpack(packed)
    except UNREADABLE:
        job = Job(pipeline, item, step, "unreadable", {}, _NOWHERE)
        return CheckedJob(job, key, (), None)


def read_evidence(said: Any) -> Evidence:
    """Return what is known of a POST, as far as it can be read."""
    return _made(Evidence, said) if isinstance(said, Mapping) else Evidence()


def _placement(values: Mapping[str, Any]) -> Placement:
    return _made(Placement, {**values, "accept": tuple(values.get("accept", ()))})


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a value of what was written down, without what only a newer version knows of."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    return kind(**{name: value for name, value in values.items() if name in known})


def _shown(value: Any) -> Any:
    """Return the value as JSON that every database takes, each address in it without its query."""
    match value:
        case str():
            return without_secrets(value)
        case Mapping():
            return {str(key): _shown(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_shown(inner) for inner in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return str(value)
