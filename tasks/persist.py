"""persist: stores the outputs under their final names, each with its sidecar, then says so.

In this order, so that `persisted` is never a promise: file, sidecar, ledger. Every step replaces
what it wrote before, so repeating it is safe. May fail with `Unreachable` or `OSError`.
"""

import asyncio
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from comfyline.errors import Unreachable
from comfyline.job import CheckedJob, FetchedFile, JobState, Stage, StoredOutput
from comfyline.ledger.records import Attempt
from comfyline.leftovers import clear
from comfyline.progress import StageEntered, tell
from comfyline.report.sidecar import sidecar_text
from comfyline.run import FetchedOutputs, Submission
from comfyline.services import Services, now
from comfyline.targets import target_uris
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
    checked: CheckedJob, submission: Submission, fetched: FetchedOutputs, services: Services
) -> tuple[StoredOutput, ...]:
    """The outputs where the pipeline wants them."""
    tell(StageEntered(checked.job.label, checked.job.label, Stage.PERSIST))
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    uris = target_uris(checked.job.placement, fetched.files)
    stored = tuple(
        await asyncio.gather(
            *(
                _store(file, uri, checked, submission, attempt, services)
                for file, uri in zip(fetched.files, uris, strict=True)
            )
        )
    )
    await services.ledger.persisted(submission.attempt_id, stored)
    await asyncio.to_thread(clear, services.work_directory(submission.request_id))
    get_run_logger().info("request %s: %d stored", submission.request_id, len(stored))
    return stored


async def _store(
    file: FetchedFile,
    uri: str,
    checked: CheckedJob,
    submission: Submission,
    attempt: Attempt,
    services: Services,
) -> StoredOutput:
    place = services.places.of(uri)
    try:
        await place.put(Path(file.path), uri, file.media_type)
        if await place.size(uri) != file.bytes:
            raise Unreachable(f"{uri} was written and is not there in full")
        text = sidecar_text(
            checked,
            file,
            name=uri.rsplit("/", 1)[-1],
            request_id=submission.request_id,
            attempt=submission.attempt,
            cost_usd=attempt.cost_usd,
            estimate_usd=attempt.checked.estimate_usd,
            timestamps={
                **{state.value: at for state, at in attempt.reached.items()},
                JobState.PERSISTED.value: now(),
            },
        )
        await place.put_text(text, f"{uri}.json", "application/json")
    except OSError as error:
        raise Unreachable(
            f"{uri} cannot be written: {error}",
            hint="The result is safe in the work directory and at RunComfy: mend the folder, "
            "then run again.",
        ) from error
    return StoredOutput(file.index, uri, file.sha256, file.bytes, file.media_type)
