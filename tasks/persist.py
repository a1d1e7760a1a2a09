"""persist: stores the outputs under their final names, each with its sidecar, then says so.

In this order, so that `persisted` is never a promise: what has the name and was paid for moves
aside, then file, sidecar, ledger. Every step finds what it wrote before to be its own and replaces
it, so repeating it is safe. May fail with `Rejected`, `NameTaken`, `LeadsOutside`, `Spoilt`,
`DiskFull`, `Unreachable` or `OSError`; the result stays collectable.
"""

import asyncio
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from comfyline.errors import Altered, ComfylineError, Spoilt, Unreachable
from comfyline.files import disk_full, is_full, work_path
from comfyline.job import CheckedJob, FetchedFile, JobState, Stage, StoredOutput
from comfyline.ledger.attempts import Attempt
from comfyline.operations.move_aside import move_aside
from comfyline.operations.overwrite import Arriving, Name, names
from comfyline.operations.quality import reject
from comfyline.operations.recover import clear
from comfyline.pipeline.output_names import output_uris
from comfyline.progress import Note, StageEntered, tell
from comfyline.run import FetchedOutputs, Run, Submission
from comfyline.services import Services, now
from comfyline.storage.place import Place
from comfyline.storage.sidecar import sidecar_text
from comfyline.storage.sidecars import SUFFIX
from tasks.failure import failing_in_words, is_passing


@task(
    name=Stage.PERSIST,
    task_run_name="{checked.job.label} · persist",
    # Whether the files are there is a question for the storage, not for a cache.
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=exponential_backoff(1),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_passing,
)
@failing_in_words
async def persist(
    checked: CheckedJob,
    submission: Submission,
    fetched: FetchedOutputs,
    run: Run,
    services: Services,
) -> tuple[StoredOutput, ...]:
    """Store the outputs where the pipeline wants them, or aside where its checks reject them."""
    tell(StageEntered(checked.job.label, checked.job.label, Stage.PERSIST))
    if rejected := await reject(checked, submission, fetched, run, services):
        raise rejected
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    uris = output_uris(checked.job.placement, fetched.files)
    try:
        stored = tuple(
            await asyncio.gather(
                *(
                    _store(file, uri, uris, checked, submission, attempt, services)
                    for file, uri in zip(fetched.files, uris, strict=True)
                )
            )
        )
    except ComfylineError as error:
        error.request_id = submission.request_id
        raise
    await services.ledger.persisted(submission.attempt_id, stored)
    await asyncio.to_thread(clear, services.work_directory(submission.request_id))
    get_run_logger().info("request %s: %d stored", submission.request_id, len(stored))
    return stored


async def _store(
    file: FetchedFile,
    wanted: str,
    siblings: tuple[str, ...],
    checked: CheckedJob,
    submission: Submission,
    attempt: Attempt,
    services: Services,
) -> StoredOutput:
    placement = checked.job.placement
    place = services.places.of_folder(placement.folder, placement.root)
    arriving = Arriving(
        sha256=file.sha256,
        bytes=file.bytes,
        key=checked.key,
        attempt_id=submission.attempt_id,
        request_id=submission.request_id,
        origin=attempt.account.origin if attempt.account else None,
    )
    try:
        async for name in names(arriving, wanted, placement, siblings, place, services.ledger):
            if name.former:
                directory = services.work_directory(submission.request_id)
                draft = Path(f"{work_path(directory, file.index)}.aside")
                await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
                aside = await move_aside(
                    name.former, wanted, siblings, place, services.ledger, draft
                )
                _say(f"{name.uri} is another output that was paid for: it lies as {aside} now")
            try:
                await _put(file, name, place, checked, submission)
            except FileExistsError:
                continue  # Somebody was faster, or has something there that is no file.
            break
        uri = name.uri
        if uri != wanted:
            _say(f"{wanted} is a file of somebody else's: the output is stored as {uri}")
        count = len(siblings)
        await _put_sidecar(file, name, place, checked, submission, attempt, count)
    except OSError as error:
        if is_full(error):
            raise disk_full(placement.folder, file.bytes) from error
        raise Unreachable(
            f"{wanted} cannot be written: {error}",
            hint="The result is safe in the work directory and at RunComfy: mend the folder, "
            "then run again.",
        ) from error
    size = file.width, file.height, file.duration
    return StoredOutput(file.index, uri, file.sha256, file.bytes, file.media_type, *size)


def _say(text: str) -> None:
    get_run_logger().warning(text)
    tell(Note(text))


async def _put(
    file: FetchedFile, name: Name, place: Place, checked: CheckedJob, submission: Submission
) -> None:
    labels = {
        "comfyline-job": checked.key,
        "comfyline-request": submission.request_id,
        "sha256": file.sha256,
    }
    path = Path(file.path)
    try:
        await place.put(
            path,
            name.uri,
            file.media_type,
            sha256=file.sha256,
            metadata=labels,
            new=name.is_new,
        )
    except Altered:
        # Nobody is to take it for the result again: it is fetched anew.
        await asyncio.to_thread(path.unlink, missing_ok=True)
        raise Spoilt(
            f"What was fetched for {name.uri} has changed on this machine's disk",
            hint="It is fetched anew: check the disk.",
        ) from None
    if await place.size(name.uri) != file.bytes:
        raise Unreachable(f"{name.uri} was written and is not there in full")


async def _put_sidecar(
    file: FetchedFile,
    name: Name,
    place: Place,
    checked: CheckedJob,
    submission: Submission,
    attempt: Attempt,
    outputs: int,
) -> None:
    text = sidecar_text(
        checked,
        file,
        name=name.uri.rsplit("/", 1)[-1],
        account=attempt.account,
        request_id=submission.request_id,
        attempt=submission.attempt,
        cost_usd=attempt.cost_usd,
        estimate_usd=attempt.checked.estimate_usd,
        timestamps={
            **{state.value: at for state, at in attempt.reached.items()},
            JobState.PERSISTED.value: now(),
        },
        outputs=outputs,
    )
    sidecar = f"{name.uri}{SUFFIX}"
    await place.put_text(text, sidecar, "application/json", new=name.sidecar_is_new)
