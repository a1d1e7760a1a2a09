"""upload-inputs: puts a job's media where RunComfy can fetch them, each content once.

May fail with `Unreachable`, or with `Unfetchable` where RunComfy could not read what was put: then
nothing is submitted. Named by content hash, so repeating it costs at most a HEAD; the addresses it
returns are plain, a presigned URL is made only at the moment of submitting.
"""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from comfyline.errors import InputInvalid
from comfyline.job import CheckedJob, Stage
from comfyline.run import UploadedInputs
from comfyline.services import Services
from comfyline.storage.inputs import is_presigned
from comfyline.storage.place import all_of
from tasks.failure import failing_in_words, is_passing


@task(
    name=Stage.UPLOAD_INPUTS,
    task_run_name="{checked.job.label} · upload-inputs",
    # The object store is asked instead: only it knows what is there.
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(1),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_passing,
)
@failing_in_words
async def upload_inputs(checked: CheckedJob, services: Services) -> UploadedInputs:
    """Upload the job's media; return where each lies now, in the order of `checked.media`."""
    uploads = services.uploads
    fetches_here = any(is_presigned(one.origin) or one.conversion for one in checked.media)
    if fetches_here and (problem := uploads.reach_problem()):
        raise InputInvalid([problem])
    uris = await all_of(uploads.put(media) for media in checked.media)
    await uploads.try_out(uris)
    return UploadedInputs(tuple(uris))
