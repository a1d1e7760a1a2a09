"""fetch: brings a completed request's outputs to local disk, whole and of a known type.

From a copy that was stored before where there is one, else from RunComfy. May fail with
`NotKnownNow`, `Expired` (RunComfy keeps results for 7 days), `BrokenOutput` or `Unreachable`; the
last two are repeated, because fetching again costs nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.tasks import exponential_backoff

from comfyline.config.account import command
from comfyline.errors import BrokenOutput, ComfylineError, NotKnownNow
from comfyline.files import work_path
from comfyline.job import (
    CheckedJob,
    FetchedFile,
    JobState,
    MediaKind,
    Stage,
    StoredOutput,
)
from comfyline.ledger.block_reasons import short
from comfyline.media.probe import probe_file
from comfyline.media.types import SVG, kind_of, media_type_of_name
from comfyline.models.entry import kind_made
from comfyline.progress import JobCharged, Transferred, tell
from comfyline.run import FetchedOutputs, Submission
from comfyline.runcomfy.results import named_outputs
from comfyline.runcomfy.wire import RequestResult
from comfyline.services import Services
from comfyline.storage.local import hash_file
from tasks.caching import REMEMBERED, of_attempt
from tasks.failure import failing_in_words, is_passing, not_known


@task(
    name=Stage.FETCH,
    task_run_name="{checked.job.label} · fetch",
    # As long as the files lie in the work directory; the flow looks whether they still do.
    cache_key_fn=of_attempt,
    result_serializer=REMEMBERED,
    retries=3,
    retry_delay_seconds=exponential_backoff(1),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_passing,
)
@failing_in_words
async def fetch(checked: CheckedJob, submission: Submission, services: Services) -> FetchedOutputs:
    """Fetch the job's outputs to local disk, in order; on return the ledger has the charge."""
    directory = services.work_directory(submission.request_id)
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    copied = await _from_copies(submission, directory, services)
    if copied:
        return FetchedOutputs(copied)
    try:
        result = await services.client.result(submission.request_id, directory / "result.json")
    except NotKnownNow as unknown:
        raise _gone(await not_known(unknown, submission, services), submission) from None
    if result.state is not JobState.COMPLETED:
        raise BrokenOutput(
            f"RunComfy calls the request completed, but its result {result.word!r}",
            request_id=submission.request_id,
        )
    await services.ledger.completed(submission.attempt_id, result.cost_usd)
    if result.cost_usd is not None:
        tell(JobCharged(checked.job, submission.request_id, result.cost_usd))
    wanted = await _wanted(checked, services)
    try:
        files = await _download_all(checked.key, result, wanted, directory, services)
    except ComfylineError as error:
        error.request_id = submission.request_id
        raise
    tell(Transferred("fetched", sum(file.bytes for file in files)))
    get_run_logger().info("request %s: %d fetched", submission.request_id, len(files))
    for file in files:
        if wanted.form not in {"", file.media_type.partition("/")[2]}:
            # It is paid for and a good file: it is stored as what it is.
            said = "output %d is %s, and %s was asked for"
            get_run_logger().warning(said, file.index, file.media_type, wanted.form)
    return FetchedOutputs(files)


def _gone(error: ComfylineError, submission: Submission) -> ComfylineError:
    """Add to what RunComfy says where a stored output was, which is not there any more."""
    if submission.copies:
        where = ", ".join(copy.uri for copy in submission.copies)
        error.message += f"; it was stored as {where}, where it is missing"
        error.hint = (
            "Restore it, or mount its disk, and run again to reuse it. "
            "`--refresh` makes it again, and pays again."
        )
    return error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the outputs should be, as far as it is known: `kind` of at least one of them.

    `form` is the second half of a media type. `svg`: a drawing was asked for, and counts as a
    picture.
    """

    kind: MediaKind | None
    form: str
    svg: bool


async def _wanted(checked: CheckedJob, services: Services) -> _Wanted:
    asked = checked.job.inputs.get("output_format")
    media_type = media_type_of_name(f".{asked}")
    try:
        kind = kind_made(await services.catalogue.entry(checked.job.model_id))
    except ComfylineError:
        # Nobody knows the model any more: what was paid for is fetched all the same.
        kind = None
    svg = asked == "svg" or "svg" in checked.job.placement.accept
    return _Wanted(kind or kind_of(media_type), media_type.partition("/")[2], svg)


async def _download_all(
    key: str, result: RequestResult, wanted: _Wanted, directory: Path, services: Services
) -> tuple[FetchedFile, ...]:
    """Download every distinct output; what has the same bytes as one before it is stored once."""
    outputs = list({one.url: one for one in named_outputs(result.output)}.values())
    if not outputs:
        raise BrokenOutput(
            "The result contains no output",
            hint=f"If this persists, {command(f'resolve {short(key)} --give-up')} ends the job.",
        )
    # All of them, also after an error: whoever tries again must find nobody still writing.
    ended = await asyncio.gather(
        *(
            services.downloads.save(
                output.url, work_path(directory, number), output.kind, svg=wanted.svg
            )
            for number, output in enumerate(outputs)
        ),
        return_exceptions=True,
    )
    found: dict[str, FetchedFile] = {}
    for number, download in enumerate(ended):
        if isinstance(download, BaseException):
            raise download
        path = work_path(directory, number)
        if download.sha256 in found:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            continue
        found[download.sha256] = FetchedFile(
            download.sha256, download.bytes, download.info, index=len(found), path=str(path)
        )
    files = tuple(found.values())
    types = {file.media_type for file in files}
    kinds = {"image" if media_type == SVG else kind_of(media_type) for media_type in types}
    if wanted.kind and wanted.kind not in kinds:
        came = ", ".join(sorted(types))
        raise BrokenOutput(f"None of the outputs is of kind {wanted.kind}: they are {came}")
    return files


async def _from_copies(
    submission: Submission, directory: Path, services: Services
) -> tuple[FetchedFile, ...]:
    """Fetch the outputs from where they were stored before; empty when any of them is gone."""
    by_index: dict[int, list[StoredOutput]] = {}
    for copy in submission.copies:
        by_index.setdefault(copy.index, []).append(copy)
    files = []
    for index, copies in sorted(by_index.items()):
        file = await _from_copy(copies, work_path(directory, index), services)
        if file is None:
            return ()
        files.append(file)
    return tuple(files)


async def _from_copy(
    copies: Sequence[StoredOutput], target: Path, services: Services
) -> FetchedFile | None:
    """Fetch one output from the first of its copies that is still what was stored."""
    for copy in copies:
        place = services.places.of(copy.uri)
        if await place.size(copy.uri) != copy.bytes:
            continue
        await place.get(copy.uri, target)
        if await asyncio.to_thread(hash_file, target) == copy.sha256:
            info = await asyncio.to_thread(probe_file, target)
            info = replace(info, media_type=copy.media_type)
            return FetchedFile(copy.sha256, copy.bytes, info, index=copy.index, path=str(target))
    return None
