"""persist: stores the outputs under their final names, each with its sidecar, then says so.

In this order, so that `persisted` is never a promise: what has the name and was paid for moves
aside, then file, sidecar, ledger. Every step finds what it wrote before to be its own and replaces
it, so repeating it is safe. May fail with `Rejected`, `NameTaken`, `LeadsOutside`, `Spoilt`,
`DiskFull` or `Unreachable`; the result stays collectable.
"""

import asyncio

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, Stage, StoredOutput
from comfyline.operations.overwrite import store_outputs
from comfyline.operations.quality import reject
from comfyline.operations.recover import clear
from comfyline.progress import Transferred, tell
from comfyline.run import FetchedOutputs, Run, Submission
from comfyline.services import Services
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
    try:
        if rejected := await reject(checked, submission, fetched, run, services):
            raise rejected
        stored = await store_outputs(checked, submission, fetched, services)
    except ComfylineError as error:
        error.request_id = submission.request_id
        raise
    await services.ledger.persisted(submission.attempt_id, stored)
    tell(Transferred("stored", sum(output.bytes for output in stored)))
    await asyncio.to_thread(clear, services.work_directory(submission.request_id))
    get_run_logger().info("request %s: %d stored", submission.request_id, len(stored))
    return stored
