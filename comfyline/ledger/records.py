"""What the ledger answers: frozen records of attempts, and the job inside one of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from comfyline.job import CheckedJob, Job, JobState, Media, Placement, StoredOutput


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, with its outputs and the time of each state."""

    id: int
    number: int
    state: JobState
    checked: CheckedJob
    run_id: str
    owner: str | None
    lease_until: datetime | None
    request_id: str | None
    cost_usd: float | None
    error_kind: str | None
    error_message: str | None
    created_at: datetime
    submitted_at: datetime | None
    updated_at: datetime
    outputs: tuple[StoredOutput, ...]
    reached: Mapping[JobState, datetime]

    @property
    def paid(self) -> bool:
        """Whether money was, or may have been, spent on it."""
        return self.request_id is not None or self.state is JobState.IN_DOUBT


def pack(checked: CheckedJob) -> dict[str, Any]:
    """A checked job as JSON. Presigned queries of `https://` inputs are secrets and stay out."""
    packed = asdict(checked)
    packed["media"] = [
        asdict(part) | {"origin": part.origin.split("?")[0]} for part in checked.media
    ]
    packed["job"]["inputs"] = _without_queries(checked)
    return packed


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


def _without_queries(checked: CheckedJob) -> dict[str, Any]:
    from comfyline.keys import replace_values

    shown = {part.pointer: part.origin.split("?")[0] for part in checked.media}
    return replace_values(checked.job.inputs, shown)
