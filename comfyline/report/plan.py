"""A plan in figures: what `comfyline plan` tells, field by field as `--json` prints it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from comfyline.errors import Problem
from comfyline.report.summary import Dollars, Text, Told


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as it was written: what it needs, and for what it has jobs.

    `marks` are `for each of …`, `collects all`, `when …`, for people.
    """

    name: str
    needs: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job of a plan. Without a `reason` it is there already.

    `key` is empty where it cannot be known before another step has been made; `is_waiting` says so.
    The price is None where nobody knows it.
    """

    step: str
    model_id: str
    key: str = ""
    item: str = ""
    settings: Mapping[str, Any] | None = None
    part: int | None = None
    label: str = ""
    reason: str = ""
    is_waiting: bool = False
    price_usd: float | None = 0.0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepRecord(_Record):
    """One step. `to_make` counts all that is not there, `waiting` those of them that need others.

    `estimate_usd` is None when a price is unknown, `estimate_known_usd` leaves those out.
    """

    step: Text
    models: tuple[Text, ...]
    needs: tuple[str, ...]
    jobs: int
    reused: int
    to_make: int
    waiting: int
    reasons: dict[str, int]
    estimate_usd: Dollars | None
    estimate_known_usd: Dollars


class JobRecord(_Record):
    """One job that is to be made, and why. `job` is null while its key cannot be known."""

    job: str | None
    item: Text
    step: Text
    model: Text
    settings: dict[str, Any]
    part: int | None
    reason: Text
    estimate_usd: Dollars | None


class MistakeRecord(_Record):
    """One mistake: where, what is wrong, what to write instead."""

    where: Text
    message: Told
    hint: Told = ""


class PlanRecord(_Record):
    """A whole plan. `reused` are there already, `waiting` are those `to_make` that need others.

    `estimate_usd` is None when the price of one of `unknown_prices` decides about it; what is known
    of it is `estimate_known_usd`.
    """

    pipeline: Text
    items: int = 0
    jobs: int = 0
    reused: int = 0
    to_make: int = 0
    waiting: int = 0
    reasons: dict[str, int] = {}
    estimate_usd: Dollars | None = 0.0
    estimate_known_usd: Dollars = 0.0
    unknown_prices: tuple[Text, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    make: tuple[JobRecord, ...] = ()
    notes: tuple[Text, ...] = ()
    errors: tuple[MistakeRecord, ...] = ()

    def to_json(self) -> str:
        """Write the object on one line."""
        return self.model_dump_json()


def plan_record(
    pipeline: str,
    items: int,
    steps: Sequence[PlannedStep],
    jobs: Sequence[PlannedJob],
    mistakes: Iterable[Problem],
    notes: Iterable[str],
) -> PlanRecord:
    """Count a plan, step by step and as a whole."""
    of_step: dict[str, list[PlannedJob]] = {step.name: [] for step in steps}
    for job in jobs:
        of_step[job.step].append(job)
    missing = [job for job in jobs if job.reason]
    unknown = dict.fromkeys(job.model_id for job in missing if job.price_usd is None)
    known = sum(job.price_usd or 0.0 for job in missing)
    return PlanRecord(
        pipeline=pipeline,
        items=items,
        jobs=len(jobs),
        reused=len(jobs) - len(missing),
        to_make=len(missing),
        waiting=sum(job.is_waiting for job in missing),
        reasons=_counted(missing),
        estimate_usd=None if unknown else known,
        estimate_known_usd=known,
        unknown_prices=tuple(unknown),
        steps=tuple(_step_record(step, of_step[step.name]) for step in steps),
        make=tuple(map(_job_record, missing)),
        notes=tuple(notes),
        errors=mistake_records(mistakes),
    )


def mistake_records(problems: Iterable[Problem]) -> tuple[MistakeRecord, ...]:
    """Write mistakes as programs read them."""
    return tuple(
        MistakeRecord(where=one.where, message=one.message, hint=one.hint) for one in problems
    )


def _step_record(step: PlannedStep, jobs: Sequence[PlannedJob]) -> StepRecord:
    missing = [job for job in jobs if job.reason]
    known = sum(job.price_usd or 0.0 for job in missing)
    return StepRecord(
        step=step.name,
        models=tuple(dict.fromkeys(job.model_id for job in jobs)),
        needs=step.needs,
        jobs=len(jobs),
        reused=len(jobs) - len(missing),
        to_make=len(missing),
        waiting=sum(job.is_waiting for job in missing),
        reasons=_counted(missing),
        estimate_usd=None if any(job.price_usd is None for job in missing) else known,
        estimate_known_usd=known,
    )


def _job_record(job: PlannedJob) -> JobRecord:
    return JobRecord(
        job=job.key or None,
        item=job.item,
        step=job.step,
        model=job.model_id,
        settings=dict(job.settings or {}),
        part=job.part,
        reason=job.reason,
        estimate_usd=job.price_usd,
    )


def _counted(jobs: Iterable[PlannedJob]) -> dict[str, int]:
    return dict(Counter(job.reason for job in jobs).most_common())
