"""Outputs held against their step's `checks`; what fails is stored aside and ends as rejected.

What was paid for is never thrown away: the files lie in `rejected/`, read back and compared, before
the ledger says that the attempt failed.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from comfyline.errors import Rejected, Unreachable
from comfyline.files import disk_full, is_full
from comfyline.job import CheckedJob, ContentChecks, FetchedFile, JobState
from comfyline.media.similar import NamedAppearance, appearance
from comfyline.operations.content_checks import content_flaws
from comfyline.operations.recover import clear
from comfyline.pipeline.output_names import output_uris, versions
from comfyline.progress import Note, tell
from comfyline.redact import bare_origin
from comfyline.run import FetchedOutputs, Run, Submission
from comfyline.services import Services
from comfyline.storage.place import Place
from comfyline.storage.sidecar import sidecar_text
from comfyline.storage.sidecars import SUFFIX, read_sidecar

FOLDER = "rejected"
"""Where rejected outputs lie, in the folder of the accepted ones."""


async def reject(
    checked: CheckedJob,
    submission: Submission,
    fetched: FetchedOutputs,
    run: Run,
    services: Services,
) -> Rejected | None:
    """Check a job's outputs; return None when they are accepted, and at no cost without checks.

    What was accepted and stored before stays accepted, also when its file is brought back. Raises
    `Unreachable` when the outputs cannot be stored aside; then the attempt has not ended.
    """
    checks = checked.job.checks
    if checks is None or submission.state is JobState.PERSISTED:
        return None
    outputs = [await _seen(Path(file.path), checked.job.label, file) for file in fetched.files]
    given = await _inputs(checked, services) if checks.not_input else []
    flaws = _judged(checks, checked, outputs, given, run)
    if not flaws:
        return None
    reason = "; ".join(flaws.values())
    uris = await _store_aside(checked, submission, fetched, flaws, services)
    error = Rejected(
        reason,
        hint=f"It lies in {uris[0].rpartition('/')[0]}; `--refresh` or another variant asks for a "
        "new one, and pays again.",
        request_id=submission.request_id,
    )
    await services.ledger.ended(submission.attempt_id, JobState.FAILED, error)
    await asyncio.to_thread(clear, services.work_directory(submission.request_id))
    return error


def _judged(
    checks: ContentChecks,
    checked: CheckedJob,
    outputs: list[NamedAppearance],
    given: list[NamedAppearance],
    run: Run,
) -> dict[int, str]:
    """Judge the outputs; accepted ones are what the next ones of their step must not look like.

    Nothing waits in here, so that of two alike that come at the same time one is accepted.
    """
    of_step = run.seen.setdefault(checked.job.step, {})
    others = [one for key, some in of_step.items() if key != checked.key for one in some]
    flaws = content_flaws(checks, checked.job.inputs, outputs, given, others)
    if not flaws and checks.not_duplicate:
        of_step[checked.key] = tuple(outputs)
    return flaws


async def _seen(path: Path, name: str, file: FetchedFile) -> NamedAppearance:
    look = await asyncio.to_thread(appearance, path)
    return NamedAppearance(name, file.sha256, file.media_type, look)


async def _inputs(checked: CheckedJob, services: Services) -> list[NamedAppearance]:
    """Return the job's pictures as they look; one that is gone is compared by its hash alone."""
    seen = []
    for media in checked.media:
        look = None
        if media.kind == "image":
            with suppress(OSError, Unreachable):
                async with services.copies.local(media.origin) as path:
                    look = await asyncio.to_thread(appearance, path)
        name = bare_origin(media.origin).rpartition("/")[2]
        seen.append(NamedAppearance(name, media.sha256, media.media_type, look))
    return seen


async def _store_aside(
    checked: CheckedJob,
    submission: Submission,
    fetched: FetchedOutputs,
    flaws: dict[int, str],
    services: Services,
) -> Sequence[str]:
    placement = checked.job.placement
    place = services.places.of_folder(placement.folder, placement.root)
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    wanted = output_uris(placement, fetched.files)
    uris = []
    for position, (file, uri) in enumerate(zip(fetched.files, wanted, strict=True)):
        folder, _, name = uri.rpartition("/")
        try:
            stored = await _put(file, f"{folder}/{FOLDER}/{name}", place, submission.request_id)
            text = sidecar_text(
                checked,
                file,
                name=stored.rpartition("/")[2],
                account=attempt.account,
                request_id=submission.request_id,
                attempt=submission.attempt,
                cost_usd=attempt.cost_usd,
                estimate_usd=attempt.checked.estimate_usd,
                timestamps={state.value: at for state, at in attempt.reached.items()}
                | {JobState.FAILED.value: services.now()},
                rejected=flaws.get(position, "; ".join(flaws.values())),
            )
            await place.put_text(text, f"{stored}{SUFFIX}", "application/json")
        except OSError as error:
            if is_full(error):
                full = disk_full(placement.folder, file.bytes)
                full.request_id = submission.request_id
                raise full from error
            raise Unreachable(
                f"{uri} is rejected and cannot be stored aside: {error}",
                hint="It is safe at RunComfy: mend the folder, then run again.",
                request_id=submission.request_id,
            ) from error
        tell(Note(f"{checked.job.label}: {flaws.get(position, 'Rejected with another')}: {stored}"))
        uris.append(stored)
    return uris


async def _put(file: FetchedFile, wanted: str, place: Place, request_id: str) -> str:
    """Store a file under the first name that is free, or its own already; return that name."""
    for uri in versions(wanted):
        is_new = True
        try:
            await place.put(Path(file.path), uri, file.media_type, sha256=file.sha256, new=True)
        except FileExistsError:
            is_new = False
        is_whole = await place.sha256(uri) == file.sha256
        if is_whole and (is_new or await _is_of(request_id, uri, place)):
            return uri
        if is_new:
            break
    raise Unreachable(f"{uri} was written and is not there in full")


async def _is_of(request_id: str, uri: str, place: Place) -> bool:
    """Tell whether a file is of a request; one without a sidecar may be: its writer has died."""
    try:
        sidecar = await read_sidecar(place, f"{uri}{SUFFIX}")
    except ValueError:
        return False
    return sidecar is None or sidecar.request_id == request_id
