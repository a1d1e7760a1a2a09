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
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from comfyline.storage.sidecar import (
    SUFFIX,
    Sidecar,
    SidecarOutput,
    named,
    read_sidecar,
    read_text,
    sidecar_text,
)

REJECTED = "rejected"
"""Where rejected outputs lie, in the folder of the accepted ones."""


class Ownership(Enum):
    """What lies under a name, seen from the output that is to go there.

    `OURS` is this output itself, or what may be lost; `FORMER` is another one that was paid for and
    has to make room.
    """

    FREE = "free"
    OURS = "ours"
    FORMER = "former"
    OTHERS = "others'"


@dataclass(frozen=True, slots=True)
class KnownOutput:
    """An output and what made it: one that arrives, or one that lies there already.

    `origin` is None where nobody knows it, `attempt_id` where this ledger does not.
    """

    output: FetchedFile | StoredOutput | SidecarOutput
    key: str
    request_id: str | None
    origin: str | None
    attempt_id: int | None = None

    @property
    def is_paid(self) -> bool:
        """Whether it cost money; where nobody can tell, it did."""
        return self.origin is None or Account(self.origin).is_paid


@dataclass(frozen=True, slots=True)
class ExistingFile:
    """What is seen under a name and beside it.

    `owner` is the attempt whose output it is by the ledger. `sha256` is None where the size alone
    says that it is nothing known. `sidecar` is comfyline's, `has_other` a file with the sidecar's
    name that is none. `is_left` is a file that has moved aside already: only its old name was still
    to be taken.
    """

    uri: str
    exists: bool
    owner: Attempt | None = None
    sha256: str | None = None
    sidecar: Sidecar | None = None
    has_other: bool = False
    is_left: bool = False

    @property
    def described(self) -> Sidecar | None:
        """The sidecar, when it is that of this very file."""
        same = self.sidecar and self.sha256 == self.sidecar.output.sha256
        return self.sidecar if same else None

    @property
    def made(self) -> KnownOutput | None:
        """What the ledger knows of it, or else its sidecar; None where neither does."""
        if owner := self.owner:
            origin = owner.account.origin if owner.account else None
            recorded = _recorded(owner, self.uri)
            return KnownOutput(recorded, owner.checked.key, owner.request_id, origin, owner.id)
        if told := self.described:
            return KnownOutput(told.output, told.job, told.request_id, told.origin)
        return None


async def store_outputs(
    checked: CheckedJob,
    submission: Submission,
    fetched: FetchedOutputs,
    services: Services,
    rejected: Sequence[str] = (),
) -> tuple[StoredOutput, ...]:
    """Store a job's outputs under their final names, each with its sidecar.

    With `rejected`, which says why for each of them, they go to a folder beside those that are
    accepted. Every step finds what it wrote before to be its own and replaces it. Raises
    `NameTaken`, `LeadsOutside`, `Spoilt`, `DiskFull` or `Unreachable`.
    """
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    placement = checked.job.placement
    place = services.places.of_folder(placement.folder, placement.root)
    uris = output_uris(placement, fetched.files)
    end, failure, on_conflict = JobState.PERSISTED, "cannot be written", placement.on_conflict
    if rejected:
        uris = tuple(f"/{REJECTED}/".join(uri.rsplit("/", 1)) for uri in uris)
        end, failure = JobState.FAILED, "was rejected and cannot be quarantined"
        on_conflict = "version"
    work = services.work_directory(submission.request_id)
    reached = {str(state): at for state, at in attempt.reached.items()} | {end: services.now()}

    async def store(file: FetchedFile, wanted: str, reason: str) -> StoredOutput:
        origin = attempt.account.origin if attempt.account else None
        arriving = KnownOutput(
            file, checked.key, submission.request_id, origin, submission.attempt_id
        )
        target = _Target(arriving, wanted, uris, on_conflict, place, services.ledger)
        draft = Path(f"{work_path(work, file.index)}.aside")
        try:
            uri, is_new = await target.store(Path(file.path), draft)
            info = file.info
            size = info.width, info.height, info.duration
            stored = StoredOutput(file.index, uri, file.sha256, file.bytes, info.media_type, *size)
            text = sidecar_text(
                checked,
                stored,
                account=attempt.account,
                request_id=submission.request_id,
                attempt=submission.attempt,
                cost_usd=attempt.cost_usd,
                estimate_usd=attempt.checked.estimate_usd,
                timestamps=reached,
                outputs=len(uris),
                rejected=reason,
            )
            await place.put_text(text, f"{uri}{SUFFIX}", "application/json", new=is_new)
        except OSError as error:
            if is_full(error):
                raise disk_full(placement.folder, file.bytes) from error
            raise Unreachable(
                f"{wanted} {failure}: {error}",
                hint="It is safe in the work directory and at RunComfy. Fix the folder, then run "
                "again.",
            ) from error
        if uri != wanted and not rejected:
            said = f"{wanted} was not written by comfyline: the output is stored as {uri}"
            tell(Note(said))
        return stored

    reasons = rejected or [""] * len(uris)
    return tuple(await asyncio.gather(*map(store, fetched.files, uris, reasons)))


def ownership(existing: ExistingFile, wanted: str, arriving: KnownOutput) -> Ownership:
    """Tell whose the file is that lies where an output may go that would best be `wanted`."""
    owner, described, made = existing.owner, existing.described, existing.made
    if owner and owner.id == arriving.attempt_id:
        return Ownership.OURS
    if existing.has_other or not _gives_way(existing, wanted, arriving):
        return Ownership.OTHERS
    if not existing.exists:
        return Ownership.FREE
    if existing.is_left or (described and described.request_id == arriving.request_id):
        return Ownership.OURS
    if made and existing.sha256 == made.output.sha256:
        return _room(made, arriving)
    return Ownership.OURS if existing.sha256 == arriving.output.sha256 else Ownership.OTHERS


def _gives_way(existing: ExistingFile, wanted: str, arriving: KnownOutput) -> bool:
    """Tell whether what lies there is the job's own, or may have to make room for it.

    Under the wanted name a new output takes the place of what another job had there, as when a
    prompt is changed; a version of another name belongs to the job that had to take it.
    """
    if owner := existing.owner:
        is_own = owner.checked.key == arriving.key
        return is_own or (existing.uri == wanted and not _had_to_go(owner, existing.uri))
    # A sidecar of another job's that this ledger does not know is a colleague's.
    told = existing.described if existing.exists else existing.sidecar
    return existing.is_left or told is None or told.job == arriving.key


def _had_to_go(owner: Attempt, uri: str) -> bool:
    """Tell whether an attempt's output lies here because its own name was taken."""
    [planned] = output_uris(owner.checked.job.placement, [_recorded(owner, uri)])
    return is_version(uri.rpartition("/")[2], planned.rpartition("/")[2])


def _recorded(owner: Attempt, uri: str) -> StoredOutput:
    return next(output for output in owner.outputs if output.uri == uri)


def _room(made: KnownOutput, arriving: KnownOutput) -> Ownership:
    """Tell whose the place is: what cost nothing never displaces what was paid for."""
    if made.is_paid == arriving.is_paid:
        return Ownership.FORMER
    return Ownership.OTHERS if made.is_paid else Ownership.OURS


@dataclass(frozen=True, slots=True)
class _Target:
    """Where an output is to go, and what is there; `siblings` are all names of its job."""

    arriving: KnownOutput
    wanted: str
    siblings: Sequence[str]
    on_conflict: OnConflict
    place: Place
    ledger: Ledger

    async def store(self, path: Path, draft: Path) -> tuple[str, bool]:
        """Store a file under the best name that it can have; return it, and whether all is new.

        All is new where there was no sidecar either. `draft` is a local path for what has to move
        aside, on its way. Raises `NameTaken` when somebody else's file is to be kept.
        """
        for uri in self._names():
            existing = await self._look(uri)
            found = ownership(existing, self.wanted, self.arriving)
            if found is Ownership.FREE:
                with suppress(FileExistsError):
                    await self._put(path, uri, self.arriving, new=True)
                    return uri, existing.sidecar is None
                # Taken since: by a repeated request of our own, if our bytes lie there now.
                existing = await self._look(uri)
                same = existing.sha256 == self.arriving.output.sha256 and not existing.has_other
                found = Ownership.OURS if same else Ownership.OTHERS
            if found is Ownership.OTHERS and self.on_conflict == "replace" and not existing.owner:
                # What is somebody's is lost, unless it was paid for.
                found = (
                    Ownership.FORMER if existing.made and existing.made.is_paid else Ownership.OURS
                )
            if found is Ownership.FORMER and existing.made:
                aside = await self._move_aside(existing.made, uri, draft)
                tell(Note(f"{uri} was another output that was paid for: it is {aside} now"))
            if found is not Ownership.OTHERS:
                # It may be something that is no file.
                with suppress(FileExistsError):
                    await self._put(path, uri, self.arriving)
                    return uri, False
            if self.on_conflict == "keep":
                break
        raise NameTaken(
            f'{self.wanted} was not written by comfyline, and output.on_conflict is "keep"',
            hint="Move it, or set `version` or `replace`. The next run stores the result, "
            "which is paid for and kept until then.",
        )

    def _names(self) -> Iterator[str]:
        """Yield the names that the output may get, the best first; no sibling's."""
        for uri in islice(versions(self.wanted), MOST_VERSIONS):
            if uri == self.wanted or uri not in self.siblings:
                yield uri

    async def _look(self, uri: str) -> ExistingFile:
        owner = (await self.ledger.stored_at([uri])).get(uri)
        size, beside = await self.place.sizes([uri, f"{uri}{SUFFIX}"])
        sidecar: Sidecar | None = None
        has_other = False
        if beside is not None:
            try:
                sidecar = await read_sidecar(self.place, f"{uri}{SUFFIX}")
            except ValueError:
                has_other = True
        existing = ExistingFile(uri, size is not None, owner, None, sidecar, has_other)
        known = {self.arriving.output.bytes}
        known |= {sidecar.output.bytes} if sidecar else set()
        known |= {existing.made.output.bytes} if existing.made else set()
        if size in known:
            existing = replace(existing, sha256=await self.place.sha256(uri))
        if owner is None and (described := existing.described):
            return replace(existing, is_left=await self._has_moved(uri, described))
        return existing

    async def _put(self, path: Path, uri: str, made: KnownOutput, *, new: bool = False) -> None:
        """Put a file, whose bytes are known, under a name, and make sure that it lies there whole.

        Raises `Spoilt` when it holds other bytes, and removes it: nobody is to take it for the
        result again. With `new` it raises `FileExistsError` for a name that is taken.
        """
        output, kind, sha256 = made.output, made.output.media_type, made.output.sha256
        labels = {"comfyline-job": made.key, "sha256": sha256}
        if made.request_id:
            labels["comfyline-request"] = made.request_id
        try:
            await self.place.put(path, uri, kind, sha256=sha256, metadata=labels, new=new)
        except Altered:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise Spoilt(
                f"What was fetched for {uri} has changed on the disk of this machine",
                hint="It is fetched again. Check the disk.",
            ) from None
        if await self.place.size(uri) != output.bytes:
            raise Unreachable(f"{uri} was written, but is incomplete")

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

    async def _move_aside(self, former: KnownOutput, old: str, draft: Path) -> str:
        """Give what lies at `old` the first free version of the wanted name, and return it.

        Raises `Unreachable`: then the output still has the name that it had.
        """
        for uri in self._names():
            if uri in {self.wanted, old}:
                continue
            owner = (await self.ledger.stored_at([uri])).get(uri)
            if owner is not None and owner.id != former.attempt_id:
                continue
            if await self._is_copied(former, old, uri, draft):
                if former.attempt_id is not None:
                    await self.ledger.moved(former.attempt_id, old, uri)
                return uri
        raise NameTaken(
            f"{old} was paid for, but there is no free name to move it to",
            hint="Clean up its folder, then run again. The new result is kept until then.",
        )

    async def _is_copied(self, former: KnownOutput, old: str, uri: str, draft: Path) -> bool:
        """Tell whether the output and its sidecar lie at `uri` now; not where something else is."""
        place, beside = self.place, f"{uri}{SUFFIX}"
        size, described = await place.sizes([uri, beside])
        try:
            sidecar = await read_sidecar(place, beside) if described is not None else None
        except ValueError:
            return False
        if sidecar and (sidecar.job, sidecar.request_id) != (former.key, former.request_id):
            return False
        if size is None:
            try:
                await self._copy(former, old, uri, draft)
            except FileExistsError:
                return False
        elif size != former.output.bytes or await place.sha256(uri) != former.output.sha256:
            return False
        if sidecar is None and (told := await read_text(place, f"{old}{SUFFIX}")):
            # Whoever was faster wrote the same.
            await place.put_text(named(told, uri.rpartition("/")[2]), beside, "application/json")
        return True

    async def _copy(self, former: KnownOutput, old: str, uri: str, draft: Path) -> None:
        await asyncio.to_thread(draft.parent.mkdir, parents=True, exist_ok=True)
        try:
            await self.place.get(old, draft)
            await self._put(draft, uri, former, new=True)
        except (Spoilt, FileNotFoundError):
            raise Unreachable(
                f"{old} was changed while it was moved aside", hint="Run again."
            ) from None
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)
