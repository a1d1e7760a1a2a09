"""What `rerun` starts from: photographs, pictures and a ledger that knows them as made."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import Connection, insert

from benchmarks.contenders.side import start
from comfyline.config.load import look
from comfyline.job import CheckedJob, FileInfo, JobState, StoredOutput
from comfyline.ledger.attempts import pack
from comfyline.ledger.database import Database
from comfyline.ledger.tables import attempts, jobs, outputs, transitions
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.output_names import output_uris
from comfyline.plan.check import validate_jobs
from comfyline.plan.preview import plan_pipeline
from comfyline.services import day_of, now, open_services

_PICTURE = Path("picture.png")
_STATES = ("planned", "submitting", "submitted", "in_progress", "completed", "persisted")


async def main(photos: int) -> None:
    """Write down for every job of the pipeline that it was made."""
    watch = start()
    await asyncio.to_thread(_write_photos, photos)
    settings = look("sandbox")
    async with open_services(settings) as services:
        planned = await plan_pipeline(
            load_pipeline(Path("pipeline.yaml")), None, "history", day_of(now()), services.catalogue
        )
        checked = [one for one in (await validate_jobs(planned.jobs, services)).checked if one]
        facts = await services.inputs.read(str(_PICTURE))
        uris = [await asyncio.to_thread(_write_output, one, facts) for one in checked]
    database = Database(settings.ledger_url.get_secret_value())
    # Not job by job: ten thousand of them take minutes, and it is their end that counts.
    await database.run(lambda connection: _write_ledger(connection, checked, uris, facts))
    database.close()
    watch.tell()


def _write_photos(photos: int) -> None:
    Path("photos").mkdir()
    for number in range(photos):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 6)).save(f"photos/item-{number}.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(_PICTURE)


def _write_output(checked: CheckedJob, facts: FileInfo) -> str:
    placement = checked.job.placement
    [uri] = output_uris(placement, [_output("", facts)])
    folder = Path(placement.folder)
    folder.mkdir(exist_ok=True)
    (folder / uri.rpartition("/")[2]).write_bytes(_PICTURE.read_bytes())
    return uri


def _write_ledger(
    connection: Connection, checked: Sequence[CheckedJob], uris: Sequence[str], facts: FileInfo
) -> None:
    """Write what the ledger holds of jobs that went through all their states, as whole tables."""
    at = now()
    numbered = list(enumerate(checked, 1))
    connection.execute(
        insert(jobs),
        [{"key": one.key, "model_id": one.job.model_id, "created_at": at} for one in checked],
    )
    connection.execute(insert(attempts), [_attempt(number, one, at) for number, one in numbered])
    connection.execute(
        insert(transitions),
        [
            {"attempt_id": number, "state": state, "at": at}
            for number, _ in numbered
            for state in _STATES
        ],
    )
    stored = [asdict(_output(uri, facts)) for uri in uris]
    connection.execute(
        insert(outputs), [one | {"attempt_id": number} for number, one in enumerate(stored, 1)]
    )


def _attempt(number: int, checked: CheckedJob, at: datetime) -> dict[str, Any]:
    job = checked.job
    return {
        "id": number,
        "key": checked.key,
        "number": 1,
        "state": JobState.PERSISTED,
        "pipeline": job.pipeline,
        "item": job.item,
        "step": job.step,
        "request": pack(checked),
        "run_id": "history",
        "request_id": f"request-{number}",
        "cost_usd": 0.14,
        "created_at": at,
        "submitted_at": at,
        "updated_at": at,
    }


def _output(uri: str, facts: FileInfo) -> StoredOutput:
    return StoredOutput(0, uri, facts.sha256, facts.bytes, facts.media_type)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
