"""Gathers what an audit compares: the ledger's attempts, RunComfy's charges, the stored files.

Changes nothing. What is not collected yet is not asked for at RunComfy: in sync mode its result is
told only once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from comfyline.errors import NotKnownNow, Refused, Unreachable
from comfyline.job import JobState, StoredOutput
from comfyline.ledger.attempts import KEPT, Attempt
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.operations.audit import FileSeen, Seen
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.storage.parts import all_of
from comfyline.storage.places import Places
from comfyline.storage.sidecars import SUFFIX, Sidecar, read_sidecar

_AT_ONCE = 16
_OVER = frozenset({JobState.PERSISTED, JobState.FAILED, JobState.CANCELLED})
_GRACE = timedelta(days=1)
"""RunComfy may keep a result a little longer than it says."""


async def gather(
    attempts: Sequence[Attempt], places: Places, client: RuncomfyClient | None, now: datetime
) -> list[Seen]:
    """Gather what is found of each attempt; without a `client` RunComfy is not asked.

    Raises `Unreachable` when RunComfy cannot be asked.
    """
    outputs = [output for attempt in attempts for output in attempt.outputs]
    sizes = await _sizes(outputs, places)

    async def look(attempt: Attempt) -> Seen:
        files = [await _file(output, sizes, places) for output in attempt.outputs]
        asked, charge = False, None
        if client and attempt.request_id and _may_be_asked(attempt, now):
            try:
                charge = (await client.charge(attempt.request_id)).cost_usd
                asked = True
            except (NotKnownNow, Refused):
                pass  # It is deleted there, which is no difference.
        return Seen(attempt, tuple(files), asked, charge)

    found: list[Seen] = []
    for start in range(0, len(attempts), _AT_ONCE):
        found += await all_of(map(look, attempts[start : start + _AT_ONCE]))
    return found


async def with_history(attempts: Sequence[Attempt], ledger: Ledger) -> list[Attempt]:
    """Return the attempts, with all others of the jobs that were asked for more than once."""
    known = {attempt.id: attempt for attempt in attempts}
    keys = {attempt.checked.key for attempt in attempts if attempt.number > 1}
    for key in keys:
        known |= {one.id: one for one in await ledger.list(Selection(key_prefix=key))}
    return list(known.values())


def _may_be_asked(attempt: Attempt, now: datetime) -> bool:
    if attempt.state not in _OVER or attempt.submitted_at is None:
        return False
    return now < attempt.submitted_at + KEPT + _GRACE


async def _sizes(outputs: Sequence[StoredOutput], places: Places) -> dict[str, int | None]:
    try:
        return await places.sizes([output.uri for output in outputs])
    except Unreachable:
        # One folder that cannot be read is no reason to say nothing of the others.
        return {}


async def _file(output: StoredOutput, sizes: Mapping[str, int | None], places: Places) -> FileSeen:
    place = places.of(output.uri)
    sidecar: Sidecar | None = None
    try:
        uri = output.uri
        size = sizes[uri] if uri in sizes else await place.size(uri)
        try:
            sidecar = await read_sidecar(place, f"{uri}{SUFFIX}")
        except ValueError as broken:
            return FileSeen(output, size, None, f"its sidecar cannot be read: {broken}")
    except Unreachable as error:
        return FileSeen(output, None, None, error.message)
    return FileSeen(output, size, sidecar)
