"""Files where an output is to go: whose a file is, and under which name ours is stored.

What was paid for is never overwritten: the newest output has the name, and what had it before moves
beside it. Ours is what the ledger knows, what lies there whole with a sidecar of the same job, and
what has our bytes: that is what a process leaves that dies before the ledger hears of it.
Everything else is somebody's, also what a colleague with a ledger of his own has stored.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice

from comfyline.config.account import Account
from comfyline.errors import NameTaken
from comfyline.job import Placement, StoredOutput
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.pipeline.output_names import MOST_VERSIONS, is_version, output_uris, versions
from comfyline.storage.place import Place
from comfyline.storage.sidecars import SUFFIX, Sidecar, read_sidecar


class Whose(Enum):
    """What lies under a name, seen from the output that is to go there.

    `OURS` is this output itself, or what may be lost; `FORMER` is another one that was paid for and
    has to make room.
    """

    NOBODYS = "nobody's"
    OURS = "ours"
    FORMER = "former"
    OTHERS = "others'"


@dataclass(frozen=True, slots=True)
class Arriving:
    """An output that is to be stored: its bytes, and by which job and request it was made."""

    sha256: str
    bytes: int
    key: str
    attempt_id: int
    request_id: str
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Lying:
    """What is seen under a name and beside it.

    `sha256` is None where the size alone says that it is nothing known. `sidecar` is comfyline's,
    `has_other` a file with the sidecar's name that is none. `is_left` is a file that has moved
    aside already: only its old name was still to be taken.
    """

    exists: bool
    sha256: str | None = None
    sidecar: Sidecar | None = None
    has_other: bool = False
    is_left: bool = False

    @property
    def described(self) -> Sidecar | None:
        """The sidecar, when it is that of this very file."""
        same = self.sidecar and self.sha256 == self.sidecar.output.sha256
        return self.sidecar if same else None


@dataclass(frozen=True, slots=True)
class Former:
    """A paid output that makes room; `attempt_id` is None where this ledger does not know it."""

    output: StoredOutput
    key: str
    request_id: str | None
    attempt_id: int | None


@dataclass(frozen=True, slots=True)
class Name:
    """The name that an output gets. With `is_new` nothing was there, of file or sidecar.

    `former` has to move aside before it is stored.
    """

    uri: str
    is_new: bool
    sidecar_is_new: bool
    former: Former | None = None


def is_paid(origin: str | None) -> bool:
    """Tell whether what was made at an origin cost money; where nobody can tell, it did."""
    return origin is None or Account(origin).is_paid


def whose(lying: Lying, uri: str, wanted: str, arriving: Arriving, owner: Attempt | None) -> Whose:
    """Tell whose the file at `uri` is for an output that is to go to `wanted`.

    Under the wanted name a new output takes the place of what another job had there, as when a
    prompt is changed; a version of another name belongs to the job that had to take it.
    """
    if owner is not None:
        return _of_owner(lying, uri, wanted, arriving, owner)
    if lying.has_other:
        return Whose.OTHERS
    # A sidecar of another job's that this ledger does not know is a colleague's.
    of_job = lying.sidecar is not None and lying.sidecar.job == arriving.key
    if not lying.exists:
        return Whose.NOBODYS if lying.sidecar is None or of_job else Whose.OTHERS
    described = lying.described
    if lying.is_left or (described and described.request_id == arriving.request_id):
        return Whose.OURS
    if described:
        return _room(arriving, described.origin) if of_job else Whose.OTHERS
    return Whose.OURS if lying.sha256 == arriving.sha256 else Whose.OTHERS


def _of_owner(lying: Lying, uri: str, wanted: str, arriving: Arriving, owner: Attempt) -> Whose:
    if owner.id == arriving.attempt_id:
        return Whose.OURS
    own = owner.checked.key == arriving.key
    if lying.has_other or not (own or (uri == wanted and not _had_to_go(owner, uri))):
        return Whose.OTHERS
    if not lying.exists:
        return Whose.NOBODYS
    described = lying.described
    if described and described.request_id == arriving.request_id:
        return Whose.OURS
    if lying.sha256 == _recorded(owner, uri).sha256:
        return _room(arriving, owner.account.origin if owner.account else None)
    return Whose.OURS if lying.sha256 == arriving.sha256 else Whose.OTHERS


def _room(arriving: Arriving, origin: str | None) -> Whose:
    """Tell whose the place is: what cost nothing never displaces what was paid for."""
    if is_paid(origin) == is_paid(arriving.origin):
        return Whose.FORMER
    return Whose.OTHERS if is_paid(origin) else Whose.OURS


async def names(
    arriving: Arriving,
    wanted: str,
    placement: Placement,
    siblings: Sequence[str],
    place: Place,
    ledger: Ledger,
) -> AsyncIterator[Name]:
    """Yield the names that an output may get, the best first; who finds one taken asks on.

    `siblings` are the names of the job's other outputs. Raises `NameTaken` when somebody else's
    file is to be kept.
    """
    for number, uri in enumerate(islice(versions(wanted), MOST_VERSIONS)):
        if number and uri in siblings:
            continue
        owner = (await ledger.stored_at([uri])).get(uri)
        lying = await _look(uri, arriving, owner, place, ledger)
        found = whose(lying, uri, wanted, arriving, owner)
        if found is Whose.NOBODYS:
            yield Name(uri, is_new=True, sidecar_is_new=lying.sidecar is None)
            # Taken since: by a repeated request of our own, if our bytes lie there now.
            lying = await _look(uri, arriving, owner, place, ledger)
            same = lying.sha256 == arriving.sha256 and not lying.has_other
            found = Whose.OURS if same else Whose.OTHERS
        if found is Whose.OTHERS and placement.on_conflict == "replace":
            found = _replaced(lying, owner)
        if found in {Whose.OURS, Whose.FORMER}:
            former = _former(lying, uri, owner) if found is Whose.FORMER else None
            yield Name(uri, is_new=False, sidecar_is_new=False, former=former)
        if placement.on_conflict == "keep":
            break
    raise NameTaken(
        f"{wanted} is a file of somebody else's, and output.on_conflict says to keep it",
        hint="Move it away, or say `version` or `replace`: the next run stores the result, which "
        "is paid for and kept until then.",
    )


def _replaced(lying: Lying, owner: Attempt | None) -> Whose:
    """Tell what `replace` does to a file of others: it is lost, unless it was paid for."""
    if owner is not None:
        return Whose.OTHERS
    paid = lying.described is not None and is_paid(lying.described.origin)
    return Whose.FORMER if paid else Whose.OURS


def _former(lying: Lying, uri: str, owner: Attempt | None) -> Former:
    if owner is not None:
        return Former(_recorded(owner, uri), owner.checked.key, owner.request_id, owner.id)
    sidecar = lying.described
    assert sidecar is not None  # noqa: S101  # else it would be nobody's that anybody knows
    told = sidecar.output
    output = StoredOutput(0, uri, told.sha256, told.bytes, told.media_type)
    return Former(output, sidecar.job, sidecar.request_id, None)


def _recorded(owner: Attempt, uri: str) -> StoredOutput:
    return next(output for output in owner.outputs if output.uri == uri)


def _had_to_go(owner: Attempt, uri: str) -> bool:
    """Tell whether an attempt's output lies here because its own name was taken."""
    name = uri.rpartition("/")[2]
    planned = output_uris(owner.checked.job.placement, [_recorded(owner, uri)])
    return any(is_version(name, one.rpartition("/")[2]) for one in planned)


async def _look(
    uri: str, arriving: Arriving, owner: Attempt | None, place: Place, ledger: Ledger
) -> Lying:
    size, beside = await place.sizes([uri, f"{uri}{SUFFIX}"])
    sidecar: Sidecar | None = None
    has_other = False
    if beside is not None:
        try:
            sidecar = await read_sidecar(place, f"{uri}{SUFFIX}")
        except ValueError:
            has_other = True
    known = {arriving.bytes}
    known |= {sidecar.output.bytes} if sidecar else set()
    known |= {_recorded(owner, uri).bytes} if owner else set()
    sha256 = await place.sha256(uri) if size in known else None
    lying = Lying(size is not None, sha256, sidecar, has_other)
    if owner is None and (described := lying.described):
        return replace(lying, is_left=await _has_moved(uri, described, place, ledger))
    return lying


async def _has_moved(uri: str, sidecar: Sidecar, place: Place, ledger: Ledger) -> bool:
    """Tell whether the very same file lies beside this one, and the ledger knows it there.

    That is what a process leaves that dies after it moved a file aside, before it took the name.
    """
    if sidecar.request_id is None:
        return False
    for attempt in await ledger.list(Selection(request_ids=(sidecar.request_id,)), of_all=True):
        for output in attempt.outputs:
            same = output.sha256 == sidecar.output.sha256 and is_version(output.uri, uri)
            if same and await place.size(output.uri) == output.bytes:
                return True
    return False
