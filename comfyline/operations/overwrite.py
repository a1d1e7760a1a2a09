"""Store outputs where other files may lie; what was paid for is never overwritten.

The newest output has the name, and what had it before moves beside it. Ours is what the ledger
knows, what lies there whole with a sidecar of the same job, and what has our bytes: that is what a
process leaves that dies before the ledger hears of it. Everything else is somebody's, also what a
colleague with a ledger of his own has stored.

A paid file moves aside in this order: copy, its sidecar, ledger; only then is its name taken. So
whoever dies here leaves it with a name, the ledger never names a place where it is not, and whoever
comes next finds what was done and finishes it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from pathlib import Path

from comfyline.config.account import Account
from comfyline.errors import Altered, NameTaken, Spoilt, Unreachable
from comfyline.files import disk_full, is_full, work_path
from comfyline.job import CheckedJob, FetchedFile, JobState, OnConflict, StoredOutput
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.pipeline.output_names import MOST_VERSIONS, is_version, output_uris, versions
from comfyline.progress import Note, tell
from comfyline.run import FetchedOutputs, Submission
from comfyline.services import Services
from comfyline.storage.place import Place
from comfyline.storage.sidecar import SUFFIX, Sidecar, named, read_sidecar, read_text, sidecar_text


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
class _Former:
    """A paid output that makes room; `attempt_id` is None where this ledger does not know it."""

    output: StoredOutput
    key: str
    request_id: str | None
    attempt_id: int | None


@dataclass(frozen=True, slots=True)
class _Name:
    """The name that an output gets. With `is_new` nothing was there, of file or sidecar."""

    uri: str
    is_new: bool
    sidecar_is_new: bool
    former: _Former | None = None


async def store_outputs(
    checked: CheckedJob, submission: Submission, fetched: FetchedOutputs, services: Services
) -> tuple[StoredOutput, ...]:
    """Store a job's outputs under their final names, each with its sidecar.

    Every step finds what it wrote before to be its own and replaces it. Raises `NameTaken`,
    `LeadsOutside`, `Spoilt`, `DiskFull` or `Unreachable`.
    """
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    placement = checked.job.placement
    place = services.places.of_folder(placement.folder, placement.root)
    uris = output_uris(placement, fetched.files)
    work = services.work_directory(submission.request_id)

    async def store(file: FetchedFile, wanted: str) -> StoredOutput:
        arriving = Arriving(
            sha256=file.sha256,
            bytes=file.bytes,
            key=checked.key,
            attempt_id=submission.attempt_id,
            request_id=submission.request_id,
            origin=attempt.account.origin if attempt.account else None,
        )
        target = _Target(arriving, wanted, uris, placement.on_conflict, place, services.ledger)
        try:
            name = await target.store(file, Path(f"{work_path(work, file.index)}.aside"))
            end = JobState.PERSISTED
            text = sidecar_for(
                file, name.uri, checked, submission, attempt, end, services, len(uris)
            )
            sidecar = f"{name.uri}{SUFFIX}"
            await place.put_text(text, sidecar, "application/json", new=name.sidecar_is_new)
        except OSError as error:
            said = f"{wanted} cannot be written"
            raise not_written(error, said, placement.folder, file.bytes) from error
        size = file.width, file.height, file.duration
        return StoredOutput(file.index, name.uri, file.sha256, file.bytes, file.media_type, *size)

    return tuple(await asyncio.gather(*map(store, fetched.files, uris)))


def sidecar_for(
    file: FetchedFile,
    uri: str,
    checked: CheckedJob,
    submission: Submission,
    attempt: Attempt,
    end: JobState,
    services: Services,
    outputs: int = 1,
    rejected: str = "",
) -> str:
    """Write the sidecar of an output that lies at `uri`, of a job that ends at this moment."""
    reached = {**attempt.reached, end: services.now()}
    return sidecar_text(
        checked,
        file,
        name=uri.rpartition("/")[2],
        account=attempt.account,
        request_id=submission.request_id,
        attempt=submission.attempt,
        cost_usd=attempt.cost_usd,
        estimate_usd=attempt.checked.estimate_usd,
        timestamps={state.value: at for state, at in reached.items()},
        outputs=outputs,
        rejected=rejected,
    )


def not_written(error: OSError, said: str, folder: str, size: int) -> Unreachable:
    """Say why an output cannot be stored in a folder."""
    if is_full(error):
        return disk_full(folder, size)
    hint = "It is safe in the work directory and at RunComfy. Fix the folder, then run again."
    return Unreachable(f"{said}: {error}", hint=hint)


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
    if _is_paid(origin) == _is_paid(arriving.origin):
        return Whose.FORMER
    return Whose.OTHERS if _is_paid(origin) else Whose.OURS


def _is_paid(origin: str | None) -> bool:
    """Tell whether what was made at an origin cost money; where nobody can tell, it did."""
    return origin is None or Account(origin).is_paid


def _had_to_go(owner: Attempt, uri: str) -> bool:
    """Tell whether an attempt's output lies here because its own name was taken."""
    name = uri.rpartition("/")[2]
    planned = output_uris(owner.checked.job.placement, [_recorded(owner, uri)])
    return any(is_version(name, one.rpartition("/")[2]) for one in planned)


def _recorded(owner: Attempt, uri: str) -> StoredOutput:
    return next(output for output in owner.outputs if output.uri == uri)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where an output is to go, and what is there; `siblings` are all names of its job."""

    arriving: Arriving
    wanted: str
    siblings: Sequence[str]
    on_conflict: OnConflict
    place: Place
    ledger: Ledger

    async def store(self, file: FetchedFile, draft: Path) -> _Name:
        """Store the file under the best name that it can have.

        `draft` is a local path for what has to move aside, on its way.
        """
        async for name in self._names():
            if name.former:
                aside = await self._move_aside(name.former, draft)
                note = f"{name.uri} was another output that was paid for: it is {aside} now"
                tell(Note(note))
            try:
                await self._put(file, name)
            except FileExistsError:
                continue  # Somebody was faster, or has something there that is no file.
            break
        if name.uri != self.wanted:
            said = f"{self.wanted} was not written by comfyline: the output is stored as {name.uri}"
            tell(Note(said))
        return name

    async def _names(self) -> AsyncIterator[_Name]:
        """Yield the names that the output may get, the best first; who finds one taken asks on.

        Raises `NameTaken` when somebody else's file is to be kept.
        """
        arriving = self.arriving
        for number, uri in enumerate(islice(versions(self.wanted), MOST_VERSIONS)):
            if number and uri in self.siblings:
                continue
            owner = (await self.ledger.stored_at([uri])).get(uri)
            lying = await self._look(uri, owner)
            found = whose(lying, uri, self.wanted, arriving, owner)
            if found is Whose.NOBODYS:
                yield _Name(uri, is_new=True, sidecar_is_new=lying.sidecar is None)
                # Taken since: by a repeated request of our own, if our bytes lie there now.
                lying = await self._look(uri, owner)
                same = lying.sha256 == arriving.sha256 and not lying.has_other
                found = Whose.OURS if same else Whose.OTHERS
            if found is Whose.OTHERS and self.on_conflict == "replace" and owner is None:
                # What is somebody's is lost, unless it was paid for.
                paid = lying.described is not None and _is_paid(lying.described.origin)
                found = Whose.FORMER if paid else Whose.OURS
            if found in {Whose.OURS, Whose.FORMER}:
                former = _former(lying, uri, owner) if found is Whose.FORMER else None
                yield _Name(uri, is_new=False, sidecar_is_new=False, former=former)
            if self.on_conflict == "keep":
                break
        raise NameTaken(
            f'{self.wanted} was not written by comfyline, and output.on_conflict is "keep"',
            hint="Move it, or set `version` or `replace`. The next run stores the result, "
            "which is paid for and kept until then.",
        )

    async def _look(self, uri: str, owner: Attempt | None) -> Lying:
        size, beside = await self.place.sizes([uri, f"{uri}{SUFFIX}"])
        sidecar: Sidecar | None = None
        has_other = False
        if beside is not None:
            try:
                sidecar = await read_sidecar(self.place, f"{uri}{SUFFIX}")
            except ValueError:
                has_other = True
        known = {self.arriving.bytes}
        known |= {sidecar.output.bytes} if sidecar else set()
        known |= {_recorded(owner, uri).bytes} if owner else set()
        sha256 = await self.place.sha256(uri) if size in known else None
        lying = Lying(size is not None, sha256, sidecar, has_other)
        if owner is None and (described := lying.described):
            return replace(lying, is_left=await self._has_moved(uri, described))
        return lying

    async def _has_moved(self, uri: str, sidecar: Sidecar) -> bool:
        """Tell whether the very same file lies beside this one, and the ledger knows it there.

        That is what a process leaves that dies after it moved a file aside, before it took the
        name.
        """
        if sidecar.request_id is None:
            return False
        made = Selection(request_ids=(sidecar.request_id,))
        for attempt in await self.ledger.list(made, of_all=True):
            for output in attempt.outputs:
                same = output.sha256 == sidecar.output.sha256 and is_version(output.uri, uri)
                if same and await self.place.size(output.uri) == output.bytes:
                    return True
        return False

    async def _put(self, file: FetchedFile, name: _Name) -> None:
        path, one = Path(file.path), self.arriving
        labels = _labels(one.key, one.request_id, one.sha256)
        kind, sha256 = file.media_type, file.sha256
        try:
            await self.place.put(
                path, name.uri, kind, sha256=sha256, metadata=labels, new=name.is_new
            )
        except Altered:
            # Nobody is to take it for the result again: it is fetched anew.
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise Spoilt(
                f"What was fetched for {name.uri} has changed on the disk of this machine",
                hint="It is fetched again. Check the disk.",
            ) from None
        await self._require_whole(name.uri, file.bytes)

    async def _require_whole(self, uri: str, size: int) -> None:
        if await self.place.size(uri) != size:
            raise Unreachable(f"{uri} was written, but is incomplete")

    async def _move_aside(self, former: _Former, draft: Path) -> str:
        """Give `former` the first free version of the wanted name, and return it.

        Raises `Unreachable`: then the output still has the name that it had.
        """
        old = former.output.uri
        for uri in islice(versions(self.wanted), 1, MOST_VERSIONS):
            if uri in self.siblings or uri == old:
                continue
            owner = (await self.ledger.stored_at([uri])).get(uri)
            if owner is not None and owner.id != former.attempt_id:
                continue
            if await self._is_copied(former, uri, draft):
                if former.attempt_id is not None:
                    await self.ledger.moved(former.attempt_id, old, uri)
                return uri
        raise NameTaken(
            f"{old} was paid for, but there is no free name to move it to",
            hint="Clean up its folder, then run again. The new result is kept until then.",
        )

    async def _is_copied(self, former: _Former, uri: str, draft: Path) -> bool:
        """Tell whether the output and its sidecar lie at `uri` now; not where something else is."""
        place, output, beside = self.place, former.output, f"{uri}{SUFFIX}"
        size, described = await place.sizes([uri, beside])
        try:
            sidecar = await read_sidecar(place, beside) if described is not None else None
        except ValueError:
            return False
        if sidecar and (sidecar.job, sidecar.request_id) != (former.key, former.request_id):
            return False
        if size is None:
            try:
                await self._copy(former, uri, draft)
            except FileExistsError:
                return False
        elif size != output.bytes or await place.sha256(uri) != output.sha256:
            return False
        if sidecar is None and (told := await read_text(place, f"{output.uri}{SUFFIX}")):
            # Whoever was faster wrote the same.
            await place.put_text(named(told, uri.rpartition("/")[2]), beside, "application/json")
        return True

    async def _copy(self, former: _Former, uri: str, draft: Path) -> None:
        output = former.output
        labels = _labels(former.key, former.request_id, output.sha256)
        kind, sha256 = output.media_type, output.sha256
        await asyncio.to_thread(draft.parent.mkdir, parents=True, exist_ok=True)
        try:
            await self.place.get(output.uri, draft)
            await self.place.put(draft, uri, kind, sha256=sha256, metadata=labels, new=True)
        except (Altered, FileNotFoundError):
            raise Unreachable(
                f"{output.uri} was changed while it was moved aside", hint="Run again."
            ) from None
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)
        await self._require_whole(uri, output.bytes)


def _former(lying: Lying, uri: str, owner: Attempt | None) -> _Former:
    if owner is not None:
        return _Former(_recorded(owner, uri), owner.checked.key, owner.request_id, owner.id)
    sidecar = lying.described
    assert sidecar is not None  # noqa: S101  # else it would be nobody's that anybody knows
    told = sidecar.output
    output = StoredOutput(0, uri, told.sha256, told.bytes, told.media_type)
    return _Former(output, sidecar.job, sidecar.request_id, None)


def _labels(key: str, request_id: str | None, sha256: str) -> dict[str, str]:
    of_request = {"comfyline-request": request_id} if request_id else {}
    return {"comfyline-job": key, "sha256": sha256, **of_request}
