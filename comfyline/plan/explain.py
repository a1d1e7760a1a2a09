"""From an outlook to a plan that can be told: why each job is not there, and what it will cost."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from comfyline.errors import GivenUp, Rejected
from comfyline.job import CheckedJob, Job, JobState
from comfyline.ledger.decision import Decision
from comfyline.ledger.records import UNKNOWN_ORIGIN, Standing
from comfyline.plan.changes import changes
from comfyline.plan.plan import Planned
from comfyline.plan.preflight import Outlook, decision_about, prices
from comfyline.plan.reuse import claimed, folder_of
from comfyline.report.plan import PlannedJob, PlannedStep
from comfyline.run import Run
from comfyline.services import Services

_AT_A_TIME = 500
"""Jobs compared with their predecessors at a time: whole requests are large."""

Needs = Mapping[str, Sequence[str]]
"""Which steps each step needs."""


def planned_steps(planned: Planned) -> tuple[PlannedStep, ...]:
    """The steps of a pipeline, each after those that it needs, with what is said of its jobs."""
    steps = planned.pipeline.document.steps
    found = []
    for name in planned.dag.order:
        step = steps[name]
        marks = []
        if step.for_each is not None:
            marks.append(f"for each of {_shown(step.for_each)}")
        if step.collect:
            marks.append("collects all" if step.collect is True else "collects all items")
        if step.when is not True:
            marks.append(f"when {_shown(step.when)}")
        found.append(PlannedStep(name, planned.dag.steps_needed(name), tuple(marks)))
    return tuple(found)


def _shown(written: Any) -> str:
    """A template as it reads best: without the braces around the whole of it."""
    if isinstance(written, list):
        return ", ".join(map(str, written))
    text = str(written).strip()
    inner = text.removeprefix("{{").removesuffix("}}")
    return inner.strip() if len(inner) == len(text) - len("{{}}") and "{{" not in inner else text


async def forecast(
    outlook: Outlook, needs: Needs, run: Run, services: Services
) -> tuple[PlannedJob, ...]:
    """All jobs of a plan: what is there, what is to be made, what waits for other steps.

    Spends and writes nothing. Raises `TokenRejected`: there is no use in going on.
    """
    why = await reasons(outlook, needs, run, services)
    costs = await prices(outlook, run, services)
    begun = (*outlook.to_make, *outlook.waiting)
    there = [
        PlannedJob(step=one.job.step, model_id=one.job.model_id, key=one.key)
        for one in outlook.there
    ]
    never = [
        _planned(one.job, None, "cannot be made", 0.0, is_waiting=False) for one in outlook.ended
    ]
    made = [
        _planned(job, checked, reason, cost, is_waiting=number >= len(outlook.to_make))
        for number, ((job, checked), reason, cost) in enumerate(zip(begun, why, costs, strict=True))
    ]
    return (*there, *never, *made)


async def reasons(outlook: Outlook, needs: Needs, run: Run, services: Services) -> list[str]:
    """Why each of what is `to_make` is not there, then why each of what is `waiting` waits."""
    new = [
        checked
        for _, checked in outlook.to_make
        if checked is not None and checked.key not in outlook.known
    ]
    changed = iter(await _changes(new, services))
    at = services.now()
    begun = [_begun(job, checked, outlook, run, at, changed) for job, checked in outlook.to_make]
    missing = {job.step for job, _ in (*outlook.to_make, *outlook.waiting)}
    return begun + [
        _after([one for one in needs.get(job.step, ()) if one in missing])
        if checked
        else "with mistakes"
        for job, checked in outlook.waiting
    ]


def _begun(
    job: Job,
    checked: CheckedJob | None,
    outlook: Outlook,
    run: Run,
    at: datetime,
    changed: Iterator[str],
) -> str:
    if checked is None:
        return "with mistakes"
    if folder_of(job) in outlook.away:
        return "its folder is out of reach"
    attempt = outlook.known.get(checked.key)
    return next(changed) if attempt is None else _known(job, attempt, run, at)


async def _changes(new: Sequence[CheckedJob], services: Services) -> list[str]:
    """What makes each of these jobs another than the last one in its place."""
    told: list[str] = []
    for start in range(0, len(new), _AT_A_TIME):
        earlier = await services.ledger.earlier(new[start : start + _AT_A_TIME])
        told += [" and ".join(changes(*pair)) if pair else "new" for pair in earlier]
    return told


def _known(job: Job, attempt: Standing, run: Run, at: datetime) -> str:
    match decision_about(job, attempt, run, at):
        case Decision.REUSE:
            return "output missing" if claimed(job, attempt) else "there under another name"
        case Decision.RESUME:
            return "paid for, to be collected"
        case Decision.WAIT:
            return "being submitted by another run"
        case Decision.BLOCKED:
            return _blocked(attempt)
        case Decision.SUBMIT:
            return "refresh" if attempt.state is JobState.PERSISTED else "to be tried again"


def _blocked(attempt: Standing) -> str:
    if attempt.error_kind == Rejected.kind:
        return "rejected, to be decided by you"
    if attempt.error_kind == GivenUp.kind:
        return "given up"
    if attempt.error_kind == UNKNOWN_ORIGIN:
        return "blocked: its sidecar does not say whose it is"
    if attempt.state is JobState.SUBMITTING:
        # Whoever was submitting it is gone, and nobody has written the doubt down yet.
        return "in doubt"
    return attempt.state.replace("_", " ")


def _after(steps: Sequence[str]) -> str:
    return "after " + (" and ".join(f"`{one}`" for one in steps) or "what it needs")


def _planned(
    job: Job, checked: CheckedJob | None, reason: str, cost: float | None, *, is_waiting: bool
) -> PlannedJob:
    return PlannedJob(
        step=job.step,
        model_id=job.model_id,
        key=checked.key if checked else "",
        item=job.item,
        settings=job.settings,
        part=job.part,
        label=job.label,
        reason=reason,
        is_waiting=is_waiting,
        price_usd=cost,
    )
