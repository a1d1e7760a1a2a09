"""Compare charges, jobs and files, and name every difference; changes nothing.

A difference is what somebody should look at: money without a file, a file without its proof, two
numbers for one charge. A repeat is a second charge for one job that somebody asked for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from comfyline.errors import GivenUp, NotKnownNow, Refused, Rejected, Unreachable
from comfyline.job import JobState, StoredOutput
from comfyline.ledger.attempts import KEPT, PAID_IN_VAIN, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import kept_until
from comfyline.report.format import count, usd
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.storage.place import all_of
from comfyline.storage.places import Places
from comfyline.storage.sidecar import SUFFIX, Sidecar, read_sidecar

_SAME_USD = 1e-6
_FOR_NOTHING = frozenset({JobState.FAILED, JobState.CANCELLED})
_OVER = _FOR_NOTHING | {JobState.PERSISTED}
_ENDED = _OVER | {JobState.EXPIRED}
_NOT_SUBMITTED = frozenset({JobState.PLANNED, JobState.SUBMITTING})
_GRACE = timedelta(days=1)
"""RunComfy may keep a result a little longer than it says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not fit; `kind` is its stable name, `uri` the file that it is about."""

    attempt: Attempt
    kind: str
    message: str
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One attempt with what was found of it elsewhere: the sizes of its files, and what is wrong.

    `asked`: RunComfy still knows the request; `charge_usd` is what it says that it cost.
    """

    attempt: Attempt
    sizes: tuple[int, ...] = ()
    of_files: tuple[Difference, ...] = ()
    asked: bool = False
    charge_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums, in US dollars; what nobody knows is counted and never nought."""

    jobs: int
    requests: int
    ledger_usd: float
    cost_unknown: int
    asked: int
    runcomfy_usd: float
    estimate_usd: float | None
    in_doubt: int
    files: int
    bytes: int


async def gather(
    attempts: Sequence[Attempt], places: Places, client: RuncomfyClient | None, now: datetime
) -> list[Seen]:
    """Gather what is found of each attempt; without a `client` RunComfy is not asked.

    What is not collected yet is not asked for: in sync mode its result is told only once. Raises
    `Unreachable` when RunComfy cannot be asked.
    """
    try:
        uris = [output.uri for attempt in attempts for output in attempt.outputs]
        sizes = await places.sizes(uris)
    except Unreachable:
        # One folder that cannot be read is no reason to say nothing of the others.
        sizes = {}

    async def look(attempt: Attempt) -> Seen:
        files = [await _inspect(output, attempt, sizes, places) for output in attempt.outputs]
        here = tuple(size for size, _ in files if size is not None)
        wrong = tuple(found for _, some in files for found in some)
        asked, charge = False, None
        if client and attempt.request_id and _may_be_asked(attempt, now):
            try:
                charge = (await client.charge(attempt.request_id)).cost_usd
                asked = True
            except (NotKnownNow, Refused):
                pass  # It is deleted there, which is no difference.
        return Seen(attempt, here, wrong, asked, charge)

    return await all_of(map(look, attempts))


async def with_history(attempts: Sequence[Attempt], ledger: Ledger) -> list[Attempt]:
    """Return the attempts, with all others of the jobs that were asked for more than once."""
    known = {attempt.id: attempt for attempt in attempts}
    for key in {attempt.checked.key for attempt in attempts if attempt.number > 1}:
        known |= {one.id: one for one in await ledger.list(Selection(key_prefix=key))}
    return list(known.values())


def differences(seen: Iterable[Seen]) -> list[Difference]:
    """List all differences of some attempts, in their order."""
    return [
        found for one in seen for found in (*_money(one), *_results(one.attempt), *one.of_files)
    ]


def repeats(attempts: Iterable[Attempt]) -> tuple[list[Difference], list[Difference]]:
    """Find jobs charged more than once: those asked for so, and those that nobody can explain.

    `attempts` are all of the jobs in question.
    """
    by_key: Mapping[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if _is_charged(attempt):
            by_key[attempt.checked.key].append(attempt)
    explained, alarming = [], []
    for charged in by_key.values():
        for before, again in pairwise(sorted(charged, key=lambda one: one.number)):
            message = f"attempt {again.number} was charged after attempt {before.number}: "
            if reason := _reason(before, again):
                explained.append(Difference(again, "repeat", message + reason))
            else:
                message += "nobody asked for a second attempt"
                alarming.append(Difference(again, "charged-twice", message))
    return explained, alarming


def totals(seen: Sequence[Seen]) -> Totals:
    """Sum up some attempts."""
    charged = [one.attempt for one in seen if _is_charged(one.attempt)]
    estimates = [one.checked.estimate_usd for one in charged]
    known = [amount for amount in estimates if amount is not None]
    sizes = [size for one in seen for size in one.sizes]
    return Totals(
        jobs=len({one.attempt.checked.key for one in seen}),
        requests=sum(one.attempt.request_id is not None for one in seen),
        ledger_usd=sum(one.attempt.cost_usd or 0.0 for one in seen),
        cost_unknown=sum(one.cost_usd is None for one in charged),
        asked=sum(one.asked for one in seen),
        runcomfy_usd=sum(one.charge_usd or 0.0 for one in seen),
        estimate_usd=sum(known) if len(known) == len(estimates) else None,
        in_doubt=sum(one.attempt.state is JobState.IN_DOUBT for one in seen),
        files=len(sizes),
        bytes=sum(sizes),
    )


def in_words(sums: Totals) -> list[tuple[str, str]]:
    """Return the sums as names and values, for people."""
    more = f", unknown for {sums.cost_unknown:,}" if sums.cost_unknown else ""
    estimate = "unknown" if sums.estimate_usd is None else usd(sums.estimate_usd)
    said = f"{usd(sums.runcomfy_usd)} for the {count(sums.asked, 'request')} that it still has"
    rows = [
        ("jobs", f"{sums.jobs:,} with {count(sums.requests, 'request')}"),
        ("ledger", f"{usd(sums.ledger_usd)}{more}, estimated {estimate}"),
        ("RunComfy", said if sums.asked else "not asked"),
        ("stored", f"{count(sums.files, 'file')}, {sums.bytes / 1e6:,.1f} MB"),
    ]
    return [*rows, ("in doubt", count(sums.in_doubt, "job"))] if sums.in_doubt else rows


def _may_be_asked(attempt: Attempt, now: datetime) -> bool:
    if attempt.state not in _OVER or attempt.submitted_at is None:
        return False
    return now < attempt.submitted_at + KEPT + _GRACE


async def _inspect(
    output: StoredOutput, attempt: Attempt, sizes: Mapping[str, int | None], places: Places
) -> tuple[int | None, list[Difference]]:
    """Return a stored output's size, None where it is missing, and what is wrong with it."""
    uri, place, size = output.uri, places.of(output.uri), None
    try:
        size = sizes[uri] if uri in sizes else await place.size(uri)
        sidecar = await read_sidecar(place, f"{uri}{SUFFIX}")
        told = [*_of_file(output, size, sidecar, attempt)]
    except ValueError as broken:
        told = [("file-unreadable", f"its sidecar cannot be read: {broken}")]
    except Unreachable as error:
        size, told = None, [("file-unreadable", error.message)]
    return size, [Difference(attempt, kind, message, uri) for kind, message in told]


def _money(seen: Seen) -> Iterator[Difference]:
    attempt, said, known = seen.attempt, seen.charge_usd, seen.attempt.cost_usd
    nothing = _came_to_nothing(attempt)
    if attempt.state is JobState.IN_DOUBT:
        price = attempt.checked.estimate_usd
        much = "an unknown price" if price is None else f"about {usd(price)}"
        hint = f"{attempt.command(f'resolve {short(attempt.checked.key)}')} shows what is known"
        yield Difference(attempt, "in-doubt", f"it may have been charged {much}; {hint}")
        return
    if attempt.request_id is None:
        return
    if said is None:
        if known is None and attempt.state in _ENDED - {JobState.CANCELLED}:
            message = "neither the ledger nor RunComfy says what it cost"
            yield Difference(attempt, "cost-unknown", message)
    elif known is None:
        if not nothing or said:
            message = f"RunComfy says {usd(said)}, the ledger has no cost"
            yield Difference(attempt, "charge-differs", message)
    elif abs(said - known) > _SAME_USD:
        message = f"RunComfy says {usd(said)}, the ledger {usd(known)}"
        yield Difference(attempt, "charge-differs", message)
    if nothing and (amount := said or known):
        message = f"it is {attempt.state} and was charged {usd(amount)}"
        yield Difference(attempt, "charged-for-nothing", message)


def _results(attempt: Attempt) -> Iterator[Difference]:
    if attempt.request_id is None or attempt.state in _FOR_NOTHING:
        return
    if attempt.state is JobState.EXPIRED:
        message = "it was paid for, but RunComfy deleted it before it was stored"
    elif attempt.state is JobState.PERSISTED and not attempt.outputs:
        message = "its files were replaced by another job's; the next run stores them again"
    elif end := kept_until(attempt):
        message = f"it is {attempt.state} but not stored; RunComfy keeps it until "
        message += f"{end:%Y-%m-%d %H:%M} UTC: {attempt.command('reconcile')} collects it"
    else:
        return
    yield Difference(attempt, "paid-not-stored", message)


def _of_file(
    output: StoredOutput, size: int | None, sidecar: Sidecar | None, attempt: Attempt
) -> Iterator[tuple[str, str]]:
    if size is None:
        yield "file-missing", "it is paid for but missing; the next run fetches it"
    elif size != output.bytes:
        yield "file-changed", f"it has {size:,} bytes, but {output.bytes:,} were stored"
    if sidecar is None:
        yield "sidecar-missing", "it has no sidecar"
    elif sidecar.job != attempt.checked.key:
        yield "sidecar-differs", f"its sidecar belongs to job {short(sidecar.job)}"
    elif sidecar.request_id != attempt.request_id:
        message = f"its sidecar names request {sidecar.request_id}, the ledger another"
        yield "sidecar-differs", message
    elif sidecar.output.sha256 != output.sha256:
        yield "sidecar-differs", "its sidecar has another SHA-256 than the ledger"


def _is_charged(attempt: Attempt) -> bool:
    """Tell whether an attempt was charged, or has to be taken for charged while nobody says."""
    if attempt.request_id is None or attempt.state in _NOT_SUBMITTED:
        return False
    if attempt.cost_usd is not None:
        return attempt.cost_usd > 0
    return not _came_to_nothing(attempt)


def _came_to_nothing(attempt: Attempt) -> bool:
    """Tell whether RunComfy made nothing. What was rejected here was made, and may be charged."""
    return attempt.state in _FOR_NOTHING and attempt.error_kind not in PAID_IN_VAIN


def _reason(before: Attempt, again: Attempt) -> str:
    """Say why a job was asked for again; empty when nothing explains it."""
    ends = [at for state, at in before.reached.items() if state in _ENDED]
    if not ends or (again.claimed_at is not None and min(ends) > again.claimed_at):
        return ""
    if JobState.FAILED in before.reached and before.state is not JobState.FAILED:
        return "the first was declared lost, but its answer came later: both are paid for"
    if before.error_kind == Rejected.kind:
        return "the first was rejected by the step's checks, and the job was submitted again"
    if before.error_kind == GivenUp.kind:
        return "the first was given up, and it was submitted again"
    if before.state in _FOR_NOTHING:
        return f"the first is {before.state} and was charged, and it was submitted again"
    lost = before.state is JobState.EXPIRED
    return f"a refresh: the first was {'lost' if lost else 'stored'}"
