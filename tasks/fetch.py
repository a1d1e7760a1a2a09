"""fetch: brings a completed request's outputs to local disk, whole and of a known type.

From a copy that was stored before where there is one, else from RunComfy. May fail with `Expired`
(RunComfy keeps results for 7 days), `BrokenOutput` or `Unreachable`; the last two are repeated,
because fetching again costs nothing.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from prefect import get_run_logger, task
from prefect.tasks import exponential_backoff

from comfyline.errors import BrokenOutput, ComfylineError, Expired
from comfyline.job import CheckedJob, FetchedFile, JobState, Stage, StoredOutput
from comfyline.media import HEAD_BYTES, prove_whole
from comfyline.progress import StageEntered, tell
from comfyline.run import FetchedOutputs, Submission
from comfyline.runcomfy.downloads import output_urls
from comfyline.services import Services
from comfyline.storage.reading import hash_file
from tasks.caching import REMEMBERED, of_attempt
from tasks.failure import failing_in_words, is_passing


@task(
    name=Stage.FETCH,
    task_run_name="{checked.job.label} · fetch",
    # As long as the files lie in the work directory; the walk looks whether they still do.
    cache_key_fn=of_attempt,
    result_serializer=REMEMBERED,
    retries=3,
    retry_delay_seconds=exponential_backoff(1),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_passing,
)
@failing_in_words
async def fetch(checked: CheckedJob, submission: Submission, services: Services) -> FetchedOutputs:
    """The job's outputs on local disk, in order; the charge is in the ledger when it returns."""
    tell(StageEntered(checked.job.label, checked.job.label, Stage.FETCH))
    directory = services.work_directory(submission.request_id)
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    copied = await _from_copies(submission, directory, services)
    if copied:
        return FetchedOutputs(copied)
    try:
        result = await services.client.result(submission.request_id, directory / "result.json")
    except Expired as gone:
        await _expire(checked, submission, gone, services)
        raise
    if result.status.state is not JobState.COMPLETED:
        raise BrokenOutput(
            f"RunComfy calls the request completed and its result {result.status.word!r}",
            request_id=submission.request_id,
        )
    await services.ledger.completed(submission.attempt_id, result.cost_usd)
    urls = list(dict.fromkeys(output_urls(result.output)))
    if not urls:
        raise BrokenOutput("The result names no output", request_id=submission.request_id)
    try:
        files = await asyncio.gather(
            *(_download(url, index, directory, services) for index, url in enumerate(urls))
        )
    except ComfylineError as error:
        error.request_id = submission.request_id
        raise
    get_run_logger().info("request %s: %d fetched", submission.request_id, len(files))
    return FetchedOutputs(tuple(files))


async def _expire(
    checked: CheckedJob, submission: Submission, gone: Expired, services: Services
) -> None:
    """Writes down that the result is lost, unless another process has stored it meanwhile."""
    key = checked.key
    stored_now = (await services.ledger.find([key]))[key].state is JobState.PERSISTED
    if submission.state is JobState.PERSISTED or not stored_now:
        await services.ledger.ended(submission.attempt_id, JobState.EXPIRED, gone)


async def _download(url: str, index: int, directory: Path, services: Services) -> FetchedFile:
    target = directory / f"{os.getpid()}-{index}"
    download = await services.downloads.save(url, target)
    media_type = await asyncio.to_thread(_prove, target)
    return FetchedFile(index, str(target), download.sha256, download.bytes, media_type)


def _prove(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return prove_whole(path, head, "")


async def _from_copies(
    submission: Submission, directory: Path, services: Services
) -> tuple[FetchedFile, ...]:
    """The outputs from where they were stored before; empty when any of them is gone."""
    by_index: dict[int, list[StoredOutput]] = {}
    for copy in submission.copies:
        by_index.setdefault(copy.index, []).append(copy)
    files = []
    for index, copies in sorted(by_index.items()):
        file = await _from_copy(copies, directory / f"{os.getpid()}-{index}", services)
        if file is None:
            return ()
        files.append(file)
    return tuple(files)


async def _from_copy(
    copies: Sequence[StoredOutput], target: Path, services: Services
) -> FetchedFile | None:
    """One output from the first of its copies that is still what was stored."""
    for copy in copies:
        place = services.places.of(copy.uri)
        if await place.size(copy.uri) != copy.bytes:
            continue
        await place.get(copy.uri, target)
        if await asyncio.to_thread(hash_file, target) == copy.sha256:
            return FetchedFile(copy.index, str(target), copy.sha256, copy.bytes, copy.media_type)
    return None
