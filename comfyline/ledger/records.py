"""What the ledger answers: frozen records of attempts, and the job inside one of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from comfyline.addresses import bare_origin, without_secrets
from comfyline.job import CheckedJob, Job, JobState, Media, Placement, StoredOutput
from comfyline.keys import replace_values


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a POST beside its outcome, for the person who has to end a doubt.

    `mark` is in the upload URLs of this POST and no other's. `how_far` is the client's word for how
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

    `outputs` are whole or empty: an attempt that lost one of its files to another job has none.
    `reserved_usd` is what its claim set aside, `claimed_at` when the POST was about to leave.
    """

    id: int
    number: int
    state: JobState
    checked: CheckedJob
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


def pack(checked: CheckedJob) -> dict[str, Any]:
    """A checked job as JSON, without the secrets that addresses carry.

    The query of a presigned `https://` input is one, wherever an item's value was put to use. So
    what comes out of the ledger is good for naming and showing, and never for submitting again.
    """
    job, price = checked.job, checked.estimate_usd
    origins = {part.pointer: bare_origin(part.origin) for part in checked.media}
    packed: dict[str, Any] = _shown(
        {
            "pipeline": job.pipeline,
            "item": job.item,
            "step": job.step,
            "model_id": job.model_id,
            "variant": job.variant,
            "settings": job.settings,
            "source": job.source,
        }
    )
    # A local path keeps its question mark, which no rule for texts can know.
    packed["inputs"] = replace_values(_shown(job.inputs), origins)
    # The folder and the template decide where outputs go, and are kept to the letter.
    packed["placement"] = {
        "folder": job.placement.folder,
        "name": job.placement.name,
        "scope": _shown(job.placement.scope),
    }
    return {
        "job": packed,
        "key": checked.key,
        "media": [asdict(part) | {"origin": origins[part.pointer]} for part in checked.media],
        "estimate_usd": price if price is not None and 0 <= price < math.inf else None,
    }


def unpack(packed: Mapping[str, Any]) -> CheckedJob:
    """The checked job that `pack` wrote down."""
    job = dict(packed["job"])
    job["placement"] = Placement(**job["placement"])
    return CheckedJob(
        job=Job(**job),
        key=packed["key"],
        media=tuple(
            Media(**{**part, "pointer": tuple(part["pointer"])}) for part in packed["media"]
        ),
        estimate_usd=packed["estimate_usd"],
    )


def _shown(value: Any) -> Any:
    """The value as JSON that every database takes, each address in it without its query."""
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
