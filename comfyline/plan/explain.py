"""Explain a plan: why each job is not there, what it will cost, and what would move aside."""

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
from comfyline.plan.reuse import Preflight, claimed, decision_about, folder_of, prices
from comfyline.report.format import count
from comfyline.report.plan import PlannedJob, PlannedStep
from comfyline.run import Run
from comfyline.services import Services
from comfyline.storage.place import join

_AT_A_TIME = 500
"""Jobs compared with their predecessors at a time: whole requests are large."""

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
        found.append(PlannedStep(name, planned.dag.steps_needed(name), tuple(marks)))
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
        PlannedJob(step=one.job.step, model_id=one.job.model_id, key=one.key)
        for one in preflight.there
    ]
    never = [
        _planned(one.job, None, "cannot be made", 0.0, is_waiting=False) for one in preflight.ended
    ]
    made = [
        _planned(job, checked, reason, cost, is_waiting=number >= len(preflight.to_make))
        for number, ((job, checked), reason, cost) in enumerate(zip(begun, why, costs, strict=True))
    ]
    return (*there, *never, *made)


async def reasons(preflight: Preflight, needs: Needs, run: Run, services: Services) -> list[str]:
    """Say why each job `to_make` is not there, then why each that is `waiting` waits."""
    new = [
        checked
        for _, checked in preflight.to_make
        if checked is not None and checked.key not in preflight.known
    ]
    changed = iter(await _changes(new, services))
    at = services.now()
    begun = [
        _begun(job, checked, preflight, run, at, changed) for job, checked in preflight.to_make
    ]
    missing = {job.step for job, _ in (*preflight.to_make, *preflight.waiting)}
    return begun + [
        _after([one for one in needs.get(job.step, ()) if one in missing])
        if checked
        else "with mistakes"
        for job, checked in preflight.waiting
    ]


def _begun(
    job: Job,
    checked: CheckedJob | None,
    preflight: Preflight,
    run: Run,
    at: datetime,
    changed: Iterator[str],
) -> str:
    if checked is None:
        return "with mistakes"
    if folder_of(job) in preflight.away:
        return "its folder is out of reach"
    attempt = preflight.known.get(checked.key)
    return next(changed) if attempt is None else _known(job, attempt, run, at)


async def _changes(new: Sequence[CheckedJob], services: Services) -> list[str]:
    """Say what makes each of these jobs another than the last one in its place."""
    told: list[str] = []
    for start in range(0, len(new), _AT_A_TIME):
        earlier = await services.ledger.previous_attempts(new[start : start + _AT_A_TIME])
        told += [" and ".join(changes(*pair)) if pair else "new" for pair in earlier]
    return told


def _known(job: Job, attempt: AnyAttempt, run: Run, at: datetime) -> str:
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


def _blocked(attempt: AnyAttempt) -> str:
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


_CALLED: Mapping[MediaKind, str] = {"image": "photo", "video": "video", "audio": "sound"}
_PLAIN = {"prompt"}
"""Fields that are called by their name alone."""


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
        if _contents(old_media) != _contents(new_media):
            told |= dict.fromkeys(_media_words(old_media, new_media))
        if _rest(old.inputs, name, old_media) != _rest(new.inputs, name, new_media):
            told[f"{name} changed" if name in _PLAIN else f"`{name}` changed"] = None
    if not _same(old.variant, new.variant):
        told["variant changed"] = None
    return tuple(told) or ("inputs changed",)


def _media(checked: CheckedJob, name: str) -> dict[Pointer, Media]:
    return {one.pointer: one for one in checked.media if one.pointer[0] == name}


def _contents(media: Mapping[Pointer, Media]) -> list[tuple[str, str]]:
    return [(media[at].sha256, media[at].conversion) for at in sorted(media, key=_order)]


def _media_words(old: Mapping[Pointer, Media], new: Mapping[Pointer, Media]) -> list[str]:
    kinds = dict.fromkeys(one.kind for one in (*new.values(), *old.values()))
    same_bytes = [one for one, _ in _contents(old)] == [one for one, _ in _contents(new)]
    what = "is converted differently" if same_bytes else "changed"
    return [f"{_CALLED[kind]} {what}" for kind in kinds]


def _rest(inputs: Mapping[str, Any], name: str, media: Mapping[Pointer, Media]) -> Any:
    """Return a field without its media, equal for what is equal in JSON."""
    if name not in inputs:
        # A field that holds nothing but media, and one that is not there, hold the same else.
        return None
    return _without(inputs[name], (name,), frozenset(media))


def _without(value: Any, pointer: Pointer, media: frozenset[Pointer]) -> Any:
    if pointer in media:
        return None
    if isinstance(value, Mapping):
        inner = {key: _without(entry, (*pointer, key), media) for key, entry in value.items()}
        left = {key: entry for key, entry in inner.items() if (*pointer, key) not in media}
        return left if left or not value else None
    if isinstance(value, list | tuple):
        entries = [
            _without(entry, (*pointer, index), media)
            for index, entry in enumerate(value)
            if (*pointer, index) not in media
        ]
        return entries if entries or not value else None
    return type(value).__name__, value


def _same(one: Any, other: Any) -> bool:
    return bool(_without(one, (), frozenset()) == _without(other, (), frozenset()))


def _order(pointer: Pointer) -> list[tuple[int, int, str]]:
    return [(0, key, "") if isinstance(key, int) else (1, 0, key) for key in pointer]


_NAMED = 5


async def moving_aside(preflight: Preflight, run: Run, services: Services) -> tuple[str, ...]:
    """Name the stored files that newer outputs would take the names of."""
    at = services.now()
    to_store = [
        (job, checked)
        for job, checked in preflight.to_make
        if checked and _stores(job, checked, preflight, run, at)
    ]
    folders = {folder_of(job) for job, _ in to_store}
    by_folder: dict[str, list[Recorded]] = defaultdict(list)
    for one in await services.ledger.stored_in(sorted(folders)):
        by_folder[one.uri.rpartition("/")[0]].append(one)
    found: dict[str, str] = {}
    for job, checked in to_store:
        folder = folder_of(job)
        there = {one.uri: one for one in by_folder[folder]}
        for uri in _names(job, by_folder[folder]):
            other = there.get(uri)
            if other and (other.key != checked.key or _is_anew(job, checked, preflight, run, at)):
                found[uri] = f"{uri} (pipeline {other.pipeline})"
    if not found:
        return ()
    named = ", ".join([*found.values()][:_NAMED])
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    files = count(len(found), "stored file")
    return (
        f"{files} would move aside to a version name, as newer outputs take theirs: {named}{more}",
    )


async def namesakes(jobs: Sequence[Job], services: Services) -> tuple[str, ...]:
    """Name other pipeline files of the same name, as far as the ledger has heard of them."""
    if not jobs:
        return ()
    name, mine = jobs[0].pipeline, Path(_file(jobs[0].source))
    others = sorted({_file(source) for source in await services.ledger.sources(name)})
    return tuple(
        f"{other} calls itself {name} as well: `jobs`, `cancel` and the limit of a day take them "
        "for one, and either may take the other's names for outputs; give one another `name`"
        for other in others
        if _is_another(Path(other), mine)
    )


def _stores(job: Job, checked: CheckedJob, preflight: Preflight, run: Run, at: datetime) -> bool:
    attempt = preflight.known.get(checked.key)
    match decision_about(job, attempt, run, at):
        case Decision.SUBMIT | Decision.RESUME:
            return True
        case Decision.REUSE if attempt:
            return not claimed(job, attempt)
        case _:
            return False


def _is_anew(job: Job, checked: CheckedJob, preflight: Preflight, run: Run, at: datetime) -> bool:
    return decision_about(job, preflight.known.get(checked.key), run, at) is Decision.SUBMIT


def _names(job: Job, there: Iterable[Recorded]) -> Iterator[str]:
    """Yield the names that a job's outputs may get, of the kinds that the folder holds."""
    kinds = {(one.index, one.uri.rpartition(".")[2]) for one in there}
    for index, ending in sorted(kinds):
        with suppress(InputInvalid):
            yield join(job.placement.folder, output_name(job.placement, index, ending))


def _file(source: str) -> str:
    """Return the file of a place such as `cats.yaml:5:3`."""
    return source.rsplit(":", 2)[0]


def _is_another(file: Path, mine: Path) -> bool:
    # One that is not there any more was renamed, or lies in another project.
    with suppress(OSError):
        return file.is_file() and not file.samefile(mine)
    return False
