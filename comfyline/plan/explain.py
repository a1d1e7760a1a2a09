"""Explain a plan: why each job is not there, what it will cost, and what would move aside."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from comfyline.errors import GivenUp, InputInvalid, Rejected
from comfyline.job import CheckedJob, Job, JobState, Media, MediaKind, Pointer
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, AnyAttempt
from comfyline.ledger.decision import Decision
from comfyline.ledger.queries import Recorded
from comfyline.pipeline.output_names import output_name
from comfyline.plan.preview import Planned
from comfyline.plan.reuse import (
    Preflight,
    Validated,
    claimed,
    decision_about,
    folder_of,
    prices,
)
from comfyline.report.format import count
from comfyline.report.plan import PlannedJob, PlannedStep
from comfyline.run import Run
from comfyline.services import Services
from comfyline.storage.place import join

_AT_A_TIME = 500
"""Jobs compared with their predecessors at a time: whole requests are large."""
_NAMED = 5
_CALLED: Mapping[MediaKind, str] = {"image": "photo", "video": "video", "audio": "sound"}
_BLOCKED = {
    Rejected.kind: "rejected, yours to decide",
    GivenUp.kind: "given up",
    UNKNOWN_ORIGIN: "blocked: its sidecar does not name an account",
}

Needs = Mapping[str, Sequence[str]]
"""Which steps each step needs."""


def planned_steps(planned: Planned) -> tuple[PlannedStep, ...]:
    """List the steps of a pipeline, each after those that it needs."""
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
        found.append(PlannedStep(name, planned.dag.steps_needed[name], tuple(marks)))
    return tuple(found)


def _shown(written: Any) -> str:
    """Write a template as it reads best: without the braces around the whole of it."""
    if isinstance(written, list):
        return ", ".join(map(str, written))
    text = str(written).strip()
    inner = text.removeprefix("{{").removesuffix("}}")
    return inner.strip() if len(inner) == len(text) - len("{{}}") and "{{" not in inner else text


async def explain_jobs(
    preflight: Preflight, needs: Needs, run: Run, services: Services
) -> tuple[PlannedJob, ...]:
    """Explain all jobs of a plan: what is there, what is to be made, what waits for other steps.

    Spends and writes nothing. Raises `TokenRejected`: there is no use in going on.
    """
    why = await reasons(preflight, needs, run, services)
    costs = await prices(preflight, run, services)
    begun = (*preflight.to_make, *preflight.waiting)
    there = [
        PlannedJob(step=one.job.step, model=one.job.model_id, job=one.key)
        for one in preflight.there
    ]
    never = [_planned((one.job, None), "cannot be made", 0.0) for one in preflight.ended]
    made = [
        _planned(one, reason, cost, is_waiting=number >= len(preflight.to_make))
        for number, (one, reason, cost) in enumerate(zip(begun, why, costs, strict=True))
    ]
    return (*there, *never, *made)


def _planned(
    validated: Validated, reason: str, cost: float | None, *, is_waiting: bool = False
) -> PlannedJob:
    job, checked = validated
    return PlannedJob(
        step=job.step,
        model=job.model_id,
        job=checked.key or None if checked else None,
        item=job.item,
        settings=job.settings,
        part=job.part,
        label=job.label,
        reason=reason,
        is_waiting=is_waiting,
        estimate_usd=cost,
    )


async def reasons(preflight: Preflight, needs: Needs, run: Run, services: Services) -> list[str]:
    """Say why each job `to_make` is not there, then why each that is `waiting` waits."""
    new = [one for _, one in preflight.to_make if one and one.key not in preflight.known]
    changed = await _changes(new, services)
    missing = {job.step for job, _ in (*preflight.to_make, *preflight.waiting)}
    at = services.now()
    told = []
    for number, (job, checked) in enumerate((*preflight.to_make, *preflight.waiting)):
        if checked is None:
            told.append("with mistakes")
        elif number >= len(preflight.to_make):
            after = [f"`{one}`" for one in needs.get(job.step, ()) if one in missing]
            told.append("after " + (" and ".join(after) or "what it needs"))
        elif folder_of(job) in preflight.away:
            told.append("its folder cannot be reached")
        elif attempt := preflight.known.get(checked.key):
            told.append(_known(job, attempt, run, at))
        else:
            told.append(changed[id(checked)])
    return told


async def _changes(new: Sequence[CheckedJob], services: Services) -> dict[int, str]:
    """Say what makes each of these jobs another than the last one in its place, by its `id`."""
    told: dict[int, str] = {}
    for start in range(0, len(new), _AT_A_TIME):
        some = new[start : start + _AT_A_TIME]
        earlier = await services.ledger.previous_attempts(some)
        for one, pair in zip(some, earlier, strict=True):
            told[id(one)] = " and ".join(changes(*pair)) if pair else "new"
    return told


def _known(job: Job, attempt: AnyAttempt, run: Run, at: datetime) -> str:
    match decision_about(job, attempt, run, at):
        case Decision.REUSE:
            return "output missing" if claimed(job, attempt) else "there under another name"
        case Decision.RESUME:
            return "paid for, to be collected"
        case Decision.WAIT:
            return "being submitted by another run"
        case Decision.SUBMIT:
            return "refresh" if attempt.state is JobState.PERSISTED else "to be tried again"
        case Decision.BLOCKED:
            # Of one that was being submitted nobody has written the doubt down yet.
            is_left = attempt.state is JobState.SUBMITTING
            said = "in doubt" if is_left else attempt.state.replace("_", " ")
            return _BLOCKED.get(attempt.error_kind or "", said)


def changes(before: CheckedJob, after: CheckedJob) -> tuple[str, ...]:
    """Say what makes another job of the same item and step: `photo changed`.

    Media are the same when their bytes and their conversion are, wherever they lie. Something is
    always named, also where the two differ only in what is not kept, such as the query of a URL.
    """
    old, new = before.job, after.job
    told: dict[str, None] = {}
    if old.model_id != new.model_id:
        told["model changed"] = None
    for name in {**new.inputs, **old.inputs}:
        old_media, new_media = _media(before, name), _media(after, name)
        told |= dict.fromkeys(_media_changes(list(old_media.values()), list(new_media.values())))
        if _rest(old.inputs, name, old_media) != _rest(new.inputs, name, new_media):
            told["prompt changed" if name == "prompt" else f"`{name}` changed"] = None
    if _as_json(old.variant) != _as_json(new.variant):
        told["variant changed"] = None
    return tuple(told) or ("inputs changed",)


def _media(checked: CheckedJob, name: str) -> dict[Pointer, Media]:
    return {one.pointer: one for one in checked.media if one.pointer[0] == name}


def _media_changes(old: Sequence[Media], new: Sequence[Media]) -> Iterator[str]:
    is_same = [one.sha256 for one in old] == [one.sha256 for one in new]
    if is_same and [one.conversion for one in old] == [one.conversion for one in new]:
        return
    what = "is converted differently" if is_same else "changed"
    yield from (f"{_CALLED[one.kind]} {what}" for one in (*new, *old))


def _rest(inputs: Mapping[str, Any], name: str, media: Iterable[Pointer]) -> str | None:
    """Write a field without its media; None for one that holds nothing else, or is not there."""
    left_out = frozenset(media)
    if name not in inputs or (name,) in left_out:
        return None
    left = _without(inputs[name], (name,), left_out)
    return None if inputs[name] and left in ([], {}) else _as_json(left)


def _without(value: Any, pointer: Pointer, media: frozenset[Pointer]) -> Any:
    if isinstance(value, Mapping):
        left = {name: (*pointer, name) for name in value if (*pointer, name) not in media}
        return {name: _without(value[name], at, media) for name, at in left.items()}
    if isinstance(value, list | tuple):
        entries = [(entry, (*pointer, index)) for index, entry in enumerate(value)]
        return [_without(entry, at, media) for entry, at in entries if at not in media]
    return value


def _as_json(value: Any) -> str:
    # As text, so that `true` is not 1.
    return json.dumps(value, sort_keys=True, default=str)


async def moving_aside(preflight: Preflight, run: Run, services: Services) -> tuple[str, ...]:
    """Name the stored files that newer outputs would take the names of."""
    to_store = list(_to_store(preflight, run, services.now()))
    by_folder: dict[str, list[Recorded]] = defaultdict(list)
    for one in await services.ledger.stored_in(sorted({folder_of(job) for job, _, _ in to_store})):
        by_folder[one.uri.rpartition("/")[0]].append(one)
    found: dict[str, str] = {}
    for job, checked, is_anew in to_store:
        stored = by_folder[folder_of(job)]
        there = {one.uri: one for one in stored}
        for uri in _names(job, stored):
            other = there.get(uri)
            if other and (is_anew or other.key != checked.key):
                found[uri] = f"{uri} (pipeline {other.pipeline})"
    if not found:
        return ()
    named = ", ".join([*found.values()][:_NAMED])
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    files = count(len(found), "stored file")
    return (f"{files} would be renamed, because newer outputs take their names: {named}{more}",)


def _to_store(
    preflight: Preflight, run: Run, at: datetime
) -> Iterator[tuple[Job, CheckedJob, bool]]:
    """Yield the jobs whose outputs will be stored, and whether they are made anew for it."""
    for job, checked in preflight.to_make:
        if checked is None:
            continue
        attempt = preflight.known.get(checked.key)
        decision = decision_about(job, attempt, run, at)
        is_reused = decision is Decision.REUSE and attempt and not claimed(job, attempt)
        if is_reused or decision in {Decision.SUBMIT, Decision.RESUME}:
            yield job, checked, decision is Decision.SUBMIT


def _names(job: Job, there: Iterable[Recorded]) -> Iterator[str]:
    """Yield the names that a job's outputs may get, of the kinds that the folder holds."""
    kinds = {(one.index, one.uri.rpartition(".")[2]) for one in there}
    for index, ending in sorted(kinds):
        with suppress(InputInvalid):
            yield join(job.placement.folder, output_name(job.placement, index, ending))


async def namesakes(jobs: Sequence[Job], services: Services) -> tuple[str, ...]:
    """Name other pipeline files of the same name, as far as the ledger has heard of them."""
    if not jobs:
        return ()
    # A source is a place such as `cats.yaml:5:3`.
    name, mine = jobs[0].pipeline, Path(jobs[0].source.rsplit(":", 2)[0])
    sources = await services.ledger.sources(name)
    return tuple(
        f"{other} is also named {name}: `jobs`, `cancel` and the daily limit treat them "
        "as one pipeline, and either may take the other's output names; give one another `name`"
        for other in sorted({source.rsplit(":", 2)[0] for source in sources})
        if _is_another(Path(other), mine)
    )


def _is_another(file: Path, mine: Path) -> bool:
    # One that is not there any more was renamed, or lies in another project.
    with suppress(OSError):
        return file.is_file() and not file.samefile(mine)
    return False
