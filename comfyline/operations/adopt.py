"""What lies stored under a job's names and the ledger does not know: found by its sidecars.

A ledger may be younger than what was paid for: restored, made anew, another checkout's. So before a
job is claimed that it does not know, the sidecars at the job's place are read, and what they
describe is checked, byte by byte, and taken for what it is. All is done for many jobs at once: a
folder is listed once, and nothing is asked about a job that the ledger has stored.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import TypeVar

from comfyline.config.account import LOCAL_SANDBOX, Account, command
from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import ALLOWED, CheckedJob, JobState, Placement, StoredOutput
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, AnyAttempt, AttemptSummary, pack
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.queries import Selection
from comfyline.ledger.unrecorded import StoredJob, Unrecorded, adopt_stored, ask_whose, unrecorded
from comfyline.operations.recover import clear
from comfyline.pipeline.output_names import possible_names, unversioned
from comfyline.progress import Note, tell
from comfyline.report.format import count
from comfyline.sandbox.store import request_ids
from comfyline.services import Services, now
from comfyline.stack.home import Layout
from comfyline.storage.place import Place, join
from comfyline.storage.sidecars import SUFFIX, Sidecar, read_sidecar

T = TypeVar("T")

_AT_ONCE = 16
_PER_QUERY = 500
_FEW = 50
"""Jobs whose names are rendered beforehand, so that a big folder is not listed as a whole."""
_TO_COLLECT = {state for state in JobState if JobState.COMPLETED in ALLOWED[state]}
_TO_COLLECT.add(JobState.COMPLETED)


@dataclass(frozen=True, slots=True)
class Found:
    """The outputs of one job, whole, with what their sidecars say: places, each with its own."""

    checked: CheckedJob
    outputs: tuple[tuple[str, Sidecar], ...]

    @property
    def sidecar(self) -> Sidecar:
        """That of the first output; what it says of the job, all say."""
        return self.outputs[0][1]

    @property
    def uri(self) -> str:
        """Where the first output lies."""
        return self.outputs[0][0]

    def as_stored(self) -> StoredJob:
        """Return the job as the ledger takes it."""
        sidecar = self.sidecar
        states = {state.value: state for state in JobState}
        return StoredJob(
            checked=self.checked,
            request_id=sidecar.request_id or "",
            number=sidecar.attempt,
            cost_usd=sidecar.cost_usd,
            reached={states[k]: at for k, at in sidecar.timestamps.items() if k in states},
            outputs=tuple(
                StoredOutput(one.index, uri, one.sha256, one.bytes, one.media_type)
                for uri, one in ((uri, told.output) for uri, told in self.outputs)
            ),
        )


@dataclass(frozen=True, slots=True)
class Recognised:
    """Jobs that sidecars tell of: those that are the account's own, and those of nobody known."""

    mine: tuple[Found, ...] = ()
    nobodys: tuple[Found, ...] = ()


async def recognise(
    jobs: Iterable[CheckedJob | None], known: Mapping[str, AnyAttempt], services: Services
) -> dict[str, AnyAttempt]:
    """Adopt what is stored of these jobs, and put in doubt what does not say whose it is.

    Returns what is now known of them. Where nothing may be written, the same as it would be.
    """
    asked = {one.key: one for one in jobs if one is not None and _may_lie_there(known, one)}
    if not asked:
        return {}
    try:
        found = await look_for(tuple(asked.values()), services)
    except Unreachable:
        # Who only looks need not have its storage at hand; who pays has.
        if services.is_reading:
            return {}
        raise
    found = replace(found, mine=tuple(one for one in found.mine if _fits(one, known)))
    if services.is_reading:
        unwritten = await unrecorded(services.journal, services.ledger)
        return {
            **{
                one.key: _unwritten(one, asked[one.key], services.now())
                for one in unwritten
                if one.key in asked and one.line
            },
            **{
                one.checked.key: _glance(one, JobState.PERSISTED, services.now())
                for one in found.mine
            },
            **{
                one.checked.key: _glance(one, JobState.IN_DOUBT, services.now())
                for one in found.nobodys
            },
        }
    adopted = await adopt(found.mine, services)
    for one in found.mine:
        # Whoever died after the last sidecar had fetched it.
        await asyncio.to_thread(clear, services.work_directory(one.sidecar.request_id or ""))
    await _ask(found.nobodys, services)
    if adopted:
        files = sum(len(one.outputs) for one in found.mine)
        said = f"{count(adopted, 'job')} adopted from the sidecars of {count(files, 'output')}"
        said += ": the ledger did not know what is paid for and stored"
        if services.began_empty:
            said += f". It is a new one, {services.journal.place}: if you mean another, "
            said += "COMFYLINE_LEDGER_URL or `ledger` in the profile names it"
        tell(Note(said))
    keys = [one.checked.key for one in (*found.mine, *found.nobodys)]
    return {**await services.ledger.summaries(keys)} if keys else {}


async def look_for(jobs: Sequence[CheckedJob], services: Services) -> Recognised:
    """Find what lies stored of jobs by its sidecars. Writes nothing."""
    folders: dict[tuple[str, str], list[CheckedJob]] = defaultdict(list)
    for one in jobs:
        folders[one.job.placement.folder, one.job.placement.root].append(one)
    described: list[Found] = []
    for (folder, root), some in folders.items():
        place = services.places.of_folder(folder, root)
        described += await _described(some, folder, place)
    account = services.settings.runcomfy.account
    named = [one for one in described if one.sidecar.origin is not None]
    mine = [one for one in named if _is_of(one.sidecar, account)]
    unnamed = [one for one in described if one.sidecar.origin is None]
    if unnamed:
        whose = await _whose(unnamed, services)
        mine += [one for one in unnamed if whose.get(one.uri) == account]
        unnamed = [one for one in unnamed if one.uri not in whose and account.is_paid]
    whole = {id(one) for one in await _whole((*mine, *unnamed), services)}
    return Recognised(
        tuple(one for one in mine if id(one) in whole),
        tuple(one for one in unnamed if id(one) in whole),
    )


async def adopt(found: Sequence[Found], services: Services) -> int:
    """Write down as stored what sidecars say is this account's; how many jobs were new."""
    account = services.settings.runcomfy.account
    at, new = services.now(), 0
    for start in range(0, len(found), _PER_QUERY):
        some = [one.as_stored() for one in found[start : start + _PER_QUERY]]
        new += await services.ledger.database.run(
            lambda c, some=some: sum(adopt_stored(c, one, account, at) for one in some)  # type: ignore[misc]
        )
    return new


async def _ask(found: Sequence[Found], services: Services) -> None:
    account, at = services.settings.runcomfy.account, services.now()
    for one in found:
        await services.ledger.database.run(
            lambda c, one=one: ask_whose(c, one.checked, one.uri, account, at)  # type: ignore[misc]
        )


def foreseen_in_words(recognised: Iterable[AnyAttempt]) -> Iterator[str]:
    """Say what a run would adopt, for who only looks."""
    states = [one.state for one in recognised]
    stored, accepted = states.count(JobState.PERSISTED), states.count(JobState.SUBMITTED)
    if stored:
        jobs = f"{count(stored, 'job')} that the ledger does not know"
        yield f"{jobs} adopted from their sidecars by a run: nothing is paid for them"
    if accepted:
        yield f"{count(accepted, 'job')} that the ledger does not know paid for, by the journal"
    if JobState.IN_DOUBT in states:
        blocked = count(states.count(JobState.IN_DOUBT), "job")
        yield f"{blocked} blocked by a run, until {command('resolve JOB')} says whose they are"


def _may_lie_there(known: Mapping[str, AnyAttempt], checked: CheckedJob) -> bool:
    """Return whether a job would be paid for, or still has to be collected."""
    attempt = known.get(checked.key)
    if attempt is None or attempt.state in _TO_COLLECT:
        return True
    decision = decide(attempt, refresh=False, run_id="", now=now(), again=checked.job.again)
    return decision is Decision.SUBMIT


def _fits(found: Found, known: Mapping[str, AnyAttempt]) -> bool:
    """Return whether what lies there is what the job is still to be collected for, if it is."""
    attempt = known.get(found.checked.key)
    if attempt is None or attempt.state not in _TO_COLLECT:
        return True
    return found.sidecar.request_id == attempt.request_id


def _is_of(sidecar: Sidecar, account: Account) -> bool:
    return (sidecar.origin, sidecar.account) == (account.origin, account.name)


async def _described(jobs: Sequence[CheckedJob], folder: str, place: Place) -> list[Found]:
    """Find each job's outputs that are all there, with sidecars of one request."""
    beginning = await asyncio.to_thread(_beginning, jobs)
    sizes = await place.names_in(folder, beginning)
    lying = {name: size for name, size in sizes.items() if f"{name}{SUFFIX}" in sizes}
    if not lying:
        return []
    candidates = await asyncio.to_thread(_candidates, jobs, lying)

    async def look(job: CheckedJob, names: Sequence[str]) -> Found | None:
        uris = [join(folder, name) for name in names]
        sidecars = [await _read(place, uri) for uri in uris]
        return _best(job, list(zip(names, uris, sidecars, strict=True)), lying)

    looked = await _some_at_once([lambda j=j, n=n: look(j, n) for j, n in candidates])  # type: ignore[misc]
    return [one for one in looked if one is not None]


async def _read(place: Place, uri: str) -> Sidecar | None:
    try:
        return await read_sidecar(place, f"{uri}{SUFFIX}")
    except ValueError:
        return None


def _best(
    checked: CheckedJob,
    lying: Sequence[tuple[str, str, Sidecar | None]],
    sizes: Mapping[str, int],
) -> Found | None:
    """Return the newest request of a job of which every output lies there, if any."""
    requests: dict[str, dict[int, tuple[str, Sidecar]]] = defaultdict(dict)
    for name, uri, sidecar in lying:
        if sidecar is None or sidecar.job != checked.key or sidecar.rejected:
            continue
        if sidecar.request_id and sizes[name] == sidecar.output.bytes:
            requests[sidecar.request_id].setdefault(sidecar.output.index, (uri, sidecar))
    whole = [
        Found(checked, tuple(outputs[index] for index in range(len(outputs))))
        for outputs in requests.values()
        if set(outputs) == set(range(len(outputs)))
        and outputs[0][1].outputs in {None, len(outputs)}
    ]
    return max(whole, key=lambda one: one.sidecar.attempt, default=None)


def _beginning(jobs: Sequence[CheckedJob]) -> str:
    """Return what the names of all outputs of these jobs begin with, as far as quickly told."""
    if len(jobs) > _FEW:
        return ""
    try:
        names = [
            name
            for one in jobs
            for index, ending in ((0, "a"), (1, "z"), (2, "a"))
            for name in possible_names(one.job.placement, index, ending)
        ]
    except InputInvalid:
        return ""
    # The first and the last in order share what all share.
    first, last = min(names), max(names)
    same = (one == other for one, other in zip(first, last, strict=False))
    return first[: next((at for at, is_same in enumerate(same) if not is_same), len(first))]


def _candidates(
    jobs: Sequence[CheckedJob], lying: Mapping[str, int]
) -> list[tuple[CheckedJob, list[str]]]:
    """Return for each job the described files that may be outputs of its, if there are any."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in sorted(lying):
        for one in {name, unversioned(name)}:
            by_name[one].append(name)
    endings = sorted({PurePosixPath(name).suffix.removeprefix(".") for name in lying})
    found = [(one, _names_of(one.job.placement, by_name, endings)) for one in jobs]
    return [(one, names) for one, names in found if names]


def _names_of(
    placement: Placement, by_name: Mapping[str, list[str]], endings: Sequence[str]
) -> list[str]:
    found: dict[str, None] = {}
    for index in range(len(by_name) + 1):
        before = len(found)
        for ending in endings:
            try:
                names = possible_names(placement, index, ending)
            except InputInvalid:
                continue
            for name in names:
                found |= dict.fromkeys(by_name.get(name, ()))
        if len(found) == before:
            break
    return list(found)


async def _whose(found: Sequence[Found], services: Services) -> dict[str, Account]:
    """Tell whose those are that do not say so, as this ledger or the local sandbox knows."""
    of_request: dict[str, Account] = {}
    ids = [one.sidecar.request_id or "" for one in found]
    for start in range(0, len(ids), _PER_QUERY):
        these = Selection(request_ids=tuple(ids[start : start + _PER_QUERY]))
        for attempt in await services.ledger.list(these, of_all=True):
            if attempt.account and attempt.request_id:
                of_request[attempt.request_id] = attempt.account
    sandbox = Layout(services.settings.home).sandbox
    for request_id in await asyncio.to_thread(request_ids, sandbox):
        of_request.setdefault(request_id, Account(LOCAL_SANDBOX))
    told = {one.uri: of_request.get(one.sidecar.request_id or "") for one in found}
    return {uri: account for uri, account in told.items() if account is not None}


async def _whole(found: Sequence[Found], services: Services) -> list[Found]:
    """Return those whose every byte is what was stored."""

    async def is_whole(one: Found) -> bool:
        for uri, sidecar in one.outputs:
            if await services.places.of(uri).sha256(uri) != sidecar.output.sha256:
                return False
        return True

    right = await _some_at_once([lambda one=one: is_whole(one) for one in found])  # type: ignore[misc]
    return [one for one, is_right in zip(found, right, strict=True) if is_right]


async def _some_at_once(work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return the results in order; a few are worked on at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(make: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await make()

    return await asyncio.gather(*map(one, work))


def _unwritten(one: Unrecorded, checked: CheckedJob, now: datetime) -> AnyAttempt:
    return AttemptSummary(
        state=JobState.SUBMITTED if one.request_id else JobState.IN_DOUBT,
        run_id="journal",
        pipeline=checked.job.pipeline,
        lease_until=None,
        request_id=one.request_id,
        cost_usd=None,
        error_kind=None,
        submitted_at=one.line.entry.at if one.line and one.request_id else None,
        updated_at=now,
        packed=json.dumps(pack(checked)),
    )


def _glance(found: Found, state: JobState, now: datetime) -> AnyAttempt:
    """Return a job as a run would find it in the ledger, once it has looked."""
    stored = found.as_stored()
    is_stored = state is JobState.PERSISTED
    return AttemptSummary(
        state=state,
        run_id="sidecar",
        pipeline=found.checked.job.pipeline,
        lease_until=None,
        request_id=stored.request_id if is_stored else None,
        cost_usd=stored.cost_usd,
        submitted_at=stored.reached.get(JobState.SUBMITTED),
        updated_at=now,
        error_kind=None if is_stored else UNKNOWN_ORIGIN,
        packed=json.dumps(pack(found.checked)),
        outputs=stored.outputs if is_stored else (),
    )
