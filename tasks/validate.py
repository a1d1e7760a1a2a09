"""validate: would RunComfy take this job? All mistakes at once, before anything is uploaded.

May fail with `InputInvalid`. Nothing is written and nothing is sent but questions for the model's
schema and price, so it is never repeated: the same input is wrong the second time as well.
"""

from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from comfyline.job import CheckedJob, Job, Stage
from comfyline.models.price import estimate
from comfyline.plan.check import validate_job
from comfyline.services import Services
from tasks.failure import failing_in_words


@task(
    name=Stage.VALIDATE,
    task_run_name="{job.label} · validate",
    # Reading and hashing is cheaper than a cache, and files change behind their names.
    cache_policy=NO_CACHE,
    retries=0,
)
@failing_in_words
async def validate(job: Job, checked: CheckedJob | None, services: Services) -> CheckedJob:
    """Return the job with its key, its media by content and its estimate.

    One that was found right before the run's first cost is `checked`, and not judged again.
    """
    entry = await services.catalogue.priced(job.model_id)
    if checked is None:
        checked = await validate_job(job, entry, services.inputs)
    return replace(checked, estimate_usd=estimate(entry, checked.job.inputs))
