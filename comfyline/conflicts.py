"""Files of others where an output is to go: whose a file is, and under which name ours is stored.

Ours is what the ledger knows, what lies there whole with a sidecar of the same job, and what has
our bytes: that is what a process leaves that dies before the ledger hears of it. Everything else is
somebody's, also what a colleague with a ledger of his own has stored.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum

from comfyline.errors import NameTaken
from comfyline.job import FetchedFile, Placement
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.records import Attempt
from comfyline.storage.place import Place
from comfyline.storage.sidecars import SUFFIX, Sidecar, read_sidecar
from comfyline.targets import is_version, target_uris, versions

_MOST_VERSIONS = 1000


class Whose(Enum):
    """What lies under a name: nothing, an output of comfyline's, or anything else."""

    NOBODYS = "nobody's"
    OURS = "ours"
    OTHERS = "others'"


@dataclass(frozen=True, slots=True)
class Lying:
    """What is seen under a name and beside it.

    `sidecar` is comfyline's, `is_described` means that its hash is that of the file; `has_other` is
    a file with the sidecar's name that is none.
    """

    exists: bool
    same_bytes: bool = False
    sidecar: Sidecar | None = None
    is_described: bool = False
    has_other: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """The name that an output gets. With `is_new` nothing was there, of file or sidecar."""

    uri: str
    is_new: bool
    sidecar_is_new: bool


def whose(lying: Lying, uri: str, wanted: str, key: str, owner: Attempt | None) -> Whose:
    """Whose the file at `uri` is for job `key`, whose output is to go to `wanted`.

    Under the wanted name a new output takes the place of what another job had there, as when a
    prompt is changed; a version of another name belongs to the job that had to take it.
    """
    is_wanted = uri == wanted
    if owner is not None:
        own = owner.checked.key == key
        return Whose.OURS if own or (is_wanted and not _had_to_go(owner, uri)) else Whose.OTHERS
    if lying.has_other:
        return Whose.OTHERS
    # A sidecar of another job's that this ledger does not know is a colleague's.
    of_job = lying.sidecar is not None and lying.sidecar.job == key
    if not lying.exists:
        return Whose.NOBODYS if lying.sidecar is None or of_job else Whose.OTHERS
    ours = lying.same_bytes or (of_job and lying.is_described)
    return Whose.OURS if ours else Whose.OTHERS


async def names(
    file: FetchedFile,
    wanted: str,
    key: str,
    placement: Placement,
    siblings: Sequence[str],
    place: Place,
    ledger: Ledger,
) -> AsyncIterator[Name]:
    """The names that an output may get, the best first; who finds one taken asks for the next.

    `siblings` are the names of the job's other outputs. Raises `NameTaken` when somebody else's
    file is to be kept.
    """
    for number, uri in enumerate(versions(wanted)):
        if number > _MOST_VERSIONS:
            break
        if number and uri in siblings:
            continue
        owner = (await ledger.owners([uri])).get(uri)
        lying = Lying(exists=True) if owner else await _look(file, uri, place)
        found = whose(lying, uri, wanted, key, owner)
        if found is Whose.NOBODYS:
            yield Name(uri, is_new=True, sidecar_is_new=lying.sidecar is None)
            # Taken since: by a repeated request of our own, if our bytes lie there now.
            lying = await _look(file, uri, place)
            found = Whose.OURS if lying.same_bytes and not lying.has_other else Whose.OTHERS
        if found is Whose.OURS or placement.on_conflict == "replace":
            yield Name(uri, is_new=False, sidecar_is_new=False)
        if placement.on_conflict != "version":
            break
    raise NameTaken(
        f"{wanted} is a file of somebody else's, and output.on_conflict says to keep it",
        hint="Move it away, or say `version` or `replace`: the next run stores the result, which "
        "is paid for and kept until then.",
    )


def _had_to_go(owner: Attempt, uri: str) -> bool:
    """Whether an attempt's output lies here because its own name was taken."""
    name = uri.rpartition("/")[2]
    outputs = [output for output in owner.outputs if output.uri == uri]
    planned = [one.rpartition("/")[2] for one in target_uris(owner.checked.job.placement, outputs)]
    return any(is_version(name, of) for of in planned)


async def _look(file: FetchedFile, uri: str, place: Place) -> Lying:
    size, beside = await place.sizes([uri, f"{uri}{SUFFIX}"])
    sidecar: Sidecar | None = None
    if beside is not None:
        try:
            sidecar = await read_sidecar(place, f"{uri}{SUFFIX}")
        except ValueError:
            return Lying(exists=size is not None, has_other=True)
    if size is None:
        return Lying(exists=False, sidecar=sidecar)
    if size != file.bytes and (sidecar is None or size != sidecar.output.bytes):
        return Lying(exists=True, sidecar=sidecar)
    sha256 = await place.sha256(uri)
    return Lying(
        exists=True,
        same_bytes=sha256 == file.sha256,
        sidecar=sidecar,
        is_described=sidecar is not None and sha256 == sidecar.output.sha256,
    )
