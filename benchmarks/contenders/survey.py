"""The side of comfyline in `rerun`: from the pipeline file to the knowledge that all is there."""

import asyncio
import sys
from pathlib import Path

from benchmarks.contenders.side import start
from comfyline.environment import look
from comfyline.planning import plan_pipeline
from comfyline.run import CostLimits, Run
from comfyline.services import now, open_services
from comfyline.survey import survey


async def main(jobs: int) -> None:
    """Plans and surveys once, as a run does before it makes its first task."""
    async with open_services(look("sandbox")) as services:
        run = Run(
            id="rerun",
            pipeline="rerun",
            in_flight=16,
            timeout=600,
            costs=CostLimits(),
            refresh=False,
        )
        watch = start()
        planned = await plan_pipeline(
            Path("pipeline.yaml"), (), None, run.id, now(), services.catalogue
        )
        plan_seconds = watch.seconds
        surveyed = await survey(planned.jobs, run, services)
        watch.tell(survey_seconds=watch.seconds - plan_seconds)
    if len(surveyed.there) != jobs:
        sys.exit(f"{len(surveyed.there)} of {jobs} jobs were found")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
