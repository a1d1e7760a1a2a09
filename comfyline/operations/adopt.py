"""What is stored under a job's names and the ledger does not know: found by its sidecars.

A ledger may be younger than what was paid for: restored, made anew, another checkout's. So before a
job is claimed that it does not know, the sidecars at the job's place are read, and what they
describe is checked, byte by byte, and adopted. All is done for many jobs at once: a folder is
listed once, and nothing is asked about a job that the ledger has stored.
"""

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import Connection

from comfyline.config.account import LOCAL_SANDBOX, Account, command
from comfyline.config.load import home
from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, AnyAttempt, AttemptSummary, pack
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.journal import Journal
from comfyline.ledger.queries import Selection
from comfyline.ledger.tables import in_batches
from comfyline.ledger.unrecorded import StoredJob, adopt_stored, ask_whose, unrecorded
from comfyline.operations.recover import clear
from comfyline.pipeline.output_names import possible_names, unversioned
from comfyline.progress import Note, tell
from comfyline.report.format import count
from comfyline.sandbox.store import request_ids
from comfyline.services import Services, now
from comfyline.stack.home import Layout
from comfyline.storage.place import Place, all_of, join
from comfyline.storage.sidecar import SUFFIX, Sidecar, read_sidecar

_AT_ONCE = 16
_FEW = 50
"""Jobs whose names are rendered beforehand, so that a big folder is not listed as a whole."""
_TO_COLLECT = {state for state in JobState if JobState.COMPLETED in ALLOWED[state]}
_TO_COLLECT.add(JobState.COMPLETED)
_NAMED = 3
_PAID_FOR = f"""
    SELECT count(*) FROM attempts
    WHERE request_id IS NOT NULL AND origin IS NOT NULL AND origin != '{LOCAL_SANDBOX}'
"""  # noqa: S608  # a constant of our own


async def recognise(
    jobs: Iterable[CheckedJob | None], known: Mapping[str, AnyAttempt], services: Services
) -> dict[str, AnyAttempt]:
    """Adopt what is stored of these jobs, and put in doubt what does not say whose it is.

    Returns what is now known of them. Where nothing may be written, the same as it would be.
    """
    asked = {one.key: one for one in jobs if one is not None and _may_be_stored(known, one)}
    if not asked:
        return {}
    try:
        found = await look_for(asked.values(), services)
    except Unreachable:
        # Who only looks need not have its storage at hand; who pays has.
        if services.is_reading:
            return {}
        raise
    found = [one for one in found if not one.account or _fits(one, known)]
    if services.is_reading:
        return {
            **await _recorded_by_a_run(asked, services),
            **{one.checked.key: _preview(one, services.now()) for one in found},
        }
    adopted = await adopt(found, services)
    mine = [one for one in found if one.account]
    for one in mine:
        # Whoever died after the last sidecar had fetched it.
        await asyncio.to_thread(clear, services.work_directory(one.request_id))
    if adopted:
        files = sum(len(one.outputs) for one in mine)
        said = f"{count(adopted, 'job')} adopted from the sidecars of {count(files, 'output')}"
        said += ": the ledger did not know what was paid for and stored"
        if services.began_empty:
            said += f". It is a new ledger, {services.journal.place}; if you meant another, "
            said += "COMFYLINE_LEDGER_URL or `ledger` in the profile sets it"
        tell(Note(said))
    return {**await services.ledger.summaries([one.checked.key for one in found])}


async def look_for(jobs: Iterable[CheckedJob], services: Services) -> list[StoredJob]:
    """Find what is stored of jobs by its sidecars: this account's and nobody's. Writes nothing."""
    folders: dict[tuple[str, str], list[CheckedJob]] = defaultdict(list)
    for job in jobs:
        folders[job.job.placement.folder, job.job.placement.root].append(job)
    described: list[StoredJob] = []
    for (folder, root), some in folders.items():
        described += await _described(some, folder, services.places.of_folder(folder, root))
    account = services.settings.runcomfy.account
    wanted = {account, None} if account.is_paid else {account}
    found = [one for one in await _with_accounts(described, services) if one.account in wanted]

    async def is_whole(one: StoredJob) -> bool:
        for output in one.outputs:
            if await services.places.of(output.uri).sha256(output.uri) != output.sha256:
                return False
        return True

    whole = await all_of(map(is_whole, found), _AT_ONCE)
    return [one for one, is_right in zip(found, whole, strict=True) if is_right]


async def adopt(found: Sequence[StoredJob], services: Services) -> int:
    """Write down as stored what sidecars say is this account's; return how many jobs were new.

    What does not say whose it is is put in doubt, for a person to tell.
    """
    account, at, new = services.settings.runcomfy.account, services.now(), 0

    def work(some: Sequence[StoredJob], connection: Connection) -> int:
        for one in some:
            if one.account is None:
                ask_whose(connection, one.checked, one.outputs[0].uri, account, at)
        mine = [one for one in some if one.account]
        return sum(adopt_stored(connection, one, account, at) for one in mine)

    for some in in_batches(found):
        new += await services.ledger.database.run(partial(work, some))
    return new


def explain_adoption(recognised: Iterable[AnyAttempt]) -> Iterator[str]:
    """Say what a run would adopt, for who only looks."""
    states = Counter(one.state for one in recognised)
    if stored := states[JobState.PERSISTED]:
        jobs = f"{count(stored, 'job')} that the ledger does not know"
        yield f"{jobs} adopted from their sidecars by a run: nothing is paid for them"
    if accepted := states[JobState.SUBMITTED]:
        yield f"{count(accepted, 'job')} that the ledger does not know paid for, by the journal"
    if doubts := states[JobState.IN_DOUBT]:
        blocked = count(doubts, "job")
        yield f"{blocked} blocked by a run, until {command('resolve JOB')} says whose they are"


async def first_use(services: Services) -> str:
    """Return a warning if the ledger is empty and another seems to be in use, else ""."""
    account = services.settings.runcomfy.account
    if not services.began_empty or not account.is_paid:
        return ""
    signs = await asyncio.to_thread(lambda: [*_signs(services.journal, Path.cwd())])
    if not signs:
        return ""
    used = services.journal.place or "a ledger in memory"
    more = f" and {len(signs) - _NAMED:,} more" if len(signs) > _NAMED else ""
    return (
        f"The ledger {used} has nothing of {account} yet, and this place was used before: "
        f"{'; '.join(signs[:_NAMED])}{more}. If you meant that ledger, stop now and set "
        "it: COMFYLINE_LEDGER_URL, `ledger` in the profile, or COMFYLINE_HOME. What neither the "
        "journal nor a sidecar beside its output tells of would be paid for again"
    )


def _signs(journal: Journal, working_directory: Path) -> Iterator[str]:
    accepted = (one.entry for one in journal.lines() if one.request_id)
    places = Counter(entry.place for entry in accepted if entry.account.is_paid)
    for place, number in places.items():
        yield f"{number:,} accepted in the journal {journal.path}, by the ledger {place}"
    folders = dict.fromkeys((home(), (working_directory / ".comfyline").resolve()))
    for path in (path for folder in folders for path in sorted(folder.glob("*.sqlite3"))):
        if str(path.resolve()) != journal.place and (number := _paid_for(path)):
            yield f"{number:,} paid for in the ledger {path}"


def _paid_for(path: Path) -> int:
    """Count the requests of paid origins in a ledger's file; 0 for what is no ledger."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger,
    ):
        return int(ledger.execute(_PAID_FOR).fetchone()[0])
    return 0


def _may_be_stored(known: Mapping[str, AnyAttempt], checked: CheckedJob) -> bool:
    """Return whether a job would be paid for, or still has to be collected."""
    attempt = known.get(checked.key)
    if attempt is None or attempt.state in _TO_COLLECT:
        return True
    decision = decide(attempt, refresh=False, run_id="", now=now(), again=checked.job.again)
    return decision is Decision.SUBMIT


def _fits(found: StoredJob, known: Mapping[str, AnyAttempt]) -> bool:
    """Return whether what lies there is what the job is still to be collected for, if it is."""
    attempt = known.get(found.checked.key)
    if attempt is None or attempt.state not in _TO_COLLECT:
        return True
    return found.request_id == attempt.request_id


async def _described(jobs: Sequence[CheckedJob], folder: str, place: Place) -> list[StoredJob]:
    """Find each job's outputs that are all there, with sidecars of one request."""
    beginning = await asyncio.to_thread(_beginning, jobs)
    sizes = await place.names_in(folder, beginning)
    lying = {name: size for name, size in sizes.items() if f"{name}{SUFFIX}" in sizes}

    async def look(checked: CheckedJob, names: Iterable[str]) -> StoredJob | None:
        requests: dict[str, dict[int, tuple[str, Sidecar]]] = defaultdict(dict)
        for name in names:
            uri, told = join(folder, name), None
            with suppress(ValueError):
                told = await read_sidecar(place, f"{uri}{SUFFIX}")
            if told is None or told.job != checked.key or told.rejected:
                continue
            if told.request_id and lying[name] == told.output.bytes:
                requests[told.request_id].setdefault(told.output.index, (uri, told))
        whole = [
            _stored_job(checked, [outputs[index] for index in range(len(outputs))])
            for outputs in requests.values()
            if set(outputs) == set(range(len(outputs)))
            and outputs[0][1].outputs in {None, len(outputs)}
        ]
        return max(whole, key=lambda one: one.number, default=None)

    candidates = await asyncio.to_thread(_candidates, jobs, lying) if lying else ()
    found = await all_of((look(*one) for one in candidates), _AT_ONCE)
    return [one for one in found if one is not None]


def _stored_job(checked: CheckedJob, outputs: Sequence[tuple[str, Sidecar]]) -> StoredJob:
    """Return a job as the sidecars of its outputs tell of it; the first says what all say."""
    told = outputs[0][1]
    files = [(uri, sidecar.output) for uri, sidecar in outputs]
    return StoredJob(
        checked=checked,
        account=Account(told.origin, told.account or "") if told.origin else None,
        request_id=told.request_id or "",
        number=told.attempt,
        cost_usd=told.cost_usd,
        reached={one: told.timestamps[one] for one in JobState if one in told.timestamps},
        outputs=tuple(
            StoredOutput(one.index, uri, one.sha256, one.bytes, one.media_type)
            for uri, one in files
        ),
    )


def _beginning(jobs: Sequence[CheckedJob]) -> str:
    """Return what the names of all outputs of these jobs begin with, as far as quickly told."""
    if len(jobs) > _FEW:
        return ""
    samples = ((0, "a"), (1, "z"), (2, "a"))
    try:
        names = [
            name
            for one in jobs
            for index, ending in samples
            for name in possible_names(one.job.placement, index, ending)
        ]
    except InputInvalid:
        return ""
    return commonprefix(names)  # noqa: RUF071  # letter by letter, as wanted


def _candidates(
    jobs: Sequence[CheckedJob], lying: Iterable[str]
) -> Iterable[tuple[CheckedJob, Iterable[str]]]:
    """Return for each job the described files that may be outputs of its, if there are any."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in sorted(lying):
        for one in {name, unversioned(name)}:
            by_name[one].append(name)
    endings = sorted({PurePosixPath(name).suffix.removeprefix(".") for name in lying})
    found: list[tuple[CheckedJob, Iterable[str]]] = []
    for job in jobs:
        names: dict[str, None] = {}
        for index in range(len(by_name) + 1):
            before = len(names)
            for ending in endings:
                with suppress(InputInvalid):
                    for name in possible_names(job.job.placement, index, ending):
                        names |= dict.fromkeys(by_name.get(name, ()))
            if len(names) == before:
                break
        if names:
            found.append((job, names))
    return found


async def _with_accounts(found: Sequence[StoredJob], services: Services) -> list[StoredJob]:
    """Add whose those are that do not say so, as this ledger or the local sandbox knows."""
    silent = [one.request_id for one in found if one.account is None]
    if not silent:
        return [*found]
    its_own = await asyncio.to_thread(request_ids, Layout(services.settings.home).sandbox)
    whose: dict[str, Account] = dict.fromkeys(its_own, Account(LOCAL_SANDBOX))
    for some in in_batches(silent):
        these = Selection(request_ids=tuple(some))
        for attempt in await services.ledger.list(these, of_all=True):
            if attempt.account and attempt.request_id:
                whose[attempt.request_id] = attempt.account
    return [replace(one, account=one.account or whose.get(one.request_id)) for one in found]


async def _recorded_by_a_run(
    asked: Mapping[str, CheckedJob], services: Services
) -> dict[str, AnyAttempt]:
    """Return what a run would take from the journal, as it would find it in the ledger."""
    at, found = services.now(), dict[str, AnyAttempt]()
    for one in await unrecorded(services.journal, services.ledger):
        if one.entry.key in asked:
            state = JobState.SUBMITTED if one.request_id else JobState.IN_DOUBT
            sent = one.entry.at if one.request_id else None
            told, key = {"request_id": one.request_id, "submitted_at": sent}, one.entry.key
            found[key] = _summary(asked[key], state, "journal", at, **told)
    return found


def _preview(found: StoredJob, at: datetime) -> AnyAttempt:
    """Return what a run would make of it."""
    if found.account is None:
        unknown = {"error_kind": UNKNOWN_ORIGIN}
        return _summary(found.checked, JobState.IN_DOUBT, "sidecar", at, **unknown)
    return _summary(
        found.checked,
        JobState.PERSISTED,
        "sidecar",
        at,
        request_id=found.request_id,
        cost_usd=found.cost_usd,
        submitted_at=found.reached.get(JobState.SUBMITTED),
        outputs=found.outputs,
    )


def _summary(
    checked: CheckedJob, state: JobState, run_id: str, at: datetime, **told: Any
) -> AnyAttempt:
    """Return an attempt that is not in the ledger as it would stand there."""
    return AttemptSummary(
        state, run_id, checked.job.pipeline, at, json.dumps(pack(checked)), **told
    )
