"""What `rerun` starts from: photographs, pictures and a ledger that knows them as made."""

import asyncio
import sys
from pathlib import Path

from PIL import Image

from benchmarks.contenders.side import start
from comfyline.checking import identify
from comfyline.environment import look
from comfyline.job import Job, StoredOutput
from comfyline.ledger.budget import Limits
from comfyline.ledger.claiming import Claimed
from comfyline.planning import plan_pipeline
from comfyline.services import Services, now, open_services
from comfyline.storage.place import join

_LIMITS = Limits(in_flight=1_000_000, flight_window=60, max_cost_usd=None)
_AT_ONCE = 16


async def main(jobs: int) -> None:
    """Writes down for every job of the pipeline that it was made."""
    watch = start()
    await asyncio.to_thread(_write_files, jobs)
    async with open_services(look("sandbox")) as services:
        planned = await plan_pipeline(
            Path("pipeline.yaml"), (), None, "history", now(), services.catalogue
        )
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(_made(job, services, gate) for job in planned.jobs))
    watch.tell()


def _write_files(jobs: int) -> None:
    for name in ("photos", "outputs"):
        Path(name).mkdir()
        for number in range(jobs):
            colour = (number % 256, number // 256, len(name))
            Image.new("RGB", (8, 8), colour).save(f"{name}/item-{number}.png")


async def _made(job: Job, services: Services, gate: asyncio.Semaphore) -> None:
    async with gate:
        entry = await services.catalogue.entry(job.model_id)
        checked = await identify(job, entry, services.origins)
        claim = await services.ledger.claim(
            checked, run_id="history", refresh=False, limits=_LIMITS
        )
        if not isinstance(claim, Claimed):
            raise TypeError(f"{job.label} cannot be claimed: {claim}")
        uri = join(job.placement.folder, f"{job.item}.png")
        facts = await services.origins.facts(f"outputs/{job.item}.png")
        stored = StoredOutput(0, uri, facts.sha256, facts.bytes, facts.media_type)
        await services.ledger.accepted(claim.attempt_id, f"request-{claim.attempt_id}")
        await services.ledger.completed(claim.attempt_id, 0.14)
        await services.ledger.persisted(claim.attempt_id, [stored])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
