"""The money invariant, charge by charge: what a sandbox accepted beside what a ledger knows of it.

Each request that was accepted is one attempt's, each attempt that was accepted has its request, and
nothing is bought twice. There is no tolerance: a charge of which the ledger does not know the id is
explained by one attempt in doubt that asked for exactly that, and each of those explains one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import create_engine, inspect, make_url, select

from comfyline.errors import Rejected
from comfyline.job import CheckedJob, JobState
from comfyline.keys import replace_values
from comfyline.ledger.attempts import REFRESH, Attempt
from comfyline.ledger.tables import attempts as attempt_rows
from comfyline.storage.inputs import is_remote

Request = Mapping[str, Any]
"""A row of a sandbox's `/sandbox/account`."""

_PAID = {JobState.COMPLETED, JobState.PERSISTED}
_UNPAID = {JobState.FAILED, JobState.CANCELLED}
_OVER = _PAID | _UNPAID | {JobState.EXPIRED}
_CENT = 0.01


def discrepancies(
    accounts: Mapping[str, Sequence[Request]],
    attempts: Iterable[Attempt],
    refreshed: frozenset[int] = frozenset(),
) -> list[str]:
    """Everything in which the accounts of sandboxes and a ledger's attempts do not agree.

    `accounts` are the requests accepted at each address, `refreshed` the ids of the attempts that
    somebody asked for with `--refresh`.
    """
    found: list[str] = []
    known = list(attempts)
    mine = {one.request_id: one for one in known if one.request_id}
    doubts = [one for one in known if _may_have_been_accepted(one)]
    # Who asked for more is the harder one to find a request for.
    doubts.sort(key=lambda one: len(one.checked.job.inputs), reverse=True)
    bought: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for place, requests in accounts.items():
        unknown = [row for row in requests if row["request_id"] not in mine]
        for doubt in list(doubts):
            row = next((row for row in unknown if _asks_for(doubt.checked, row)), None)
            if row is not None:
                unknown.remove(row)
                doubts.remove(doubt)
        found += [f"nobody in the ledger made {_told(place, row)}" for row in unknown]
        for row in requests:
            attempt = mine.pop(row["request_id"], None)
            if attempt is not None:
                found += _disagreements(place, row, attempt)
                bought[place, attempt.checked.key].append(attempt)
    found += [f"{id_} is {one.state} in the ledger and nowhere else" for id_, one in mine.items()]
    for (place, _), tries in bought.items():
        found += _bought_again(place, sorted(tries, key=lambda one: one.number), refreshed)
    return found


def refreshed(ledger_url: str) -> frozenset[int]:
    """The ids of the attempts in a ledger that somebody asked for with `--refresh`."""
    url = make_url(ledger_url)
    is_postgresql = url.get_backend_name() == "postgresql"
    engine = create_engine(url.set(drivername="postgresql+psycopg") if is_postgresql else url)
    try:
        with engine.connect() as ledger:
            if not inspect(ledger).has_table(attempt_rows.name):  # nobody has run anything yet
                return frozenset()
            asked = attempt_rows.c.request[REFRESH].as_boolean()
            return frozenset(ledger.execute(select(attempt_rows.c.id).where(asked)).scalars())
    finally:
        engine.dispose()


def _may_have_been_accepted(attempt: Attempt) -> bool:
    """Whether nobody can know: its answer never came, and perhaps a person called it lost."""
    if attempt.request_id is not None or attempt.error_kind == "not-sent":
        return False
    doubtful = {JobState.IN_DOUBT, JobState.SUBMITTING}
    was_doubtful = attempt.state is JobState.FAILED and JobState.IN_DOUBT in attempt.reached
    return attempt.state in doubtful or was_doubtful


def _asks_for(checked: CheckedJob, row: Request) -> bool:
    """Whether a request is for what a job asks for: model, inputs, and the bytes of its media.

    What the job leaves open, the sandbox has filled in.
    """
    job = checked.job
    if row["model_id"] != job.model_id:
        return False
    try:
        addresses = {part.pointer: _at(row["input"], part.pointer) for part in checked.media}
    except (KeyError, IndexError, TypeError):
        return False
    asked = replace_values(job.inputs, addresses)
    if any(row["input"].get(name) != value for name, value in asked.items()):
        return False
    uploads = [part for part in checked.media if not is_remote(part.origin) and not part.conversion]
    return all(f"/{part.sha256}." in addresses[part.pointer] for part in uploads)


def _at(value: Any, pointer: Iterable[str | int]) -> Any:
    for step in pointer:
        value = value[step]
    return value


def _disagreements(place: str, row: Request, attempt: Attempt) -> list[str]:
    charge, cost, told = row["charge_usd"], attempt.cost_usd, _told(place, row)
    is_rejected = attempt.error_kind == Rejected.kind
    if attempt.state in _PAID and (row["status"] != "completed" or not charge):
        return [f"{attempt.state} in the ledger is {told}"]
    if attempt.state in _UNPAID and charge and cost is None and not is_rejected:
        return [f"{attempt.state} for nothing in the ledger is {told}"]
    if cost is not None and abs(cost - charge) >= _CENT / 2:
        return [f"${cost} in the ledger is {told}"]
    return []


def _bought_again(place: str, tries: Sequence[Attempt], refreshed: frozenset[int]) -> list[str]:
    """Which attempts of one job came although the one before was good, or not at an end yet."""
    found = []
    for before, again in pairwise(tries):
        ended = [at for state, at in before.reached.items() if state in _OVER]
        over = ended and again.claimed_at is not None and min(ended) <= again.claimed_at
        if not over or not (before.state in _UNPAID or again.id in refreshed):
            label, ids = before.checked.job.label, f"{before.request_id} and {again.request_id}"
            found.append(f"{label} was bought twice at {place}: {ids}")
    return found


def _told(place: str, row: Request) -> str:
    said = f"{row['request_id']} at {place}, {row['status']} for ${row['charge_usd']}"
    return f"{said}: {row['model_id']} {row['input'].get('prompt', '')!r}"
